//! What Antrea admits and what it does not, each rule by an example.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::{Value, json};

use super::{Review, Verdict, review};

const ANTREA: &str = "crd.antrea.io/v1beta1";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": "x"});
    json!({"apiVersion": ANTREA, "kind": kind, "metadata": metadata, "spec": spec})
}

fn ask(value: Value) -> Verdict {
    review(&serde_json::from_value::<Review>(value).unwrap())
}

fn create(object: Value) -> Verdict {
    ask(json!({"operation": "CREATE", "object": object}))
}

fn policy(spec: Value) -> Verdict {
    create(object("ClusterNetworkPolicy", "p", spec))
}

/// A policy of one ingress rule that applies to the Pods with app=web.
fn ingress(rule: Value) -> Verdict {
    policy(json!({"priority": 1, "appliedTo": [web()], "ingress": [rule]}))
}

fn egress(rule: Value) -> Verdict {
    policy(json!({"priority": 1, "appliedTo": [web()], "egress": [rule]}))
}

fn web() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}}})
}

/// Fields of both, those of the second if both have one.
fn with(mut first: Value, second: Value) -> Value {
    first.as_object_mut().unwrap().extend(second.as_object().unwrap().clone());
    first
}

fn assert_denied(verdict: &Verdict, field: &str, reason: &str) {
    assert!(!verdict.allowed, "allowed; expected: {reason}");
    assert_eq!((verdict.field.as_str(), verdict.reason.as_str()), (field, reason));
}

fn assert_allowed(verdict: &Verdict) {
    assert_eq!((verdict.allowed, verdict.reason.as_str()), (true, ""));
}

#[test]
fn a_policy_stands_in_a_tier_that_exists() {
    let spec = |tier: &str| json!({"tier": tier, "priority": 1, "appliedTo": [web()]});
    let missing = policy(spec("gold"));
    assert_denied(&missing, "spec.tier", "tier gold does not exist");
    for own in ["", "application", "NetworkOps", "baseline"] {
        assert_allowed(&policy(spec(own)));
    }
    let gold = object("Tier", "gold", json!({"priority": 7}));
    assert_allowed(&ask(json!({"operation": "UPDATE", "existing": [gold],
        "object": object("NetworkPolicy", "p", spec("gold"))})));
}

#[test]
fn nothing_is_passed_on_from_the_baseline() {
    let spec = |tier: &str, direction: &str| {
        let rules = json!([{"action": "Pass"}]);
        json!({"tier": tier, "appliedTo": [web()], direction: rules})
    };
    let reason = "`Pass` action should not be set for Baseline Tier policy rules";
    assert_denied(&policy(spec("Baseline", "ingress")), "spec.ingress[0].action", reason);
    assert_denied(&policy(spec("baseline", "egress")), "spec.egress[0].action", reason);
    assert_allowed(&policy(spec("Application", "egress")));
}

#[test]
fn two_rules_have_two_names_unless_they_have_none() {
    let spec = |name: &str| {
        let rule = json!({"action": "Allow", "name": name});
        json!({"appliedTo": [web()], "ingress": [rule], "egress": [rule]})
    };
    let reason = "rules names must be unique within the policy";
    assert_denied(&policy(spec("one")), "spec.egress[0].name", reason);
    assert_allowed(&policy(spec("")));
}

#[test]
fn whom_a_policy_applies_to_is_said_in_one_place() {
    let rule = json!({"action": "Allow"});
    let own = json!({"action": "Allow", "appliedTo": [web()]});
    let denied = |spec: Value, reason: &str| {
        assert_denied(&policy(spec), "spec.appliedTo", reason);
    };
    denied(
        json!({"appliedTo": [web()], "ingress": [own]}),
        "appliedTo should not be set in both spec and rules",
    );
    denied(json!({"ingress": [rule]}), "appliedTo needs to be set in either spec or rules");
    denied(
        json!({"ingress": [own], "egress": [rule]}),
        "appliedTo field should either be set in all rules or in none of them",
    );
    assert_allowed(&policy(json!({"ingress": [own], "egress": [own]})));
}

