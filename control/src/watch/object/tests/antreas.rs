//! What only Antrea's and upstream's policies, and Antrea's groups, can say.

use super::*;
use crate::model::{Group, GroupName, IpBlock};

/// What the first peer of an egress rule becomes.
fn peer(kind: &str, peer: Value) -> Result<Peer, Wrong> {
    let rule = json!({"action": "Allow", "to": [peer]});
    let spec = json!({"priority": 1, "appliedTo": [{}], "egress": [rule]});
    policy("crd.antrea.io/v1beta1", kind, spec)
        .map(|policy| policy.egress[0].peers.as_ref().unwrap()[0].clone())
}

fn group_name(namespace: &str) -> GroupName {
    GroupName { namespace: namespace.into(), name: "g".into() }
}

#[test]
fn a_name_or_selector_without_a_namespace_is_meant_where_the_policy_is() {
    let group = json!({"group": "g"});
    assert_eq!(peer("ClusterNetworkPolicy", group.clone()).unwrap(), Peer::Group(group_name("")));
    assert_eq!(peer("NetworkPolicy", group).unwrap(), Peer::Group(group_name("x")));
    let scope = |kind: &str, one: Value| match peer(kind, one).unwrap() {
        Peer::Pods(pods) => pods.namespaces,
        other => panic!("{other:?}"),
    };
    let all = NamespaceScope::Matching(Default::default());
    let pods = json!({"podSelector": {}});
    assert_eq!(scope("ClusterNetworkPolicy", pods.clone()), all);
    assert_eq!(scope("NetworkPolicy", pods), NamespaceScope::Named("x".into()));
    assert_eq!(scope("NetworkPolicy", json!({"namespaceSelector": {}})), all);
    let own = json!({"namespaces": {"match": "Self"}, "podSelector": {}});
    assert_eq!(scope("ClusterNetworkPolicy", own), NamespaceScope::OfSubject);
    let same = json!({"namespaces": {"sameLabels": ["org", "team"]}});
    let expected = NamespaceScope::SameLabels(vec!["org".into(), "team".into()]);
    assert_eq!(scope("ClusterNetworkPolicy", same), expected);
}

#[test]
fn every_other_kind_of_peer_is_kept() {
    let peer = |one: Value| peer("ClusterNetworkPolicy", one).unwrap();
    assert_eq!(peer(json!({"nodeSelector": {}})), Peer::Nodes(Default::default()));
    assert_eq!(peer(json!({"fqdn": "*.Example.com."})), Peer::Fqdn("*.example.com".into()));
    assert_eq!(
        peer(json!({"serviceAccount": {"name": "robot", "namespace": "y"}})),
        Peer::ServiceAccount { namespace: "y".into(), name: "robot".into() }
    );
    assert_eq!(
        peer(json!({"ipBlock": {"cidr": "10.0.0.7/8", "except": ["10.1.0.0/16"]}})),
        Peer::IpBlock(IpBlock {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        })
    );
}

#[test]
fn services_ports_messages_and_log_lines_of_a_rule_are_kept() {
    let spec = json!({"priority": 1, "appliedTo": [{}], "egress": [
        {"action": "Drop", "name": "one", "toServices": [{"name": "s", "namespace": "y"}]},
        {"action": "Reject", "enableLogging": true, "logLabel": "two",
            "ports": [{"protocol": "UDP", "port": 53, "sourcePort": 1000, "sourceEndPort": 2000}],
            "protocols": [{"icmp": {"icmpType": 8, "icmpCode": 0}}]},
        {"action": "Pass", "to": [], "ports": []}]});
    let policy = cluster_network_policy(spec).unwrap();
    let service = Peer::Service { namespace: "y".into(), name: "s".into() };
    assert_eq!(policy.egress[0].peers, Some(vec![service]));
    let second = &policy.egress[1];
    assert_eq!((second.action, second.log, &*second.log_label), (RuleAction::Reject, true, "two"));
    let datagrams = Traffic {
        port: Some(Port::Range(53, 53)),
        source_ports: Some((1000, 2000)),
        ..Traffic::of(Protocol::Udp)
    };
    let echo = Traffic { icmp_type: Some(8), icmp_code: Some(0), ..Traffic::of(Protocol::Icmp) };
    assert_eq!(second.traffic, Some(vec![datagrams, echo]));
    assert_eq!((&policy.egress[2].peers, &policy.egress[2].traffic), (&None, &None));
}

