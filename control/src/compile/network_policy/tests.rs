#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::compile::testbed::{
    NODE, Tables, acnp, cluster, labels, network_policy, pod_name, pods, port, rule, selector, with,
};
use crate::model::{
    Group, GroupName, IpBlock, Node, PolicyKind, Port, Protocol, RuleAction, TierOf,
};

fn tables(cluster: &Cluster) -> Tables {
    let compiled = policies(cluster, NODE);
    assert!(compiled.refused.is_empty(), "{:?}", compiled.refused);
    Tables::of(&compiled)
}

fn from(peers: Vec<Peer>, action: RuleAction) -> PolicyRule {
    PolicyRule { peers: Some(peers), ..rule(action) }
}

fn block(cidr: &str, except: &[&str]) -> IpBlock {
    let except = except.iter().map(|hole| hole.parse().unwrap()).collect();
    IpBlock { cidr: cidr.parse().unwrap(), except }
}

const XA: &str = "10.0.1.1";
const XB: &str = "10.0.1.2";
const XC: &str = "10.0.1.3";
const YA: &str = "10.0.2.1";
const YB: &str = "10.0.2.2";
const ZC: &str = "10.0.3.3";

#[test]
fn an_isolated_pod_receives_only_what_some_policy_allows() {
    let allow = from(vec![Peer::Pods(pods("x", "pod=b"))], RuleAction::Allow);
    let tables = tables(&with(cluster(), vec![network_policy("x", "pod=a", vec![allow])]));
    assert!(tables.allows(XB, XA, 80));
    assert!(!tables.allows(XC, XA, 80) && !tables.allows(YB, XA, 80));
    assert!(tables.allows(XA, XC, 80), "others are not isolated");
    let rules: Vec<&str> = tables.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(rules, ["isolate/x/ingress/pods x/{pod=a}", "knp/x/np/ingress/0"]);
    assert_eq!(tables.rules[0].policy, "K8sNetworkPolicy");
    assert_eq!(tables.rules[1].policy, "K8sNetworkPolicy:x/np");
    assert_eq!(tables.rules[1].priority, "190");
}

#[test]
fn an_empty_list_of_peers_or_traffic_is_nobody_and_nothing() {
    let nobody = from(Vec::new(), RuleAction::Allow);
    let nothing = PolicyRule { traffic: Some(Vec::new()), ..rule(RuleAction::Allow) };
    let tables = tables(&with(cluster(), vec![network_policy("x", "", vec![nobody, nothing])]));
    assert!(!tables.allows(XB, XA, 80));
    assert_eq!(tables.rules.len(), 1);
}

#[test]
fn addresses_in_a_hole_of_a_block_fall_through_to_later_rules() {
    let drop = from(vec![Peer::IpBlock(block("10.0.1.0/24", &["10.0.1.2/32"]))], RuleAction::Drop);
    let tables =
        tables(&with(cluster(), vec![acnp("a", "application", pods("x", "pod=a"), vec![drop])]));
    assert!(tables.allows(XB, XA, 80) && !tables.allows(XC, XA, 80));
}

#[test]
fn a_named_port_is_what_each_receiver_calls_so() {
    let allow = PolicyRule { traffic: port(Port::Named("http".into())), ..rule(RuleAction::Allow) };
    let cluster = with(cluster(), vec![network_policy("x", "", vec![allow])]);
    let tables = tables(&cluster);
    assert!(tables.allows(YA, XA, 80) && tables.allows(YA, XC, 8080));
    assert!(!tables.allows(YA, XA, 8080) && !tables.allows(YA, XC, 80));
    assert!(tables.rules.iter().any(|rule| rule.name == "knp/x/np/ingress/0:http=8080/TCP"));
}

