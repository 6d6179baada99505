//! What one port can take from all others, and by which ways around policy: nothing, and none.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::audit::AuditLine;
use seine_pipeline::limits::{ConnectionLimits, ERRORS_BURST, ERRORS_PER_S};
use seine_pipeline::state::{
    Action, Change, Group, Kind, Object, ObjectId, Rule, RuleDirection, RuleTable, Service,
    ServiceEndpoint,
};
use seine_pipeline::testbed::{Fate, Node, Probe, flags, innermost, ping, tcp, udp};
use seine_pipeline::verdict::DropReason;

/// A node where each Pod may send so many first packets, and no more ever.
fn node(first_packets: u32) -> Node {
    let mut node = Node::with_pods(["a", "b"]);
    node.limit_to(ConnectionLimits {
        connections: 64,
        per_port: 2,
        first_packets_per_s: 0,
        first_packets_burst: first_packets,
    });
    node
}

/// What b receives, with this action.
fn rule(action: Action) -> Rule {
    Rule {
        name: "rule".into(),
        policy: "AntreaClusterNetworkPolicy:acnp".into(),
        rule_name: "only".into(),
        direction: RuleDirection::Ingress,
        table: RuleTable::AntreaPolicy,
        rank: 1,
        action,
        applied_to_groups: vec!["b".into()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        log: true,
        log_label: String::new(),
        priority: "1".into(),
    }
}

fn group_b() -> Change {
    let members = vec!["10.10.1.3/32".parse().unwrap()];
    Change::Upsert(Object::Group(Group { name: "b".into(), members, fqdns: Vec::new() }))
}

fn put(rule: Rule) -> Change {
    Change::Upsert(Object::Rule(rule))
}

fn audited(node: &mut Node) -> usize {
    let (mut lines, state) = (0, &node.state);
    node.worker.audit.drain(node.now_ms + 1000, |record| {
        lines += usize::from(AuditLine::of(&record, state).is_some());
    });
    lines
}

fn passed(node: &mut Node, probe: impl Fn() -> Probe, count: usize) -> usize {
    (0..count).filter(|_| matches!(node.send(probe()), Fate::Left(..))).count()
}

#[test]
fn a_stream_that_nobody_answers_is_judged_by_each_state_and_told_once() {
    let mut node = node(3);
    node.apply(&[group_b(), put(rule(Action::Allow))]);
    let stream = || udp().from("a").to("b");
    assert_eq!(passed(&mut node, stream, 1000), 1000);
    node.apply(&[Change::Upsert(Object::Group(Group {
        name: "other".into(),
        members: Vec::new(),
        fqdns: Vec::new(),
    }))]);
    assert_eq!(passed(&mut node, stream, 1000), 1000);
    assert_eq!(audited(&mut node), 1);
    assert_eq!(
        node.connections(),
        ["udp 10.10.1.2:40000 > 10.10.1.3:53, ingress by rule: Unanswered, 2000+0 packets, \
          64000+0 bytes"]
    );
    // And time alone makes for a third judgement; then the budget is used up.
    node.now_ms += 2000;
    assert_eq!(passed(&mut node, stream, 1000), 1000);
    node.now_ms += 2000;
    assert_eq!(node.send(stream()), Fate::Dropped(DropReason::NewConnectionBudget));
}

#[test]
fn a_stream_that_nobody_answers_ends_with_the_packet_after_its_rule() {
    let mut node = node(100);
    node.apply(&[group_b(), put(rule(Action::Allow))]);
    let stream = || udp().from("a").to("b");
    assert_eq!(passed(&mut node, stream, 10), 10);
    node.apply(&[put(rule(Action::Drop))]);
    assert_eq!(passed(&mut node, stream, 10), 0);
    node.apply(&[put(rule(Action::Allow))]);
    assert_eq!(passed(&mut node, stream, 10), 10);
    let name = "rule".to_owned();
    node.apply(&[Change::Delete(ObjectId { kind: Kind::Rule, name })]);
    assert_eq!(passed(&mut node, stream, 10), 10);
}

#[test]
fn whoever_has_another_rule_to_thank_is_told_of_again() {
    let mut node = node(100);
    node.apply(&[group_b(), put(rule(Action::Allow))]);
    assert_eq!(passed(&mut node, || udp().from("a").to("b"), 10), 10);
    node.apply(&[put(Rule { name: "first".into(), rank: 0, ..rule(Action::Allow) })]);
    assert_eq!(passed(&mut node, || udp().from("a").to("b"), 10), 10);
    assert_eq!(audited(&mut node), 2);
}

#[test]
fn queries_and_syns_that_are_judged_each_are_charged_each() {
    let mut node = node(5);
    assert_eq!(passed(&mut node, || ping().from("a").to("b"), 10), 5);
    assert_eq!(node.send(udp().from("a").to("b")), Fate::Dropped(DropReason::NewConnectionBudget));
    let back = || tcp().from("b").to("a").source_port(53).port(40000);
    let forth = || tcp().from("a").to("b");
    let mut node = self::node(5);
    node.send(forth().flags(flags::SYN)).left_by("b");
    node.send(back().flags(flags::SYN | flags::ACK)).left_by("a");
    node.send(forth().flags(flags::ACK)).left_by("b");
    assert_eq!(passed(&mut node, || forth().flags(flags::SYN), 10), 4);
    assert_eq!(passed(&mut node, || forth().flags(flags::ACK), 10), 10);
}

#[test]
fn nobody_tells_of_errors_in_an_answer_that_he_never_had() {
    let mut node = node(100);
    node.apply(&[group_b()]);
    node.send(udp().from("a").to("b")).left_by("b");
    node.apply(&[put(rule(Action::Drop))]);
    let never_sent = node.frame(&udp().from("b").to("a").source_port(53).port(40000));
    let about = |quoted: &[u8]| ping().from("a").to("b").quoting((3, 3), 0, quoted);
    let told = node.send(about(innermost(&never_sent)));
    assert_eq!(told, Fate::Dropped(DropReason::InvalidConnection));
    let sent = node.send_frame("b", &never_sent, Default::default()).left_by("a");
    node.send(about(innermost(&sent))).left_by("b");
}

#[test]
fn the_node_probes_while_the_world_behind_it_has_used_up_its_share() {
    // Four times what a Pod has: of records eight, of first packets twelve.
    let mut node = node(3);
    let world = |port| tcp().from("gateway").source("outside").to("a").source_port(port).port(80);
    let probe = |port| tcp().from("host").to("a").source_port(port).port(8080);
    for port in 1..=8 {
        node.send(world(port)).left_by("a");
        let back = tcp().from("a").to("outside").source_port(80).port(port);
        node.send(back.flags(flags::SYN | flags::ACK)).left_by("gateway");
    }
    assert_eq!(node.send(world(9)), Fate::Dropped(DropReason::ConnectionQuota));
    node.send(probe(1)).left_by("a");
    for port in 10..=12 {
        assert_eq!(node.send(world(port)), Fate::Dropped(DropReason::ConnectionQuota));
    }
    assert_eq!(node.send(world(13)), Fate::Dropped(DropReason::NewConnectionBudget));
    for port in 2..=12 {
        node.send(probe(port)).left_by("a");
    }
    assert_eq!(node.send(probe(13)), Fate::Dropped(DropReason::NewConnectionBudget));
}

#[test]
fn a_client_that_policy_denies_takes_no_place_among_those_with_affinity() {
    let mut node = node(100);
    let endpoint = ServiceEndpoint {
        address: "10.10.1.3".parse().unwrap(),
        port: 8080,
        cluster: true,
        local: true,
    };
    node.apply(&[
        group_b(),
        put(rule(Action::Drop)),
        Change::Upsert(Object::Service(Service {
            name: "web".into(),
            protocol: 6,
            cluster_addresses: vec!["10.96.0.10".parse().unwrap()],
            external_addresses: Vec::new(),
            port: 80,
            node_port: 0,
            affinity_seconds: 60,
            internal_local: false,
            external_local: false,
            restricted_addresses: Vec::new(),
            source_ranges: Vec::new(),
            endpoints: vec![endpoint],
        })),
    ]);
    let syn = || tcp().from("a").to("10.96.0.10").port(80).destination_mac("gateway");
    assert_eq!(node.send(syn()), Fate::Dropped(DropReason::IngressPolicy));
    assert_eq!(node.learned.affinities.len(node.now_ms), 0);
    node.apply(&[put(rule(Action::Allow))]);
    node.send(syn()).left_by("b");
    assert_eq!(node.learned.affinities.len(node.now_ms + 59_999), 1);
    assert_eq!(node.learned.affinities.len(node.now_ms + 60_000), 0);
}

#[test]
fn errors_and_resets_are_as_many_a_second_as_a_port_may_have() {
    let mut node = Node::with_pods(["a", "b", "c"]);
    node.apply(&[group_b(), put(rule(Action::Reject))]);
    let most = ERRORS_BURST as usize;
    let answered = |fate: Fate, to: &str| match fate {
        Fate::Left(port, _) => port == to,
        other => {
            assert_eq!(other, Fate::Dropped(DropReason::ErrorBudget));
            false
        }
    };
    let from_a = |node: &mut Node, number: usize| match number % 3 {
        0 => node.send(tcp().from("a").to("b")),
        1 => node.send(udp().from("a").to("b")),
        _ => node.send(udp().from("a").to("remote").ttl(1)),
    };
    assert!((0..most).all(|number| answered(from_a(&mut node, number), "a")));
    assert!((0..30).all(|number| !answered(from_a(&mut node, number), "a")));
    // Others have theirs, and what is too big for its way has another.
    assert!(answered(node.send(udp().from("c").to("b")), "c"));
    let big = || udp().from("a").to("remote").payload_bytes(1460);
    assert!((0..most).all(|_| answered(node.send(big()), "a")));
    assert!(!answered(node.send(big()), "a"));
    node.now_ms += 30;
    let earned = (0..100).filter(|number| answered(from_a(&mut node, *number), "a")).count();
    assert_eq!(earned, 30 * ERRORS_PER_S as usize / 1000);
    node.now_ms += 3_600_000;
    assert!((0..most).all(|number| answered(from_a(&mut node, number), "a")));
    assert!(!answered(from_a(&mut node, 0), "a"));
}

#[test]
fn a_full_table_takes_any_burst_of_first_packets_for_which_others_give_way() {
    let mut node = Node::with_pods(["a", "b", "c"]);
    node.limit(64, 64);
    node.apply(&[group_b(), put(rule(Action::Allow))]);
    let probe = |from, port| udp().from(from).to("b").source_port(port);
    for port in 1..=64 {
        node.send(probe("a", port)).left_by("b");
    }
    // All of one round: nobody expires anything meanwhile.
    for port in 1..=1000 {
        node.send(probe("c", port)).left_by("b");
    }
    let occupancy = node.learned.connections.occupancy();
    assert_eq!((occupancy.used, occupancy.evicted), (64, 1000));
    let (id, _) = node.state.rules().next().unwrap();
    let counts = node.worker.tallies.get(id);
    assert_eq!((counts.sessions, counts.packets), (1064, 1000), "of those that are over");
}
