//! Where packets go, and what they look like when they arrive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use seine_pipeline::address::Mac;
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::packet::Checksum;
use seine_pipeline::testbed::{
    Fate, GATEWAY_MAC, NEXT_HOP_MAC, Node, UPLINK_MAC, ping, tcp, udp, who_has,
};
use seine_pipeline::verdict::DropReason;

/// What an independent parser sees in a frame, all checksums verified.
struct Seen {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    payload: Vec<u8>,
    icmp: Option<(u8, u8)>,
    udp_ports: Option<(u16, u16)>,
}

#[track_caller]
fn see(frame: &[u8]) -> Seen {
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

#[test]
fn pods_of_one_node_reach_each_other_and_nothing_of_the_packet_changes() {
    for v6 in [false, true] {
        for probe in [udp, tcp, ping] {
            let mut node = Node::with_pods(["a", "b", "c"]);
            let sent = node.frame(&probe().from("a").to("b").in_v6(v6));
            let arrived = node.send(probe().from("a").to("b").in_v6(v6)).left_by("b");
            assert_eq!(arrived, sent);
            see(&arrived);
            node.assert_changed(["outputs.b +1"]);
        }
    }
}

#[test]
fn a_pod_addressed_by_way_of_the_gateway_is_one_hop_away() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a", "b"]);
        let probe = tcp().from("a").to("b").destination_mac("gateway").in_v6(v6);
        let seen = see(&node.send(probe).left_by("b"));
        assert_eq!((seen.source_mac, seen.destination_mac), (GATEWAY_MAC.0, node.mac("b").0));
        assert_eq!(seen.ttl, 63);
        node.assert_changed(["outputs.b +1"]);
    }
}

#[test]
fn a_packet_to_a_remote_pod_goes_through_geneve_and_its_reply_comes_back() {
    for over_v6 in [false, true] {
        for v6 in [false, true] {
            let make = if over_v6 { Node::over_ipv6::<1> } else { Node::with_pods::<1> };
            let mut node = make(["a"]);
            let outer_frame = node.send(tcp().from("a").to("remote").in_v6(v6)).left_by("uplink");
            let outer = see(&outer_frame);
            assert_eq!((outer.source_mac, outer.destination_mac), (UPLINK_MAC.0, NEXT_HOP_MAC.0));
            assert_eq!(outer.ttl, 64);
            let (source_port, destination_port) = outer.udp_ports.unwrap();
            assert!(source_port >= 0xc000);
            assert_eq!(destination_port, 6081);
            assert_eq!(outer.payload[..8], [0, 0, 0x65, 0x58, 0, 0, 0, 0]);
            let inner = see(&outer.payload[8..]);
            assert_eq!((inner.source_mac, inner.destination_mac), (GATEWAY_MAC.0, Mac::VIRTUAL.0));
            assert_eq!(inner.ttl, 63);
            assert_eq!(inner.destination, node.address("remote", v6));

            let reply = see(&node.send(tcp().from("tunnel").to("a").in_v6(v6)).left_by("a"));
            assert_eq!((reply.source_mac, reply.destination_mac), (GATEWAY_MAC.0, node.mac("a").0));
            assert_eq!(reply.ttl, 63);
            node.assert_changed(["outputs.a +1", "outputs.uplink +1"]);
        }
    }
}

#[test]
fn what_one_node_sends_through_the_tunnel_its_peer_takes() {
    for over_v6 in [false, true] {
        let make = if over_v6 { Node::over_ipv6::<1> } else { Node::with_pods::<1> };
        let mut node = make(["a"]);
        let frame = node.send(udp().from("a").to("remote").payload_bytes(333)).left_by("uplink");
        // The same node, seen from the other side: it takes what it would send.
        let back = node.send(udp().from("tunnel").to("a").payload_bytes(333)).left_by("a");
        assert_eq!(see(&frame[if over_v6 { 70 } else { 50 }..]).payload, see(&back).payload);
        node.assert_changed(["outputs.a +1", "outputs.uplink +1"]);
    }
}

