//! The first look at a packet: what its connection is found by, straight from its bytes.
//!
//! Whatever is out of the ordinary is none of this module's business and takes the stages: other
//! protocols than TCP and UDP, options, extension headers, fragments, flags other than those of a
//! packet in the middle of a connection, and everything that is wrong in some way.
//!
//! Over IPv4 all that is read of a UDP packet stands at fixed places: one question whether the
//! frame is long enough answers for all of them.

use crate::connection::{IngressWords, KeyWords};
use crate::packet::Checksum;
use crate::wire::{bytes_at, checksum, ethernet, ipv4, ipv6, tcp, u16_at, udp};

/// What a first look tells about a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glance {
    /// The words of its key.
    pub words: KeyWords,
    /// Bytes of the IP packet.
    pub len: u16,
    /// Bytes from its IP header to that of its upper layer.
    pub upper: u8,
    /// Hops left.
    pub ttl: u8,
    /// It is TCP, and not UDP.
    pub tcp: bool,
    /// Its checksum is only the pseudo-header's, and was not known to be.
    pub partial: bool,
}

/// A frame up to the end of a UDP header over IPv4 without options.
const FRONT: usize = ethernet::LEN + ipv4::LEN + udp::LEN;
/// Where the upper layer begins in it.
const UPPER: usize = ethernet::LEN + ipv4::LEN;

/// A number of a header of which it is known that it is there.
#[inline(always)]
fn word(front: &[u8; FRONT], at: usize) -> u32 {
    bytes_at(front, at).map_or(0, u32::from_be_bytes)
}

#[inline(always)]
fn half(front: &[u8; FRONT], at: usize) -> u16 {
    bytes_at(front, at).map_or(0, u16::from_be_bytes)
}

impl Glance {
    /// That of a frame that came in by such a port; `None` when it has to take the stages.
    ///
    /// All of it is inlined, so that what was seen is written once, where it is kept: a copy that
    /// reads wider than was just written waits for the writes.
    #[inline(always)]
    pub fn of(bytes: &[u8], ingress: IngressWords, from_pod: bool) -> Option<Glance> {
        let front: &[u8; FRONT] = bytes.first_chunk()?;
        match half(front, ethernet::LEN - 2) {
            ethernet::IPV4 => Self::of_v4(bytes, front, ingress, from_pod),
            ethernet::IPV6 => Self::of_v6(bytes.get(ethernet::LEN..)?, ingress, from_pod),
            _ => None,
        }
    }

    #[inline(always)]
    fn of_v4(
        bytes: &[u8],
        front: &[u8; FRONT],
        ingress: IngressWords,
        from_pod: bool,
    ) -> Option<Glance> {
        let ip = |at| word(front, ethernet::LEN + at);
        let [first, second, hops, from, to] = [ip(0), ip(4), ip(8), ip(12), ip(16)];
        // Version 4, no options; neither a first nor a later fragment.
        if first >> 24 != 0x45 || second & 0x3fff != 0 {
            return None;
        }
        let addresses = u64::from(from) + u64::from(to);
        let header = u64::from(first) + u64::from(second) + u64::from(hops) + addresses;
        let len = first as u16;
        if checksum::fold(header) != 0xffff || bytes.len() < ethernet::LEN + usize::from(len) {
            return None;
        }
        let upper_len = len.checked_sub(ipv4::LEN as u16)?;
        let protocol = (hops >> 16) as u8;
        let (tcp, field) = match protocol {
            udp::PROTOCOL => {
                let told = half(front, UPPER + 4);
                if usize::from(told) < udp::LEN || told > upper_len {
                    return None;
                }
                (false, half(front, UPPER + udp::CHECKSUM_OFFSET))
            }
            tcp::PROTOCOL => {
                let upper = bytes.get(UPPER..)?.get(..upper_len.into())?;
                (true, of_tcp(upper)?)
            }
            _ => return None,
        };
        let pseudo = addresses + u64::from(protocol) + u64::from(upper_len);
        Some(Glance {
            words: ingress.key_v4([from, to], word(front, UPPER), protocol),
            len,
            upper: ipv4::LEN as u8,
            ttl: (hops >> 24) as u8,
            tcp,
            partial: from_pod && field == checksum::fold(pseudo),
        })
    }

    #[inline(always)]
    fn of_v6(bytes: &[u8], ingress: IngressWords, from_pod: bool) -> Option<Glance> {
        let header: &[u8; ipv6::LEN] = bytes.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let protocol = header[6];
        let address = |at| bytes_at::<16>(header, at).map_or(0, u128::from_be_bytes);
        let (from, to) = (address(8), address(24));
        let len = (ipv6::LEN as u16).checked_add(u16_at(header, 4)?)?;
        let upper = bytes.get(ipv6::LEN..usize::from(len))?;
        let (tcp, field) = match protocol {
            udp::PROTOCOL => (false, udp::Udp::parse(upper)?.checksum()),
            tcp::PROTOCOL => (true, of_tcp(upper)?),
            _ => return None,
        };
        let addresses = checksum::sum(&from.to_be_bytes()) + checksum::sum(&to.to_be_bytes());
        let pseudo = addresses + u64::from(protocol) + upper.len() as u64;
        let ports = bytes_at(upper, 0).map(u32::from_be_bytes)?;
        Some(Glance {
            words: ingress.key_v6([from, to], ports, protocol),
            len,
            upper: ipv6::LEN as u8,
            ttl: header[7],
            tcp,
            partial: from_pod && field == checksum::fold(pseudo),
        })
    }

    /// What its checksum field holds, as the stages find out; `None` when they would refuse what is
    /// known of it.
    #[inline(always)]
    pub fn checksum(&self, known: Checksum) -> Option<Checksum> {
        if known == Checksum::Complete && !self.partial {
            return Some(Checksum::Complete);
        }
        let start = ethernet::LEN as u16 + u16::from(self.upper);
        let offset = if self.tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET } as u16;
        let own = Checksum::Partial { start, offset };
        (known == Checksum::Complete || known == own).then_some(own)
    }

    /// Whether it is IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        usize::from(self.upper) == ipv6::LEN
    }
}

/// The checksum field of a TCP segment in the middle of a connection.
#[inline(always)]
fn of_tcp(upper: &[u8]) -> Option<u16> {
    let view = tcp::Tcp::parse(upper)?;
    let flags = view.flags() & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
    if flags == tcp::ACK { u16_at(upper, tcp::CHECKSUM_OFFSET) } else { None }
}
