//! The rewrite of a packet under way: MAC addresses, addresses and ports, TTL, and every checksum
//! by its difference.
//!
//! Byte for byte what [`translate`](crate::translate) and the stages do one after the other: sums
//! that are folded once or after each step are the same.

use crate::connection::KeyWords;
use crate::packet::Checksum;
use crate::wire::checksum::{self, Difference};
use crate::wire::{bytes_at, ethernet, ipv4, put, tcp, u16_at, udp};

use super::glance::Glance;

/// What of an IP packet is to change.
pub(super) struct Change<'a> {
    /// What was seen of it.
    pub glance: &'a Glance,
    /// The key of the other direction, if addresses and ports are translated: the packet leaves as
    /// an answer of it.
    pub to: Option<&'a KeyWords>,
    /// What its checksum field holds.
    pub checksum: Checksum,
    /// Whether its TTL is lowered.
    pub lower: bool,
}

/// Destination and source MAC address of a frame, each in the lower 48 bits.
#[inline(always)]
pub(super) fn macs_of(frame: &[u8]) -> Option<(u64, u64)> {
    let header: &[u8; ethernet::LEN] = frame.first_chunk()?;
    let word = |at| bytes_at(header, at).map_or(0, u64::from_be_bytes);
    Some((word(0) >> 16, word(4) & 0xffff_ffff_ffff))
}

/// Writes both MAC addresses, each in the lower 48 bits.
#[inline(always)]
pub(super) fn macs(frame: &mut [u8], source: u64, destination: u64) {
    let Some(header) = frame.first_chunk_mut::<{ ethernet::LEN }>() else { return };
    let (front, rest) = header.split_at_mut(8);
    front.copy_from_slice(&(destination << 16 | source >> 32).to_be_bytes());
    put(rest, 0, &(source as u32).to_be_bytes());
}

impl Change<'_> {
    /// Makes the change in the packet `bytes`, from its IP header on.
    #[inline(always)]
    pub fn make(&self, bytes: &mut [u8]) -> Option<()> {
        if self.to.is_none() && !self.lower {
            return Some(());
        }
        if self.glance.is_v6() { self.make_v6(bytes) } else { self.make_v4(bytes) }
    }

    #[inline(always)]
    fn make_v4(&self, bytes: &mut [u8]) -> Option<()> {
        let header: &mut [u8; ipv4::LEN] = bytes.first_chunk_mut()?;
        let [hops, old_from, old_to] =
            [8, 12, 16].map(|at| bytes_at(header, at).map_or(0, u32::from_be_bytes));
        let mut sum = u64::from(!(hops as u16));
        if self.lower {
            // TTL and protocol share a word of the sum.
            let before = (hops >> 16) as u16;
            let after = before.wrapping_sub(1 << 8);
            sum += u64::from(!before) + u64::from(after);
            header[8] = (after >> 8) as u8;
        }
        let Some(&[_, to, _, from, fifth, _]) = self.to else {
            return put(header, 10, &(!checksum::fold(sum)).to_be_bytes());
        };
        let (from, to) = (from as u32, to as u32);
        let addresses = [!old_from, !old_to, from, to].map(u64::from).iter().sum::<u64>();
        put(header, 10, &(!checksum::fold(sum + addresses)).to_be_bytes())?;
        put(header, 12, &(u64::from(from) << 32 | u64::from(to)).to_be_bytes())?;
        self.upper(bytes.get_mut(ipv4::LEN..)?, fifth, addresses)
    }

    #[inline(never)]
    fn make_v6(&self, bytes: &mut [u8]) -> Option<()> {
        if self.lower {
            *bytes.get_mut(7)? = self.glance.ttl.wrapping_sub(1);
        }
        let Some(&[a, b, c, d, fifth, _]) = self.to else { return Some(()) };
        let old: [u8; 32] = bytes_at(bytes, 8)?;
        let [from, to] =
            [[c, d], [a, b]].map(|[high, low]| u128::from(high) << 64 | u128::from(low));
        put(bytes, 8, &from.to_be_bytes())?;
        put(bytes, 24, &to.to_be_bytes())?;
        let new = checksum::sum(&from.to_be_bytes()) + checksum::sum(&to.to_be_bytes());
        let addresses = Difference::default().replace(checksum::sum(&old), new).not_folded();
        self.upper(bytes.get_mut(usize::from(self.glance.upper)..)?, fifth, addresses)
    }

    /// Ports and checksum of TCP or UDP. `fifth` is the word of the other direction's key that has
    /// its ports, `addresses` what the change of addresses does to a sum.
    #[inline(always)]
    fn upper(&self, upper: &mut [u8], fifth: u64, addresses: u64) -> Option<()> {
        let old = bytes_at::<4>(upper, 0).map(u32::from_be_bytes)?;
        // The other direction's source is where this one's packets go.
        let new = ((fifth >> 32) as u32).rotate_left(16);
        put(upper, 0, &new.to_be_bytes())?;
        let tcp = self.glance.tcp;
        let at = if tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let field = u16_at(upper, at)?;
        let ports = u64::from(!old) + u64::from(new);
        let whole = || !checksum::fold(u64::from(!field) + addresses + ports);
        let sum = match self.checksum {
            Checksum::Partial { .. } => checksum::fold(u64::from(field) + addresses),
            Checksum::Complete if tcp => whole(),
            Checksum::Complete if field == 0 => return Some(()),
            Checksum::Complete => checksum::for_udp(whole()),
        };
        put(upper, at, &sum.to_be_bytes())
    }
}
