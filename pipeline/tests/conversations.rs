//! Conversations of any order against what a reader of the documentation expects of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;
use seine_pipeline::state::{
    Action, Change, Group, Kind, Object, ObjectId, Rule, RuleDirection, RuleTable,
};
use seine_pipeline::testbed::{Fate, Node, flags, sctp, tcp, udp};
use seine_pipeline::verdict::DropReason;

const SYN: u8 = flags::SYN;

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

/// What happens between a, which begins, and b, which is never allowed to.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// TCP by these flags, or a datagram.
    Packet {
        from_a: bool,
        flags: Option<u8>,
        v6: bool,
    },
    /// Policy changes its mind about a's sending to b.
    Policy {
        allows: bool,
    },
    /// Something else changes.
    Other,
    Wait {
        ms: u64,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let flags = prop::sample::select(vec![
        Some(flags::SYN),
        Some(flags::SYN | flags::ACK),
        Some(flags::ACK),
        Some(flags::FIN | flags::ACK),
        Some(flags::RST),
        None,
    ]);
    let packet = (any::<bool>(), flags, any::<bool>());
    prop_oneof![
        12 => packet.prop_map(|(from_a, flags, v6)| Turn::Packet { from_a, flags, v6 }),
        2 => any::<bool>().prop_map(|allows| Turn::Policy { allows }),
        1 => Just(Turn::Other),
        1 => prop_oneof![Just(1900), Just(31_000), Just(130_000)].prop_map(|ms| Turn::Wait { ms }),
    ]
}

fn rule(direction: RuleDirection, action: Action) -> Rule {
    Rule {
        name: format!("{direction:?}"),
        policy: "AntreaClusterNetworkPolicy:acnp".to_owned(),
        rule_name: String::new(),
        direction,
        table: RuleTable::AntreaPolicy,
        action,
        rank: 0,
        applied_to_groups: vec!["b".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

proptest! {
    #[test]
    fn nothing_opens_or_goes_on_unanswered_but_by_the_policy_of_now(
        turns in prop::collection::vec(turn(), 0..80),
    ) {
        let mut node = isolated();
        let put = |rule| Change::Upsert(Object::Rule(rule));
        node.apply(&[put(rule(RuleDirection::Egress, Action::Drop))]);
        // By family: whether b has answered a datagram, and policy let the last before it.
        let (mut allowed, mut answered, mut asked) = (false, [false; 2], [false; 2]);
        let mut waited_ms = 0;
        for turn in turns {
            match turn {
                Turn::Policy { allows } => {
                    allowed = allows;
                    let action = if allows { Action::Allow } else { Action::Drop };
                    node.apply(&[put(rule(RuleDirection::Ingress, action))]);
                }
                Turn::Other => {
                    let group = Group { name: "x".into(), members: Vec::new(), fqdns: Vec::new() };
                    node.apply(&[Change::Upsert(Object::Group(group))]);
                    node.apply(&[Change::Delete(ObjectId { kind: Kind::Group, name: "x".into() })]);
                }
                Turn::Wait { ms } => {
                    node.wait_ms(ms);
                    waited_ms += ms;
                    if waited_ms > 20_000 {
                        // A datagram's connection may be over, and surely is after two minutes.
                        node.wait_ms(125_000);
                        (answered, asked, waited_ms) = ([false; 2], [false; 2], 0);
                    }
                }
                Turn::Packet { from_a, flags, v6 } => {
                    let probe = flags.map_or_else(udp, |flags| tcp().flags(flags)).in_v6(v6);
                    let fate = node.send(match from_a {
                        true => probe.from("a").to("b"),
                        false => probe.from("b").to("a").source_port(53).port(40000),
                    });
                    let left = matches!(fate, Fate::Left(..));
                    let family = usize::from(v6);
                    match (from_a, flags) {
                        (true, Some(SYN)) => {
                            prop_assert!(!left || allowed, "{fate:?}");
                        }
                        (true, None) => {
                            prop_assert_eq!(left, allowed || answered[family]);
                            asked[family] |= left;
                        }
                        (false, None) => {
                            prop_assert_eq!(left, asked[family]);
                            answered[family] |= left;
                        }
                        (false, Some(SYN)) => {
                            // Nobody lets b begin; it may open at once with a.
                            let began = node.connections().iter().any(|it| it.starts_with("tcp"));
                            prop_assert!(!left || began);
                        }
                        _ => {}
                    }
                }
            }
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
