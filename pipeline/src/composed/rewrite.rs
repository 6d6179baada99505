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

/// Places in an IPv4 header.
const TTL: usize = 8;
const HEADER_SUM: usize = 10;
const ADDRESSES: usize = 12;
/// What a TTL that is one lower adds to a sum, TTL and protocol being a word of it.
const LOWERED: u64 = 0xffff - (1 << 8);

impl Change<'_> {
    /// Makes the change in a frame.
    #[inline(always)]
    pub fn make(&self, frame: &mut [u8]) -> Option<()> {
        if self.to.is_none() && !self.lower {
            return Some(());
        }
        let packet = frame.get_mut(ethernet::LEN..)?;
        if self.glance.is_v6() { self.make_v6(packet) } else { self.make_v4(packet) }
    }

    #[inline(always)]
    fn make_v4(&self, packet: &mut [u8]) -> Option<()> {
        let header: &mut [u8; ipv4::LEN] = packet.first_chunk_mut()?;
        let mut sum = u64::from(!u16_at(header, HEADER_SUM)?);
        if self.lower {
            header[TTL] = self.glance.ttl.wrapping_sub(1);
            sum += LOWERED;
        }
        let Some(&[_, to, _, from, fifth, _]) = self.to else {
            let sum = !checksum::fold(sum);
            return put(header, HEADER_SUM, &sum.to_be_bytes());
        };
        let [_, old_from, _, old_to, _, _] = self.glance.words.map(|word| word as u32);
        let (from, to) = (from as u32, to as u32);
        let new = u64::from(from) + u64::from(to);
        let addresses = new + u64::from(!old_from) + u64::from(!old_to);
        let sum = !checksum::fold(sum + addresses);
        put(header, HEADER_SUM, &sum.to_be_bytes())?;
        put(header, ADDRESSES, &(u64::from(from) << 32 | u64::from(to)).to_be_bytes())?;
        self.upper(packet, ipv4::LEN, fifth, addresses)
    }

    #[inline(never)]
    fn make_v6(&self, packet: &mut [u8]) -> Option<()> {
        if self.lower {
            *packet.get_mut(7)? = self.glance.ttl.wrapping_sub(1);
        }
        let Some(&[a, b, c, d, fifth, _]) = self.to else { return Some(()) };
        let old: [u8; 32] = bytes_at(packet, 8)?;
        let [from, to] =
            [[c, d], [a, b]].map(|[high, low]| u128::from(high) << 64 | u128::from(low));
        put(packet, 8, &from.to_be_bytes())?;
        put(packet, 24, &to.to_be_bytes())?;
        let new = checksum::sum(&from.to_be_bytes()) + checksum::sum(&to.to_be_bytes());
        let addresses = Difference::default().replace(checksum::sum(&old), new).not_folded();
        self.upper(packet, self.glance.upper.into(), fifth, addresses)
    }

    /// Ports and checksum of TCP or UDP, whose header begins at `upper`. `fifth` is the word of the
    /// other direction's key that has its ports, `addresses` what the change of addresses does to a
    /// sum.
    #[inline(always)]
    fn upper(&self, packet: &mut [u8], upper: usize, fifth: u64, addresses: u64) -> Option<()> {
        let [.., fifth_before, _] = self.glance.words;
        let old = (fifth_before >> 32) as u32;
        // The other direction's source is where this one's packets go.
        let new = ((fifth >> 32) as u32).rotate_left(16);
        put(packet, upper, &new.to_be_bytes())?;
        let tcp = self.glance.tcp;
        let at = upper + if tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let place = packet.get_mut(at..)?.first_chunk_mut()?;
        let field = u16::from_be_bytes(*place);
        let sum = match self.checksum {
            Checksum::Partial { .. } => checksum::fold(u64::from(field) + addresses),
            Checksum::Complete if field == 0 && !tcp => return Some(()),
            Checksum::Complete => {
                let ports = u64::from(!old) + u64::from(new);
                let whole = !checksum::fold(u64::from(!field) + addresses + ports);
                if tcp { whole } else { checksum::for_udp(whole) }
            }
        };
        *place = sum.to_be_bytes();
        Some(())
    }
}
