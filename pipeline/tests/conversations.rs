//! Conversations of any order against what a reader of the documentation expects of them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;
use seine_pipeline::state::{Action, Change, Group, Object, Rule, RuleDirection, RuleTable};
use seine_pipeline::testbed::{Fate, Node, sctp, udp};
use seine_pipeline::verdict::DropReason;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// From b to a, or back, by one of a few ports, in either family.
    Packet { from_b: bool, port: u16, v6: bool },
    /// Silence. No sum of these comes near a timeout.
    Wait { ms: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let packet = (any::<bool>(), 0u16..3, any::<bool>());
    let packet = packet.prop_map(|(from_b, port, v6)| Event::Packet { from_b, port, v6 });
    let wait = prop_oneof![3 => Just(4100), 1 => Just(51_000), 1 => Just(200_000)];
    prop_oneof![4 => packet, 1 => wait.prop_map(|ms| Event::Wait { ms })]
}

/// How many turns a conversation has had, and when the last word fell.
#[derive(Clone, Copy)]
struct Talk {
    turns: u8,
    last_ms: u64,
}

impl Talk {
    fn is_over(&self, now_ms: u64) -> bool {
        let timeout_ms = if self.turns < 3 { 30_000 } else { 120_000 };
        now_ms - self.last_ms >= timeout_ms
    }

    /// b asks, a answers, b goes on.
    fn hear(&mut self, from_b: bool, now_ms: u64) {
        let next = match (self.turns, from_b) {
            (1, false) => 2,
            (2, true) => 3,
            (turns, _) => turns,
        };
        *self = Talk { turns: next, last_ms: now_ms };
    }
}

/// A node where nobody may begin to talk to b.
fn isolated() -> Node {
    let mut node = Node::with_pods(["a", "b"]);
    let members = [("b", false), ("b", true)].map(|(pod, v6)| node.address(pod, v6).into());
    let group = Group { name: "b".to_owned(), members: members.to_vec(), fqdns: Vec::new() };
    let rule = Rule {
        name: "isolate".to_owned(),
        policy: "K8sNetworkPolicy:default/isolate".to_owned(),
        rule_name: String::new(),
        direction: RuleDirection::Ingress,
        table: RuleTable::Default,
        action: Action::Isolate,
        rank: 0,
        applied_to_groups: vec!["b".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        log: false,
        log_label: String::new(),
        priority: String::new(),
    };
    node.apply(&[Change::Upsert(Object::Group(group)), Change::Upsert(Object::Rule(rule))]);
    node
}

proptest! {
    #[test]
    fn b_hears_of_a_only_what_it_has_asked_for_and_only_while_they_talk(
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut node = isolated();
        let mut talks: HashMap<(u16, bool), Talk> = HashMap::new();
        for event in events {
            let now_ms = node.now_ms;
            let Event::Packet { from_b, port, v6 } = event else {
                let Event::Wait { ms } = event else { continue };
                node.wait_ms(ms);
                continue;
            };
            let (one, other) = (7000 + port, 9);
            let probe = match from_b {
                true => udp().from("b").to("a").source_port(one).port(other),
                false => udp().from("a").to("b").source_port(other).port(one),
            };
            let fate = node.send(probe.in_v6(v6));
            talks.retain(|_, talk| !talk.is_over(now_ms));
            match talks.get_mut(&(port, v6)) {
                Some(talk) => {
                    talk.hear(from_b, now_ms);
                    prop_assert!(matches!(fate, Fate::Left(..)), "{event:?}: {fate:?}");
                }
                None if from_b => {
                    talks.insert((port, v6), Talk { turns: 1, last_ms: now_ms });
                    prop_assert!(matches!(fate, Fate::Left(..)), "{event:?}: {fate:?}");
                }
                None => prop_assert_eq!(fate, Fate::Dropped(DropReason::IngressIsolation)),
            }
            prop_assert_eq!(node.connections().len(), talks.len());
        }
    }
}

#[test]
fn sctp_that_a_pods_kernel_left_to_the_device_is_summed() {
    let mut node = Node::with_pods(["a", "b"]);
    let summed = node.frame(&sctp(1).from("a").to("b"));
    let unsummed = sctp(1).from("a").to("b").edit(|frame| frame[42..46].fill(0));
    assert_eq!(node.send(unsummed).left_by("b"), summed);
}
