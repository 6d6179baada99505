//! The rewrite of a packet under way: MAC addresses, addresses and ports, TTL, and every checksum
//! by its difference.
//!
//! Byte for byte what [`translate`](crate::translate) and the stages do one after the other: sums
//! that are folded once or after each step are the same.

use crate::connection::{KeyWords, Translation};
use crate::packet::Checksum;
use crate::wire::checksum::{self, Difference};
use crate::wire::{bytes_at, ethernet, ipv4, put, tcp, u16_at, udp};

use super::glance::Glance;

/// The addresses and ports that a packet leaves with.
#[derive(Clone, Copy)]
pub(super) enum Leaving<'a> {
    /// Over IPv4.
    V4(Translation),
    /// Over IPv6, as an answer of this key.
    V6(&'a KeyWords),
}

/// Where a packet comes from and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// The address as keys have it.
    pub source: [u64; 2],
    /// As that.
    pub destination: [u64; 2],
    /// Both ports, as headers have them.
    pub ports: u32,
}

impl Leaving<'_> {
    /// All of it.
    #[inline(always)]
    pub fn ends(self) -> Ends {
        match self {
            Leaving::V4(it) => Ends {
                source: [0, it.source()],
                destination: [0, it.destination()],
                ports: it.ports(),
            },
            // The other direction's source is where this one's packets go.
            Leaving::V6(&[a, b, c, d, fifth, _]) => Ends {
                source: [c, d],
                destination: [a, b],
                ports: ((fifth >> 32) as u32).rotate_left(16),
            },
        }
    }
}

/// What of an IP packet is to change.
pub(super) struct Change<'a> {
    /// What was seen of it.
    pub glance: &'a Glance,
    /// What it leaves with, if addresses and ports are translated.
    pub to: Option<Leaving<'a>>,
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
        let packet = frame.get_mut(ethernet::LEN..)?;
        match self.to {
            None if !self.lower => Some(()),
            None if self.glance.is_v6() => self.hops_v6(packet),
            None => self.header_v4(packet, 0).map(|_| ()),
            Some(Leaving::V4(to)) => self.make_v4(packet, to),
            Some(to) => self.make_v6(packet, to.ends()),
        }
    }

    /// TTL and checksum of an IPv4 header, to whose sum something is added.
    #[inline(always)]
    fn header_v4<'p>(&self, packet: &'p mut [u8], more: u16) -> Option<&'p mut [u8; ipv4::LEN]> {
        let header: &mut [u8; ipv4::LEN] = packet.first_chunk_mut()?;
        let mut sum = u64::from(!u16_at(header, HEADER_SUM)?) + u64::from(more);
        if self.lower {
            header[TTL] = self.glance.ttl.wrapping_sub(1);
            sum += LOWERED;
        }
        put(header, HEADER_SUM, &(!checksum::fold(sum)).to_be_bytes())?;
        Some(header)
    }

    #[inline(always)]
    fn make_v4(&self, packet: &mut [u8], to: Translation) -> Option<()> {
        let header = self.header_v4(packet, to.header_difference())?;
        put(header, ADDRESSES, &to.addresses().to_be_bytes())?;
        let differences = [to.header_difference(), to.upper_difference()];
        self.upper(packet.get_mut(ipv4::LEN..)?, to.ports(), differences)
    }

    fn hops_v6(&self, packet: &mut [u8]) -> Option<()> {
        *packet.get_mut(7)? = self.glance.ttl.wrapping_sub(u8::from(self.lower));
        Some(())
    }

    #[inline(never)]
    fn make_v6(&self, packet: &mut [u8], to: Ends) -> Option<()> {
        self.hops_v6(packet)?;
        let Ends { source, destination, ports } = to;
        let [from, to] =
            [source, destination].map(|[high, low]| u128::from(high) << 64 | u128::from(low));
        let old: [u8; 32] = bytes_at(packet, 8)?;
        put(packet, 8, &from.to_be_bytes())?;
        put(packet, 24, &to.to_be_bytes())?;
        let new = checksum::sum(&from.to_be_bytes()) + checksum::sum(&to.to_be_bytes());
        let addresses = Difference::default().replace(checksum::sum(&old), new).not_folded();
        let [.., old_ports, _] = self.glance.words;
        let all = addresses + u64::from(!((old_ports >> 32) as u32)) + u64::from(ports);
        let differences = [addresses, all].map(checksum::fold);
        self.upper(packet.get_mut(self.glance.upper.into()..)?, ports, differences)
    }

    /// Ports and checksum of TCP or UDP. Of the differences to a sum, the first is that of the
    /// addresses alone.
    #[inline(always)]
    fn upper(&self, upper: &mut [u8], ports: u32, [addresses, all]: [u16; 2]) -> Option<()> {
        put(upper, 0, &ports.to_be_bytes())?;
        let tcp = self.glance.tcp;
        let at = if tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let place = upper.get_mut(at..)?.first_chunk_mut()?;
        let field = u16::from_be_bytes(*place);
        let sum = |field: u16, more: u16| checksum::fold(u64::from(field) + u64::from(more));
        let sum = match self.checksum {
            Checksum::Partial { .. } => sum(field, addresses),
            Checksum::Complete if tcp => !sum(!field, all),
            Checksum::Complete if field == 0 => return Some(()),
            Checksum::Complete => checksum::for_udp(!sum(!field, all)),
        };
        *place = sum.to_be_bytes();
        Some(())
    }
}
