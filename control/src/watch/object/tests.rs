//! Objects as people write them, and what is made of them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::{Value, json};

use super::{Wrong, parse};
use crate::model::{
    NamespaceScope, Object, Peer, PodSelector, Policy, PolicyKind, Port, Protocol, RuleAction,
    Subject, TierOf, Traffic,
};

fn one(value: Value) -> Object {
    let mut parsed = parse(value).unwrap();
    assert_eq!((parsed.objects.len(), parsed.ignored.len()), (1, 0));
    parsed.objects.remove(0)
}

fn policy(version: &str, kind: &str, spec: Value) -> Result<Policy, Wrong> {
    let metadata = json!({"name": "default", "namespace": "x"});
    let value = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
    parse(value).map(|parsed| match parsed.objects.into_iter().next() {
        Some(Object::Policy(policy)) => policy,
        other => panic!("{other:?}"),
    })
}

fn network_policy(spec: Value) -> Policy {
    policy("networking.k8s.io/v1", "NetworkPolicy", spec).unwrap()
}

fn cluster_network_policy(spec: Value) -> Result<Policy, Wrong> {
    policy("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", spec)
}

#[test]
fn a_network_policy_without_types_isolates_ingress_and_egress_only_by_its_rules() {
    let isolates = |spec: Value| {
        let policy = network_policy(spec);
        (policy.isolates_ingress, policy.isolates_egress)
    };
    assert_eq!(isolates(json!({"podSelector": {}})), (true, false));
    assert_eq!(isolates(json!({"podSelector": {}, "egress": []})), (true, false));
    assert_eq!(isolates(json!({"podSelector": {}, "egress": [{}]})), (true, true));
    assert_eq!(isolates(json!({"policyTypes": ["Egress"]})), (false, true));
    let unlisted = network_policy(json!({"policyTypes": ["Ingress"], "egress": [{}]}));
    assert!(!unlisted.isolates_egress && unlisted.egress.is_empty());
}

#[test]
fn empty_and_absent_peers_and_ports_of_a_network_policy_both_mean_all() {
    for rule in [json!({}), json!({"from": [], "ports": []}), json!({"from": null})] {
        let policy = network_policy(json!({"podSelector": null, "ingress": [rule]}));
        assert_eq!((&policy.ingress[0].peers, &policy.ingress[0].traffic), (&None, &None));
    }
    let policy = network_policy(json!({"ingress": [{"ports": [{}]}]}));
    assert_eq!(policy.ingress[0].traffic, Some(vec![Traffic::of(Protocol::Tcp)]));
}

#[test]
fn a_peer_without_namespaces_is_of_the_policys_own() {
    let policy = network_policy(json!({"ingress": [{"from": [
        {"podSelector": {}}, {"namespaceSelector": {}}]}]}));
    let scopes: Vec<_> = policy.ingress[0]
        .peers
        .iter()
        .flatten()
        .map(|peer| match peer {
            Peer::Pods(PodSelector { namespaces, .. }) => namespaces.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let all = NamespaceScope::Matching(Default::default());
    assert_eq!(scopes, [NamespaceScope::Named("x".into()), all]);
}

#[test]
fn antreas_policies_stand_in_the_application_tier_unless_they_say_otherwise() {
    let tier = |tier: Value| {
        cluster_network_policy(json!({"priority": 5, "tier": tier, "appliedTo": [{}]}))
            .unwrap()
            .tier
    };
    assert_eq!(tier(json!("")), TierOf::Named("application".into()));
    assert_eq!(tier(json!("SecurityOps")), TierOf::Named("securityops".into()));
    assert_eq!(tier(json!("Gold")), TierOf::Named("Gold".into()));
}

#[test]
fn upstreams_policies_have_fixed_places_and_deny_silently() {
    let place = |version: &str, kind: &str, spec: Value| {
        let policy = policy(&format!("policy.networking.k8s.io/{version}"), kind, spec).unwrap();
        (policy.name.kind, policy.tier, policy.ingress[0].action)
    };
    let spec = |action: &str, more: Value| {
        let mut spec = json!({"subject": {"namespaces": {}},
            "ingress": [{"action": action, "from": [{"namespaces": {}}]}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    assert_eq!(
        place("v1alpha1", "AdminNetworkPolicy", spec("Deny", json!({"priority": 0}))),
        (PolicyKind::AdminNetworkPolicy, TierOf::Fixed(251), RuleAction::Drop)
    );
    assert_eq!(
        place("v1alpha1", "BaselineAdminNetworkPolicy", spec("Allow", json!({}))),
        (PolicyKind::BaselineAdminNetworkPolicy, TierOf::Fixed(254), RuleAction::Allow)
    );
    let admin = json!({"priority": 3, "tier": "Admin"});
    assert_eq!(
        place("v1alpha2", "ClusterNetworkPolicy", spec("Accept", admin)),
        (PolicyKind::ClusterNetworkPolicy, TierOf::Fixed(220), RuleAction::Allow)
    );
    let baseline = json!({"priority": 3, "tier": "Baseline"});
    assert_eq!(
        place("v1alpha2", "ClusterNetworkPolicy", spec("Pass", baseline)),
        (PolicyKind::ClusterNetworkPolicy, TierOf::Fixed(254), RuleAction::Pass)
    );
}

#[test]
fn an_entry_that_says_nothing_applies_to_the_policys_whole_reach() {
    let spec = json!({"priority": 1, "appliedTo": [{}]});
    let cluster = cluster_network_policy(spec.clone()).unwrap();
    let own = policy("crd.antrea.io/v1beta1", "NetworkPolicy", spec).unwrap();
    let scope = |policy: &Policy| match &policy.applied_to[0] {
        Subject::Pods(pods) => pods.namespaces.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(scope(&cluster), NamespaceScope::Matching(Default::default()));
    assert_eq!(scope(&own), NamespaceScope::Named("x".into()));
}

#[test]
fn a_policy_with_an_unknown_field_is_refused_and_a_pod_with_one_is_not() {
    let wrong = cluster_network_policy(json!({"priority": 1, "ingress": [{"action": "Allow",
        "form": [{"podSelector": {}}]}]}));
    assert_eq!(wrong.unwrap_err().field, "spec.ingress[0].form");
    let wrong = policy("networking.k8s.io/v1", "NetworkPolicy", json!({"podselector": {}}));
    assert_eq!(wrong.unwrap_err().field, "spec.podselector");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [], "novelty": 7}});
    assert!(matches!(one(pod), Object::Pod(_)));
}

#[test]
fn ports_of_every_api_become_intervals_or_names() {
    let spec = json!({"ingress": [{"ports": [
        {"port": 80}, {"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": "web"}]}]});
    let of = |protocol, port| Traffic { port: Some(port), ..Traffic::of(protocol) };
    assert_eq!(
        network_policy(spec).ingress[0].traffic.as_deref().unwrap(),
        [
            of(Protocol::Tcp, Port::Range(80, 80)),
            of(Protocol::Udp, Port::Range(80, 90)),
            of(Protocol::Tcp, Port::Named("web".into())),
        ]
    );
    let named = json!({"priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": "Allow",
        "to": [{"namespaces": {}}], "ports": [{"namedPort": "dns"}]}]});
    let named = policy("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", named).unwrap();
    let any = Traffic { port: Some(Port::Named("dns".into())), ..Traffic::default() };
    assert_eq!(named.egress[0].traffic.as_deref().unwrap(), [any]);
}

mod antreas;
mod mistakes;
mod nodes_and_pods;
mod services;
