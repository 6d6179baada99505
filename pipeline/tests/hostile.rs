//! What hostile Pods, peers and strangers send, and the name of what becomes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use seine_pipeline::address::{PortId, PortKind};
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::{Change, Kind, ObjectId};
use seine_pipeline::testbed::{
    GATEWAY, HOST, Node, Probe, UPLINK, assert_sound, ping, port, tcp, udp, who_has,
};
use seine_pipeline::verdict::DropReason;

/// Sends each probe by itself and asserts the one counter that moves.
#[track_caller]
fn expect<const N: usize>(cases: [(Probe, &str); N]) {
    for (probe, counter) in cases {
        let mut node = Node::with_pods(["a", "b"]);
        node.send(probe);
        assert_eq!(node.changes(), [format!("{counter} +1")], "{:#?}", node.trace.steps);
    }
}

#[test]
fn pod_cannot_send_from_its_neighbours_address() {
    for v6 in [false, true] {
        for to in ["b", "gateway", "remote", "outside"] {
            let spoofed = "drops.a.SpoofedSource";
            expect([
                (udp().from("a").source("b").to(to).in_v6(v6), spoofed),
                (udp().from("a").source("gateway").to(to).in_v6(v6), spoofed),
                (udp().from("a").source("remote").to(to).in_v6(v6), spoofed),
                (udp().from("a").source("outside").to(to).in_v6(v6), spoofed),
                (udp().from("a").source_mac("b").to(to).in_v6(v6), spoofed),
                (udp().from("a").source_mac("gateway").to(to).in_v6(v6), spoofed),
            ]);
        }
    }
}

/// The node's kernel forwards what a host on the underlay sends it, whatever source that claims.
#[test]
fn a_host_on_the_underlay_cannot_send_from_a_pods_address_by_way_of_the_node() {
    for v6 in [false, true] {
        let spoofed = "drops.gateway.SpoofedSource";
        for source in ["b", "remote", "remote-gateway"] {
            expect([(udp().from("gateway").source(source).to("a").in_v6(v6), spoofed)]);
        }
        expect([
            (udp().from("gateway").source("a").to("remote").in_v6(v6), spoofed),
            (udp().from("gateway").source("gateway").to("a").in_v6(v6), "outputs.a"),
        ]);
    }
    let nobodys = udp().from("gateway").source("10.10.1.99").to("a");
    expect([(nobodys, "drops.gateway.SpoofedSource")]);
}

#[test]
fn the_gateway_sends_from_its_own_mac_only() {
    expect([
        (udp().from("gateway").source("outside").to("a"), "outputs.a"),
        (udp().from("gateway").source_mac("b").to("a"), "drops.gateway.SpoofedSource"),
        (who_has().from("gateway").source_mac("b").to("a"), "drops.gateway.SpoofedArp"),
    ]);
}

#[test]
fn pod_cannot_claim_its_neighbours_address_by_arp() {
    let reply = |frame: &mut Vec<u8>| frame[21] = 2;
    let probe = |frame: &mut Vec<u8>| frame[28..32].fill(0);
    let arp = |at: usize| move |frame: &mut Vec<u8>| frame[at] ^= 4;
    expect([
        (who_has().from("a").source("b").to("gateway"), "drops.a.SpoofedArp"),
        (who_has().from("a").source("gateway").to("b"), "drops.a.SpoofedArp"),
        (who_has().from("a").source_mac("b").to("gateway"), "drops.a.SpoofedArp"),
        (who_has().from("a").to("gateway").edit(arp(11)), "drops.a.SpoofedArp"),
        (who_has().from("a").to("gateway").edit(arp(27)), "drops.a.SpoofedArp"),
        (who_has().from("a").source("b").to("gateway").edit(reply), "drops.a.SpoofedArp"),
        (who_has().from("a").to("b").edit(probe), "drops.a.SpoofedArp"),
        // Its own it may announce; nobody needs to hear it.
        (who_has().from("a").to("gateway").edit(reply), "drops.a.NeighborNoAnswer"),
        (who_has().from("a").to("a").edit(probe), "drops.a.NeighborNoAnswer"),
        (who_has().from("a").to("b").edit(arp(14)), "drops.a.Malformed"),
        (who_has().from("a").to("b").edit(|frame| frame.truncate(41)), "drops.a.Malformed"),
    ]);
}

