//! Each field of the key is needed: two packets that differ in that field have different keys, and
//! were they found by the same one, what is composed for the one would be wrong for the other.
//!
//! A field that is taken out of the key makes the two keys the same. Not here: the network, of
//! which there is one only; that it is part of the words is held by the tests of
//! [`words`](crate::connection).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::hit::epoch;
use super::outer::Outer;
use super::sample_tests::Room;
use super::survey::look;
use super::*;
use crate::address::Mac;
use crate::connection::Direction;
use crate::learned::WorkerMemory;
use crate::run::run;
use crate::state::{Change, Object, RuleDirection, State};
use crate::testbed::{Buffer, GATEWAY_MAC, Node, Probe, flags, tcp, udp};
use crate::wire::put;

const PODS: [&str; 3] = ["a", "b", "c"];

/// What a survey sees of a packet.
fn seen(frame: &[u8], ingress: PortId, state: &State) -> (Glance, Option<Outer>) {
    look(&Buffer::of(frame, Checksum::Complete), ingress, state).unwrap()
}

/// What would become of a packet that is found by the key of the room's connection, and what does.
fn composed_and_decided(room: &Room, by: &str, frame: Vec<u8>) -> [Option<(Outcome, Vec<u8>)>; 2] {
    let (state, connections) = (&room.node.state, &room.learned.connections);
    let ingress = state.port_by_name(by).unwrap();
    let (known, taken) = &room.packets[0];
    let (known, _) = seen(taken, *known, state);
    let (own, outer) = seen(&frame, ingress, state);
    assert_ne!(own.words, known.words, "a field is not in the key");
    let glance = Glance { words: known.words, ..own };
    let candidate = connections.candidate(connections.hash_of(&known.words), &Plain);
    let mut worker = WorkerMemory::new();
    let mut context = Context {
        state,
        adjacencies: &room.node.adjacencies,
        now_ms: room.node.now_ms,
        learned: &room.learned,
        worker: &mut worker,
        dry: true,
        trace: None,
    };
    let mut buffer = Buffer::of(&frame, Checksum::Complete);
    let mut packet = buffer.packet(ingress).unwrap();
    let outcome = run(&mut packet, &mut context);
    let decided = Some((outcome, packet.bytes().to_vec()));
    let mut buffer = Buffer::of(&frame, Checksum::Complete);
    let seen = Seen::new((glance, outer), candidate);
    let outcome = hit(&seen, &mut buffer, ingress, &context, &Plain);
    [outcome.map(|outcome| (outcome, buffer.bytes().to_vec())), decided]
}

#[track_caller]
fn assert_needed(room: &Room, by: &str, frame: Vec<u8>) {
    let [composed, decided] = composed_and_decided(room, by, frame);
    assert!(composed.is_some(), "nothing is composed for it");
    assert_ne!(composed, decided, "the field need not be in the key");
}

fn room(v6: bool) -> Room {
    Room::with(Node::with_pods(PODS), udp().in_v6(v6).to("b"))
}

/// A packet as the room's first one.
fn like_the_first(v6: bool) -> Probe {
    udp().in_v6(v6).from("a").to("b").port(80)
}

/// One whose connection no rule has let, but for the field in which it differs.
fn late(v6: bool, probe: Probe) {
    let mut room = room(v6);
    room.forbid("b", RuleDirection::Ingress);
    let frame = room.node.frame(&probe);
    assert_needed(&room, "a", frame);
}

#[test]
fn the_source_address_is_needed() {
    for v6 in [false, true] {
        let room = room(v6);
        let frame = room.node.frame(&like_the_first(v6).source("c"));
        assert_needed(&room, "a", frame);
    }
}

#[test]
fn the_destination_address_is_needed() {
    for v6 in [false, true] {
        let room = Room::with(Node::with_pods(PODS), udp().in_v6(v6).to("remote"));
        let frame = room.node.frame(&udp().in_v6(v6).from("a").to("outside").port(80));
        assert_needed(&room, "a", frame);
    }
}

#[test]
fn the_protocol_is_needed() {
    for v6 in [false, true] {
        late(v6, tcp().flags(flags::ACK).in_v6(v6).from("a").to("b").port(80));
    }
}

#[test]
fn both_ports_are_needed() {
    for v6 in [false, true] {
        late(v6, like_the_first(v6).source_port(40_001));
        late(v6, like_the_first(v6).port(81));
    }
}

/// The packet with another sender's MAC address, as whoever sends by that port has it.
fn from_mac(mut frame: Vec<u8>, mac: Mac) -> Vec<u8> {
    put(&mut frame, 6, &mac.0).unwrap();
    frame
}

#[test]
fn the_port_of_a_pod_is_needed() {
    for v6 in [false, true] {
        let room = room(v6);
        let frame = from_mac(room.packets[0].1.clone(), room.node.mac("c"));
        assert_needed(&room, "c", frame);
        let frame = from_mac(room.packets[0].1.clone(), GATEWAY_MAC);
        assert_needed(&room, "gateway", frame);
    }
}

#[test]
fn whether_a_packet_comes_from_the_gateway_or_a_peer_is_needed() {
    for v6 in [false, true] {
        let probe = udp().in_v6(v6).source("remote").to("b");
        let mut room = Room::opened_by("tunnel", Node::with_pods(PODS), probe);
        room.forbid("b", RuleDirection::Ingress);
        let mut frame = from_mac(room.packets[0].1[PREFIX_LEN..].to_vec(), GATEWAY_MAC);
        put(&mut frame, 0, &room.node.mac("b").0).unwrap();
        assert_needed(&room, "gateway", frame);
    }
}

#[test]
fn how_often_a_port_was_another_pods_is_needed() {
    let mut room = room(false);
    let (ingress, frame) = room.packets[0].clone();
    let (known, _) = seen(&frame, ingress, &room.node.state);
    let mut port = room.node.state.port(ingress).unwrap().clone();
    port.generation += 1;
    room.forbid("b", RuleDirection::Ingress);
    room.node.apply(&[Change::Upsert(Object::Port(port))]);
    let (own, outer) = seen(&frame, ingress, &room.node.state);
    assert_ne!(own.words, known.words, "it is not in the key");
    // As if the State's epoch had come round.
    let (id, _) = room.connection();
    let connections = &room.learned.connections;
    let candidate = connections.candidate(connections.hash_of(&known.words), &Plain).unwrap();
    let shortcut = connections.hit(candidate, &known.words, &Plain).unwrap().shortcut();
    let [_, _, high, low, ..] = known.words;
    let epoch = epoch(&room.node.state, &known.words, [high, low]);
    connections.decide(id, Direction::Original, shortcut, epoch);
    let glance = Glance { words: known.words, ..own };
    let mut worker = WorkerMemory::new();
    let mut context = Context {
        state: &room.node.state,
        adjacencies: &room.node.adjacencies,
        now_ms: room.node.now_ms,
        learned: &room.learned,
        worker: &mut worker,
        dry: true,
        trace: None,
    };
    let mut buffer = Buffer::of(&frame, Checksum::Complete);
    let seen = Seen::new((glance, outer), Some(candidate));
    let outcome = hit(&seen, &mut buffer, ingress, &context, &Plain);
    assert!(matches!(outcome, Some(Outcome::Output(_))));
    let mut buffer = Buffer::of(&frame, Checksum::Complete);
    let outcome = run(&mut buffer.packet(ingress).unwrap(), &mut context);
    assert_eq!(outcome, Outcome::Drop(DropReason::IngressPolicy));
}
