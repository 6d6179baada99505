//! What compiling costs at the size that Seine is made for. Prints; asserts only what came out:
//!
//! `cargo test --release -p seine-control --lib scale -- --ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Instant;

use super::testbed::{NODE, labels, network_policy, pod, pods, port, rule};
use super::{Compiled, Objects, difference, identify, tables};
use crate::model::{
    Cluster, Endpoint, EndpointPort, EndpointSlice, Namespace, ObjectName, Peer, PolicyRule, Port,
    Protocol, RuleAction, Service, ServicePort,
};

const NAMESPACES: u32 = 100;
const PODS: u32 = 10_000;
const LOCAL_PODS: u32 = 1_000;
const POLICIES: u32 = 40_000;
const SERVICES: u32 = 10_000;

fn namespace(index: u32) -> String {
    format!("ns-{}", index % NAMESPACES)
}

/// 10,000 Pods, every tenth of them here; 40 policies for each Pod of this node, each with a peer
/// of its own.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for index in 0..NAMESPACES {
        let name = namespace(index);
        let labels = labels(&format!("team={}", index % 10));
        let namespace = Namespace { name: name.clone(), labels, log_policies: false };
        cluster.namespaces.insert(name, namespace);
    }
    for index in 0..PODS {
        let [_, _, third, fourth] = index.to_be_bytes();
        let name = format!("{}/pod-{index}", namespace(index));
        let mut pod = pod(&name, &format!("10.1.{third}.{fourth}"));
        pod.labels = labels(&format!("app=app-{index},tier={}", index % 7));
        if index >= LOCAL_PODS {
            pod.node = Some("n2".to_owned());
        }
        cluster.pods.insert(pod.name.clone(), pod);
    }
    for index in 0..POLICIES {
        let subject = index % LOCAL_PODS;
        let peer = pods(&namespace(index / 7), &format!("app=app-{}", (index * 31) % PODS));
        let allow = PolicyRule {
            peers: Some(vec![Peer::Pods(peer)]),
            traffic: port(Port::Range(80, 80)),
            ..rule(RuleAction::Allow)
        };
        let selected = format!("app=app-{subject}");
        let mut policy = network_policy(&namespace(subject), &selected, vec![allow]);
        policy.name.name = format!("policy-{index}");
        cluster.policies.insert(policy.name.clone(), policy);
    }
    for index in 0..SERVICES {
        add_service(&mut cluster, index);
    }
    cluster
}

fn add_service(cluster: &mut Cluster, index: u32) {
    let [_, _, third, fourth] = index.to_be_bytes();
    let name = ObjectName { namespace: namespace(index), name: format!("service-{index}") };
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        target: Port::Range(8080, 8080),
    };
    let service = Service {
        name: name.clone(),
        selector: labels(&format!("app=app-{index}")),
        cluster_addresses: vec![format!("10.96.{third}.{fourth}").parse().unwrap()],
        external_addresses: Vec::new(),
        load_balancer_addresses: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port],
        affinity_seconds: None,
        internal_local: false,
        external_local: false,
    };
    let offered = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    let endpoints = (0..3).map(|place| {
        let [_, _, third, fourth] = ((index * 3 + place) % PODS).to_be_bytes();
        Endpoint {
            addresses: vec![format!("10.1.{third}.{fourth}").parse().unwrap()],
            node: None,
            ready: true,
            serving: true,
            terminating: false,
        }
    });
    let slice = EndpointSlice {
        name: name.clone(),
        service: name.name.clone(),
        ports: vec![offered],
        endpoints: endpoints.collect(),
    };
    cluster.services.insert(name.clone(), service);
    cluster.endpoint_slices.insert(name, slice);
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:?}", start.elapsed());
    result
}

fn objects(compiled: Compiled) -> Objects {
    compiled.objects.into_iter().map(|object| (identify(&object), object)).collect()
}

#[test]
#[ignore = "measures; of use only in release"]
fn forty_thousand_policies_and_ten_thousand_services() {
    let mut cluster = cluster();
    let first = timed("compile", || tables(&cluster, NODE));
    println!("{} objects", first.objects.len());
    assert_eq!(first.refused, [""; 0]);
    let first = timed("index", || objects(first));
    let moved = cluster.pods.values_mut().next().unwrap();
    moved.addresses = vec!["10.2.0.1".parse().unwrap()];
    let second = objects(timed("compile again", || tables(&cluster, NODE)));
    let changes = timed("difference", || difference(&first, &second));
    // A group of one address is sent whole.
    assert!((1..10).contains(&changes.len()), "{changes:?}");
    let rules = first.keys().filter(|key| key.1.starts_with("knp/")).count();
    let services = first.keys().filter(|key| key.1.contains("/service-")).count();
    assert_eq!((rules, services), (POLICIES as usize, SERVICES as usize));
}
