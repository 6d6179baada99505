//! What was composed decides as the stages do: generated conversations, with changes in between.
//!
//! A node in memory takes every packet both ways and holds the two against each other (see
//! `testbed/twin.rs`), bytes, outcomes, checksums and connections, so the tests here only have to
//! say things worth comparing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "audit lines are other tests' business")]
mod policy;
mod service;

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use seine_pipeline::address::Mac;
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::{Change, ExistingConnections, Kind, Object, ObjectId};
use seine_pipeline::testbed::{
    Fate, GATEWAY, HOST, Node, Twin, UPLINK, answered, endpoint, flags, port, tcp, udp,
};
use seine_pipeline::wire::field::{Composed, Field};
use seine_pipeline::wire::{ethernet, ip::Ip};

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const VIRTUAL: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

#[derive(Clone, Debug)]
enum Event {
    /// A packet of a conversation that may be new.
    Open { from: u8, to: u8, port: u8, v6: bool, segment: bool },
    /// Whoever got this packet answers.
    Answer { which: u8 },
    /// Whoever sent this packet sends it again.
    Again { which: u8 },
    /// As that, but the packet is somewhat different.
    Differently { which: u8, how: u8 },
    /// Something of the node changes.
    Change { which: u8 },
    /// Silence.
    Wait { ms: u16 },
}

fn event() -> impl Strategy<Value = Event> {
    let open = (0u8..8, 0u8..10, 0u8..3, any::<bool>(), any::<bool>());
    prop_oneof![
        4 => open.prop_map(|(from, to, port, v6, segment)| {
            Event::Open { from, to, port, v6, segment }
        }),
        8 => any::<u8>().prop_map(|which| Event::Answer { which }),
        8 => any::<u8>().prop_map(|which| Event::Again { which }),
        3 => (any::<u8>(), 0u8..9).prop_map(|(which, how)| Event::Differently { which, how }),
        1 => (0u8..16).prop_map(|which| Event::Change { which }),
        1 => any::<u16>().prop_map(|ms| Event::Wait { ms }),
    ]
}

/// A node and what was said on it.
struct Stage {
    node: Node,
    /// By which port, and what.
    sent: Vec<(String, Vec<u8>)>,
    /// By which port, and what.
    left: Vec<(String, Vec<u8>)>,
}

impl Stage {
    fn new() -> Stage {
        let mut node = Node::with_pods(PODS);
        let at = VIRTUAL.join(" ");
        for line in [
            &format!("web udp 80 at {at} to b:80 c:80 remote:80"),
            &format!("web-tcp tcp 80 at {at} node-port 30080 to a:80 b:80 remote:80"),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let change = service::change(&node, &words);
            node.apply(&[change]);
        }
        Stage { node, sent: Vec::new(), left: Vec::new() }
    }

    /// Rules that change are for connections that there are, too.
    fn reevaluate(&mut self) {
        let id = ObjectId { kind: Kind::Node, name: "node1".to_owned() };
        let Some(Object::Node(mut node)) = self.node.state.object(&id) else { panic!("no node") };
        node.existing_connections = ExistingConnections::Reevaluate;
        self.node.apply(&[Change::Upsert(Object::Node(node))]);
    }

    fn send(&mut self, ingress: &str, frame: Vec<u8>, checksum: Checksum) {
        if self.node.state.port_by_name(ingress).is_none() {
            return;
        }
        if let Fate::Left(egress, left) = self.node.send_frame(ingress, &frame, checksum) {
            self.left.push((egress, left));
            self.sent.push((ingress.to_owned(), frame));
        }
    }

    fn play(&mut self, event: &Event) {
        match *event {
            Event::Open { from, to, port, v6, segment } => self.open(from, to, port, v6, segment),
            Event::Answer { which } => {
                let Some((by, frame)) = pick(&self.left, which) else { return };
                // What the node itself is sent, it answers by its own port or the gateway's.
                let by = if by == GATEWAY && which % 4 == 0 { HOST.to_owned() } else { by };
                self.send(&by, answered(&frame), Checksum::Complete);
            }
            Event::Again { which } => {
                let Some((by, frame)) = pick(&self.sent, which) else { return };
                // With segments behind it, at times.
                self.node.following = usize::from(which) % 3 * 1000;
                self.send(&by, frame, Checksum::Complete);
                self.node.following = 0;
            }
            Event::Differently { which, how } => {
                let Some((by, frame)) = pick(&self.sent, which) else { return };
                let (frame, checksum) = different(frame, how);
                self.send(&by, frame, checksum);
            }
            Event::Change { which } => {
                for change in self.change(which) {
                    if let Ok(next) = self.node.state.apply(&[change]) {
                        self.node.state = next;
                    }
                }
            }
            Event::Wait { ms } => self.node.wait_ms(u64::from(ms)),
        }
    }