#[test]
fn pod_gateway_and_outside_reach_each_other_without_a_hop() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        for to in ["gateway", "outside"] {
            let sent = node.frame(&udp().from("a").to(to).in_v6(v6));
            assert_eq!(node.send(udp().from("a").to(to).in_v6(v6)).left_by("gateway"), sent);
        }
        for source in ["gateway", "outside"] {
            let sent = node.frame(&udp().from("gateway").source(source).to("a").in_v6(v6));
            let probe = udp().from("gateway").source(source).to("a").in_v6(v6);
            assert_eq!(node.send(probe).left_by("a"), sent);
        }
        node.assert_changed(["outputs.a +2", "outputs.gateway +2"]);
    }
}

#[test]
fn the_node_reaches_remote_pods_and_its_kernel_has_counted_the_hop() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let frame = node.send(ping().from("gateway").to("remote").in_v6(v6)).left_by("uplink");
        assert_eq!(see(&frame[50..]).ttl, 64);
        let probe = ping().from("tunnel").to("gateway").in_v6(v6);
        let reply = see(&node.send(probe).left_by("gateway"));
        assert_eq!((reply.source_mac, reply.destination_mac), (Mac::VIRTUAL.0, GATEWAY_MAC.0));
        node.assert_changed(["outputs.gateway +1", "outputs.uplink +1"]);
    }
}

#[test]
fn an_unresolved_next_hop_drops_what_is_tunnelled() {
    let mut node = Node::with_pods(["a"]);
    node.adjacencies.set(AdjacencyId::new(0).unwrap(), None);
    let fate = node.send(udp().from("a").to("remote"));
    assert_eq!(fate, Fate::Dropped(DropReason::NoNextHop));
    node.assert_changed(["drops.a.NoNextHop +1"]);
}

/// Leaves only the pseudo-header's sum in the checksum field, as a Pod's kernel does.
fn partial(frame: &mut [u8]) {
    let upper = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let protocol = if upper == 34 { frame[23] } else { frame[20] };
    let offset = upper + if protocol == 6 { 16 } else { 6 };
    let mut sum = (frame.len() - upper) as u32 + u32::from(protocol);
    for pair in frame[if upper == 34 { 26 } else { 22 }..upper].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[offset..offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
}

#[test]
fn a_pods_unfinished_checksum_is_known_and_finished_inside_the_tunnel() {
    for v6 in [false, true] {
        for (probe, offset) in [(tcp as fn() -> _, 16), (udp, 6)] {
            let mut node = Node::with_pods(["a", "b"]);
            node.send(
                probe().from("a").to("b").payload_bytes(77).in_v6(v6).edit(|frame| partial(frame)),
            );
            let start = if v6 { 54 } else { 34 };
            assert_eq!(node.checksum, Checksum::Partial { start, offset });
            let fate =
                node.send(probe().from("a").to("remote").in_v6(v6).edit(|frame| partial(frame)));
            assert_eq!(node.checksum, Checksum::Complete);
            see(&fate.left_by("uplink")[50..]);
            node.assert_changed(["outputs.b +1", "outputs.uplink +1"]);
        }
    }
}

#[test]
fn an_unfinished_checksum_is_not_believed_from_the_tunnel() {
    let mut node = Node::with_pods(["a"]);
    node.send(udp().from("tunnel").to("a").edit(|frame| {
        let mut inner = frame.split_off(50);
        partial(&mut inner);
        frame.extend(inner);
    }));
    assert_eq!(node.checksum, Checksum::Complete);
}

#[test]
fn the_gateways_unfinished_checksum_survives_until_somebody_finishes_it() {
    let mut node = Node::with_pods(["a"]);
    let said = Checksum::Partial { start: 34, offset: 16 };
    node.send(tcp().from("gateway").to("a").edit(|frame| partial(frame)).checksum(said))
        .left_by("a");
    assert_eq!(node.checksum, said);
    let probe = tcp().from("gateway").to("remote").edit(|frame| partial(frame)).checksum(said);
    see(&node.send(probe).left_by("uplink")[50..]);
    node.assert_changed(["outputs.a +1", "outputs.uplink +1"]);
}

#[test]
fn a_checksum_to_be_finished_outside_the_packet_is_dropped() {
    for (start, offset) in [(0, 6), (13, 6), (34, 24), (60, 0), (u16::MAX, u16::MAX)] {
        let mut node = Node::with_pods(["a"]);
        let said = Checksum::Partial { start, offset };
        node.send(tcp().from("gateway").to("a").checksum(said));
        node.assert_changed(["drops.gateway.BadChecksumOffset +1"]);
    }
}

#[test]
fn a_packet_without_hops_left_is_answered_by_the_gateway() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a", "b"]);
        let probe = || udp().from("a").to("remote").ttl(1).payload_bytes(600).in_v6(v6);
        let sent = node.frame(&probe());
        let seen = see(&node.send(probe()).left_by("a"));
        assert_eq!(seen.icmp, Some(if v6 { (3, 0) } else { (11, 0) }));
        assert_eq!(seen.source, node.address("gateway", v6));
        assert_eq!(seen.destination, node.address("a", v6));
        assert_eq!((seen.source_mac, seen.destination_mac), (GATEWAY_MAC.0, node.mac("a").0));
        assert_eq!(seen.payload, sent[14..14 + seen.payload.len()]);
        assert_eq!(seen.payload.len(), if v6 { 648 } else { 548 });
        node.assert_changed(["outputs.a +1"]);
    }
}

