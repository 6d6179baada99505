//! Small clusters, and a naive reading of compiled rules: what they say of a new connection.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use seine_datapath_api::v1;

use super::Compiled;
use crate::model::{
    Cluster, ContainerPort, LabelSelector, Namespace, NamespaceScope, Operator, Pod, PodName,
    PodSelector, Policy, PolicyKind, PolicyName, PolicyRule, Port, Protocol, Requirement,
    RuleAction, Subject, TierOf, Traffic,
};

pub(super) const NODE: &str = "n1";

/// Labels, written `a=b,c=d`.
pub(super) fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A selector of the same form; an empty one selects all.
pub(super) fn selector(text: &str) -> LabelSelector {
    let requirements = labels(text)
        .into_iter()
        .map(|(key, value)| Requirement { key, operator: Operator::In(vec![value]) });
    LabelSelector { requirements: requirements.collect() }
}

/// Pods of one namespace, or, where that is written `*` or `key=value`, of those that match.
pub(super) fn pods(namespaces: &str, labels: &str) -> PodSelector {
    let namespaces = match namespaces {
        "*" => NamespaceScope::Matching(LabelSelector::default()),
        "self" => NamespaceScope::OfSubject,
        _ if namespaces.contains('=') => NamespaceScope::Matching(selector(namespaces)),
        name => NamespaceScope::Named(name.to_owned()),
    };
    PodSelector { namespaces, pods: selector(labels) }
}

pub(super) fn pod_name(name: &str) -> PodName {
    let (namespace, name) = name.split_once('/').unwrap();
    PodName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Namespaces x, y, z, labelled `ns=` their name; in each the Pods a, b, c, labelled `pod=` theirs,
/// with the addresses 10.0.N.M. They all serve "http" at 80 over TCP, c at 8080.
pub(super) fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (third, namespace) in (1..).zip(["x", "y", "z"]) {
        cluster.namespaces.insert(
            namespace.to_owned(),
            Namespace {
                name: namespace.to_owned(),
                labels: labels(&format!("ns={namespace}")),
                log_policies: false,
            },
        );
        for (fourth, name) in (1..).zip(["a", "b", "c"]) {
            let address = format!("10.0.{third}.{fourth}");
            let mut pod = pod(&format!("{namespace}/{name}"), &address);
            pod.labels = labels(&format!("pod={name}"));
            pod.ports[0].port = if name == "c" { 8080 } else { 80 };
            cluster.pods.insert(pod.name.clone(), pod);
        }
    }
    cluster
}

