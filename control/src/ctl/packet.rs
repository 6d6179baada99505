//! One line about a packet, much as tcpdump would say it: addresses, ports, flags, tunnel.
//!
//! Only for reading: it believes lengths no further than the bytes go, and says where they end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_BRIDGE: u16 = 0x6558;
const GENEVE_PORT: u16 = 6081;
/// Ethernet in Geneve is followed once; a tunnel in a tunnel is shown as UDP.
const TUNNELS_MAX: usize = 1;

/// `02:42:0a:0a:01:02`; other lengths than six likewise.
pub fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// All bytes in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The line about `frame`, which starts with its Ethernet header.
pub fn summary(frame: &[u8]) -> String {
    let mut line = Line::default();
    if ethernet(frame, &mut line, TUNNELS_MAX).is_none() {
        line.add("(cut short)");
    }
    line.0.push_str(&format!(", {} bytes", frame.len()));
    line.0
}

#[derive(Default)]
struct Line(String);

impl Line {
    fn add(&mut self, text: impl AsRef<str>) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(text.as_ref());
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into())
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into())
}

fn ethernet(frame: &[u8], line: &mut Line, tunnels: usize) -> Option<()> {
    line.add(format!("{} > {}", mac(frame.get(6..12)?), mac(frame.get(..6)?)));
    let (mut ethertype, mut at) = (u16_at(frame, 12)?, 14);
    if ethertype == ETHERTYPE_VLAN {
        line.add(format!("vlan {}", u16_at(frame, 14)? & 0xfff));
        (ethertype, at) = (u16_at(frame, 16)?, 18);
    }
    let payload = frame.get(at..)?;
    match ethertype {
        ETHERTYPE_ARP => arp(payload, line),
        ETHERTYPE_IPV4 => ipv4(payload, line, tunnels),
        ETHERTYPE_IPV6 => ipv6(payload, line, tunnels),
        other => {
            line.add(format!("ethertype {other:#06x}"));
            Some(())
        }
    }
}

fn arp(bytes: &[u8], line: &mut Line) -> Option<()> {
    let (sender, target) = (ipv4_at(bytes, 14)?, ipv4_at(bytes, 24)?);
    line.add(match u16_at(bytes, 6)? {
        1 => format!("ARP who-has {target} tell {sender}"),
        2 => format!("ARP {sender} is-at {}", mac(bytes.get(8..14)?)),
        other => format!("ARP operation {other}"),
    });
    Some(())
}

fn ipv4(bytes: &[u8], line: &mut Line, tunnels: usize) -> Option<()> {
    let header = usize::from(bytes.first()? & 0xf) * 4;
    let addresses = (ipv4_at(bytes, 12)?.into(), ipv4_at(bytes, 16)?.into());
    let (ttl, protocol) = (*bytes.get(8)?, *bytes.get(9)?);
    let fragment = u16_at(bytes, 6)?;
    let offset = fragment & 0x1fff;
    if offset != 0 {
        let at = usize::from(offset) * 8;
        line.add(format!("IP {} > {} fragment at {at} ttl {ttl}", addresses.0, addresses.1));
        return Some(());
    }
    transport("IP", addresses, protocol, &format!("ttl {ttl}"), bytes.get(header..)?, line, tunnels)
}

fn ipv6(bytes: &[u8], line: &mut Line, tunnels: usize) -> Option<()> {
    let addresses = (ipv6_at(bytes, 8)?.into(), ipv6_at(bytes, 24)?.into());
    let (next, hops) = (*bytes.get(6)?, *bytes.get(7)?);
    transport("IP6", addresses, next, &format!("hops {hops}"), bytes.get(40..)?, line, tunnels)
}

fn transport(
    ip: &str,
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    life: &str,
    bytes: &[u8],
    line: &mut Line,
    tunnels: usize,
) -> Option<()> {
    if !matches!(protocol, 6 | 17 | 132) {
        line.add(format!("{ip} {source} > {destination} {} {life}", portless(protocol, bytes)));
        return Some(());
    }
    let name = match protocol {
        6 => format!("TCP [{}]", flags(*bytes.get(13)?)),
        17 => "UDP".to_owned(),
        _ => "SCTP".to_owned(),
    };
    let ports = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
    let (from, to) = (at_port(source, ports.0), at_port(destination, ports.1));
    line.add(format!("{ip} {from} > {to} {name} {life}"));
    if protocol == 17 && ports.1 == GENEVE_PORT && tunnels > 0 {
        return geneve(bytes.get(8..)?, line, tunnels);
    }
    Some(())
}

