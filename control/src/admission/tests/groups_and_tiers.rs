//! Groups, tiers, and upstream's policy as far as a tier stands in its way.

use super::*;

fn tier(name: &str, priority: u32) -> Value {
    object("Tier", name, json!({"priority": priority}))
}

#[test]
fn a_group_is_made_of_one_thing_or_of_pods_of_some_namespaces() {
    let one = [
        json!({"podSelector": {}}),
        json!({"namespaceSelector": {}}),
        json!({"nodeSelector": {}}),
        json!({"ipBlocks": [{"cidr": "10.0.0.0/8"}]}),
        json!({"serviceReference": {"name": "s", "namespace": "x"}}),
        json!({"childGroups": ["other"]}),
    ];
    for (index, first) in one.iter().enumerate() {
        for kind in ["Group", "ClusterGroup"] {
            assert_allowed(&create(object(kind, "g", first.clone())));
            for second in &one[index + 1..] {
                let verdict = create(object(kind, "g", with(first.clone(), second.clone())));
                let is_pair = index == 0 && *second == one[1];
                assert_eq!(verdict.allowed, is_pair, "{first} {second}");
                let ending = if kind == "Group" { "a Group" } else { "a ClusterGroup" };
                assert!(is_pair || verdict.reason.ends_with(ending));
            }
        }
    }
    let three = with(with(one[0].clone(), one[1].clone()), json!({"externalEntitySelector": {}}));
    assert!(!create(object("Group", "g", three)).allowed);
}

#[test]
fn a_group_of_addresses_is_of_multicast_or_of_none() {
    let group = |blocks: Value| create(object("ClusterGroup", "g", json!({"ipBlocks": blocks})));
    assert_allowed(&group(json!([{"cidr": "224.0.0.0/24"}, {"cidr": "ff02::/64"}])));
    let reason = "can not set multicast groupAddress together with unicast ip address";
    let mixed = group(json!([{"cidr": "224.0.0.0/24"}, {"cidr": "10.0.0.0/8"}]));
    assert_denied(&mixed, "spec.ipBlocks", reason);
    let wrong = group(json!([{"cidr": "10.0.0.0"}]));
    assert_denied(&wrong, "spec.ipBlocks[0].cidr", "invalid CIDR address: 10.0.0.0");
}

#[test]
fn groups_are_nested_one_level_deep() {
    let parent =
        |kind: &str, name: &str, child: &str| object(kind, name, json!({"childGroups": [child]}));
    for (kind, shown) in [("Group", "Group x/"), ("ClusterGroup", "ClusterGroup ")] {
        let ask = |existing: Value, candidate: Value| {
            ask(json!({"operation": "UPDATE", "existing": [existing], "object": candidate}))
        };
        let place = "spec.childGroups";
        assert_denied(
            &create(parent(kind, "a", "a")),
            place,
            &format!("cannot set {shown}a as its own childGroup"),
        );
        assert_denied(
            &ask(parent(kind, "top", "a"), parent(kind, "a", "b")),
            place,
            &format!("cannot set childGroups for {shown}a, who has 1 parents"),
        );
        assert_denied(
            &ask(parent(kind, "a", "b"), parent(kind, "top", "a")),
            place,
            &format!("cannot set {shown}a as childGroup, who has 1 childGroups itself"),
        );
        assert_allowed(&ask(parent(kind, "top", "c"), parent(kind, "a", "b")));
    }
    let mut elsewhere = parent("Group", "top", "a");
    elsewhere["metadata"]["namespace"] = json!("y");
    assert_allowed(&ask(json!({"operation": "CREATE", "existing": [elsewhere],
        "object": parent("Group", "a", "b")})));
}