pub(super) fn pod(name: &str, address: &str) -> Pod {
    Pod {
        name: pod_name(name),
        labels: BTreeMap::new(),
        node: Some(NODE.to_owned()),
        host_network: false,
        addresses: vec![address.parse().unwrap()],
        service_account: "default".to_owned(),
        ports: vec![ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
        port_annotations: BTreeMap::new(),
    }
}

pub(super) fn rule(action: RuleAction) -> PolicyRule {
    PolicyRule {
        name: String::new(),
        action,
        applied_to: Vec::new(),
        peers: None,
        traffic: None,
        log: false,
        log_label: String::new(),
    }
}

pub(super) fn port(port: Port) -> Option<Vec<Traffic>> {
    Some(vec![Traffic { port: Some(port), ..Traffic::of(Protocol::Tcp) }])
}

/// A policy of Kubernetes, which isolates its Pods for what they receive.
pub(super) fn network_policy(namespace: &str, labels: &str, ingress: Vec<PolicyRule>) -> Policy {
    Policy {
        name: PolicyName {
            kind: PolicyKind::K8sNetworkPolicy,
            namespace: namespace.to_owned(),
            name: "np".to_owned(),
        },
        tier: TierOf::NetworkPolicy,
        priority: 1.0,
        applied_to: vec![Subject::Pods(pods(namespace, labels))],
        isolates_ingress: true,
        isolates_egress: false,
        ingress,
        egress: Vec::new(),
    }
}

/// An Antrea policy of the whole cluster for what its Pods receive.
pub(super) fn acnp(name: &str, tier: &str, subject: PodSelector, rules: Vec<PolicyRule>) -> Policy {
    Policy {
        name: PolicyName {
            kind: PolicyKind::AntreaClusterNetworkPolicy,
            namespace: String::new(),
            name: name.to_owned(),
        },
        tier: TierOf::Named(tier.to_owned()),
        priority: 1.0,
        applied_to: vec![Subject::Pods(subject)],
        isolates_ingress: false,
        isolates_egress: false,
        ingress: rules,
        egress: Vec::new(),
    }
}

pub(super) fn with(mut cluster: Cluster, policies: Vec<Policy>) -> Cluster {
    cluster.policies.extend(policies.into_iter().map(|policy| (policy.name.clone(), policy)));
    cluster
}

/// The compiled objects as a naive datapath keeps them.
pub(super) struct Tables {
    pub(super) groups: HashMap<String, v1::Group>,
    pub(super) rules: Vec<v1::Rule>,
    pub(super) services: Vec<v1::Service>,
}

impl Tables {
    pub(super) fn of(compiled: &Compiled) -> Self {
        let (mut groups, mut rules, mut services) = (HashMap::new(), Vec::new(), Vec::new());
        for object in compiled.objects.clone() {
            match object.kind.unwrap() {
                v1::object::Kind::Group(group) => {
                    assert!(groups.insert(group.name.clone(), group).is_none());
                }
                v1::object::Kind::Rule(rule) => rules.push(rule),
                v1::object::Kind::Service(service) => services.push(service),
                other => panic!("{other:?}"),
            }
        }
        rules.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        Self { groups, rules, services }
    }

    fn has(&self, group: &str, address: IpAddr) -> bool {
        let group = self.groups.get(group).unwrap_or_else(|| panic!("no group {group}"));
        group.members.iter().any(|member| match member.parse::<IpNet>() {
            Ok(range) => range.contains(&address),
            Err(_) => member.parse::<IpAddr>().unwrap() == address,
        })
    }

    fn matches(
        &self,
        rule: &v1::Rule,
        subject: IpAddr,
        peer: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let within = |range: &v1::PortRange| (range.first..=range.last).contains(&port.into());
        let traffic = rule.traffic.is_empty()
            || rule.traffic.iter().any(|traffic| {
                traffic.protocol == u32::from(protocol.number())
                    && traffic.ports.as_ref().is_none_or(within)
            });
        let is_anybody = rule.peer_groups.is_empty() && rule.peer_services.is_empty();
        traffic
            && rule.applied_to_groups.iter().any(|group| self.has(group, subject))
            && (is_anybody || rule.peer_groups.iter().any(|group| self.has(group, peer)))
    }

    fn direction(
        &self,
        direction: v1::rule::Direction,
        (subject, peer): (IpAddr, IpAddr),
        (protocol, port): (Protocol, u16),
    ) -> v1::rule::Action {
        use v1::rule::{Action, Table};
        for table in [Table::AntreaPolicy, Table::NetworkPolicy, Table::Default] {
            let found = self.rules.iter().find(|rule| {
                rule.table() == table
                    && rule.direction() == direction
                    && self.matches(rule, subject, peer, protocol, port)
            });
            match found.map(v1::Rule::action) {
                None | Some(Action::Pass) => {}
                Some(action) => return action,
            }
        }
        Action::Allow
    }

    /// What becomes of a new connection: `Allow` or what the first direction says that does not.
    pub(super) fn connect(
        &self,
        from: &str,
        to: &str,
        protocol: Protocol,
        port: u16,
    ) -> v1::rule::Action {
        use v1::rule::{Action, Direction};
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        match self.direction(Direction::Egress, (from, to), (protocol, port)) {
            Action::Allow => self.direction(Direction::Ingress, (to, from), (protocol, port)),
            denied => denied,
        }
    }

    /// Whether a TCP connection is made.
    pub(super) fn allows(&self, from: &str, to: &str, port: u16) -> bool {
        self.connect(from, to, Protocol::Tcp, port) == v1::rule::Action::Allow
    }
}