#[test]
fn whom_a_policy_applies_to_may_be_a_group_an_account_or_a_service() {
    let whom = |one: Value| {
        let spec = json!({"priority": 1, "appliedTo": [one]});
        cluster_network_policy(spec).unwrap().applied_to.remove(0)
    };
    assert_eq!(whom(json!({"group": "g"})), Subject::Group(group_name("")));
    let named = json!({"name": "n", "namespace": "y"});
    let (namespace, name) = ("y".to_owned(), "n".to_owned());
    assert_eq!(
        whom(json!({"serviceAccount": named})),
        Subject::ServiceAccount { namespace: namespace.clone(), name: name.clone() }
    );
    assert_eq!(whom(json!({"service": named})), Subject::Service { namespace, name });
}

fn group(kind: &str, spec: Value) -> Result<Group, Wrong> {
    let metadata = json!({"name": "g", "namespace": "x"});
    let version = "crd.antrea.io/v1beta1";
    parse(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})).map(
        |parsed| match parsed.objects.into_iter().next() {
            Some(Object::Group(group)) => group,
            other => panic!("{other:?}"),
        },
    )
}

#[test]
fn a_group_reaches_no_farther_than_its_namespace() {
    let own = group("Group", json!({"childGroups": ["h"]})).unwrap();
    assert_eq!(own.name, group_name("x"));
    assert_eq!(own.child_groups[0].namespace, "x");
    let service = |namespace: &str| {
        group("Group", json!({"serviceReference": {"name": "s", "namespace": namespace}}))
    };
    assert_eq!(service("").unwrap().service, Some(("x".into(), "s".into())));
    assert_eq!(service("y").unwrap_err().field, "spec.serviceReference.namespace");
    let of_cluster = group("ClusterGroup", json!({"podSelector": {}})).unwrap();
    assert_eq!(of_cluster.name, group_name(""));
    let all = NamespaceScope::Matching(Default::default());
    assert_eq!(of_cluster.pods.unwrap().namespaces, all);
}

#[test]
fn upstreams_ports_are_said_in_two_ways() {
    let traffic = |version: &str, kind: &str, field: &str, ports: Value| {
        let rule = json!({"action": "Deny", "to": [{"namespaces": {}}], field: ports});
        let mut spec = json!({"priority": 1, "subject": {"namespaces": {}}, "egress": [rule]});
        if version == "v1alpha2" {
            spec["tier"] = json!("Admin");
        }
        let version = format!("policy.networking.k8s.io/{version}");
        policy(&version, kind, spec).unwrap().egress[0].traffic.clone().unwrap()
    };
    let old = traffic(
        "v1alpha1",
        "AdminNetworkPolicy",
        "ports",
        json!([
        {"portNumber": {"port": 80}},
        {"portRange": {"protocol": "UDP", "start": 80, "end": 90}}]),
    );
    let new = traffic(
        "v1alpha2",
        "ClusterNetworkPolicy",
        "protocols",
        json!([
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 80, "end": 90}}}}]),
    );
    let expected =
        [(Protocol::Tcp, 80, 80), (Protocol::Udp, 80, 90)].map(|(protocol, first, last)| Traffic {
            port: Some(Port::Range(first, last)),
            ..Traffic::of(protocol)
        });
    assert_eq!((old.as_slice(), new.as_slice()), (&expected[..], &expected[..]));
    let whole = traffic("v1alpha2", "ClusterNetworkPolicy", "protocols", json!([{"sctp": {}}]));
    assert_eq!(whole, [Traffic::of(Protocol::Sctp)]);
}

#[test]
fn upstreams_networks_nodes_and_names_are_for_egress() {
    let spec = |direction: &str, field: &str, peer: Value| {
        let rule = json!({"action": "Allow", field: [peer]});
        let spec = json!({"priority": 1, "subject": {"namespaces": {}}, direction: [rule]});
        policy("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", spec)
    };
    for one in [
        json!({"nodes": {}}),
        json!({"networks": ["10.0.0.0/8", "fd00::/8"]}),
        json!({"domainNames": ["*.example.com"]}),
    ] {
        assert!(spec("egress", "to", one.clone()).is_ok());
        assert_eq!(spec("ingress", "from", one).unwrap_err().field, "spec.ingress[0].from[0]");
    }
    let both = spec("egress", "to", json!({"networks": ["10.0.0.0/8", "fd00::/8"]})).unwrap();
    assert_eq!(both.egress[0].peers.as_ref().map(Vec::len), Some(2));
}
