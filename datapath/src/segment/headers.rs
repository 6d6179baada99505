//! The headers of a packet in segments: read, and rewritten in place with every sum under them.

use std::net::IpAddr;

use seine_pipeline::wire::checksum::{self, Difference};
use seine_pipeline::wire::{ethernet, ipv4, ipv6, tcp, udp};

use super::SegmentKind;

/// Bytes of a VLAN tag.
pub(super) const TAG_BYTES: usize = 4;

/// Offsets in an IPv4 header.
pub(super) const TOTAL_LEN: usize = 2;
pub(super) const IDENTIFICATION: usize = 4;
pub(super) const HEADER_CHECKSUM: usize = 10;
/// In an IPv6 header.
pub(super) const PAYLOAD_LEN: usize = 4;
/// In a UDP header.
pub(super) const UDP_LEN: usize = 4;
/// In a TCP header.
pub(super) const SEQUENCE: usize = 4;
pub(super) const DATA_OFFSET: usize = 12;
pub(super) const FLAGS: usize = 13;

/// Where the IP header of a frame begins that is what it is said to be.
pub(super) fn network_of(bytes: &[u8], kind: SegmentKind) -> Option<usize> {
    let tagged = bytes.get(12..14)? == ethernet::VLAN.to_be_bytes();
    let network = if tagged { ethernet::LEN + TAG_BYTES } else { ethernet::LEN };
    let ether_type = match kind {
        SegmentKind::Tcp4 => ethernet::IPV4,
        SegmentKind::Tcp6 => ethernet::IPV6,
    };
    let version = bytes.get(network)? >> 4;
    let own = bytes.get(network - 2..network)? == ether_type.to_be_bytes()
        && version == if kind == SegmentKind::Tcp4 { 4 } else { 6 };
    (own && bytes.len() >= network + ipv6::LEN).then_some(network)
}

/// Bytes of the IP packet, as its header says.
pub(super) fn said_len(bytes: &[u8], network: usize) -> usize {
    match bytes[network] >> 4 {
        4 => half(bytes, network + TOTAL_LEN).into(),
        _ => ipv6::LEN + usize::from(half(bytes, network + PAYLOAD_LEN)),
    }
}

/// Makes the headers of a frame of `from` bytes with a partial checksum those of one of `to`.
pub(super) fn resize(
    bytes: &mut [u8],
    (network, transport): (usize, usize),
    from: usize,
    to: usize,
) {
    if from == to {
        return;
    }
    // An IP packet has a length of 16 bits; what was longer was refused.
    match bytes[network] >> 4 {
        4 => {
            let (at, sum) = (network + TOTAL_LEN, network + HEADER_CHECKSUM);
            put_summed(bytes, at, sum, (to - network) as u16);
        }
        _ => put(bytes, network + PAYLOAD_LEN, (to - network - ipv6::LEN) as u16),
    }
    // Only the pseudo-header's sum counts; a complete one is made anew.
    let at = transport + tcp::CHECKSUM_OFFSET;
    let [old, new] = [from, to].map(|len| (len - transport) as u64);
    let sum = Difference::default().replace(old, new).sum(half(bytes, at));
    put(bytes, at, sum);
}

/// Makes TCP's checksum complete.
pub(super) fn sum_up(bytes: &mut [u8], network: usize, transport: usize) {
    let address = |at: usize, v6: bool| match v6 {
        false => IpAddr::from([0, 1, 2, 3].map(|byte| bytes[network + at + byte])),
        true => {
            let mut address = [0; 16];
            address.copy_from_slice(&bytes[network + at..network + at + 16]);
            IpAddr::from(address)
        }
    };
    let ends = match bytes[network] >> 4 {
        4 => [address(12, false), address(16, false)],
        _ => [address(8, true), address(24, true)],
    };
    let segment = &mut bytes[transport..];
    put(segment, tcp::CHECKSUM_OFFSET, 0);
    let pseudo = checksum::pseudo_header(ends[0], ends[1], tcp::PROTOCOL, segment.len());
    put(segment, tcp::CHECKSUM_OFFSET, !checksum::fold(pseudo + checksum::sum(segment)));
}

/// Gives the tunnel's headers in front the lengths of this frame, and its sum where there is one.
pub(super) fn enclose(bytes: &mut [u8]) {
    let network = ethernet::LEN;
    let v4 = bytes[network] >> 4 == 4;
    let datagram = network + if v4 { ipv4::LEN } else { ipv6::LEN };
    let len = (bytes.len() - datagram) as u16;
    put(bytes, datagram + UDP_LEN, len);
    if v4 {
        let (at, sum) = (network + TOTAL_LEN, network + HEADER_CHECKSUM);
        put_summed(bytes, at, sum, len + ipv4::LEN as u16);
        return;
    }
    put(bytes, network + PAYLOAD_LEN, len);
    put(bytes, datagram + udp::CHECKSUM_OFFSET, 0);
    let addresses = &bytes[network + 8..network + ipv6::LEN];
    let pseudo = checksum::sum(addresses) + u64::from(udp::PROTOCOL) + u64::from(len);
    let sum = !checksum::fold(pseudo + checksum::sum(&bytes[datagram..]));
    put(bytes, datagram + udp::CHECKSUM_OFFSET, checksum::for_udp(sum));
}

pub(super) fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// As [`put`], under a checksum at `sum`.
pub(super) fn put_summed(bytes: &mut [u8], at: usize, sum: usize, value: u16) {
    put(bytes, sum, checksum::replace(half(bytes, sum), half(bytes, at), value));
    put(bytes, at, value);
}
