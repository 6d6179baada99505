//! What the node answers itself: ARP, neighbour solicitations, packets out of hops or too big.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "each test file looks at its own part")]
mod seen;

use etherparse::{NetSlice, SlicedPacket};
use seen::see;
use seine_pipeline::address::Mac;
use seine_pipeline::testbed::{GATEWAY_MAC, Node, flags, innermost, ping, tcp, udp, who_has};

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
fn segments_behind_a_packet_go_where_it_goes_and_not_with_its_answer() {
    let mut node = Node::with_pods(["a", "b"]);
    let segment = || tcp().from("a").to("remote").flags(flags::ACK);
    node.following = 4000;
    node.send(segment()).left_by("uplink");
    assert_eq!(node.following, 4000);
    node.send(segment().ttl(1)).left_by("a");
    assert_eq!(node.following, 0, "an ICMP error is a packet of its own");
    node.assert_changed(["outputs.uplink +1", "outputs.a +1"]);
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
    for (v6, kinds) in [(false, [(3, 3), (11, 0)]), (true, [(1, 4), (3, 0)])] {
        for kind in kinds {
            let mut node = Node::with_pods(["a"]);
            let asked = node.send(udp().from("tunnel").to("a").in_v6(v6)).left_by("a");
            let error = ping().from("a").to("remote").in_v6(v6).ttl(1);
            node.send(error.quoting(kind, 0, innermost(&asked)));
            node.assert_changed(["drops.a.TtlExceeded +1", "outputs.a +1"]);
        }
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
