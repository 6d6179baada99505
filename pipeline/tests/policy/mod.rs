//! Groups and rules in the words of packet scripts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use ipnet::IpNet;
use seine_pipeline::audit::AuditLine;
use seine_pipeline::state::{
    Action, Change, Group, GroupDelta, Object, PortRange, Rule, RuleDirection, RuleTable, Traffic,
};
use seine_pipeline::testbed::Node;

/// The change that a line means.
pub fn change(node: &Node, words: &[&str]) -> Change {
    match words {
        ["group", name, members @ ..] => {
            let mut members: Vec<IpNet> =
                members.iter().flat_map(|member| addresses(node, member)).collect();
            members.sort_unstable();
            members.dedup();
            let name = (*name).to_owned();
            Change::Upsert(Object::Group(Group { name, members, fqdns: Vec::new() }))
        }
        ["members", name, changes @ ..] => {
            let all = |sign: char| {
                let mine = changes.iter().filter_map(move |change| change.strip_prefix(sign));
                mine.flat_map(|member| addresses(node, member)).collect()
            };
            let name = (*name).to_owned();
            Change::Members(GroupDelta { name, added: all('+'), removed: all('-') })
        }
        ["rule", name, direction, table, rank, action, "of", rest @ ..] => {
            Change::Upsert(Object::Rule(rule(name, direction, table, rank, action, rest)))
        }
        other => panic!("not understood: {other:?}"),
    }
}

/// The audit lines that are due a second from now.
pub fn audit(node: &mut Node) -> Vec<String> {
    let mut lines = Vec::new();
    let state = &node.state;
    node.worker.audit.drain(node.now_ms + 1000, |record| {
        lines.push(AuditLine::of(&record, state).unwrap().to_string());
    });
    lines
}

/// An address, a range, or both addresses of a Pod.
fn addresses(node: &Node, word: &str) -> Vec<IpNet> {
    match word.parse() {
        Ok(range) => vec![range],
        Err(_) => [false, true].map(|v6| IpNet::from(node.address(word, v6))).to_vec(),
    }
}

fn rule(name: &str, direction: &str, table: &str, rank: &str, action: &str, rest: &[&str]) -> Rule {
    let mut parts: [Vec<String>; 4] = Default::default();
    let mut part = 0;
    for word in rest {
        match *word {
            "peer" => part = 1,
            "is" => part = 2,
            "log" => part = 3,
            word => parts[part].push(word.to_owned()),
        }
    }
    let [applied, peers, traffic, log] = parts;
    let (applied_to_services, applied_to_groups) = services(applied);
    let (peer_services, peer_groups) = services(peers);
    Rule {
        name: name.to_owned(),
        policy: match (table, action) {
            ("kubernetes", _) | (_, "isolate") => format!("K8sNetworkPolicy:default/{name}"),
            _ => format!("AntreaClusterNetworkPolicy:{name}"),
        },
        rule_name: String::new(),
        direction: match direction {
            "egress" => RuleDirection::Egress,
            "ingress" => RuleDirection::Ingress,
            other => panic!("{other}: no such direction"),
        },
        table: match table {
            "antrea" => RuleTable::AntreaPolicy,
            "kubernetes" => RuleTable::NetworkPolicy,
            "default" => RuleTable::Default,
            other => panic!("{other}: no such table"),
        },
        rank: rank.parse().unwrap(),
        action: match action {
            "allow" => Action::Allow,
            "drop" => Action::Drop,
            "reject" => Action::Reject,
            "pass" => Action::Pass,
            "isolate" => Action::Isolate,
            other => panic!("{other}: no such action"),
        },
        applied_to_groups,
        applied_to_services,
        peer_groups,
        peer_services,
        traffic: traffic.iter().map(|word| self::traffic(word)).collect(),
        log: !log.is_empty(),
        log_label: String::new(),
        priority: log.into_iter().next().unwrap_or_default(),
    }
}

/// Services, which are written with an @ in front, and groups.
fn services(words: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (services, groups): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.starts_with('@'));
    (services.iter().map(|word| word[1..].to_owned()).collect(), groups)
}

fn traffic(word: &str) -> Traffic {
    let (protocol, detail) = word.split_once(':').unwrap_or((word, ""));
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "icmp" => 1,
        other => panic!("{other}: no such protocol"),
    };
    let icmp_type = (protocol == 1 && !detail.is_empty()).then(|| detail.parse().unwrap());
    let ports = (protocol != 1 && !detail.is_empty()).then(|| {
        let (first, last) = detail.split_once('-').unwrap_or((detail, detail));
        PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() }
    });
    Traffic { protocol, ports, source_ports: None, icmp_type, icmp_code: None }
}