#[test]
fn a_named_port_of_an_egress_rule_is_what_each_peer_calls_so() {
    for peers in [
        None,
        Some(vec![Peer::Pods(pods("*", ""))]),
        Some(vec![Peer::IpBlock(block("10.0.0.0/16", &[]))]),
    ] {
        let mut policy = network_policy("x", "", Vec::new());
        (policy.isolates_ingress, policy.isolates_egress) = (false, true);
        let traffic = port(Port::Named("http".into()));
        policy.egress = vec![PolicyRule { peers, traffic, ..rule(RuleAction::Allow) }];
        let tables = tables(&with(cluster(), vec![policy]));
        assert!(tables.allows(XA, YA, 80) && tables.allows(XA, ZC, 8080));
        assert!(!tables.allows(XA, YA, 8080) && !tables.allows(XA, ZC, 80));
    }
}

#[test]
fn the_own_namespace_is_that_of_each_subject() {
    let own = from(vec![Peer::Pods(pods("self", ""))], RuleAction::Allow);
    let others = rule(RuleAction::Drop);
    let policy = acnp("isolate", "baseline", pods("*", ""), vec![own, others]);
    let tables = tables(&with(cluster(), vec![policy]));
    assert!(tables.allows(XA, XB, 80) && tables.allows(YA, YB, 80));
    assert!(!tables.allows(XA, YA, 80) && !tables.allows(YA, XA, 80));
}

#[test]
fn among_several_subjects_each_stays_in_the_namespaces_that_it_selects() {
    let own = from(vec![Peer::Pods(pods("self", ""))], RuleAction::Drop);
    let mut policy = acnp("own", "platform", pods("ns=x", ""), vec![own]);
    policy.applied_to.push(Subject::Pods(pods("*", "pod=a")));
    let tables = tables(&with(cluster(), vec![policy]));
    assert!(!tables.allows(XA, XB, 80) && !tables.allows(YB, YA, 80));
    assert!(tables.allows(YA, YB, 80), "y/b is no subject: only x/*, and a in every namespace");
}

#[test]
fn namespaces_with_the_same_labels_are_those_of_each_subject_and_none_without_them() {
    let mut cluster = cluster();
    for namespace in ["x", "y"] {
        cluster.namespaces.get_mut(namespace).unwrap().labels = labels("org=one");
    }
    let mut same = pods("self", "");
    same.namespaces = NamespaceScope::SameLabels(vec!["org".to_owned()]);
    let rules = vec![from(vec![Peer::Pods(same)], RuleAction::Pass), rule(RuleAction::Drop)];
    let tables = tables(&with(cluster, vec![acnp("org", "platform", pods("*", ""), rules)]));
    assert!(tables.allows(XA, YA, 80) && tables.allows(YA, XB, 80));
    assert!(!tables.allows(XA, ZC, 80) && !tables.allows("10.0.3.1", ZC, 80));
}

#[test]
fn equal_selectors_share_one_group_however_they_are_written() {
    let peer = |labels: &str| from(vec![Peer::Pods(pods("*", labels))], RuleAction::Drop);
    let mut backwards = peer("a=1,b=2");
    if let Some([Peer::Pods(peer)]) = backwards.peers.as_deref_mut() {
        peer.pods.requirements.reverse();
    }
    let first = acnp("first", "application", pods("x", ""), vec![peer("a=1,b=2")]);
    let second = acnp("second", "application", pods("x", ""), vec![backwards]);
    let tables = tables(&with(cluster(), vec![first, second]));
    let mut names: Vec<&str> = tables.groups.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["pods x/{}", "pods {}/{a=1,b=2}"]);
}

#[test]
fn a_node_gets_only_rules_that_apply_to_its_pods_and_groups_that_those_name() {
    let mut cluster = cluster();
    for pod in cluster.pods.values_mut().filter(|pod| pod.name.namespace == "y") {
        pod.node = Some("n2".to_owned());
    }
    let drop = |name| from(vec![Peer::Pods(pods("*", name))], RuleAction::Drop);
    let here = acnp("here", "application", pods("x", ""), vec![drop("pod=a")]);
    let there = acnp("there", "application", pods("y", ""), vec![drop("pod=b")]);
    let cluster = with(cluster, vec![here, there, network_policy("y", "", Vec::new())]);
    let tables = tables(&cluster);
    let rules: Vec<&str> = tables.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(rules, ["acnp/here/ingress/0"]);
    assert_eq!(tables.groups.len(), 2);
}

