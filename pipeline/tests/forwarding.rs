//! Where packets go, and what they look like when they arrive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::address::Mac;
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::packet::Checksum;
use seine_pipeline::testbed::{Fate, GATEWAY_MAC, NEXT_HOP_MAC, Node, UPLINK_MAC, ping, tcp, udp};
use seine_pipeline::verdict::DropReason;

#[allow(dead_code, reason = "each test file looks at its own part")]
mod seen;
use seen::see;

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
fn a_checksum_to_be_finished_where_none_can_be_is_dropped() {
    let outside = [(0, 6), (13, 6), (34, 24), (60, 0), (u16::MAX, u16::MAX)];
    // In the IP header's addresses, in the ports, in the sequence number.
    let in_headers = [(14, 16), (26, 8), (34, 0), (34, 2), (34, 4), (36, 14)];
    for (start, offset) in outside.into_iter().chain(in_headers) {
        let mut node = Node::with_pods(["a"]);
        let said = Checksum::Partial { start, offset };
        node.send(tcp().from("gateway").to("a").checksum(said));
        node.assert_changed(["drops.gateway.BadChecksumOffset +1"]);
    }
    // The inner checksum of a tunnel of the node's own.
    let mut node = Node::with_pods(["a"]);
    let said = Checksum::Partial { start: 34 + 8 + 8 + 14 + 20, offset: 16 };
    node.send(udp().from("gateway").to("a").payload_bytes(200).checksum(said)).left_by("a");
    assert_eq!(node.checksum, said);
}
