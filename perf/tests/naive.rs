//! The naive evaluator before the matrices that others wrote: it must agree with every one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use seine_perf::cases::expectation::{Expected, Matrix, Probe, Source, Target};
use seine_perf::cases::file::{CaseFile, Step};
use seine_perf::cases::{opinion, query};
use seine_perf::naive::{self, Direction};

fn suite(name: &str) -> CaseFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("cases/{name}/cases.json"));
    CaseFile::read(&path).unwrap()
}

/// What is said against one step, and how many assertions there were.
fn contradictions(file: &CaseFile, step: &Step, faults: &mut Vec<String>) -> usize {
    let cluster = &file.clusters[&step.cluster];
    let naive = opinion(cluster, step);
    let mut assertions = 0;
    for matrix in &step.matrices {
        for (i, from) in matrix.pods.iter().enumerate() {
            for (j, to) in matrix.pods.iter().enumerate() {
                let (source, target) = (cluster.pod(from).unwrap(), cluster.pod(to).unwrap());
                let query = query(source, target, matrix.protocol, matrix.port);
                let mut check = |rows: Option<&Vec<String>>, decision: naive::Decision| {
                    let expected = rows.and_then(|rows| Matrix::expected(rows, i, j));
                    let Some(expected) = expected else { return };
                    assertions += 1;
                    if expected != Expected::from(decision.action) {
                        let what = format!("{}/{}", matrix.protocol, matrix.port);
                        faults.push(format!("{from} > {to} {what}: {expected}, not {decision:?}"));
                    }
                };
                check(Some(&matrix.combined), naive.judge(&query));
                check(matrix.ingress.as_ref(), naive.decide(Direction::Ingress, &query));
                check(matrix.egress.as_ref(), naive.decide(Direction::Egress, &query));
            }
        }
    }
    for probe in &step.probes {
        let Some(query) = probe_query(file, step, probe) else { continue };
        let decision = naive.judge(&query);
        assertions += 1;
        if probe.expect != Expected::from(decision.action) {
            faults.push(format!("{probe:?}: {decision:?}"));
        }
    }
    for decision in &step.decisions {
        let matrix = &step.matrices[0];
        let (source, target) =
            (cluster.pod(&decision.from).unwrap(), cluster.pod(&decision.to).unwrap());
        let found = naive.judge(&query(source, target, matrix.protocol, matrix.port));
        let action = format!("{:?}", found.action).replace("None", "<NONE>");
        assertions += 1;
        let named = found.policies.contains(&decision.policy);
        if action != decision.action || !named && decision.policy != "<NONE>" {
            faults.push(format!("{decision:?}: {found:?}"));
        }
    }
    assertions
}

/// A probe as a question about policies, unless it is multicast.
fn probe_query(file: &CaseFile, step: &Step, probe: &Probe) -> Option<naive::Query> {
    let cluster = &file.clusters[&step.cluster];
    let source = match &probe.from {
        Source::Pod { pod } => cluster.pod(pod).unwrap().ip,
        Source::Node { ip, .. } => *ip,
        Source::External { external } => *external,
    };
    let (destination, service) = match &probe.to {
        Target::Pod { pod } => (cluster.pod(pod).unwrap().ip, None),
        Target::Service { service, backend } => {
            (cluster.pod(backend).unwrap().ip, Some(service.clone()))
        }
        Target::Name { ip, .. } | Target::Address { ip, .. } => (*ip, None),
        Target::NodePort { .. } | Target::Group { .. } => return None,
    };
    Some(naive::Query {
        source,
        destination,
        protocol: probe.protocol.number(),
        source_port: probe.source_port.unwrap_or(40000),
        port: probe.port.unwrap_or(0),
        icmp: (probe.icmp_type.unwrap_or(8), probe.icmp_code.unwrap_or(0)),
        service,
    })
}

/// With a suite as it is, with its Pods on nodes, and with everything in IPv6.
fn agrees_with(name: &str, assertions_expected: usize) {
    let file = suite(name);
    agrees_with_file(&file, assertions_expected);
    let settled = file.settle().unwrap();
    agrees_with_file(&settled, assertions_expected);
    agrees_with_file(&settled.in_ipv6(), assertions_expected);
}

fn agrees_with_file(file: &CaseFile, assertions_expected: usize) {
    let mut faults = Vec::new();
    let mut assertions = 0;
    for case in &file.cases {
        if case.features.iter().any(|feature| feature == "multicast") {
            continue;
        }
        for (index, step) in case.steps.iter().enumerate() {
            let mut found = Vec::new();
            assertions += contradictions(file, step, &mut found);
            faults.extend(found.into_iter().map(|fault| format!("{} {index}: {fault}", case.id)));
        }
    }
    faults.truncate(20);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(assertions, assertions_expected);
}

#[test]
fn the_naive_evaluator_says_what_cyclonus_says() {
    agrees_with("cyclonus", 264_428);
}

#[test]
fn the_naive_evaluator_says_what_network_policy_api_says() {
    agrees_with("anp", 103_060);
}

#[test]
fn the_naive_evaluator_says_what_antrea_says() {
    agrees_with("antrea", 5_436);
}
