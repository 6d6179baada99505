//! Translated packets against packets built anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use proptest::prelude::*;

use super::*;
use crate::address::{Mac, PortId};
use crate::wire::{ipv4, ipv6};

const PROTOCOLS: [u8; 5] = [tcp::PROTOCOL, udp::PROTOCOL, sctp::PROTOCOL, ICMP, 47];
/// That of either family.
const ICMP: u8 = icmp::PROTOCOL_V4;
const ECHO: u8 = 0xec;

/// A packet's bytes from the IP header on, summed in whole.
fn build(v6: bool, tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let mut upper = vec![0; 20];
    let offset = match tuple.protocol {
        tcp::PROTOCOL => {
            upper[12] = 0x50;
            Some(tcp::CHECKSUM_OFFSET)
        }
        udp::PROTOCOL => Some(udp::CHECKSUM_OFFSET),
        icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6 => Some(icmp::CHECKSUM_OFFSET),
        _ => None,
    };
    upper.extend(payload);
    let length = upper.len();
    match tuple.protocol {
        tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL => {
            upper[..4].copy_from_slice(&ports(tuple));
        }
        icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6 => {
            let (kind, identifier) = match tuple.query() {
                Some((_, true)) => (if v6 { 129 } else { 0 }, tuple.destination_port),
                _ => (echo(v6), tuple.source_port),
            };
            upper[0] = kind;
            upper[4..6].copy_from_slice(&identifier.to_be_bytes());
        }
        _ => {}
    }
    if tuple.protocol == udp::PROTOCOL {
        upper[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    if let Some(offset) = offset {
        let Tuple { source, destination, protocol, .. } = *tuple;
        let pseudo = match protocol {
            icmp::PROTOCOL_V4 => 0,
            _ => checksum::pseudo_header(source, destination, protocol, length),
        };
        let sum = !checksum::fold(pseudo + checksum::sum(&upper));
        let sum = if protocol == udp::PROTOCOL { checksum::for_udp(sum) } else { sum };
        upper[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if tuple.protocol == sctp::PROTOCOL {
        let sum = crc32c::checksum(&[&upper]);
        upper[8..12].copy_from_slice(&sum.to_le_bytes());
    }
    let mut bytes = vec![0; if v6 { ipv6::LEN } else { ipv4::LEN }];
    let (total_len, protocol) = ((bytes.len() + length) as u16, tuple.protocol);
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Repr {
            traffic_class: 0,
            total_len,
            dont_fragment: true,
            ttl: 64,
            protocol,
            source,
            destination,
        }
        .emit(&mut bytes),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Repr {
            traffic_class: 0,
            flow_label: 0,
            payload_len: length as u16,
            next_header: protocol,
            hop_limit: 64,
            source,
            destination,
        }
        .emit(&mut bytes),
        _ => None,
    }
    .unwrap();
    bytes.extend(upper);
    bytes
}

fn echo(v6: bool) -> u8 {
    if v6 { icmp::ECHO_REQUEST_V6 } else { icmp::ECHO_REQUEST_V4 }
}

/// Within an Ethernet header.
fn frame(v6: bool, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ethernet::LEN];
    let ether_type = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    let (source, destination) = (Mac([2; 6]), Mac([4; 6]));
    ethernet::Repr { destination, source, ether_type }.emit(&mut frame).unwrap();
    frame.extend(bytes);
    frame
}

fn parsed(frame: &mut [u8], checksum: Checksum) -> Packet<'_> {
    let (end, port) = (frame.len(), PortId::new(0).unwrap());
    let mut packet = Packet::new(frame, 0, end, port, checksum).unwrap();
    assert_eq!(packet.parse_ip(), Ok(true));
    let ip = packet.ip().unwrap();
    packet.facts.tuple = Some(Tuple::of(&ip, packet.payload()).unwrap());
    packet
}

fn tuple(v6: bool, protocol: u8, ends: ([u8; 32], [u16; 2])) -> Tuple {
    let (addresses, [source_port, mut destination_port]) = ends;
    let address = |at: usize| match v6 {
        true => IpAddr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).unwrap()),
        false => IpAddr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).unwrap()),
    };
    let query = protocol == ICMP;
    let protocol = if query && v6 { icmp::PROTOCOL_V6 } else { protocol };
    let (source, destination) = (address(0), address(16));
    let mut it = Tuple { source, destination, protocol, source_port, destination_port };
    if query {
        destination_port = 0xff00 | u16::from(echo(v6));
    }
    it.destination_port = destination_port;
    if !query && !it.has_ports() {
        (it.source_port, it.destination_port) = (0, 0);
    }
    it
}

