//! Which groups and rules are refused, and with which words.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(clippy::type_complexity, reason = "a table of edits and reasons reads best as one")]

use seine_pipeline::state::{
    Action, Change, Group, GroupDelta, Object, PortRange, Rule, RuleDirection, RuleTable, Traffic,
};
use seine_pipeline::testbed::{Node, udp};

fn rule() -> Rule {
    Rule {
        name: "r".to_owned(),
        policy: "AntreaClusterNetworkPolicy:p".to_owned(),
        rule_name: String::new(),
        direction: RuleDirection::Ingress,
        table: RuleTable::AntreaPolicy,
        rank: 1,
        action: Action::Drop,
        applied_to_groups: vec!["g".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: vec![traffic(6)],
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

fn traffic(protocol: u8) -> Traffic {
    Traffic { protocol, ports: None, source_ports: None, icmp_type: None, icmp_code: None }
}

fn group(members: &[&str]) -> Group {
    let members = members.iter().map(|member| member.parse().unwrap()).collect();
    Group { name: "g".to_owned(), members, fqdns: Vec::new() }
}

#[track_caller]
fn refused(change: Change, sentence: &str) {
    let mut node = Node::with_pods(["a", "b"]);
    let everybody = Change::Upsert(Object::Group(group(&["0.0.0.0/0"])));
    node.apply(&[everybody.clone(), Change::Upsert(Object::Rule(rule_of_another_name()))]);
    let refusal = node.state.apply(&[change]).expect_err("refused");
    assert_eq!(refusal.to_string(), sentence);
    // All else is in force as before.
    node.send(udp().from("a").to("b"));
    assert_eq!(node.changes().first().map(String::as_str), Some("drops.a.IngressPolicy +1"));
}

fn rule_of_another_name() -> Rule {
    Rule { name: "before".to_owned(), traffic: Vec::new(), ..rule() }
}

#[test]
fn a_rule_that_cannot_be_is_refused_with_field_and_reason() {
    let edited = |edit: fn(&mut Rule)| {
        let mut rule = rule();
        edit(&mut rule);
        Change::Upsert(Object::Rule(rule))
    };
    let cases: [(fn(&mut Rule), &str); 11] = [
        (
            |it| it.applied_to_groups.clear(),
            "applied_to_groups: neither a group nor a Service is named",
        ),
        (
            |it| {
                it.direction = RuleDirection::Egress;
                it.applied_to_services = vec!["default/web:".to_owned()];
            },
            "applied_to_services: NodePort traffic is judged on ingress only",
        ),
        (
            |it| it.peer_services = vec!["default/web:".to_owned()],
            "peer_services: a Service is a peer on egress only",
        ),
        (
            |it| (it.action, it.table) = (Action::Pass, RuleTable::Default),
            "action: only rules before Kubernetes' policies can leave it to them",
        ),
        (|it| it.action = Action::Isolate, "action: isolation is of the default table only"),
        (|it| it.table = RuleTable::NetworkPolicy, "action: Kubernetes' policies only allow"),
        (
            |it| {
                it.traffic =
                    vec![Traffic { ports: Some(PortRange { first: 1, last: 2 }), ..traffic(1) }]
            },
            "traffic.ports: protocol 1 has none",
        ),
        (
            |it| {
                let source_ports = Some(PortRange { first: 2, last: 1 });
                it.traffic = vec![Traffic { source_ports, ..traffic(17) }];
            },
            "traffic.source_ports: 2 is above 1",
        ),
        (
            |it| it.traffic = vec![Traffic { icmp_type: Some(8), ..traffic(6) }],
            "traffic.icmp_type: protocol 6 has none",
        ),
        (
            |it| it.traffic = vec![Traffic { icmp_code: Some(0), ..traffic(1) }],
            "traffic.icmp_code: means nothing without a type",
        ),
        (|it| it.name.clear(), "name: is empty"),
    ];
    for (edit, reason) in cases {
        let name = if reason.starts_with("name") { "" } else { "r" };
        refused(edited(edit), &format!("rule `{name}` is refused: {reason}"));
    }
}

#[test]
fn a_group_that_cannot_be_is_refused_with_field_and_reason() {
    let put = |members: &[&str]| Change::Upsert(Object::Group(group(members)));
    refused(
        put(&["10.10.1.7/24"]),
        "group `g` is refused: members: 10.10.1.7/24 has bits set behind its length: \
         10.10.1.0/24 is meant?",
    );
    let sentence = "group `g` is refused: members: are not in order, or one is there twice";
    refused(put(&["10.10.1.7/32", "10.10.1.7/32"]), sentence);
    let delta = |name: &str, added: &str| {
        let added = vec![added.parse().unwrap()];
        Change::Members(GroupDelta { name: name.to_owned(), added, removed: Vec::new() })
    };
    refused(
        delta("strangers", "10.10.1.7/32"),
        "group `strangers` is refused: name: there is no such group",
    );
    refused(
        delta("g", "10.10.1.7/24"),
        "group `g` is refused: added: 10.10.1.7/24 has bits set behind its length",
    );
}