    fn open(&mut self, from: u8, to: u8, port: u8, v6: bool, segment: bool) {
        let virtual_ip = VIRTUAL[usize::from(v6)];
        let from = [PODS[0], PODS[1], PODS[2], PODS[3], GATEWAY, HOST, "tunnel", PODS[0]]
            [usize::from(from)];
        let to = [
            PODS[0], PODS[1], PODS[2], PODS[3], "remote", "outside", "gateway", virtual_ip,
            virtual_ip, virtual_ip,
        ][usize::from(to)];
        let state = &self.node.state;
        let gone =
            |pod: &str| state.port_by_name(pod).and_then(|port| state.endpoint_of(port)).is_none();
        if PODS.iter().any(|pod| (from == *pod || to == *pod) && gone(pod)) {
            return;
        }
        let probe = if segment { tcp().flags(flags::ACK) } else { udp() };
        let probe =
            probe.from(from).to(to).in_v6(v6).port(80).source_port(40_000 + u16::from(port));
        let probe = if from == GATEWAY && port == 2 { probe.source("outside") } else { probe };
        let Some(frame) = self.node.try_frame(&probe) else { return };
        let ingress = if from == "tunnel" { UPLINK } else { from };
        self.send(ingress, frame, Checksum::Complete);
    }

    /// What of the node changes: Endpoints that move, go, or get another MTU or MAC address; ports
    /// that are other ports; the peer, the next hop, rules, Services.
    fn change(&mut self, which: u8) -> Vec<Change> {
        let pod = PODS[usize::from(which % 4)];
        let index = usize::from(which % 4);
        let name = format!("default/{pod}/eth0");
        let delete = |kind, name: &str| Change::Delete(ObjectId { kind, name: name.to_owned() });
        let mut own = endpoint(index, pod);
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        match which {
            0 | 1 => vec![delete(Kind::Endpoint, &name)],
            2..=4 => vec![Change::Upsert(Object::Endpoint(own))],
            5 => {
                own.mtu = 600;
                vec![Change::Upsert(Object::Endpoint(own))]
            }
            6 => {
                own.mac = Mac([2, 0, 0, 7, 7, which]);
                vec![Change::Upsert(Object::Endpoint(own))]
            }
            7 => {
                // Another Pod has the addresses.
                own.name = "default/other/eth0".to_owned();
                own.port = PODS[0].to_owned();
                let gone = ["a", pod].map(|pod| format!("default/{pod}/eth0"));
                let gone = gone.iter().map(|name| delete(Kind::Endpoint, name));
                gone.chain([Change::Upsert(Object::Endpoint(own))]).collect()
            }
            8 => {
                let kind = seine_pipeline::address::PortKind::Pod;
                let mut again = port(index + 2, pod, kind, Mac([2, 0, 0, 1, 1, index as u8]));
                again.generation = 2;
                vec![Change::Upsert(Object::Port(again))]
            }
            9 => vec![delete(Kind::Peer, "node2")],
            10 => vec![delete(Kind::Service, "web")],
            11 => {
                let line = words("group b 10.10.1.3/32 fd00:10:1::3/128");
                let group = policy::change(&self.node, &refs(&line));
                self.node.apply(&[group]);
                let line = words("rule deny ingress antrea 5 drop of b");
                vec![policy::change(&self.node, &refs(&line))]
            }
            12 => vec![delete(Kind::Rule, "deny")],
            13 => vec![delete(Kind::Port, pod)],
            _ => {
                // Everything as it was.
                let fresh = Node::with_pods(PODS);
                let ids = fresh.state.object_ids();
                let other = delete(Kind::Endpoint, "default/other/eth0");
                let objects = ids.iter().filter_map(|id| fresh.state.object(id));
                [other].into_iter().chain(objects.map(Change::Upsert)).collect()
            }
        }
    }
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn pick(from: &[(String, Vec<u8>)], which: u8) -> Option<(String, Vec<u8>)> {
    // What was said lately is what matters.
    let recent = from.len().saturating_sub(12);
    let recent = &from[recent..];
    recent.get(usize::from(which) % recent.len().max(1)).cloned()
}

/// The packet with another TTL, MAC address, length, flag, or what its port says of it.
fn different(mut frame: Vec<u8>, how: u8) -> (Vec<u8>, Checksum) {
    let v4 = frame[12..14] == [8, 0];
    let upper = if v4 { 34 } else { 54 };
    let protocol = if v4 { frame[23] } else { frame[20] };
    let offset = if protocol == 6 { 16 } else { 6 };
    match how {
        0 if v4 => {
            let before = frame[22];
            frame[22] = 1;
            // The header's sum, by difference.
            let sum = u32::from(!u16::from_be_bytes([frame[24], frame[25]]));
            let sum = sum + u32::from(!u16::from_be_bytes([before, protocol]));
            let mut sum = sum + u32::from(u16::from_be_bytes([1, protocol]));
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        0 => frame[21] = 1,
        1 => frame[0..6].copy_from_slice(&[0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
        2 => frame[5] ^= 1,
        3 => frame[11] ^= 1,
        4 => frame.extend([0; 9]),
        5 => frame.truncate(frame.len() - 1),
        6 if protocol == 6 => frame[upper + 13] = flags::ACK | flags::FIN,
        7 => {
            let checksum = Checksum::Partial { start: upper as u16, offset: offset as u16 };
            return (frame, checksum);
        }
        8 => {
            // What a Pod's kernel leaves for the device.
            if let Some(Ok(ip)) =
                Ip::parse(if v4 { 0x800 } else { 0x86dd }, &frame[ethernet::LEN..])
            {
                let sum = seine_pipeline::wire::checksum::pseudo_header(
                    ip.source,
                    ip.destination,
                    ip.protocol,
                    ip.len - ip.upper,
                );
                let field = upper + offset;
                let sum = seine_pipeline::wire::checksum::fold(sum);
                frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        _ => {}
    }
    (frame, Checksum::Complete)
}

#[test]
fn composed_decisions_are_those_of_the_stages() {
    let (hits, judged) = (Cell::new(0), Cell::new(0));
    let read = RefCell::new(Vec::new());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(192));
    let conversations = prop::collection::vec(event(), 40..160);
    let outcome = runner.run(&(conversations, 1..3usize, any::<bool>()), |drawn| {
        let (events, workers, reevaluates) = drawn;
        let mut stage = Stage::new();
        if reevaluates {
            stage.reevaluate();
        }
        stage.node.twin = Some(Twin::with_workers(workers));
        for event in &events {
            stage.play(event);
        }
        stage.node.assert_twins();
        hits.set(hits.get() + stage.node.composed().0);
        let (more, outdated) = stage.node.judged();
        assert_eq!(outdated, 0, "nobody else is there");
        judged.set(judged.get() + more);
        read.borrow_mut().extend(stage.node.read_of_composed());
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(hits.get() > 192, "almost nothing was compared: {} hits", hits.get());
    assert!(judged.get() > 96, "rules judged almost nothing: {}", judged.get());
    // Each that is said to be seen to was met.
    for field in Field::ALL {
        let met = read.borrow().contains(&field);
        assert_eq!(met, field.composed() != Composed::Never, "{field:?}");
    }
}

#[test]
fn most_of_what_is_said_twice_is_composed() {
    let mut stage = Stage::new();
    for (port, to) in [1, 4, 5, 6, 7].into_iter().enumerate() {
        for (v6, segment) in [(false, false), (true, false), (false, true), (true, true)] {
            stage.open(0, to, port as u8, v6, segment);
            // The second answer finds what the first has composed; the second question, too.
            for event in [0, 1, 2] {
                let last = stage.left.last().cloned().unwrap();
                stage.send(&last.0, answered(&last.1), Checksum::Complete);
                let (by, frame) = stage.sent[stage.sent.len() - 2].clone();
                let before = stage.node.composed();
                stage.send(&by, frame, Checksum::Complete);
                let (hits, walks) = stage.node.composed();
                let hit = (hits - before.0, walks - before.1);
                assert_eq!(hit, if event == 0 { (0, 1) } else { (1, 0) }, "to {to}, turn {event}");
            }
        }
    }
}

/// Whatever of a packet decides must be seen to, by the key or packet by packet: a packet of a
/// connection under way is sent with each bit of its headers the other way round.
#[test]
fn no_bit_of_a_header_is_overlooked() {
    for (from, to, v6, segment) in [
        (0, 1, false, false),
        (0, 1, false, true),
        (0, 1, true, true),
        (0, 4, false, true),
        (0, 5, true, false),
        (0, 6, false, true),
        (6, 1, false, false),
    ] {
        let mut bit = 0;
        while differs_in(from, to, (v6, segment), bit) {
            bit += 16;
        }
    }
}

/// Flips some bits, each in a conversation of its own; `false` when there are no more.
fn differs_in(from: u8, to: u8, (v6, segment): (bool, bool), first_bit: usize) -> bool {
    let mut stage = Stage::new();
    for bit in first_bit..first_bit + 16 {
        stage.open(from, to, bit as u8, v6, segment);
        let Some((by, sent)) = stage.sent.last().cloned() else { panic!("nothing left") };
        let (answers, answer) =
            stage.left.last().map(|it| (it.0.clone(), answered(&it.1))).unwrap();
        for _ in 0..2 {
            stage.send(&answers, answer.clone(), Checksum::Complete);
            stage.send(&by, sent.clone(), Checksum::Complete);
        }
        for (by, frame) in [(&by, &sent), (&answers, &answer)] {
            let upper = frame.len() - 4 - if segment { 20 } else { 8 };
            let end = frame.len() - 4;
            let (at, before) = (bit / 8, stage.node.composed());
            if at >= end {
                return false;
            }
            stage.send(by, frame.clone(), Checksum::Complete);
            assert_eq!(stage.node.composed().0, before.0 + 1, "the packet itself is a hit");
            let mut frame = frame.clone();
            frame[at] ^= 1 << (bit % 8);
            stage.send(by, frame.clone(), Checksum::Complete);
            // And once more with an IPv4 header whose sum is right.
            let start = upper - 20;
            if !v6 && (start..upper).contains(&at) {
                frame[start + 10..start + 12].fill(0);
                let sum = seine_pipeline::wire::checksum::checksum(&frame[start..upper]);
                frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
                stage.send(by, frame, Checksum::Complete);
            }
        }
        stage.node.wait_ms(1000);
    }
    stage.node.assert_twins();
    true
}