/// Two forms of zero are equal to a receiver, and only UDP has to choose one.
fn one_zero(mut bytes: Vec<u8>, v6: bool, protocol: u8) -> Vec<u8> {
    let offset = match protocol {
        tcp::PROTOCOL => tcp::CHECKSUM_OFFSET,
        ICMP => icmp::CHECKSUM_OFFSET,
        _ => return bytes,
    };
    let at = ethernet::LEN + if v6 { ipv6::LEN } else { ipv4::LEN } + offset;
    if bytes[at..at + 2] == [0xff, 0xff] {
        bytes[at..at + 2].fill(0);
    }
    bytes
}

fn ends() -> impl Strategy<Value = ([u8; 32], [u16; 2])> {
    (any::<[u8; 32]>(), any::<[u16; 2]>())
}

proptest! {
    #[test]
    fn a_translated_packet_is_the_one_that_its_new_ends_would_send(
        v6: bool, kind in 0usize..5, old in ends(), new in ends(), both_ends: bool,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let protocol = PROTOCOLS[kind];
        let (old, new) = (tuple(v6, protocol, old), tuple(v6, protocol, new));
        let mut bytes = frame(v6, &build(v6, &old, &payload));
        let mut packet = parsed(&mut bytes, Checksum::Complete);
        prop_assert_eq!(packet.facts.tuple, Some(old));
        let mut wanted = new;
        if both_ends {
            both(&mut packet, new).unwrap();
        } else {
            destination(&mut packet, new.destination, new.destination_port).unwrap();
            source(&mut packet, new.source, new.source_port).unwrap();
        }
        prop_assert_eq!(packet.facts.tuple, Some(new));
        prop_assert_eq!(packet.ip().unwrap().destination, new.destination);
        wanted.protocol = old.protocol;
        let expected = frame(v6, &build(v6, &wanted, &payload));
        prop_assert_eq!(one_zero(bytes.clone(), v6, protocol), one_zero(expected, v6, protocol));
        let mut packet = parsed(&mut bytes, Checksum::Complete);
        both(&mut packet, old).unwrap();
        let before = frame(v6, &build(v6, &old, &payload));
        prop_assert_eq!(one_zero(bytes, v6, protocol), one_zero(before, v6, protocol));
    }

    #[test]
    fn the_answer_to_a_query_is_translated_as_the_query_is(
        v6: bool, addresses: [[u8; 32]; 2], identifiers in [0u16..0xff00, 0u16..0xff00],
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let answer = |at: usize| tuple(v6, ICMP, (addresses[at], [identifiers[at], 0])).reversed();
        let (old, new) = (answer(0), answer(1));
        let mut bytes = frame(v6, &build(v6, &old, &payload));
        let mut packet = parsed(&mut bytes, Checksum::Complete);
        prop_assert_eq!(packet.facts.tuple, Some(old));
        both(&mut packet, new).unwrap();
        let expected = frame(v6, &build(v6, &new, &payload));
        prop_assert_eq!(one_zero(bytes, v6, ICMP), one_zero(expected, v6, ICMP));
    }

    #[test]
    fn a_partial_checksum_is_finished_into_the_right_one_after_a_translation(
        v6: bool, tcp: bool, old in ends(), new in ends(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let protocol = if tcp { tcp::PROTOCOL } else { udp::PROTOCOL };
        let (old, new) = (tuple(v6, protocol, old), tuple(v6, protocol, new));
        let upper = ethernet::LEN + if v6 { ipv6::LEN } else { ipv4::LEN };
        let offset = if tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let mut bytes = frame(v6, &build(v6, &old, &payload));
        let length = bytes.len() - upper;
        let pseudo = checksum::pseudo_header(old.source, old.destination, protocol, length);
        bytes[upper + offset..][..2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let partial = Checksum::Partial { start: upper as u16, offset: offset as u16 };
        let mut packet = parsed(&mut bytes, partial);
        both(&mut packet, new).unwrap();
        prop_assert_eq!(packet.checksum, partial);
        packet.complete_checksum();
        let expected = frame(v6, &build(v6, &new, &payload));
        prop_assert_eq!(one_zero(bytes, v6, protocol), one_zero(expected, v6, protocol));
    }

    #[test]
    fn an_error_about_a_translated_packet_is_the_one_about_the_packet_as_it_was_sent(
        v6: bool, kind in 0usize..4, old in ends(), new in ends(), router: [u8; 32],
        payload in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..20,
    ) {
        let protocol = PROTOCOLS[kind];
        let (old, new) = (tuple(v6, protocol, old), tuple(v6, protocol, new));
        let number = if v6 { icmp::PROTOCOL_V6 } else { icmp::PROTOCOL_V4 };
        let error = |about: &Tuple| {
            let router = tuple(v6, 0, (router, [0, 0])).source;
            let outer = Tuple { source: router, destination: about.source, protocol: number,
                source_port: 0, destination_port: 0 };
            let mut quote = build(v6, about, &payload);
            let least = if v6 { ipv6::LEN } else { ipv4::LEN } + 8;
            quote.truncate((least + 4 * cut).min(quote.len()));
            (outer, frame(v6, &error_message(v6, &outer, &quote)))
        };
        let (_, mut bytes) = error(&old);
        let (outer, expected) = error(&new);
        let mut packet = parsed(&mut bytes, Checksum::Complete);
        let found = Quoted::of(&packet, &packet.ip().unwrap()).unwrap();
        prop_assert_eq!(found.tuple, old);
        quoted(&mut packet, &found, new, outer).unwrap();
        // The inner sums may differ in the form of zero, which the outer sum then shows.
        let (ours, theirs) = (Quoted::of(&packet, &packet.ip().unwrap()).unwrap(), new);
        prop_assert_eq!(ours.tuple, theirs);
        let (v6, bytes) = (packet.ip().unwrap().is_v6(), bytes);
        prop_assert!(is_intact(v6, &bytes), "the error's own checksum");
        if !bytes.windows(2).any(|pair| pair == [0xff, 0xff]) {
            prop_assert_eq!(bytes, expected);
        }
    }
}

fn error_message(v6: bool, outer: &Tuple, quote: &[u8]) -> Vec<u8> {
    // Built as an echo and turned into an error, summed anew.
    let mut bytes = build(v6, &Tuple { protocol: ECHO, ..*outer }, &[]);
    let at = if v6 { ipv6::LEN } else { ipv4::LEN };
    bytes.truncate(at);
    bytes.extend([if v6 { 1 } else { 3 }, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(quote);
    let length = bytes.len() - at;
    if v6 {
        bytes[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        bytes[6] = icmp::PROTOCOL_V6;
    } else {
        let total = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[9] = icmp::PROTOCOL_V4;
        bytes[10..12].fill(0);
        let sum = checksum::checksum(&bytes[..at]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let pseudo = match v6 {
        true => checksum::pseudo_header(outer.source, outer.destination, icmp::PROTOCOL_V6, length),
        false => 0,
    };
    let sum = !checksum::fold(pseudo + checksum::sum(&bytes[at..]));
    bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn is_intact(v6: bool, frame: &[u8]) -> bool {
    let bytes = &frame[ethernet::LEN..];
    let ip = Ip::parse(if v6 { ethernet::IPV6 } else { ethernet::IPV4 }, bytes).unwrap();
    let ip = ip.unwrap();
    let upper = &bytes[ip.upper..];
    let pseudo = match v6 {
        true => checksum::pseudo_header(ip.source, ip.destination, ip.protocol, upper.len()),
        false => 0,
    };
    checksum::fold(pseudo + checksum::sum(upper)) == 0xffff
}