/// The folded ones' complement sum.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sums an ICMPv6 message again after a change.
fn summed(frame: &mut [u8]) {
    frame[56..58].fill(0);
    let length = (frame.len() - 54) as u16;
    let pseudo = [frame[22..54].to_vec(), length.to_be_bytes().to_vec(), vec![0, 58]].concat();
    let sum = sum(&[pseudo, frame[54..].to_vec()].concat());
    frame[56..58].copy_from_slice(&(!sum).to_be_bytes());
}

fn edited(probe: Probe, edit: impl Fn(&mut Vec<u8>) + 'static) -> Probe {
    probe.v6().edit(move |frame| {
        edit(frame);
        summed(frame);
    })
}

#[test]
fn pod_cannot_claim_its_neighbours_address_by_neighbour_discovery() {
    let ask = || who_has().from("a").to("b");
    let advertisement = |frame: &mut Vec<u8>| {
        frame[54] = 136;
        frame[78] = 2;
    };
    let duplicate_check = |frame: &mut Vec<u8>| {
        frame[22..38].fill(0);
        frame.truncate(78);
        frame[19] = 24;
    };
    expect([
        (who_has().from("a").source("b").to("gateway").v6(), "drops.a.SpoofedSource"),
        (edited(ask(), |frame| frame[85] ^= 4), "drops.a.SpoofedNeighbor"),
        (edited(ask(), advertisement), "drops.a.SpoofedNeighbor"),
        (edited(ask(), duplicate_check), "drops.a.SpoofedNeighbor"),
        (edited(who_has().from("a").to("a"), duplicate_check), "drops.a.NeighborNoAnswer"),
        (edited(who_has().from("a").to("a"), advertisement), "drops.a.NeighborNoAnswer"),
        (edited(ask(), |frame| frame[54] = 134), "drops.a.SpoofedNeighbor"),
        (edited(ask(), |frame| frame[54] = 137), "drops.a.SpoofedNeighbor"),
        (edited(ask(), |frame| frame[54] = 133), "drops.a.Multicast"),
        (edited(ask(), |frame| frame[54] = 143), "drops.a.Multicast"),
    ]);
}

#[test]
fn broken_neighbour_messages_are_malformed() {
    let ask = || who_has().from("a").to("b");
    expect([
        (edited(ask(), |frame| frame[21] = 254), "drops.a.Malformed"),
        (edited(ask(), |frame| frame[55] = 1), "drops.a.Malformed"),
        (edited(ask(), |frame| frame[79] = 0), "drops.a.Malformed"),
        (edited(ask(), |frame| frame[79] = 2), "drops.a.Malformed"),
        (edited(ask(), |frame| frame[62] = 0xff), "drops.a.Malformed"),
        (edited(who_has().from("a").to("a"), |frame| frame[22..38].fill(0)), "drops.a.Malformed"),
        (ask().v6().edit(|frame| frame[57] ^= 1), "drops.a.Malformed"),
    ]);
}

#[test]
fn a_link_local_source_asks_its_neighbours_and_goes_no_further() {
    let link_local = |frame: &mut Vec<u8>| frame[22..24].copy_from_slice(&[0xfe, 0x80]);
    expect([
        (edited(who_has().from("a").to("gateway"), link_local), "outputs.a"),
        (edited(ping().from("a").to("b"), link_local), "drops.a.UnroutableAddress"),
        (edited(ping().from("a").to("outside"), link_local), "drops.a.UnroutableAddress"),
        (
            edited(ping().from("gateway").source("gateway").to("b"), link_local),
            "drops.gateway.UnroutableAddress",
        ),
    ]);
}

#[test]
fn a_destination_mac_must_be_the_gateways_or_the_owners() {
    for v6 in [false, true] {
        let wrong = "drops.a.UnknownDestinationMac";
        expect([
            (udp().from("a").to("gateway").destination_mac("b").in_v6(v6), wrong),
            (udp().from("a").to("remote").destination_mac("b").in_v6(v6), wrong),
            (udp().from("a").to("outside").destination_mac("b").in_v6(v6), wrong),
            (udp().from("a").to("outside").destination_mac("virtual").in_v6(v6), wrong),
            (udp().from("a").to("b").destination_mac("a").in_v6(v6), wrong),
            (udp().from("a").to("b").edit(|frame| frame[..6].fill(0xff)).in_v6(v6), wrong),
            (
                udp().from("gateway").to("a").destination_mac("b").in_v6(v6),
                "drops.gateway.UnknownDestinationMac",
            ),
        ]);
    }
}

