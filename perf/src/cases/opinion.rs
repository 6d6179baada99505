//! Cases before the naive evaluator: policy verdicts without a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::expectation::Expected;
use super::file::{Cluster, Pod, Protocol, Step};
use crate::naive::{self, Action, Query};

/// The naive evaluator's cluster of a step.
pub fn opinion(cluster: &Cluster, step: &Step) -> naive::Cluster {
    let pods = cluster.pods.iter().map(|pod| naive::Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        addresses: vec![pod.ip],
        host_network: pod.host_network,
        service_account: pod.service_account.clone(),
        ports: pod
            .ports
            .iter()
            .map(|port| (port.name.clone(), port.protocol.number(), port.port))
            .collect(),
    });
    let nodes = cluster.nodes.iter().map(|node| naive::Node {
        labels: node.labels.clone(),
        addresses: std::iter::once(node.ip).chain(node.gateway_ip).collect(),
    });
    let namespaces = cluster.namespaces.iter();
    let names: BTreeMap<String, Vec<IpAddr>> = step.dns.clone();
    naive::Cluster {
        namespaces: namespaces.map(|space| (space.name.clone(), space.labels.clone())).collect(),
        pods: pods.collect(),
        nodes: nodes.collect(),
        objects: step.objects.clone(),
        names,
    }
}

/// A connection between two Pods.
pub fn query(from: &Pod, to: &Pod, protocol: Protocol, port: u16) -> Query {
    Query {
        source: from.ip,
        destination: to.ip,
        protocol: protocol.number(),
        source_port: 40000,
        port,
        icmp: (8, 0),
        service: None,
    }
}

impl Protocol {
    /// Its number in IP; ICMP's that of IPv4.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Icmp => 1,
            Protocol::Igmp => 2,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl From<Action> for Expected {
    fn from(action: Action) -> Expected {
        match action {
            Action::None | Action::Allow | Action::Pass => Expected::Allow,
            Action::Drop | Action::Isolate => Expected::Drop,
            Action::Reject => Expected::Reject,
        }
    }
}