#[test]
fn a_new_tier_has_a_place_of_its_own() {
    let create = |name: &str, priority: u32, existing: Value, gates: Value| {
        ask(json!({"operation": "CREATE", "object": tier(name, priority), "existing": existing,
            "featureGates": gates}))
    };
    let place = "spec.priority";
    assert_allowed(&create("gold", 3, json!([]), json!({})));
    for reserved in [251, 252, 254, 255] {
        let reason = format!("tier gold priority {reserved} is reserved");
        assert_denied(&create("gold", reserved, json!([]), json!({})), place, &reason);
    }
    let overlap = "tier gold priority 3 overlaps with existing Tier";
    assert_denied(&create("gold", 3, json!([tier("silver", 3)]), json!({})), place, overlap);
    let static_tier = "tier gold priority 250 overlaps with existing Tier";
    assert_denied(&create("gold", 250, json!([]), json!({})), place, static_tier);
    let many: Vec<Value> = (1..15).map(|place| tier(&format!("t{place}"), place)).collect();
    let reason = "maximum number of Tiers supported: 20";
    assert_denied(&create("gold", 30, json!(many), json!({})), ".", reason);
    assert_allowed(&create("gold", 30, json!(many[1..]), json!({})));
    let upstream = create("gold", 220, json!([]), json!({"ClusterNetworkPolicy": true}));
    assert!(upstream.reason.starts_with("tier gold priority 220 is reserved for upstream"));
    assert_allowed(&create("gold", 220, json!([]), json!({"ClusterNetworkPolicy": false})));
}

#[test]
fn only_the_controller_moves_a_tier() {
    let update = |user: &str, to: u32| {
        ask(json!({"operation": "UPDATE", "user": user, "object": tier("gold", to),
            "oldObject": tier("gold", 3)}))
    };
    let reason = "update to Tier priority is not allowed";
    assert_denied(&update("somebody", 5), "spec.priority", reason);
    assert_allowed(&update("somebody", 3));
    assert_allowed(&update("system:serviceaccount:kube-system:antrea-controller", 5));
}

#[test]
fn a_tier_in_use_or_of_antreas_own_stays() {
    let delete = |name: &str, existing: Value| {
        let old = tier(name, 3);
        ask(json!({"operation": "DELETE", "object": null, "oldObject": old, "existing": existing}))
    };
    assert_allowed(&delete("gold", json!([])));
    assert_denied(&delete("baseline", json!([])), ".", "cannot delete reserved tier baseline");
    for (kind, kinds) in
        [("NetworkPolicy", "NetworkPolicies"), ("ClusterNetworkPolicy", "ClusterNetworkPolicies")]
    {
        let user = object(kind, "p", json!({"tier": "gold"}));
        let reason = format!("tier gold is referenced by 1 Antrea {kinds}");
        assert_denied(&delete("gold", json!([user])), ".", &reason);
        assert_allowed(&delete("silver", json!([user])));
    }
}

#[test]
fn upstreams_policy_needs_its_feature_and_its_place() {
    let ask = |operation: &str, gate: bool, existing: Value| {
        super::ask(json!({"operation": operation, "existing": existing,
            "featureGates": {"ClusterNetworkPolicy": gate},
            "object": {"apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}}}))
    };
    let taken = json!([tier("mine", 220)]);
    assert_allowed(&ask("CREATE", true, json!([])));
    assert_allowed(&ask("UPDATE", true, taken.clone()));
    assert!(ask("CREATE", true, taken).reason.contains("a user-created Tier at priority 220"));
    assert!(ask("CREATE", false, json!([])).reason.ends_with("feature gate is not enabled"));
}

#[test]
fn what_nobody_asks_about_comes_and_goes() {
    let gone = |kind: &str| {
        ask(json!({"operation": "DELETE", "oldObject": object(kind, "o", json!({"priority": 0}))}))
    };
    assert_allowed(&gone("ClusterGroup"));
    assert_allowed(&gone("NetworkPolicy"));
    assert_allowed(&create(json!({"apiVersion": "v1", "kind": "Pod"})));
    let unreadable = create(object("Tier", "gold", json!({"priority": "high"})));
    assert_eq!((unreadable.allowed, unreadable.field.as_str()), (false, "spec.priority"));
}