#[test]
fn a_packet_that_came_by_the_tunnel_is_answered_through_it() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let frame = node.send(udp().from("tunnel").to("a").ttl(1).in_v6(v6)).left_by("uplink");
        see(&frame);
        let seen = see(&frame[50..]);
        assert_eq!(seen.icmp, Some(if v6 { (3, 0) } else { (11, 0) }));
        assert_eq!(seen.destination, node.address("remote", v6));
        node.assert_changed(["outputs.uplink +1"]);
    }
}

#[test]
fn hops_do_not_count_within_the_node() {
    let mut node = Node::with_pods(["a", "b"]);
    assert_eq!(see(&node.send(udp().from("a").to("b").ttl(1)).left_by("b")).ttl, 1);
    let frame = node.send(udp().from("gateway").to("remote").ttl(1)).left_by("uplink");
    assert_eq!(see(&frame[50..]).ttl, 1);
}

#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_with_its_mtu() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let headers = if v6 { 48 } else { 28 };
        let largest = 1450 - headers;
        let probe = |bytes| udp().from("a").to("remote").payload_bytes(bytes).in_v6(v6);
        node.send(probe(largest)).left_by("uplink");
        let seen = see(&node.send(probe(largest + 1)).left_by("a"));
        assert_eq!(seen.icmp, Some(if v6 { (2, 0) } else { (3, 4) }));
        assert_eq!(seen.payload.len(), if v6 { 1232 } else { 548 });
        node.assert_changed(["outputs.a +1", "outputs.uplink +1"]);
    }
}

#[test]
fn the_mtu_in_an_answer_is_the_tunnels() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let probe = udp().from("a").to("remote").payload_bytes(2000).in_v6(v6);
        let frame = node.send(probe).left_by("a");
        let field = if v6 { 54 + 4..54 + 8 } else { 34 + 4..34 + 8 };
        assert_eq!(frame[field], 1450u32.to_be_bytes());
    }
}

#[test]
fn the_node_hears_of_the_mtu_from_its_next_hop() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let probe = udp().from("gateway").to("remote").payload_bytes(2000).in_v6(v6);
        let seen = see(&node.send(probe).left_by("gateway"));
        assert_eq!(seen.source, node.address("remote-gateway", v6));
        assert_eq!((seen.source_mac, seen.destination_mac), (Mac::VIRTUAL.0, GATEWAY_MAC.0));
    }
}

