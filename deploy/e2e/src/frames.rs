//! Whole Ethernet frames, built by hand: what a hostile Pod may put on its wire.
//!
//! Each carries a [`Marker`], by which a receiver anywhere knows it again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 16 bytes that no other traffic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker([u8; 16]);

/// A MAC address.
pub type Mac = [u8; 6];

/// To everybody on the segment.
pub const BROADCAST: Mac = [0xff; 6];

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Marker {
    /// The marker of the `number`th attack of a run.
    pub fn new(number: u8) -> Marker {
        let mut bytes = *b"seine-attack-\0\0\0";
        bytes[13] = number;
        bytes[14] = !number;
        Marker(bytes)
    }

    /// Whether a frame carries it.
    pub fn is_in(self, frame: &[u8]) -> bool {
        frame.windows(self.0.len()).any(|window| window == self.0)
    }
}

/// An Ethernet header and what follows, padded to the least size.
pub fn ethernet(to: Mac, from: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// The same frame with a VLAN tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(VLAN.to_be_bytes());
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// A frame of an EtherType that nobody routes, straight to a MAC.
pub fn raw(to: Mac, from: Mac, marker: Marker) -> Vec<u8> {
    // IEEE 802 local experimental EtherType 1.
    ethernet(to, from, 0x88b5, &marker.0)
}

/// A UDP packet with the marker as payload, checksums right.
pub fn udp(to: Mac, from: Mac, source: IpAddr, destination: IpAddr, marker: Marker) -> Vec<u8> {
    udp_with(to, from, (source, 4000), (destination, 4001), &marker.0)
}

/// A UDP packet, checksums right. Both addresses are of one family.
pub fn udp_with(
    to: Mac,
    from: Mac,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.1.to_be_bytes());
    datagram.extend(destination.1.to_be_bytes());
    datagram.extend(length(8 + payload.len()).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let sum = transport_checksum(source.0, destination.0, UDP, &datagram);
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    ip(to, from, source.0, destination.0, UDP, 64, &datagram)
}

/// A TCP segment that opens a connection, with the marker as data, checksums right.
pub fn syn(
    to: Mac,
    from: Mac,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    marker: Marker,
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.1.to_be_bytes());
    segment.extend(destination.1.to_be_bytes());
    // Sequence and acknowledgement, five words of header, SYN, the window.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(marker.0);
    let sum = transport_checksum(source.0, destination.0, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(to, from, source.0, destination.0, TCP, 64, &segment)
}

/// An ARP packet: operation 1 asks, 2 answers. The marker follows as trailing bytes.
pub fn arp(
    to: Mac,
    from: Mac,
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
    marker: Marker,
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet.extend(marker.0);
    ethernet(to, from, ARP, &packet)
}

/// A neighbour advertisement that `claimed` is at `link`, overriding what was known. The marker is
/// an option of a type that receivers must ignore.
pub fn neighbor_advertisement(
    to: Mac,
    from: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    (claimed, link): (Ipv6Addr, Mac),
    marker: Marker,
) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(claimed.octets());
    message.extend([2, 1]);
    message.extend(link);
    // Two bytes of type and length, the marker, and six of padding: three units of eight.
    message.extend([253, 3]);
    message.extend(marker.0);
    message.extend([0; 6]);
    let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
    let sum = transport_checksum(source, destination, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    // Neighbour discovery is believed only with the hop limit that no router lets through.
    ip(to, from, source, destination, ICMPV6, 255, &message)
}

fn ip(
    to: Mac,
    from: Mac,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    payload: &[u8],
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0x45, 0];
            packet.extend(length(20 + payload.len()).to_be_bytes());
            packet.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = fold(add(0, &packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(payload);
            ethernet(to, from, IPV4, &packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length(payload.len()).to_be_bytes());
            packet.extend([protocol, hops]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            ethernet(to, from, IPV6, &packet)
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    let mut sum = u32::from(protocol) + u32::from(length(message.len()));
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    fold(add(sum, message))
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    sum + words.sum::<u32>()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded into 16 bits")
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("attack frames are small")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn an_ipv4_header_sums_to_nothing() {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let frame = udp(A, B, source, destination, Marker::new(1));
        assert_eq!(fold(add(0, &frame[14..34])), 0);
        assert_eq!(transport_checksum(source, destination, UDP, &frame[34..58]), 0);
        assert!(Marker::new(1).is_in(&frame) && !Marker::new(2).is_in(&frame));
    }

    #[test]
    fn a_syn_sums_to_nothing() {
        let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let frame = syn(A, B, (source, 1), (destination, 2), Marker::new(1));
        assert_eq!(transport_checksum(source, destination, TCP, &frame[54..]), 0);
        assert!(Marker::new(1).is_in(&frame));
    }

    #[test]
    fn a_neighbor_advertisement_has_whole_options() {
        let (to, claimed) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let frame = neighbor_advertisement(A, B, claimed, to, (claimed, B), Marker::new(3));
        let message = &frame[54..];
        assert_eq!(message.len(), 24 + 8 + 24);
        assert_eq!(transport_checksum(claimed.into(), to.into(), ICMPV6, message), 0);
    }
}