#[test]
fn destinations_that_lead_nowhere_are_named() {
    expect([
        (udp().from("a").to("10.10.1.99"), "drops.a.UnknownDestination"),
        (udp().from("gateway").to("10.10.1.99"), "drops.gateway.UnknownDestination"),
        (udp().from("a").to("fd00:10:1::99").v6(), "drops.a.UnknownDestination"),
        (udp().from("a").to("224.0.0.1"), "drops.a.Multicast"),
        (udp().from("a").to("255.255.255.255"), "drops.a.Multicast"),
        (udp().from("a").to("ff02::1").v6(), "drops.a.Multicast"),
        (udp().from("a").to("127.0.0.1"), "drops.a.UnroutableAddress"),
        (udp().from("a").to("0.0.0.0"), "drops.a.UnroutableAddress"),
        (udp().from("a").to("169.254.1.1"), "drops.a.UnroutableAddress"),
        (udp().from("a").to("::1").v6(), "drops.a.UnroutableAddress"),
        (udp().from("a").to("fe80::1").v6(), "drops.a.UnroutableAddress"),
        (udp().from("a").to("a"), "drops.a.Hairpin"),
        (udp().from("gateway").to("gateway"), "drops.gateway.Hairpin"),
        (udp().from("gateway").to("outside"), "drops.gateway.Hairpin"),
        (udp().from("gateway").source("127.0.0.1").to("a"), "drops.gateway.UnroutableAddress"),
    ]);
}