/// Clears Don't Fragment.
fn fragmentable(frame: &mut [u8]) {
    frame[20] = 0;
    let sum = u16::from_be_bytes([frame[24], frame[25]]);
    // 0x4000 less under the sum is 0x4000 more in it.
    let sum = u32::from(sum) + 0x4000;
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(sum as u16).to_be_bytes());
}

#[test]
fn what_may_be_fragmented_is_too_big_without_an_answer() {
    let mut node = Node::with_pods(["a"]);
    node.send(udp().from("a").to("remote").payload_bytes(2000).edit(|frame| fragmentable(frame)));
    node.assert_changed(["drops.a.PacketTooBig +1"]);
}

#[test]
fn no_error_is_sent_about_an_error() {
    for (v6, kind, at) in [(false, 3, 34), (false, 11, 34), (true, 1, 54), (true, 3, 54)] {
        let mut node = Node::with_pods(["a"]);
        let probe = ping().from("a").to("remote").ttl(1).in_v6(v6);
        node.send(probe.edit(move |frame| frame[at] = kind));
        node.assert_changed(["drops.a.TtlExceeded +1"]);
    }
}

#[test]
fn arp_is_answered_for_all_the_node_knows() {
    let mut node = Node::with_pods(["a", "b"]);
    let (a, b) = (node.mac("a"), node.mac("b"));
    let cases = [
        ("a", "b", b),
        ("a", "gateway", GATEWAY_MAC),
        ("a", "remote-gateway", Mac::VIRTUAL),
        ("gateway", "a", a),
        ("gateway", "remote-gateway", Mac::VIRTUAL),
    ];
    for (asker, target, expected) in cases {
        let frame = node.send(who_has().from(asker).to(target)).left_by(asker);
        assert_eq!(frame.len(), 42);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("no ARP") };
        assert_eq!(arp.operation().0, 2);
        assert_eq!(arp.sender_hw_addr(), expected.0);
        assert_eq!(arp.target_hw_addr(), node.mac(asker).0);
        assert_eq!(frame[..6], node.mac(asker).0);
        assert_eq!(frame[6..12], expected.0);
    }
    node.assert_changed(["outputs.a +3", "outputs.gateway +2"]);
}

#[test]
fn neighbour_solicitations_are_answered_for_all_the_node_knows() {
    let mut node = Node::with_pods(["a", "b"]);
    let cases = [
        ("a", "b", node.mac("b"), 0x60),
        ("a", "gateway", GATEWAY_MAC, 0xe0),
        ("a", "remote-gateway", Mac::VIRTUAL, 0xe0),
        ("gateway", "b", node.mac("b"), 0x60),
    ];
    for (asker, target, expected, flags) in cases {
        let frame = node.send(who_has().from(asker).to(target).v6()).left_by(asker);
        let seen = see(&frame);
        assert_eq!(seen.icmp, Some((136, 0)));
        assert_eq!(seen.ttl, 255);
        assert_eq!(frame[58], flags);
        assert_eq!(frame[78..], [[2, 1].as_slice(), &expected.0].concat());
        assert_eq!(seen.source, node.address(target, true));
        assert_eq!(seen.destination, node.address(asker, true));
    }
    node.assert_changed(["outputs.a +3", "outputs.gateway +1"]);
}

#[test]
fn nobody_is_told_of_itself_or_of_the_unknown() {
    for v6 in [false, true] {
        let mut node = Node::with_pods(["a"]);
        let unknown = if v6 { "fd00:10:1::99" } else { "10.10.1.99" };
        node.send(who_has().from("a").to("a").in_v6(v6));
        node.send(who_has().from("gateway").to("gateway").in_v6(v6));
        node.send(who_has().from("a").to(unknown).in_v6(v6));
        node.send(who_has().from("a").to("outside").in_v6(v6));
        node.assert_changed([
            "drops.a.NeighborNoAnswer +1",
            "drops.gateway.NeighborNoAnswer +1",
            "drops.a.UnknownNeighbor +2",
        ]);
    }
}