#[test]
fn a_scheduled_pod_has_its_rules_before_it_has_an_address() {
    let mut cluster = with(cluster(), vec![network_policy("x", "pod=a", Vec::new())]);
    cluster.pods.get_mut(&pod_name("x/a")).unwrap().addresses.clear();
    let compiled = policies(&cluster, NODE);
    let memberships = &compiled.memberships[&pod_name("x/a")];
    assert_eq!(memberships.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["pods x/{pod=a}"]);
    let tables = Tables::of(&compiled);
    assert_eq!(tables.groups["pods x/{pod=a}"].members, [""; 0]);
    assert_eq!(tables.rules.len(), 1);
}

#[test]
fn pods_on_the_network_of_their_node_are_neither_subjects_nor_peers_but_their_nodes_are() {
    let mut cluster = cluster();
    cluster.pods.get_mut(&pod_name("x/b")).unwrap().host_network = true;
    cluster.nodes.insert(
        "n2".to_owned(),
        Node {
            name: "n2".to_owned(),
            pod_cidrs: vec!["10.0.7.0/24".parse().unwrap()],
            labels: labels("zone=b"),
            internal_addresses: vec!["192.0.2.7".parse().unwrap()],
            external_addresses: vec!["198.51.100.7".parse().unwrap()],
        },
    );
    let pod = from(vec![Peer::Pods(pods("*", "pod=b"))], RuleAction::Drop);
    let node = from(vec![Peer::Nodes(selector("zone=b"))], RuleAction::Reject);
    let policy = acnp("a", "application", pods("x", ""), vec![pod, node]);
    let tables = tables(&with(cluster, vec![policy]));
    assert!(tables.allows(XB, XA, 80) && !tables.allows(YB, XA, 80) && tables.allows(YA, XB, 80));
    let rejected = v1::rule::Action::Reject;
    for address in ["192.0.2.7", "198.51.100.7", "10.0.7.1"] {
        assert_eq!(tables.connect(address, XA, Protocol::Udp, 53), rejected);
    }
}

#[test]
fn of_rules_alike_in_rank_the_one_that_does_not_let_pass_decides() {
    let allow = acnp("a", "platform", pods("x", ""), vec![rule(RuleAction::Allow)]);
    let drop = acnp("b", "platform", pods("x", ""), vec![rule(RuleAction::Drop)]);
    let tables = tables(&with(cluster(), vec![allow, drop]));
    assert!(!tables.allows(YA, XA, 80));
}

#[test]
fn blocks_of_a_group_are_peers_but_nobody_a_policy_applies_to() {
    let mut cluster = cluster();
    let name = |name: &str| GroupName { namespace: String::new(), name: name.to_owned() };
    let group = |own: &str, pods, blocks, children: Vec<GroupName>| {
        let group = Group {
            name: name(own),
            pods,
            nodes: None,
            ip_blocks: blocks,
            service: None,
            child_groups: children,
        };
        (group.name.clone(), group)
    };
    cluster.groups.extend([
        group("blocks", None, vec![block("10.0.2.0/24", &[])], Vec::new()),
        group("pods", Some(pods("x", "pod=b")), Vec::new(), Vec::new()),
        group("both", None, Vec::new(), vec![name("blocks"), name("pods"), name("missing")]),
    ]);
    let drop = from(vec![Peer::Group(name("both"))], RuleAction::Drop);
    let peers =
        tables(&with(cluster.clone(), vec![acnp("a", "application", pods("*", ""), vec![drop])]));
    assert!(!peers.allows(YA, XA, 80) && !peers.allows(XB, XA, 80) && peers.allows(XC, XA, 80));
    let mut policy = acnp("a", "application", pods("*", ""), vec![rule(RuleAction::Drop)]);
    policy.applied_to = vec![Subject::Group(name("both"))];
    let subjects = tables(&with(cluster, vec![policy]));
    assert!(subjects.allows(XA, YA, 80) && !subjects.allows(XA, XB, 80));
}

