//! The packets that connections are made of: built whole, and read back with every checksum
//! looked at.

use std::net::IpAddr;

use seine_pipeline::address::Mac;
use seine_pipeline::wire::ethernet::{self, Ethernet};
use seine_pipeline::wire::ip::Ip;
use seine_pipeline::wire::{checksum, icmp, ipv4, ipv6, tcp, udp};

/// TCP's SYN.
pub const SYN: u8 = 0x02;
/// TCP's RST.
pub const RST: u8 = 0x04;
/// TCP's ACK.
pub const ACK: u8 = 0x10;
/// SCTP's protocol number.
const SCTP: u8 = 132;
/// SCTP's INIT chunk.
pub const INIT: u8 = 1;
/// SCTP's INIT ACK chunk.
pub const INIT_ACK: u8 = 2;
/// SCTP's common header.
const SCTP_LEN: usize = 12;

/// A packet as its ends see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Who sends.
    pub source: IpAddr,
    /// Who is meant.
    pub destination: IpAddr,
    /// What is said.
    pub message: Message,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// TCP.
    Tcp {
        /// Source and destination.
        ports: (u16, u16),
        /// The sequence number.
        sequence: u32,
        /// What is acknowledged.
        acknowledged: u32,
        /// As in the header.
        flags: u8,
        /// Behind the header.
        payload: Vec<u8>,
    },
    /// UDP.
    Udp {
        /// Source and destination.
        ports: (u16, u16),
        /// Behind the header.
        payload: Vec<u8>,
    },
    /// SCTP, one chunk.
    Sctp {
        /// Source and destination.
        ports: (u16, u16),
        /// The verification tag.
        tag: u32,
        /// The chunk's type.
        chunk: u8,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
        /// Behind type, code and checksum.
        rest: Vec<u8>,
    },
}