#[test]
fn broken_frames_are_counted_by_what_is_broken() {
    let at = |at: usize, value: u8| move |frame: &mut Vec<u8>| frame[at] = value;
    let cut = |to: usize| move |frame: &mut Vec<u8>| frame.truncate(to);
    expect([
        (udp().from("a").to("b").edit(cut(0)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(cut(13)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(cut(33)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(cut(45)), "drops.a.Malformed"),
        (udp().from("a").to("b").v6().edit(cut(53)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(at(14, 0x65)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(at(14, 0x44)), "drops.a.Malformed"),
        (udp().from("a").to("b").v6().edit(at(14, 0x40)), "drops.a.Malformed"),
        (udp().from("a").to("b").v6().edit(at(59, 3)), "drops.a.Malformed"),
        (udp().from("a").to("b").edit(at(24, 0)), "drops.a.BadHeaderChecksum"),
        (udp().from("a").to("b").edit(at(12, 0x81)), "drops.a.TaggedFrame"),
        (udp().from("a").to("b").edit(at(12, 0x88)), "drops.a.UnknownEtherType"),
        (
            udp().from("a").to("b").v6().edit(|frame| headers(frame, 9)),
            "drops.a.TooManyExtensionHeaders",
        ),
        (udp().from("a").to("b").v6().edit(|frame| headers(frame, 8)), "outputs.b"),
    ]);
    expect([(
        udp().from("a").to("b").edit(|frame| {
            frame[12..14].copy_from_slice(&[0x81, 0]);
        }),
        "drops.a.TaggedFrame",
    )]);
}

/// Puts destination options headers between IPv6 and UDP.
fn headers(frame: &mut Vec<u8>, count: usize) {
    let udp = frame.split_off(54);
    frame[20] = 60;
    for index in 0..count {
        let next = if index + 1 == count { 17 } else { 60 };
        frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame.extend(udp);
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
}

#[test]
fn link_padding_is_cut_off() {
    let mut node = Node::with_pods(["a", "b"]);
    let plain = node.frame(&udp().from("a").to("b"));
    let sent = node.send(udp().from("a").to("b").edit(|frame| frame.resize(60, 0x55)));
    assert_eq!(sent.left_by("b"), plain);
}

#[test]
fn nobody_speaks_before_the_node_and_the_pod_are_known() {
    let mut node = Node::with_pods(["a", "b"]);
    let frame = node.frame(&tcp().from("a").to("b"));
    let delete = |kind, name: &str| Change::Delete(ObjectId { kind, name: name.to_owned() });
    node.apply(&[delete(Kind::Endpoint, "default/b/eth0")]);
    node.send_frame("a", &frame, Checksum::Complete);
    node.send_frame("b", &frame, Checksum::Complete);
    node.assert_changed(["drops.a.UnknownDestination +1", "drops.b.UnknownPort +1"]);
    let nobody = PortId::new(99).unwrap();
    node.send_by(nobody, &frame, Checksum::Complete);
    node.assert_changed(["drops.port99.UnknownPort +1"]);
    node.apply(&[delete(Kind::Node, "node1")]);
    for ingress in ["a", "b", GATEWAY, HOST, UPLINK] {
        node.send_frame(ingress, &frame, Checksum::Complete);
        assert_eq!(node.changes(), [format!("drops.{ingress}.NoNode +1")]);
    }
}

#[test]
fn nothing_leaves_by_a_port_that_is_closed() {
    let mut node = Node::with_pods(["a"]);
    let delete = |name: &str| Change::Delete(ObjectId { kind: Kind::Port, name: name.to_owned() });
    node.apply(&[delete(UPLINK)]);
    node.send(udp().from("a").to("remote"));
    node.assert_changed(["drops.a.NoEgressPort +1"]);
    let frame = node.frame(&udp().from("a").to("outside"));
    node.apply(&[delete(GATEWAY), delete(HOST)]);
    node.send_frame("a", &frame, Checksum::Complete);
    node.assert_changed(["drops.a.NoEgressPort +1"]);
}

#[test]
fn a_frame_without_headroom_is_dropped_by_name() {
    use seine_pipeline::packet::Packet;
    use seine_pipeline::run::run;
    let mut node = Node::with_pods(["a"]);
    for probe in [udp().from("a").to("remote"), udp().from("a").to("remote").ttl(1)] {
        let mut frame = node.frame(&probe);
        let (end, ingress) = (frame.len(), node.state.port_by_name("a").unwrap());
        let mut packet = Packet::new(&mut frame, 0, end, ingress, Checksum::Complete).unwrap();
        let mut context = node.context();
        let dropped = seine_pipeline::verdict::Outcome::Drop(DropReason::NoHeadroom);
        assert_eq!(run(&mut packet, &mut context), dropped);
    }
}

/// Every kind of valid frame, with the port it comes in by.
fn valid(node: &Node, kind: usize) -> (&'static str, Vec<u8>) {
    let v6 = kind & 1 == 1;
    let to = ["b", "gateway", "remote", "outside"][kind / 2 % 4];
    let probe = match kind / 8 % 4 {
        0 => udp(),
        1 => tcp(),
        2 => ping(),
        _ => who_has(),
    };
    match kind / 32 % 3 {
        0 => ("a", node.frame(&probe.from("a").to(to).in_v6(v6))),
        1 => (GATEWAY, node.frame(&probe.from("gateway").to(to).in_v6(v6))),
        _ => (UPLINK, node.frame(&udp().from("tunnel").to(to).in_v6(v6))),
    }
}

proptest! {
    #[test]
    fn random_bytes_never_do_harm(
        frame in prop::collection::vec(any::<u8>(), 0..200),
        port in 0usize..5,
        partial in prop::option::of((0u16..300, 0u16..300)),
    ) {
        let mut node = Node::with_pods(["a", "b"]);
        let ingress = ["a", "b", GATEWAY, UPLINK, HOST][port];
        let said = partial
            .map_or(Checksum::Complete, |(start, offset)| Checksum::Partial { start, offset });
        let fate = node.send_frame(ingress, &frame, said);
        assert_sound(&node, ingress, &fate);
        prop_assert_eq!(node.changes().len(), 1);
    }

    #[test]
    fn valid_frames_with_a_few_bytes_changed_never_do_harm(
        kind in 0usize..96,
        over_v6: bool,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        stranger in prop::option::weighted(0.2, 0usize..5),
    ) {
        let mut node = if over_v6 {
            Node::over_ipv6(["a", "b"])
        } else {
            Node::with_pods(["a", "b"])
        };
        let (ingress, mut frame) = valid(&node, kind);
        for (index, value) in edits {
            let at = index.index(frame.len());
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        let ingress = stranger.map_or(ingress, |port| ["a", "b", GATEWAY, UPLINK, HOST][port]);
        let fate = node.send_frame(ingress, &frame, Checksum::Complete);
        assert_sound(&node, ingress, &fate);
        prop_assert_eq!(node.changes().len(), 1);
    }
}

#[test]
fn a_port_index_used_again_belongs_to_its_new_pod_only() {
    let mut node = Node::with_pods(["a", "b"]);
    let frame = node.frame(&udp().from("a").to("b"));
    let delete = |kind, name: &str| Change::Delete(ObjectId { kind, name: name.to_owned() });
    let reopened = port(2, "c", PortKind::Pod, node.mac("b"));
    node.apply(&[
        Change::Upsert(seine_pipeline::state::Object::Port(reopened)),
        delete(Kind::Port, "a"),
    ]);
    node.send_frame("c", &frame, Checksum::Complete);
    node.assert_changed(["drops.c.UnknownPort +1"]);
}
