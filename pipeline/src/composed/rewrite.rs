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

/// Writes both MAC addresses, each in the lower 48 bits.
#[inline]
pub(super) fn macs(frame: &mut [u8], source: u64, destination: u64) {
    let Some(header) = frame.first_chunk_mut::<{ ethernet::LEN }>() else { return };
    let both = u128::from(destination) << 80 | u128::from(source) << 32;
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = both.to_be_bytes();
    let [.., high, low] = *header;
    *header = [a, b, c, d, e, f, g, h, i, j, k, l, high, low];
}

impl Change<'_> {
    /// Makes the change in the packet `bytes`, from its IP header on.
    #[inline]
    pub fn make(&self, bytes: &mut [u8]) -> Option<()> {
        if self.glance.is_v6() { self.make_v6(bytes) } else { self.make_v4(bytes) }
    }

    fn make_v4(&self, bytes: &mut [u8]) -> Option<()> {
        let header: &mut [u8; ipv4::LEN] = bytes.first_chunk_mut()?;
        let at = |at| bytes_at::<4>(header.as_slice(), at).map_or(0, u32::from_be_bytes);
        let (hops, old) = (at(8), [at(12), at(16)]);
        let mut sum = u64::from(!(hops as u16));
        if self.lower {
            // TTL and protocol share a word of the sum.
            let (before, ttl) = ((hops >> 16) as u16, self.glance.ttl.wrapping_sub(1));
            sum += u64::from(!before) + u64::from(u16::from_be_bytes([ttl, before as u8]));
            header[8] = ttl;
        }
        let mut new = old;
        if let Some(&[_, to, _, from, ..]) = self.to {
            new = [from as u32, to as u32];
            for (old, new) in old.into_iter().zip(new) {
                sum += u64::from(!old) + u64::from(new);
            }
            let both = u64::from(new[0]) << 32 | u64::from(new[1]);
            put(header, 12, &both.to_be_bytes())?;
        }
        if self.lower || self.to.is_some() {
            put(header, 10, &(!checksum::fold(sum)).to_be_bytes())?;
        }
        let [from, to] = old.map(u64::from);
        let [new_from, new_to] = new.map(u64::from);
        let addresses = || Difference::default().replace(from, new_from).replace(to, new_to);
        self.upper(bytes.get_mut(ipv4::LEN..)?, addresses)
    }

    fn make_v6(&self, bytes: &mut [u8]) -> Option<()> {
        if self.lower {
            *bytes.get_mut(7)? = self.glance.ttl.wrapping_sub(1);
        }
        let Some(&[a, b, c, d, ..]) = self.to else { return Some(()) };
        let old: [u8; 32] = bytes_at(bytes, 8)?;
        let [new_from, new_to] =
            [[c, d], [a, b]].map(|[high, low]| u128::from(high) << 64 | u128::from(low));
        let (from, to) = old.split_first_chunk::<16>()?;
        put(bytes, 8, &new_from.to_be_bytes())?;
        put(bytes, 24, &new_to.to_be_bytes())?;
        let new = [new_from, new_to].map(|address| checksum::sum(&address.to_be_bytes()));
        let [new_from, new_to] = new;
        let addresses = || {
            let difference = Difference::default().replace(checksum::sum(from), new_from);
            difference.replace(checksum::sum(to), new_to)
        };
        self.upper(bytes.get_mut(usize::from(self.glance.upper)..)?, addresses)
    }

    /// Ports and checksum of TCP or UDP.
    fn upper(&self, upper: &mut [u8], addresses: impl Fn() -> Difference) -> Option<()> {
        let Some(&[_, _, _, _, fifth, _]) = self.to else { return Some(()) };
        let old = bytes_at::<4>(upper, 0).map(u32::from_be_bytes)?;
        // The other direction's source is where this one's packets go.
        let new = ((fifth >> 32) as u32).rotate_left(16);
        put(upper, 0, &new.to_be_bytes())?;
        let tcp = self.glance.is_tcp();
        let at = if tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let field = u16_at(upper, at)?;
        let whole = || addresses().and(Difference::default().replace(old.into(), new.into()));
        let sum = match self.checksum {
            Checksum::Partial { .. } => addresses().sum(field),
            Checksum::Complete if tcp => whole().checksum(field),
            Checksum::Complete if field == 0 => 0,
            Checksum::Complete => checksum::for_udp(whole().checksum(field)),
        };
        put(upper, at, &sum.to_be_bytes())
    }
}