fn geneve(bytes: &[u8], line: &mut Line, tunnels: usize) -> Option<()> {
    let options = usize::from(bytes.first()? & 0x3f) * 4;
    let [high, middle, low] = *bytes.get(4..7)? else { return None };
    line.add(format!("Geneve vni {}", u32::from_be_bytes([0, high, middle, low])));
    if options > 0 {
        line.add(format!("options {options} bytes"));
    }
    if u16_at(bytes, 2)? != ETHERTYPE_BRIDGE {
        line.add(format!("protocol {:#06x}", u16_at(bytes, 2)?));
        return Some(());
    }
    line.add("|");
    ethernet(bytes.get(8 + options..)?, line, tunnels - 1)
}

fn at_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn portless(protocol: u8, bytes: &[u8]) -> String {
    let kind = bytes.first().copied();
    match (protocol, kind) {
        (1, Some(kind)) => icmp(kind),
        (58, Some(kind)) => icmp6(kind),
        (0 | 43 | 44 | 60, _) => format!("extension header {protocol}"),
        _ => format!("protocol {protocol}"),
    }
}

fn icmp(kind: u8) -> String {
    match kind {
        0 => "ICMP echo reply".into(),
        3 => "ICMP unreachable".into(),
        8 => "ICMP echo request".into(),
        11 => "ICMP time exceeded".into(),
        other => format!("ICMP type {other}"),
    }
}

fn icmp6(kind: u8) -> String {
    match kind {
        1 => "ICMP6 unreachable".into(),
        2 => "ICMP6 packet too big".into(),
        3 => "ICMP6 time exceeded".into(),
        128 => "ICMP6 echo request".into(),
        129 => "ICMP6 echo reply".into(),
        133 => "ICMP6 router solicitation".into(),
        134 => "ICMP6 router advertisement".into(),
        135 => "ICMP6 neighbor solicitation".into(),
        136 => "ICMP6 neighbor advertisement".into(),
        other => format!("ICMP6 type {other}"),
    }
}

/// `S`, `S.`, `P.`: as tcpdump, `.` is ACK.
fn flags(bits: u8) -> String {
    let known = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U'), (0x10, '.')];
    let set: String =
        known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect();
    if set.is_empty() { "none".into() } else { set }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    /// Ethernet, IPv4, TCP SYN from 10.10.1.2:40000 to 10.10.1.3:80.
    pub(crate) fn syn() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 63, 6, 0, 0, 10, 10, 1, 2, 10, 10, 1, 3]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        frame
    }

    fn tunnelled() -> Vec<u8> {
        let mut frame = vec![2, 1, 0, 0, 0, 2, 2, 1, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 90, 0, 0, 0, 0, 64, 17, 0, 0, 172, 18, 0, 1, 172, 18, 0, 2]);
        frame.extend([0xc0, 0, 0x17, 0xc1, 0, 70, 0, 0]);
        frame.extend([0, 0, 0x65, 0x58, 0, 0, 0, 0]);
        frame.extend(syn());
        frame
    }

    #[test]
    fn a_tcp_packet_is_told_in_one_line() {
        assert_eq!(
            summary(&syn()),
            "02:00:00:00:00:02 > 02:00:00:00:00:03 IP 10.10.1.2:40000 > 10.10.1.3:80 TCP [S] \
             ttl 63, 54 bytes"
        );
    }

    #[test]
    fn a_tunnelled_packet_is_told_with_its_tunnel() {
        assert_eq!(
            summary(&tunnelled()),
            "02:01:00:00:00:01 > 02:01:00:00:00:02 IP 172.18.0.1:49152 > 172.18.0.2:6081 UDP \
             ttl 64 Geneve vni 0 | 02:00:00:00:00:02 > 02:00:00:00:00:03 IP 10.10.1.2:40000 > \
             10.10.1.3:80 TCP [S] ttl 63, 104 bytes"
        );
    }

    #[test]
    fn arp_and_ipv6_are_told() {
        let mut request = vec![0xff; 6];
        request.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
        request.extend([10, 10, 1, 2, 0, 0, 0, 0, 0, 0, 10, 10, 1, 1]);
        assert!(summary(&request).contains("ARP who-has 10.10.1.1 tell 10.10.1.2"));
        let mut ping = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        ping.extend([0x60, 0, 0, 0, 0, 8, 58, 64]);
        ping.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        ping.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        ping.extend([128, 0, 0, 0, 0, 1, 0, 1]);
        let line = summary(&ping);
        assert!(line.contains("IP6 fd00::1 > fd00::2 ICMP6 echo request hops 64"), "{line}");
    }

    #[test]
    fn every_cut_of_a_packet_is_told_without_a_panic() {
        let whole = tunnelled();
        for length in 0..whole.len() {
            assert!(summary(&whole[..length]).ends_with(&format!(", {length} bytes")));
        }
        assert!(summary(&whole[..40]).contains("(cut short)"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            summary(&bytes);
        }

        #[test]
        fn no_spoilt_packet_makes_it_panic(at in 0usize..104, value in any::<u8>()) {
            let mut bytes = tunnelled();
            bytes[at] = value;
            summary(&bytes);
        }
    }
}
