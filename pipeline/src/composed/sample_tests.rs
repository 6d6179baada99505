//! What is sampled, what counts as a mismatch, and what does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::hit::epoch;
use super::sample;
use super::shortcut::{Addressed, Rewrite, Shortcut};
use super::*;
use crate::address::Mac;
use crate::adjacency::AdjacencyId;
use crate::connection::{
    Connection, ConnectionId, Decision, Direction, FlowKey, Progress, address_words,
};
use crate::learned::{Learned, WorkerMemory};
use crate::state::{Action, Change, Group, Object, Rule, RuleDirection, RuleTable};
use crate::testbed::{Buffer, Node, Probe, UPLINK, answered, flags, learned, tcp, udp};

/// One worker, and a connection of a Pod that is under way.
pub(super) struct Room {
    pub node: Node,
    pub learned: Learned,
    worker: WorkerMemory,
    /// Of either direction, and by which port.
    pub packets: [(PortId, Vec<u8>); 2],
}

impl Room {
    /// The probe opens the connection, towards port 80.
    pub fn with(node: Node, probe: Probe) -> Room {
        Room::opened_by("a", node, probe)
    }

    /// As that, by this Pod or the gateway.
    pub fn opened_by(from: &str, node: Node, probe: Probe) -> Room {
        let (learned, mut worker) = (learned(), WorkerMemory::new());
        worker.composed.sampler = Sampler::new(1);
        let sent = node.frame(&probe.from(from).port(80));
        let from = if from == "tunnel" { UPLINK } else { from };
        let from = node.state.port_by_name(from).unwrap();
        let packets = [(from, sent.clone()), (from, sent)];
        let mut room = Room { node, learned, worker, packets };
        let (to, left) = room.send(0, |_| ());
        room.packets[1] = (to, answered(&left));
        for number in [1, 0] {
            room.send(number, |_| ());
        }
        assert_eq!(room.counts(), [0, 0, 0, 0], "nothing was a hit");
        room
    }

    fn new(probe: Probe) -> Room {
        Room::with(Node::with_pods(["a", "b"]), probe)
    }

    /// Sends a packet of that direction; says by which port it left, and as what. Between the two
    /// ways that it is decided by, this happens.
    #[track_caller]
    fn send(&mut self, number: usize, meanwhile: impl Fn(&Room)) -> (PortId, Vec<u8>) {
        let (ingress, frame) = &self.packets[number];
        let (ingress, mut buffer) = (*ingress, Buffer::of(frame, Checksum::Complete));
        let mut survey = Survey::default();
        let batch = [(&buffer, ingress)];
        survey.take(batch.into_iter(), &self.node.state, &self.learned.connections, &Plain);
        let mut worker = std::mem::take(&mut self.worker);
        let mut context = Context {
            state: &self.node.state,
            adjacencies: &self.node.adjacencies,
            now_ms: self.node.now_ms,
            learned: &self.learned,
            worker: &mut worker,
            dry: false,
            trace: None,
        };
        let seen = survey.seen(0);
        let sampled = sample::begin(&buffer, ingress, seen, &mut context);
        let (outcome, hit) = act(seen, &mut buffer, ingress, &mut context, &Plain);
        assert!(hit || !sampled, "copied in vain: {number}, {seen:?}");
        if hit {
            assert!(sampled, "not copied");
            meanwhile(self);
            sample::compare(&mut buffer, ingress, outcome, &mut context);
        }
        self.worker = worker;
        let Outcome::Output(egress) = outcome else { panic!("{outcome:?}") };
        (egress, buffer.bytes().to_vec())
    }

    pub fn connection(&self) -> (ConnectionId, Connection) {
        let listed = self.learned.connections.iter(0).next().unwrap();
        (listed.id, listed.connection)
    }

    /// Samples, those that rules judged, mismatches, and what another worker has spoilt.
    fn counts(&self) -> [u64; 4] {
        let sampler = &self.worker.composed.sampler;
        [sampler.samples, sampler.judged, sampler.mismatches, sampler.outdated]
    }

    /// Rules forbid whatever leaves this Pod, or comes to it.
    pub fn forbid(&mut self, pod: &str, direction: RuleDirection) {
        let rule = forbidding(direction);
        let members = vec![self.node.address(pod, false).into()];
        let group = Group { name: "all".to_owned(), members, fqdns: Vec::new() };
        self.node.apply(&[Change::Upsert(Object::Group(group)), Change::Upsert(rule)]);
    }

    /// As if the rules of now had judged the connection.
    fn pretend_to_be_judged(&self) {
        let (id, connection) = self.connection();
        let [source, destination] =
            [connection.original, connection.reply].map(|key: FlowKey| key.tuple.source);
        let policy_epoch = self.node.state.policy_epoch(source, destination);
        let decision = Decision { policy_epoch, ..connection.decision };
        self.learned.connections.revise(id, &connection.decision, &decision);
    }
}

