//! The first look at a packet: what its connection is found by, straight from its bytes.
//!
//! Whatever is out of the ordinary is none of this module's business and takes the stages: other
//! protocols than TCP and UDP, options, extension headers, fragments, flags other than those of a
//! packet in the middle of a connection, and everything that is wrong in some way.

use crate::connection::{IngressWords, KeyWords, Signal};
use crate::packet::Checksum;
use crate::wire::{bytes_at, checksum, ethernet, ipv4, ipv6, tcp, u16_at, udp};

/// What a first look tells about a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    /// The words of its key.
    pub words: KeyWords,
    /// Their hash.
    pub hash: u64,
    /// Bytes of the IP packet.
    pub len: u16,
    /// Bytes from its IP header to that of its upper layer.
    pub upper: u8,
    /// Hops left.
    pub ttl: u8,
    /// What it means to its connection.
    pub signal: Signal,
    /// Its checksum is only the pseudo-header's, and was not known to be.
    pub partial: bool,
}

impl Glance {
    /// That of a frame that came in by such a port; `None` when it has to take the stages.
    #[inline(always)]
    pub fn of(bytes: &[u8], ingress: IngressWords, from_pod: bool) -> Option<Glance> {
        match u16_at(bytes, ethernet::LEN - 2)? {
            ethernet::IPV4 => Self::of_v4(bytes.get(ethernet::LEN..)?, ingress, from_pod),
            ethernet::IPV6 => Self::of_v6(bytes.get(ethernet::LEN..)?, ingress, from_pod),
            _ => None,
        }
    }

    #[inline(always)]
    fn of_v4(bytes: &[u8], ingress: IngressWords, from_pod: bool) -> Option<Glance> {
        let header: &[u8; ipv4::LEN] = bytes.first_chunk()?;
        let word = |at| bytes_at::<4>(header, at).map_or(0, u32::from_be_bytes);
        // Version 4, no options; neither a first nor a later fragment.
        if header[0] != 0x45 || word(4) & 0x3fff != 0 {
            return None;
        }
        if checksum::checksum(header) != 0 {
            return None;
        }
        let len = word(0) as u16;
        let (from, to, protocol) = (word(12), word(16), header[9]);
        let upper = bytes.get(ipv4::LEN..usize::from(len))?;
        let addresses = u64::from(from) + u64::from(to);
        let told = Upper::of(upper, protocol, from_pod.then_some(addresses))?;
        Some(Glance {
            words: ingress.key_v4([from, to], told.ports, protocol),
            hash: 0,
            len,
            upper: ipv4::LEN as u8,
            ttl: header[8],
            signal: told.signal,
            partial: told.partial,
        })
    }

    #[inline(never)]
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
        let sum = || checksum::sum(&from.to_be_bytes()) + checksum::sum(&to.to_be_bytes());
        let told = Upper::of(upper, protocol, from_pod.then(sum))?;
        Some(Glance {
            words: ingress.key_v6([from, to], told.ports, protocol),
            hash: 0,
            len,
            upper: ipv6::LEN as u8,
            ttl: header[7],
            signal: told.signal,
            partial: told.partial,
        })
    }

    /// What its checksum field holds, where the port said `known`; `None` when that is not about
    /// its upper layer's own.
    #[inline]
    pub fn checksum(&self, known: Checksum) -> Option<Checksum> {
        let start = ethernet::LEN as u16 + u16::from(self.upper);
        let offset = match self.is_tcp() {
            true => tcp::CHECKSUM_OFFSET as u16,
            false => udp::CHECKSUM_OFFSET as u16,
        };
        let own = Checksum::Partial { start, offset };
        match known {
            Checksum::Complete if self.partial => Some(own),
            Checksum::Complete => Some(Checksum::Complete),
            partial => (partial == own).then_some(own),
        }
    }

    /// Whether it is TCP, and not UDP.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.signal == Signal::Ack
    }

    /// Whether it is IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        usize::from(self.upper) == ipv6::LEN
    }
}

/// What the upper-layer header tells.
struct Upper {
    ports: u32,
    signal: Signal,
    partial: bool,
}

impl Upper {
    /// `addresses` is their sum, if a partial checksum is to be recognised.
    #[inline(always)]
    fn of(upper: &[u8], protocol: u8, addresses: Option<u64>) -> Option<Upper> {
        let ports = bytes_at::<4>(upper, 0).map(u32::from_be_bytes)?;
        let (field, signal) = match protocol {
            tcp::PROTOCOL => {
                let view = tcp::Tcp::parse(upper)?;
                let flags = view.flags() & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
                if flags != tcp::ACK {
                    return None;
                }
                (tcp::CHECKSUM_OFFSET, Signal::Ack)
            }
            udp::PROTOCOL => {
                udp::Udp::parse(upper)?;
                (udp::CHECKSUM_OFFSET, Signal::Data)
            }
            _ => return None,
        };
        let partial = addresses.is_some_and(|addresses| {
            let sum = addresses + u64::from(protocol) + upper.len() as u64;
            u16_at(upper, field) == Some(checksum::fold(sum))
        });
        Some(Upper { ports, signal, partial })
    }
}
