//! A cluster as the agent knows it, of the size that Seine is made for.
//!
//! Ten thousand Pods, a thousand of them on this node; 40 policies for each of those, each with a
//! peer of its own; Services of three endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use seine_control::model::{
    Cluster, Endpoint, EndpointPort, EndpointSlice, LabelSelector, Namespace, NamespaceScope,
    ObjectName, Operator, Peer, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName,
    PolicyRule, Port, Protocol, Requirement, RuleAction, Service, ServicePort, Subject, TierOf,
    Traffic,
};

use super::scenario::{LOCAL, PODS, REMOTE, SERVICES};

/// The node that is compiled for.
pub const NODE: &str = "node1";
const NAMESPACES: usize = 100;
/// For each Pod of this node so many in the cluster.
const PODS_FOR_ONE: usize = 10;

/// A cluster with so many policies and Services.
pub fn cluster(policies: usize, services: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for index in 0..NAMESPACES {
        let namespace = Namespace {
            name: namespace(index),
            labels: labels("team", index % 10),
            log_policies: false,
        };
        cluster.namespaces.insert(namespace.name.clone(), namespace);
    }
    for index in 0..PODS * PODS_FOR_ONE {
        let pod = pod(index);
        cluster.pods.insert(pod.name.clone(), pod);
    }
    for index in 0..policies {
        let policy = policy(index);
        cluster.policies.insert(policy.name.clone(), policy);
    }
    for index in 0..services {
        let (service, slice) = service(index);
        cluster.services.insert(service.name.clone(), service);
        cluster.endpoint_slices.insert(slice.name.clone(), slice);
    }
    cluster
}

fn namespace(index: usize) -> String {
    format!("ns-{}", index % NAMESPACES)
}

fn labels(key: &str, value: usize) -> BTreeMap<String, String> {
    [(key.to_owned(), format!("{key}-{value}"))].into()
}

fn address(pod: usize) -> IpAddr {
    let first = if pod < PODS { LOCAL } else { REMOTE };
    IpAddr::V4(Ipv4Addr::from_bits(first + pod as u32))
}

fn pod(index: usize) -> Pod {
    Pod {
        name: PodName { namespace: namespace(index), name: format!("pod-{index}") },
        labels: labels("app", index),
        node: Some(if index < PODS { NODE } else { "node2" }.to_owned()),
        host_network: false,
        addresses: vec![address(index)],
        service_account: "default".to_owned(),
        ports: Vec::new(),
        port_annotations: BTreeMap::new(),
    }
}

fn selected(pod: usize) -> PodSelector {
    let requirements = labels("app", pod)
        .into_iter()
        .map(|(key, value)| Requirement { key, operator: Operator::In(vec![value]) });
    PodSelector {
        namespaces: NamespaceScope::Named(namespace(pod)),
        pods: LabelSelector { requirements: requirements.collect() },
    }
}

fn policy(index: usize) -> Policy {
    let traffic = Traffic { port: Some(Port::Range(80, 80)), ..Traffic::of(Protocol::Tcp) };
    let peer = index * 31 % (PODS * PODS_FOR_ONE);
    let allow = PolicyRule {
        name: String::new(),
        action: RuleAction::Allow,
        applied_to: Vec::new(),
        peers: Some(vec![Peer::Pods(selected(peer))]),
        traffic: Some(vec![traffic]),
        log: false,
        log_label: String::new(),
    };
    Policy {
        name: PolicyName {
            kind: PolicyKind::K8sNetworkPolicy,
            namespace: namespace(index % PODS),
            name: format!("policy-{index}"),
        },
        tier: TierOf::NetworkPolicy,
        priority: 1.0,
        applied_to: vec![Subject::Pods(selected(index % PODS))],
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![allow],
        egress: Vec::new(),
    }
}

fn service(index: usize) -> (Service, EndpointSlice) {
    let name = ObjectName { namespace: namespace(index), name: format!("service-{index}") };
    let protocol = Protocol::Tcp;
    let port = ServicePort {
        name: "http".into(),
        protocol,
        port: 80,
        node_port: None,
        target: Port::Range(8080, 8080),
    };
    let cluster_address = IpAddr::V4(Ipv4Addr::from_bits(SERVICES + index as u32));
    let service = Service {
        name: name.clone(),
        selector: labels("app", index),
        cluster_addresses: vec![cluster_address],
        external_addresses: Vec::new(),
        load_balancer_addresses: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port],
        affinity_seconds: None,
        internal_local: false,
        external_local: false,
    };
    let endpoints = (0..3).map(|place| Endpoint {
        addresses: vec![address((index * 3 + place) % (PODS * PODS_FOR_ONE))],
        node: None,
        ready: true,
        serving: true,
        terminating: false,
    });
    let ports = vec![EndpointPort { name: "http".into(), protocol, port: 8080 }];
    let endpoints = endpoints.collect();
    (service, EndpointSlice { service: name.name.clone(), name, ports, endpoints })
}