#[test]
fn a_service_account_and_the_subjects_of_a_single_rule_are_taken_at_their_word() {
    let mut cluster = cluster();
    cluster.pods.get_mut(&pod_name("x/b")).unwrap().service_account = "runner".to_owned();
    let runner = || Subject::ServiceAccount { namespace: "x".into(), name: "runner".into() };
    let drop = PolicyRule { applied_to: vec![runner()], ..rule(RuleAction::Drop) };
    let mut policy = acnp("a", "application", pods("*", ""), vec![drop]);
    policy.applied_to.clear();
    let tables = tables(&with(cluster, vec![policy]));
    assert!(!tables.allows(YA, XB, 80) && tables.allows(YA, XA, 80));
}

#[test]
fn a_policy_that_cannot_be_placed_is_named_and_the_others_stay_in_force() {
    let lost = acnp("lost", "no-such-tier", pods("x", ""), vec![rule(RuleAction::Drop)]);
    let mut passing = acnp("passing", "baseline", pods("x", ""), vec![rule(RuleAction::Pass)]);
    passing.ingress.push(rule(RuleAction::Drop));
    let mut high = acnp("high", "application", pods("x", ""), Vec::new());
    high.priority = f64::NAN;
    let mut fixed = acnp("fixed", "application", pods("x", ""), vec![rule(RuleAction::Drop)]);
    fixed.tier = TierOf::Fixed(255);
    let cluster = with(cluster(), vec![lost, passing, high, fixed]);
    let compiled = policies(&cluster, NODE);
    assert_eq!(
        compiled.refused,
        [
            "AntreaClusterNetworkPolicy:fixed: tier: its priority 255 is above 254",
            "AntreaClusterNetworkPolicy:high: priority: NaN is not within 0 and 10000",
            "AntreaClusterNetworkPolicy:lost: tier: there is no Tier `no-such-tier`",
            "AntreaClusterNetworkPolicy:passing: rule 0: action: nothing comes after the baseline \
             tier to pass to",
        ]
    );
    assert!(!Tables::of(&compiled).allows(YA, XA, 80));
}

#[test]
fn rules_of_kubernetes_log_where_their_namespace_wants_it() {
    let allow = || vec![rule(RuleAction::Allow)];
    let policies = vec![
        network_policy("x", "", allow()),
        acnp("a", "application", pods("x", ""), allow()),
        network_policy("y", "", allow()),
    ];
    let mut cluster = with(cluster(), policies);
    cluster.namespaces.get_mut("x").unwrap().log_policies = true;
    let tables = tables(&cluster);
    let logs = |name: &str| tables.rules.iter().any(|rule| rule.name == name && rule.log);
    assert!(logs("knp/x/np/ingress/0") && logs("isolate/x/ingress/pods x/{}"));
    assert!(!logs("knp/y/np/ingress/0") && !logs("acnp/a/ingress/0"));
}

#[test]
fn what_the_last_tier_passes_passes() {
    let mut pass = acnp("last", "", pods("x", ""), vec![rule(RuleAction::Pass)]);
    pass.name.kind = PolicyKind::ClusterNetworkPolicy;
    pass.tier = TierOf::Fixed(254);
    let mut drop = pass.clone();
    drop.name.name = "later".to_owned();
    (drop.priority, drop.ingress) = (pass.priority + 1.0, vec![rule(RuleAction::Drop)]);
    assert!(tables(&with(cluster(), vec![pass, drop])).allows(YA, XA, 80));
}

#[test]
fn names_of_hosts_are_one_group_in_small_letters() {
    let mut policy = acnp("a", "application", pods("x", ""), Vec::new());
    let names = ["Example.COM", "*.example.com"].map(|name| Peer::Fqdn(name.to_owned()));
    policy.egress = vec![from(names.to_vec(), RuleAction::Drop)];
    let tables = tables(&with(cluster(), vec![policy]));
    let names = &tables.rules[0].peer_groups[0];
    assert_eq!(tables.groups[names].fqdns, ["*.example.com", "example.com"]);
}