#[test]
fn whom_a_policy_applies_to_is_said_in_one_way() {
    let account = json!({"name": "a", "namespace": "x"});
    let alone = [
        ("group", json!("g")),
        ("nodeSelector", json!({})),
        ("serviceAccount", account.clone()),
        ("service", account),
    ];
    for (field, value) in alone {
        let entry = json!({field: value});
        assert_allowed(&policy(json!({"appliedTo": [entry]})));
        for other in [web(), json!({"namespaceSelector": {}})] {
            let verdict = policy(json!({"appliedTo": [with(entry.clone(), other)]}));
            let reason = format!("{field} cannot be set with other peers in appliedTo");
            assert_denied(&verdict, &format!("spec.appliedTo[0].{field}"), &reason);
        }
    }
}

#[test]
fn what_applies_to_services_is_of_ingress_and_of_addresses() {
    let service = json!({"service": {"name": "s", "namespace": "x"}});
    let mixed = policy(json!({"appliedTo": [service, web()]}));
    let reason = "a rule/policy cannot be applied to Services and other peers at the same time";
    assert_denied(&mixed, "spec.appliedTo", reason);
    let reason = "egress rule cannot be applied to Services";
    let whole = policy(json!({"appliedTo": [service], "egress": [{"action": "Allow"}]}));
    assert_denied(&whole, "spec.appliedTo[0].service", reason);
    let one = policy(json!({"egress": [{"action": "Allow", "appliedTo": [service]}]}));
    assert_denied(&one, "spec.egress[0].appliedTo[0].service", reason);
    let from = |peer: Value| {
        let rule = json!({"action": "Allow", "from": [peer]});
        policy(json!({"appliedTo": [service], "ingress": [rule]}))
    };
    let reason =
        "a rule/policy that is applied to Services can only use ipBlock to select workloads";
    assert_denied(&from(web()), "spec.ingress[0].from", reason);
    assert_allowed(&from(json!({"ipBlock": {"cidr": "192.0.2.0/24"}})));
}

#[test]
fn a_peer_is_said_in_one_way() {
    let account = json!({"name": "a", "namespace": "x"});
    let alone = [("group", json!("g")), ("serviceAccount", account), ("nodeSelector", json!({}))];
    let others = [
        web(),
        json!({"namespaceSelector": {}}),
        json!({"namespaces": {"match": "Self"}}),
        json!({"ipBlock": {"cidr": "192.0.2.0/24"}}),
        json!({"fqdn": "a.example"}),
        json!({"externalEntitySelector": {}}),
    ];
    for (field, value) in alone {
        let peer = json!({field: value});
        assert_allowed(&ingress(json!({"action": "Allow", "from": [peer]})));
        for other in &others {
            let peer = with(peer.clone(), other.clone());
            let verdict = ingress(json!({"action": "Allow", "from": [peer]}));
            let reason = format!("{field} cannot be set with other peers in rules");
            assert_denied(&verdict, &format!("spec.ingress[0].from[0].{field}"), &reason);
        }
    }
}

#[test]
fn namespaces_of_a_peer_are_said_in_one_way() {
    let from = |namespaces: Value, more: Value| {
        let peer = with(json!({"namespaces": namespaces}), more);
        ingress(json!({"action": "Allow", "from": [peer]}))
    };
    let place = "spec.ingress[0].from[0].namespaces";
    assert_denied(
        &from(json!({"match": "Self"}), json!({"namespaceSelector": {}})),
        place,
        "namespaces and namespaceSelector cannot be set at the same time for a single \
         NetworkPolicyPeer",
    );
    assert_denied(
        &from(json!({"match": "Self", "sameLabels": ["app"]}), json!({})),
        place,
        "only one matching criteria can be specified in a single peer namespaces field",
    );
    assert_denied(
        &from(json!({"sameLabels": ["&key"]}), json!({})),
        "spec.ingress[0].from[0].namespaces.sameLabels",
        "Invalid label key in sameLabels rule: &key",
    );
    assert_allowed(&from(json!({"sameLabels": ["app"]}), web()));
}