/// Why a packet that arrives is not what a host would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host would not take it: {0}")]
pub struct Unreadable(&'static str);

impl Segment {
    /// The frame that it is on a link.
    pub fn frame(&self, source: Mac, destination: Mac) -> Vec<u8> {
        let (protocol, body) = self.body();
        let ether_type = if self.source.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
        let mut frame = vec![0; ethernet::LEN];
        // The buffer was made for it.
        let _ = ethernet::Repr { destination, source, ether_type }.emit(&mut frame);
        frame.extend(self.header(protocol, body.len()));
        frame.extend(body);
        frame
    }

    fn header(&self, protocol: u8, len: usize) -> Vec<u8> {
        // Nothing here is longer than a link takes.
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0; ipv4::LEN];
                let _ = ipv4::Repr {
                    traffic_class: 0,
                    total_len: short(ipv4::LEN + len),
                    dont_fragment: true,
                    ttl: 64,
                    protocol,
                    source,
                    destination,
                }
                .emit(&mut header);
                header
            }
            (source, destination) => {
                let v6 = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                let mut header = vec![0; ipv6::LEN];
                let _ = ipv6::Repr {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: short(len),
                    next_header: protocol,
                    hop_limit: 64,
                    source: v6(source),
                    destination: v6(destination),
                }
                .emit(&mut header);
                header
            }
        }
    }

    fn body(&self) -> (u8, Vec<u8>) {
        let begin = |ports: (u16, u16)| {
            let mut body = ports.0.to_be_bytes().to_vec();
            body.extend(ports.1.to_be_bytes());
            body
        };
        match &self.message {
            Message::Tcp { ports, sequence, acknowledged, flags, payload } => {
                let mut body = begin(*ports);
                body.extend(sequence.to_be_bytes());
                body.extend(acknowledged.to_be_bytes());
                body.extend([0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                body.extend(payload);
                (tcp::PROTOCOL, self.summed(body, tcp::PROTOCOL, tcp::CHECKSUM_OFFSET))
            }
            Message::Udp { ports, payload } => {
                let mut body = begin(*ports);
                let len = udp::LEN + payload.len();
                body.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
                body.extend([0, 0]);
                body.extend(payload);
                (udp::PROTOCOL, self.summed(body, udp::PROTOCOL, udp::CHECKSUM_OFFSET))
            }
            Message::Sctp { ports, tag, chunk } => {
                let mut body = begin(*ports);
                body.extend(tag.to_be_bytes());
                body.extend([0; 4]);
                // Initiate tag, window, streams out and in, first TSN.
                body.extend([*chunk, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
                let sum = crc32c(&body).to_le_bytes();
                body.splice(8..12, sum);
                (SCTP, body)
            }
            Message::Icmp { kind, code, rest } => {
                let mut body = vec![*kind, *code, 0, 0];
                body.extend(rest);
                let v4 = self.source.is_ipv4();
                let protocol = if v4 { icmp::PROTOCOL_V4 } else { icmp::PROTOCOL_V6 };
                (protocol, self.summed(body, protocol, icmp::CHECKSUM_OFFSET))
            }
        }
    }

    /// With its checksum in place.
    fn summed(&self, mut body: Vec<u8>, protocol: u8, offset: usize) -> Vec<u8> {
        let sum = !checksum::fold(self.pseudo(protocol, body.len()) + checksum::sum(&body));
        let sum = if protocol == udp::PROTOCOL { checksum::for_udp(sum) } else { sum };
        body.splice(offset..offset + 2, sum.to_be_bytes());
        body
    }

    fn pseudo(&self, protocol: u8, len: usize) -> u64 {
        pseudo(self.source, self.destination, protocol, len)
    }

    /// Reads a frame as the host does that it is for.
    pub fn parse(frame: &[u8]) -> Result<Segment, Unreadable> {
        let short = Unreadable("it ends too early");
        let link = Ethernet::parse(frame).ok_or(short.clone())?;
        let packet = frame.get(ethernet::LEN..).ok_or(short.clone())?;
        let ip = Ip::parse(link.ether_type(), packet)
            .ok_or(Unreadable("it is not IP"))?
            .map_err(|_| Unreadable("its IP header is broken"))?;
        let body = packet.get(ip.upper..ip.len).ok_or(short.clone())?;
        let sum = checksum::fold(
            pseudo(ip.source, ip.destination, ip.protocol, body.len()) + checksum::sum(body),
        );
        let sound = match ip.protocol {
            SCTP => {
                let mut zeroed = body.to_vec();
                zeroed.get_mut(8..12).ok_or(short.clone())?.fill(0);
                body.get(8..12) == Some(&crc32c(&zeroed).to_le_bytes()[..])
            }
            udp::PROTOCOL if body.get(6..8) == Some(&[0, 0]) => ip.source.is_ipv4(),
            _ => sum == 0xffff,
        };
        if !sound {
            return Err(Unreadable("a checksum is wrong"));
        }
        let message = Message::parse(ip.protocol, body).ok_or(short)?;
        Ok(Segment { source: ip.source, destination: ip.destination, message })
    }
}

impl Message {
    /// Whether it refuses another one: RST, or destination unreachable.
    pub fn is_refusal(&self) -> bool {
        match self {
            Message::Tcp { flags, .. } => flags & RST != 0,
            Message::Icmp { kind: 3 | 1, .. } => true,
            _ => false,
        }
    }

    fn parse(protocol: u8, body: &[u8]) -> Option<Message> {
        let short = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let ports = || Some((short(0)?, short(2)?));
        Some(match protocol {
            tcp::PROTOCOL => Message::Tcp {
                ports: ports()?,
                sequence: long(4)?,
                acknowledged: long(8)?,
                flags: *body.get(13)?,
                payload: body.get(usize::from(body.get(12)? >> 4) * 4..)?.to_vec(),
            },
            udp::PROTOCOL => {
                Message::Udp { ports: ports()?, payload: body.get(udp::LEN..)?.to_vec() }
            }
            SCTP => Message::Sctp { ports: ports()?, tag: long(4)?, chunk: *body.get(SCTP_LEN)? },
            icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6 => Message::Icmp {
                kind: *body.first()?,
                code: *body.get(1)?,
                rest: body.get(4..)?.to_vec(),
            },
            _ => return None,
        })
    }
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    match protocol {
        icmp::PROTOCOL_V4 => 0,
        _ => checksum::pseudo_header(source, destination, protocol, len),
    }
}

/// SCTP's checksum (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn every_message_is_read_back_in_both_families_and_refused_when_a_bit_falls() {
        let ports = (40000, 80);
        let messages = [
            Message::Tcp { ports, sequence: 7, acknowledged: 9, flags: SYN, payload: vec![1] },
            Message::Udp { ports, payload: vec![1, 2, 3] },
            Message::Sctp { ports, tag: 0, chunk: INIT },
            Message::Icmp { kind: 8, code: 0, rest: vec![0, 1, 0, 2] },
        ];
        let families = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
        for message in messages {
            for (source, destination) in families {
                let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
                let segment = Segment { source, destination, message: message.clone() };
                let mut frame = segment.frame(Mac([2; 6]), Mac([4; 6]));
                assert_eq!(Segment::parse(&frame).unwrap(), segment);
                *frame.last_mut().unwrap() ^= 1;
                assert!(Segment::parse(&frame).is_err());
            }
        }
    }

    #[test]
    fn the_checksum_of_sctp_is_that_of_its_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
