//! What `control` compiles, before any packet: rules and groups must say what the naive evaluator
//! says, for every pair of Pods of every case, on the nodes of both.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod rules;

use std::collections::BTreeMap;
use std::path::Path;

use rules::Rules;
use seine_perf::cases::desired::{model, objects};
use seine_perf::cases::file::{CaseFile, Protocol, Step};
use seine_perf::cases::{opinion, query};
use seine_perf::naive::{Action, Direction};

fn suite(name: &str) -> CaseFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("cases/{name}/cases.json"));
    CaseFile::read(&path).unwrap().settle().unwrap()
}

/// What is said against one step. Returns how often a policy decided.
fn contradictions(file: &CaseFile, step: &Step, faults: &mut Vec<String>) -> usize {
    let cluster = &file.clusters[&step.cluster];
    let naive = opinion(cluster, step);
    let model = match model(cluster, &step.objects) {
        Ok(model) => model,
        Err(error) => {
            faults.push(error.to_string());
            return 0;
        }
    };
    let mut nodes = BTreeMap::new();
    for node in &cluster.nodes {
        match objects(cluster, &model, &node.name) {
            Ok(objects) => drop(nodes.insert(node.name.clone(), Rules::of(&objects))),
            Err(error) => {
                faults.push(error.to_string());
                return 0;
            }
        }
    }
    let ports = [80, 81, 53, 5000, 8080, 9003];
    let traffic = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp]
        .into_iter()
        .flat_map(|protocol| ports.map(|port| (protocol, port)));
    let mut decided = 0;
    for (protocol, port) in traffic {
        for from in &cluster.pods {
            for to in &cluster.pods {
                let query = query(from, to, protocol, port);
                for (direction, pod) in [(Direction::Egress, from), (Direction::Ingress, to)] {
                    if pod.host_network {
                        continue;
                    }
                    let rules = &nodes[pod.node.as_ref().unwrap()];
                    let (found, expected) =
                        (rules.decide(direction, &query), naive.decide(direction, &query));
                    decided += usize::from(expected.action != Action::None);
                    if found.action != expected.action {
                        let (from, to) = (&from.name, &to.name);
                        faults.push(format!(
                            "{from} > {to} {protocol}/{port} {direction:?}: {found:?}, \
                             not {expected:?}"
                        ));
                    }
                }
            }
        }
    }
    decided
}

fn says_the_same(file: &CaseFile) {
    let mut faults = Vec::new();
    let mut decided = 0;
    for case in &file.cases {
        if case.features.iter().any(|feature| feature == "multicast" || feature == "fqdn") {
            continue;
        }
        for (index, step) in case.steps.iter().enumerate() {
            let mut found = Vec::new();
            decided += contradictions(file, step, &mut found);
            found.truncate(2);
            faults.extend(found.into_iter().map(|fault| format!("{} {index}: {fault}", case.id)));
        }
    }
    faults.truncate(30);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(decided > 10_000, "policies decided {decided} times only");
}

#[test]
fn compiled_rules_say_what_cyclonus_policies_mean() {
    let file = suite("cyclonus");
    says_the_same(&file);
    says_the_same(&file.in_ipv6());
}

#[test]
fn compiled_rules_say_what_network_policy_apis_policies_mean() {
    let file = suite("anp");
    says_the_same(&file);
    says_the_same(&file.in_ipv6());
}

#[test]
fn compiled_rules_say_what_antreas_policies_mean() {
    let file = suite("antrea");
    says_the_same(&file);
    says_the_same(&file.in_ipv6());
}