fn forbidding(direction: RuleDirection) -> Object {
    Object::Rule(Rule {
        name: "forbids".to_owned(),
        policy: "AntreaClusterNetworkPolicy:p".to_owned(),
        rule_name: String::new(),
        direction,
        table: RuleTable::AntreaPolicy,
        rank: 1,
        action: Action::Drop,
        applied_to_groups: vec!["all".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        log: false,
        log_label: String::new(),
        priority: String::new(),
    })
}

#[test]
fn a_hit_that_the_stages_agree_with_is_a_sample_and_rules_judge_it() {
    for to in ["b", "remote", "gateway"] {
        for v6 in [false, true] {
            for probe in [udp, || tcp().flags(flags::ACK)] as [fn() -> Probe; 2] {
                for node in [Node::with_pods(["a", "b"]), Node::over_ipv6(["a", "b"])] {
                    let mut room = Room::with(node, probe().in_v6(v6).to(to));
                    for (number, expected) in [(0, [1, 1, 0, 0]), (1, [2, 2, 0, 0])] {
                        room.send(number, |_| ());
                        assert_eq!(room.counts(), expected, "to {to}, v6 {v6}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_another_worker_has_changed_meanwhile_is_no_mismatch() {
    let ended = |room: &Room| {
        room.learned.connections.remove(room.connection().0).unwrap();
    };
    let closed = |room: &Room| {
        let (id, at) = room.connection();
        assert!(room.learned.connections.advance(id, at.progress, Progress::Closed));
    };
    let revoked = |room: &Room| room.learned.connections.revoke(room.connection().0);
    // An answer may pass although its sender may begin nothing, and a connection stays.
    let events: [&dyn Fn(&Room); 3] = [&ended, &closed, &revoked];
    for (number, event) in events.into_iter().enumerate() {
        let (forbidden, outdated) = [("b", 1), ("b", 0), ("a", 1)][number];
        let mut room = Room::new(udp().to("b"));
        room.forbid(forbidden, RuleDirection::Egress);
        room.send(1, event);
        let evidence = room.worker.composed.sampler.take_evidence();
        assert_eq!(evidence, None, "event {number}");
        assert_eq!(room.counts(), [1 - outdated, 0, 0, outdated], "event {number}");
    }
}

#[test]
fn a_next_hop_that_moves_meanwhile_is_no_mismatch() {
    let mut room = Room::new(udp().to("remote"));
    let next_hop = AdjacencyId::new(0).unwrap();
    let moved = |room: &Room| room.node.adjacencies.set(next_hop, Some(Mac([2, 0, 0, 0, 9, 8])));
    room.send(0, moved);
    assert_eq!(room.counts(), [0, 0, 0, 1]);
    room.send(0, |_| ());
    assert_eq!(room.counts(), [1, 1, 0, 1]);
}

#[test]
fn what_was_composed_wrongly_is_a_mismatch() {
    let mut room = Room::new(udp().to("b"));
    let (id, connection) = room.connection();
    // Back to its sender.
    let wrong = Shortcut {
        egress: room.packets[0].0,
        rewrite: Rewrite::None,
        addressed: Addressed::Any,
        lower: false,
        translate: false,
        adjacency: None,
    };
    let tuple = connection.original.tuple;
    let (words, to) = (connection.original.words(), address_words(tuple.destination));
    let epoch = epoch(&room.node.state, &words, to);
    let connections = &room.learned.connections;
    connections.decide(id, Direction::Original, wrong.word(), epoch);
    room.send(0, |_| ());
    assert_eq!(room.counts(), [1, 0, 1, 0]);
    let evidence = room.worker.composed.sampler.take_evidence().unwrap();
    assert!(evidence.starts_with("rewrite: port 2, came 0200"), "{evidence}");
}

#[test]
fn a_connection_that_its_own_rules_deny_is_a_mismatch_of_policy() {
    for (pod, direction) in [("a", RuleDirection::Egress), ("b", RuleDirection::Ingress)] {
        for number in [0, 1] {
            let mut room = Room::new(udp().to("b"));
            room.forbid(pod, direction);
            room.send(number, |_| ());
            assert_eq!(room.counts(), [1, 0, 0, 0], "it is older than the rules");
            room.pretend_to_be_judged();
            room.send(number, |_| ());
            assert_eq!(room.counts(), [2, 1, 1, 0], "of {pod}, direction {number}");
            let evidence = room.worker.composed.sampler.take_evidence().unwrap();
            let (begins, ends) = ("policy: port ", "denied by rule forbids");
            assert!(evidence.starts_with(begins) && evidence.ends_with(ends), "{evidence}");
        }
    }
}

#[test]
fn what_takes_the_stages_is_not_copied_again_and_again() {
    let mut sampler = Sampler::new(1024);
    assert!(!sampler.is_due(1022) && sampler.is_due(1023));
    sampler.put_off(1023);
    assert!(!sampler.is_due(1038) && sampler.is_due(1039));
    assert!(!Sampler::new(0).is_due(u64::MAX - 1), "it samples nothing");
    let mut room = Room::new(udp().to("b"));
    room.packets[0].1 = room.node.frame(&udp().from("a").to("b").source_port(7));
    room.send(0, |_| ());
    assert_eq!(room.counts(), [0, 0, 0, 0], "it opens a connection");
}
