//! A frame as an independent parser sees it.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// What an independent parser sees in a frame, all checksums verified.
pub struct Seen {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub icmp: Option<(u8, u8)>,
    pub udp_ports: Option<(u16, u16)>,
}

/// Reads a frame whose checksums are all right; panics about any other.
#[track_caller]
pub fn see(frame: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(frame).expect("an intact frame");
    let ethernet = sliced.link.as_ref().expect("Ethernet").to_header();
    let ethernet = ethernet.expect("header").ethernet2().expect("Ethernet II");
    let (source, destination, ttl): (IpAddr, IpAddr, u8) = match sliced.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 checksum");
            let length = usize::from(header.total_len) + 14;
            assert_eq!(length, frame.len(), "no padding is left");
            (header.source.into(), header.destination.into(), header.time_to_live)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 54, frame.len());
            (header.source.into(), header.destination.into(), header.hop_limit)
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let transport = sliced.transport.expect("a transport header");
    let (sum, expected, payload) = match &transport {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload())
                }
                _ => panic!("mixed families"),
            };
            let found = header.checksum;
            (found, if found == 0 { 0 } else { sum.unwrap() }, udp.payload().to_vec())
        }
        TransportSlice::Tcp(tcp) => {
            let sum = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4(a.octets(), b.octets()),
                (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6(a.octets(), b.octets()),
                _ => panic!("mixed families"),
            };
            (tcp.checksum(), sum.unwrap(), tcp.payload().to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            let header = icmp.header();
            let sum = header.icmp_type.calc_checksum(icmp.payload());
            (header.checksum, sum, icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(a), IpAddr::V6(b)) = (source, destination) else { panic!("family") };
            assert!(icmp.is_checksum_valid(a.octets(), b.octets()), "ICMPv6 checksum");
            (0, 0, icmp.payload().to_vec())
        }
        TransportSlice::Igmp(_) => panic!("IGMP"),
    };
    assert_eq!(sum, expected, "transport checksum");
    let icmp = match &transport {
        TransportSlice::Icmpv4(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
        TransportSlice::Icmpv6(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
        _ => None,
    };
    let udp_ports = match &transport {
        TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    };
    Seen {
        source_mac: ethernet.source,
        destination_mac: ethernet.destination,
        source,
        destination,
        ttl,
        payload,
        icmp,
        udp_ports,
    }
}
