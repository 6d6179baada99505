//! Rules about names, from the question of a Pod to the connection that its answer opens the way
//! for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::state::{
    Action, Change, Group, Object, PortRange, Rule, RuleDirection, RuleTable, Traffic,
};
use seine_pipeline::testbed::{Fate, Node, tcp, udp};
use seine_pipeline::verdict::DropReason;

/// The answer that "db.example.com" is 203.0.113.80, for 300 seconds.
const ANSWER: &[u8] = b"\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\
    \x02db\x07Example\x03com\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xcb\x00\x71\x50";

/// Pod a may ask for names and speak to "db.example.com"; to nobody else.
fn node() -> Node {
    let mut node = Node::with_pods(["a", "b"]);
    let group = |name: &str, members: &[&str], fqdns: &[&str]| {
        Change::Upsert(Object::Group(Group {
            name: name.to_owned(),
            members: members.iter().map(|member| member.parse().unwrap()).collect(),
            fqdns: fqdns.iter().map(ToString::to_string).collect(),
        }))
    };
    let ports = Some(PortRange { first: 53, last: 53 });
    let dns = Traffic { protocol: 17, ports, source_ports: None, icmp_type: None, icmp_code: None };
    let rule = |name: &str, action, peers: &[&str], traffic: &[Traffic]| {
        Change::Upsert(Object::Rule(Rule {
            name: name.to_owned(),
            policy: "AntreaClusterNetworkPolicy:names".to_owned(),
            rule_name: String::new(),
            direction: RuleDirection::Egress,
            table: RuleTable::AntreaPolicy,
            rank: if action == Action::Drop { 2 } else { 1 },
            action,
            applied_to_groups: vec!["clients".to_owned()],
            applied_to_services: Vec::new(),
            peer_groups: peers.iter().map(ToString::to_string).collect(),
            peer_services: Vec::new(),
            traffic: traffic.to_vec(),
            log: false,
            log_label: String::new(),
            priority: String::new(),
        }))
    };
    node.apply(&[
        group("clients", &["10.10.1.2/32"], &[]),
        group("db", &[], &["db.example.com"]),
        rule("ask", Action::Allow, &[], &[dns]),
        rule("speak", Action::Allow, &["db"], &[]),
        rule("else", Action::Drop, &[], &[]),
    ]);
    node
}

fn answer(node: &mut Node) -> Fate {
    let answer = udp().from("gateway").source("outside").source_port(53).to("a").port(40000);
    node.send(answer.payload_bytes(ANSWER.len()).edit(|frame| {
        let at = frame.len() - ANSWER.len();
        frame[at..].copy_from_slice(ANSWER);
    }))
}

#[test]
fn the_answer_to_a_pods_question_opens_the_way_to_what_it_tells() {
    let mut node = node();
    let connect = || tcp().from("a").to("203.0.113.80");
    assert_eq!(node.send(connect()), Fate::Dropped(DropReason::EgressPolicy));
    node.send(udp().from("a").to("outside")).left_by("gateway");
    assert_eq!(node.send(connect()), Fate::Dropped(DropReason::EgressPolicy));
    answer(&mut node).left_by("a");
    node.send(connect()).left_by("gateway");
    let other = tcp().from("a").to("203.0.113.81");
    assert_eq!(node.send(other), Fate::Dropped(DropReason::EgressPolicy));
}

#[test]
fn an_answer_to_no_question_teaches_nothing() {
    let mut node = node();
    answer(&mut node).left_by("a");
    let connect = tcp().from("a").to("203.0.113.80");
    assert_eq!(node.send(connect), Fate::Dropped(DropReason::EgressPolicy));
}
