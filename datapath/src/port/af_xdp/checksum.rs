//! Recognises a checksum that the sending kernel left for the device to finish.
//!
//! AF_XDP carries no offload facts on receive: a Pod with checksum offload on (the default) sends
//! TCP and UDP whose field holds the folded sum of the pseudo-header, and nothing says so. On a
//! local link that value is proof enough. If by chance a finished sum equals it, finishing it
//! again gives the same sum. On a wire it would turn damaged packets into valid ones, so only Pod
//! ports look.

use seine_pipeline::packet::Checksum;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;
const EXTENSION_HEADERS_MAX: usize = 4;

/// What the checksum field of an Ethernet frame from a local sender holds.
pub(super) fn recognise(packet: &[u8]) -> Checksum {
    partial(packet).unwrap_or(Checksum::Complete)
}

/// `None` for whatever has no such checksum, is cut short, or holds another value.
fn partial(packet: &[u8]) -> Option<Checksum> {
    let (mut kind, mut network) = (half(packet, 12)?, 14);
    if kind == 0x8100 {
        (kind, network) = (half(packet, 16)?, 18);
    }
    let (addresses, protocol, start, end) = match kind {
        0x0800 => ipv4(packet, network)?,
        0x86dd => ipv6(packet, network)?,
        _ => return None,
    };
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let length = end.checked_sub(start)?;
    let held = half(packet, start + offset)?;
    // A UDP sender that does not sum writes zero; a pseudo-header never sums to that.
    (held != 0 && held == pseudo_header(addresses, protocol, length))
        .then_some(Checksum::Partial { start: start as u16, offset: offset as u16 })
}

/// Addresses, protocol, and where its header starts and its payload ends.
type Transport<'a> = (&'a [u8], u8, usize, usize);

fn ipv4(packet: &[u8], at: usize) -> Option<Transport<'_>> {
    let first = *packet.get(at)?;
    // No fragments: their sum is finished before they are cut.
    if first >> 4 != 4 || half(packet, at + 6)? & 0x3fff != 0 {
        return None;
    }
    let start = at + usize::from(first & 0xf) * 4;
    let end = at + usize::from(half(packet, at + 2)?);
    Some((packet.get(at + 12..at + 20)?, *packet.get(at + 9)?, start, end))
}

fn ipv6(packet: &[u8], at: usize) -> Option<Transport<'_>> {
    if *packet.get(at)? >> 4 != 6 {
        return None;
    }
    let end = at + 40 + usize::from(half(packet, at + 4)?);
    let (mut protocol, mut start) = (*packet.get(at + 6)?, at + 40);
    for _ in 0..EXTENSION_HEADERS_MAX {
        if protocol != HOP_BY_HOP && protocol != DESTINATION_OPTIONS {
            break;
        }
        protocol = *packet.get(start)?;
        start += (usize::from(*packet.get(start + 1)?) + 1) * 8;
    }
    Some((packet.get(at + 8..at + 40)?, protocol, start, end))
}

/// The folded sum of the pseudo-header, as Linux stores it: not complemented.
fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let words =
        addresses.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + u32::from(protocol) + length as u32;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn half(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP packet over IPv4 whose field holds `held`, or else the pseudo-header's sum.
    fn udp(payload: &[u8], held: Option<u16>) -> Vec<u8> {
        let mut packet = vec![0; 12];
        packet.extend([0x08, 0x00, 0x45, 0]);
        packet.extend(((28 + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0x10, 0, 0x20, 0]);
        packet.extend(((8 + payload.len()) as u16).to_be_bytes());
        // 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + length
        let sum = 0x1403 + 17 + 8 + payload.len() as u16;
        packet.extend(held.unwrap_or(sum).to_be_bytes());
        packet.extend(payload);
        packet
    }

    #[test]
    fn the_pseudo_headers_sum_marks_a_partial_checksum() {
        let partial = Checksum::Partial { start: 34, offset: 6 };
        assert_eq!(recognise(&udp(b"abcd", None)), partial);
        assert_eq!(recognise(&udp(b"abcd", Some(0x1234))), Checksum::Complete);
        assert_eq!(recognise(&udp(b"abcd", Some(0))), Checksum::Complete);
    }

    #[test]
    fn a_fragment_has_no_partial_checksum() {
        let mut packet = udp(b"abcd", None);
        packet[20] = 0x20;
        assert_eq!(recognise(&packet), Checksum::Complete);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = recognise(&packet);
        }

        #[test]
        fn a_packet_cut_short_never_panics(cut in 0usize..46, byte in any::<u8>()) {
            let mut packet = udp(b"abcd", None);
            packet[14] = byte;
            packet.truncate(cut);
            let _ = recognise(&packet);
        }
    }
}
