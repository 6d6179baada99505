//! What both versions of IP have in common, read once for each packet.

use std::net::IpAddr;

use super::field::{Field, read};
use super::ipv4::Ipv4;
use super::ipv6::{self, Fragment, Ipv6};
use super::{Defect, bytes_at, checksum, ethernet, icmp, ipv4, sctp, tcp, u16_at, udp};

/// What the headers of an IP packet say. Offsets count from the start of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it may not be fragmented: always so in IPv6.
    pub dont_fragment: bool,
    /// Whether it is part of another packet.
    pub fragment: Fragment,
    /// What the fragments of one packet have in common.
    pub identification: u32,
    /// Bytes of the whole packet, link padding excluded.
    pub len: usize,
    /// Bytes to the upper-layer header.
    pub upper: usize,
}

impl Ip {
    /// Reads the IP packet `bytes`; what follows it there is padding. `None` when `ether_type`
    /// says neither IPv4 nor IPv6.
    pub fn parse(ether_type: u16, bytes: &[u8]) -> Option<Result<Ip, Defect>> {
        let ip = match ether_type {
            ethernet::IPV4 => Self::parse_v4(bytes),
            ethernet::IPV6 => Self::parse_v6(bytes),
            _ => return None,
        };
        Some(ip.and_then(|ip| {
            let upper = bytes.get(ip.upper..ip.len).ok_or(Defect::Malformed)?;
            ip.upper_is_whole(upper).then_some(ip).ok_or(Defect::Malformed)
        }))
    }

    /// Reads the IP packet that an ICMP error quotes, the rest of it cut off. `None` when its
    /// headers are not understood or not whole.
    pub fn parse_quoted(v6: bool, bytes: &[u8]) -> Option<Ip> {
        if v6 {
            let view = Ipv6::parse(bytes).filter(|view| view.version() == 6)?;
            return Some(Self::of_v6(&view, ipv6::upper_layer(bytes).ok()?));
        }
        let view = Ipv4::parse(bytes).filter(|view| view.version() == 4)?;
        let lengths = ipv4::LEN <= view.header_len() && view.header_len() <= view.total_len();
        lengths.then(|| Self::of_v4(&view))
    }

    fn parse_v4(bytes: &[u8]) -> Result<Ip, Defect> {
        let view = Ipv4::parse(bytes).ok_or(Defect::Malformed)?;
        let (header, len) = (view.header_len(), view.total_len());
        if view.version() != 4 || header < ipv4::LEN || len < header {
            return Err(Defect::Malformed);
        }
        let packet = bytes.get(..len).ok_or(Defect::Malformed)?;
        read(Field::HeaderChecksum);
        if checksum::checksum(packet.get(..header).ok_or(Defect::Malformed)?) != 0 {
            return Err(Defect::Checksum);
        }
        // The last byte of the whole would lie beyond what a length can say.
        if view.fragment_offset() + (len - header) > 0xffff {
            return Err(Defect::Malformed);
        }
        Ok(Self::of_v4(&view))
    }

    fn of_v4(view: &Ipv4<&[u8; ipv4::LEN]>) -> Ip {
        Ip {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol: view.protocol(),
            traffic_class: view.traffic_class(),
            ttl: view.ttl(),
            dont_fragment: view.dont_fragment(),
            fragment: match (view.fragment_offset(), view.more_fragments()) {
                (0, false) => Fragment::Whole,
                (0, true) => Fragment::First,
                _ => Fragment::Later,
            },
            identification: view.identification().into(),
            len: view.total_len(),
            upper: view.header_len(),
        }
    }

    fn parse_v6(bytes: &[u8]) -> Result<Ip, Defect> {
        let view = Ipv6::parse(bytes).ok_or(Defect::Malformed)?;
        if view.version() != 6 {
            return Err(Defect::Malformed);
        }
        let len = ipv6::LEN + view.payload_len();
        let packet = bytes.get(..len).ok_or(Defect::Malformed)?;
        Ok(Self::of_v6(&view, ipv6::upper_layer(packet)?))
    }

    fn of_v6(view: &Ipv6<&[u8; ipv6::LEN]>, upper: ipv6::Upper) -> Ip {
        Ip {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol: upper.protocol,
            traffic_class: view.traffic_class(),
            ttl: view.hop_limit(),
            dont_fragment: true,
            fragment: upper.fragment,
            identification: upper.identification,
            len: ipv6::LEN + view.payload_len(),
            upper: upper.offset,
        }
    }

    /// Whether the upper-layer header, of the protocols known here, is there in whole. A first
    /// fragment that cuts it could slip past whoever looks at ports (RFC 1858).
    fn upper_is_whole(&self, upper: &[u8]) -> bool {
        match (self.fragment, self.protocol) {
            (Fragment::Later, _) => true,
            (_, tcp::PROTOCOL) => tcp::Tcp::parse(upper).is_some(),
            (Fragment::Whole, udp::PROTOCOL) => udp::Udp::parse(upper).is_some(),
            (Fragment::First, udp::PROTOCOL) => upper.len() >= udp::LEN,
            (_, sctp::PROTOCOL) => upper.len() >= sctp::LEN,
            (_, icmp::PROTOCOL_V4) => upper.len() >= icmp::LEN,
            (_, icmp::PROTOCOL_V6) => upper.len() >= 4,
            _ => true,
        }
    }

    /// Source and destination port, where there are any to see in `packet`.
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if self.fragment != Fragment::Whole
            || !matches!(self.protocol, tcp::PROTOCOL | udp::PROTOCOL)
        {
            return None;
        }
        read(Field::SourcePort);
        read(Field::DestinationPort);
        Some((u16_at(packet, self.upper)?, u16_at(packet, self.upper + 2)?))
    }

    /// The ICMP or ICMPv6 type, where there is one to see in `packet`.
    pub fn icmp_type(&self, packet: &[u8]) -> Option<u8> {
        let mine = if self.is_v6() { icmp::PROTOCOL_V6 } else { icmp::PROTOCOL_V4 };
        if self.protocol != mine || self.fragment == Fragment::Later {
            return None;
        }
        read(Field::Icmp);
        bytes_at::<1>(packet, self.upper).map(|[kind]| kind)
    }

    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }
}
