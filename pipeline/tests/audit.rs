//! What becomes of a decision on its way to Antrea's log, and to its counters.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::audit::AuditLine;
use seine_pipeline::packet::{Checksum, Packet};
use seine_pipeline::run::{Context, run};
use seine_pipeline::state::{
    Action, Change, Group, Kind, Object, ObjectId, Rule, RuleDirection, RuleTable,
};
use seine_pipeline::tally::RuleCounts;
use seine_pipeline::testbed::{HEADROOM, Node, udp};

fn node() -> Node {
    let mut node = Node::with_pods(["a", "b"]);
    let members = vec!["10.10.1.3/32".parse().unwrap()];
    node.apply(&[
        Change::Upsert(Object::Group(Group { name: "web".into(), members, fqdns: Vec::new() })),
        Change::Upsert(Object::Rule(Rule {
            name: "acnp/deny/ingress/0".into(),
            policy: "AntreaClusterNetworkPolicy:deny".into(),
            rule_name: "deny-all".into(),
            direction: RuleDirection::Ingress,
            table: RuleTable::AntreaPolicy,
            rank: 1,
            action: Action::Drop,
            applied_to_groups: vec!["web".into()],
            applied_to_services: Vec::new(),
            peer_groups: Vec::new(),
            peer_services: Vec::new(),
            traffic: Vec::new(),
            log: true,
            log_label: "watched".into(),
            priority: "44900".into(),
        })),
    ]);
    node
}

fn lines(node: &mut Node) -> Vec<String> {
    let mut lines = Vec::new();
    let state = &node.state;
    node.worker.audit.drain(node.now_ms, |record| {
        lines.extend(AuditLine::of(&record, state).map(|line| line.to_string()));
    });
    lines
}

#[test]
fn a_denied_retry_is_counted_each_time_and_told_once_a_second() {
    let mut node = node();
    for _ in 0..3 {
        node.send(udp().from("a").to("b"));
        node.now_ms += 100;
    }
    assert_eq!(lines(&mut node), [""; 0]);
    node.now_ms += 711;
    assert_eq!(
        lines(&mut node),
        ["AntreaPolicyIngressRule AntreaClusterNetworkPolicy:deny deny-all Ingress Drop 44900 \
          default/b 10.10.1.2 40000 10.10.1.3 53 UDP 32 watched [3 packets in 1.011s]"]
    );
    node.assert_changed([
        "drops.a.IngressPolicy +3",
        "rules.acnp/deny/ingress/0.bytes +96",
        "rules.acnp/deny/ingress/0.packets +3",
        "rules.acnp/deny/ingress/0.sessions +3",
    ]);
}

#[test]
fn a_record_whose_rule_is_gone_has_no_line_and_the_rule_no_counts() {
    let mut node = node();
    node.send(udp().from("a").to("b"));
    let (id, _) = node.state.rules().next().unwrap();
    assert_eq!(node.worker.tallies.get(id).sessions, 1);
    let name = "acnp/deny/ingress/0".to_owned();
    node.apply(&[Change::Delete(ObjectId { kind: Kind::Rule, name })]);
    assert_eq!(node.state.rule(id), None);
    node.now_ms += 1000;
    assert_eq!(lines(&mut node), [""; 0]);
}

#[test]
fn a_packet_that_is_only_described_is_neither_counted_nor_told() {
    let mut node = node();
    let frame = node.frame(&udp().from("a").to("b"));
    let mut buffer = vec![0; HEADROOM];
    buffer.extend(frame);
    let (end, port) = (buffer.len(), node.state.port_by_name("a").unwrap());
    let mut packet = Packet::new(&mut buffer, HEADROOM, end, port, Checksum::Complete).unwrap();
    let mut context = Context { dry: true, ..node.context() };
    run(&mut packet, &mut context);
    node.now_ms += 1000;
    assert_eq!(lines(&mut node), [""; 0]);
    let (id, _) = node.state.rules().next().unwrap();
    assert_eq!(node.worker.tallies.get(id), RuleCounts::default());
}