#[test]
fn addresses_are_ranges_and_holes_lie_within_them() {
    let to = |block: Value| egress(json!({"action": "Allow", "to": [{"ipBlock": block}]}));
    let place = "spec.egress[0].to[0].ipBlock";
    assert_denied(
        &to(json!({"cidr": ""})),
        &format!("{place}.cidr"),
        "field 'cidr' is required in an ipBlock",
    );
    assert_denied(
        &to(json!({"cidr": "192.0.2.1"})),
        &format!("{place}.cidr"),
        "invalid CIDR address: 192.0.2.1",
    );
    assert_denied(
        &to(json!({"cidr": "fd00::/64", "except": ["fd00::"]})),
        &format!("{place}.except[0]"),
        "invalid except CIDR value: invalid CIDR address: fd00::",
    );
    for hole in ["192.0.3.0/25", "192.0.2.0/24", "192.0.0.0/16", "fd00::/64"] {
        assert_denied(
            &to(json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32", hole]})),
            &format!("{place}.except[1]"),
            &format!("except CIDR {hole} is not a strict subset of CIDR 192.0.2.0/24"),
        );
    }
    assert_allowed(&to(json!({"cidr": "192.0.2.7/24", "except": ["192.0.2.128/25"]})));
}

#[test]
fn a_rule_to_services_is_about_nothing_else() {
    let rule = json!({"action": "Drop", "toServices": [{"name": "s", "namespace": "x"}]});
    assert_allowed(&egress(rule.clone()));
    let more = [
        json!({"to": [web()]}),
        json!({"ports": [{"port": 80}]}),
        json!({"protocols": [{"icmp": {}}]}),
    ];
    for more in more {
        assert_denied(
            &egress(with(rule.clone(), more)),
            "spec.egress[0].toServices",
            "`toServices` cannot be used with `to`, `ports` or `protocols`",
        );
    }
}

#[test]
fn labels_can_be_labels() {
    let key = json!({"podSelector": {"matchLabels": {"foo=": "bar"}}});
    let value = json!({"namespaceSelector": {"matchLabels": {"foo": "bar="}}});
    let verdict = policy(json!({"appliedTo": [key]}));
    assert_eq!(verdict.field, "spec.appliedTo[0].podSelector.matchLabels");
    assert!(verdict.reason.starts_with("Invalid label key: foo=: name part must"));
    let verdict = ingress(json!({"action": "Allow", "from": [value]}));
    assert_eq!(verdict.field, "spec.ingress[0].from[0].namespaceSelector.matchLabels");
    assert!(verdict.reason.starts_with("Invalid label value: bar=: a valid label must"));
    let verdict = create(object("Group", "g", key));
    assert_eq!(verdict.field, "spec.podSelector.matchLabels");
}

#[test]
fn domain_names_are_made_of_letters_digits_and_asterisks() {
    let to = |name: &str| egress(json!({"action": "Allow", "to": [{"fqdn": name}]}));
    let reason = "invalid characters in egress rule fqdn field: foo!bar";
    assert_denied(&to("foo!bar"), "spec.egress[0].to", reason);
    for name in ["*", "*.Example.com", "a-1.example."] {
        assert_allowed(&to(name));
    }
}

#[test]
fn ranges_of_ports_begin_before_they_end() {
    let port = |port: Value| ingress(json!({"action": "Allow", "ports": [{"port": 1}, port]}));
    let mistakes = [
        (json!({"endPort": 80}), "endPort", "if `endPort` is specified `port` must be specified"),
        (
            json!({"port": "http", "endPort": 80}),
            "endPort",
            "if `port` is a string `endPort` cannot be specified",
        ),
        (
            json!({"port": 81, "endPort": 80}),
            "endPort",
            "`endPort` should be greater than or equal to `port`",
        ),
        (
            json!({"sourceEndPort": 80}),
            "sourceEndPort",
            "if `sourceEndPort` is specified `sourcePort` must be specified",
        ),
        (
            json!({"sourcePort": 81, "sourceEndPort": 80}),
            "sourceEndPort",
            "`sourceEndPort` should be greater than or equal to `sourcePort`",
        ),
    ];
    for (wrong, field, reason) in mistakes {
        assert_denied(&port(wrong), &format!("spec.ingress[0].ports[1].{field}"), reason);
    }
    assert_allowed(&port(json!({"port": 80, "endPort": 80, "sourcePort": 1, "sourceEndPort": 9})));
}

#[test]
fn a_policy_of_nodes_with_a_long_log_label_is_warned_of() {
    let label = |label: &str, logs: bool| {
        let rule =
            json!({"action": "Allow", "name": "r", "enableLogging": logs, "logLabel": label});
        let verdict = policy(json!({"appliedTo": [{"nodeSelector": {}}], "ingress": [rule]}));
        assert_allowed(&verdict);
        verdict.warnings
    };
    assert_eq!(label("thirteen-long", false), [""; 0]);
    assert_eq!(label("twelve-chars", true), [""; 0]);
    let warnings = label("thirteen-long", true);
    assert!(warnings[0].contains("label \"thirteen-long\" for policy rule \"r\" exceeds"));
}

mod groups_and_tiers;
mod messages;
