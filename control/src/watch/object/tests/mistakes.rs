//! What cannot be valid is refused with its field, and nothing that is written makes us stop.

use proptest::prelude::*;

use super::*;

/// Each mistake in the spec of a kind, and the field that is named for it.
fn assert_refused(version: &str, kind: &str, mistakes: &[(Value, &str)]) {
    for (spec, field) in mistakes {
        let metadata = json!({"name": "default", "namespace": "x"});
        let object =
            json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
        match parse(object) {
            Err(wrong) => assert_eq!(wrong.field, *field, "{spec}: {wrong}"),
            Ok(parsed) => panic!("{spec} became {parsed:?}"),
        }
    }
}

#[test]
fn mistakes_in_a_network_policy_are_named() {
    let from = |peer: Value| json!({"ingress": [{"from": [peer]}]});
    let port = |port: Value| json!({"egress": [{"ports": [port]}]});
    let block = |block: Value| from(json!({"ipBlock": block}));
    let expression = |key: &str, operator: &str, values: Value| {
        let expression = json!({"key": key, "operator": operator, "values": values});
        json!({"podSelector": {"matchExpressions": [expression]}})
    };
    let place = "spec.ingress[0].from[0]";
    let selector = "spec.podSelector.matchExpressions[0]";
    assert_refused(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        &[
            (json!({"policyTypes": ["Both"]}), "spec.policyTypes"),
            (json!({"podSelector": {"matchLabels": {"a=": "b"}}}), "spec.podSelector.matchLabels"),
            (expression("a", "Is", json!([])), &format!("{selector}.operator")),
            (expression("a", "In", json!([])), &format!("{selector}.values")),
            (expression("a", "Exists", json!(["b"])), &format!("{selector}.values")),
            (expression("", "Exists", json!(null)), &format!("{selector}.key")),
            (from(json!({})), place),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
                &format!("{place}.ipBlock"),
            ),
            (block(json!({"cidr": "10.0.0.0"})), &format!("{place}.ipBlock.cidr")),
            (
                block(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]})),
                &format!("{place}.ipBlock.except[0]"),
            ),
            (port(json!({"port": 0})), "spec.egress[0].ports[0].port"),
            (port(json!({"port": 70000})), "spec.egress[0].ports[0].port"),
            (port(json!({"port": "Web"})), "spec.egress[0].ports[0].port"),
            (port(json!({"port": "80"})), "spec.egress[0].ports[0].port"),
            (port(json!({"endPort": 80})), "spec.egress[0].ports[0].endPort"),
            (port(json!({"port": 80, "endPort": 79})), "spec.egress[0].ports[0].endPort"),
            (port(json!({"port": "web", "endPort": 80})), "spec.egress[0].ports[0].endPort"),
            (port(json!({"protocol": "ICMP"})), "spec.egress[0].ports[0].protocol"),
            (port(json!({"port": [80]})), "spec.egress[0].ports[0].port"),
        ],
    );
}

#[test]
fn mistakes_in_antreas_policies_are_named() {
    let version = "crd.antrea.io/v1beta1";
    let rule = |rule: Value| json!({"priority": 1, "appliedTo": [{}], "egress": [rule]});
    let to = |peer: Value| rule(json!({"action": "Allow", "to": [peer]}));
    let whom = |one: Value| json!({"priority": 1, "appliedTo": [one]});
    let place = "spec.egress[0].to[0]";
    assert_refused(
        version,
        "ClusterNetworkPolicy",
        &[
            (json!({"appliedTo": [{}]}), "spec.priority"),
            (json!({"priority": 0, "appliedTo": [{}]}), "spec.priority"),
            (json!({"priority": 1}), "spec.appliedTo"),
            (rule(json!({})), "spec.egress[0].action"),
            (rule(json!({"action": "Deny"})), "spec.egress[0].action"),
            (rule(json!({"action": "Drop", "from": [{}]})), "spec.egress[0].from"),
            (
                rule(json!({"action": "Allow", "l7Protocols": [{"http": {}}]})),
                "spec.egress[0].l7Protocols",
            ),
            (rule(json!({"action": "Allow", "protocols": [{}]})), "spec.egress[0].protocols[0]"),
            (
                rule(json!({"action": "Allow", "protocols": [{"icmp": {"icmpType": 256}}]})),
                "spec.egress[0].protocols[0].icmp.icmpType",
            ),
            (
                rule(json!({"action": "Allow", "protocols": [{"icmp": {"icmpCode": 0}}]})),
                "spec.egress[0].protocols[0].icmp.icmpType",
            ),
            (
                to(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                &format!("{place}.ipBlock"),
            ),
            (to(json!({"externalEntitySelector": {}})), &format!("{place}.externalEntitySelector")),
            (to(json!({"podSelector": {}, "scope": "ClusterSet"})), &format!("{place}.scope")),
            (to(json!({"namespaces": {}})), &format!("{place}.namespaces")),
            (to(json!({"serviceAccount": {"name": "a"}})), &format!("{place}.serviceAccount")),
            (whom(json!({"nodeSelector": {}})), "spec.appliedTo[0].nodeSelector"),
            (whom(json!({"serviceAccount": {"name": "a"}})), "spec.appliedTo[0].serviceAccount"),
        ],
    );
    let elsewhere = whom(json!({"namespaceSelector": {}}));
    let field = "spec.appliedTo[0].namespaceSelector";
    assert_refused(version, "NetworkPolicy", &[(elsewhere, field)]);
    assert_refused(version, "Tier", &[(json!({"priority": 256}), "spec.priority")]);
    assert_refused(
        version,
        "ClusterGroup",
        &[
            (json!({}), "spec"),
            (json!({"externalEntitySelector": {}}), "spec.externalEntitySelector"),
            (json!({"serviceReference": {"name": "s"}}), "spec.serviceReference"),
        ],
    );
    assert_refused(version, "Group", &[(json!({"nodeSelector": {}}), "spec.nodeSelector")]);
}

#[test]
fn mistakes_in_upstreams_policies_are_named() {
    let all = json!({"namespaces": {}});
    let rule = |rule: Value| json!({"priority": 1, "subject": all, "egress": [rule]});
    let to = |action: &str, peer: Value| rule(json!({"action": action, "to": [peer]}));
    let port = |port: Value| rule(json!({"action": "Allow", "to": [all], "ports": [port]}));
    let version = "policy.networking.k8s.io/v1alpha1";
    let place = "spec.egress[0].ports[0]";
    assert_refused(
        version,
        "AdminNetworkPolicy",
        &[
            (json!({"subject": all}), "spec.priority"),
            (json!({"subject": all, "priority": 1001}), "spec.priority"),
            (json!({"subject": all, "priority": 1, "tier": "Admin"}), "spec.tier"),
            (json!({"subject": {}, "priority": 1}), "spec.subject"),
            (rule(json!({"action": "Allow"})), "spec.egress[0].to"),
            (to("Accept", all.clone()), "spec.egress[0].action"),
            (to("Allow", json!({})), "spec.egress[0].to[0]"),
            (to("Allow", json!({"nodes": {}, "networks": ["10.0.0.0/8"]})), "spec.egress[0].to[0]"),
            (to("Allow", json!({"networks": ["10.0.0.0"]})), "spec.egress[0].to[0].networks[0]"),
            (to("Deny", json!({"domainNames": ["a.example"]})), "spec.egress[0].to[0].domainNames"),
            (to("Allow", json!({"domainNames": ["a b"]})), "spec.egress[0].to[0].domainNames[0]"),
            (port(json!({})), place),
            (port(json!({"portNumber": {"port": 0}})), &format!("{place}.portNumber.port")),
            (port(json!({"portRange": {"start": 9, "end": 8}})), &format!("{place}.portRange.end")),
            (
                rule(
                    json!({"action": "Allow", "to": [{"nodes": {}}], "ports": [{"namedPort": "web"}]}),
                ),
                "spec.egress[0].to",
            ),
            (
                rule(json!({"action": "Allow", "to": [all], "protocols": [{"tcp": {}}]})),
                "spec.egress[0].protocols",
            ),
        ],
    );
    assert_refused(
        version,
        "BaselineAdminNetworkPolicy",
        &[
            (json!({"subject": all, "priority": 1}), "spec.priority"),
            (
                json!({"subject": all, "egress": [{"action": "Pass", "to": [all]}]}),
                "spec.egress[0].action",
            ),
        ],
    );
    let tier = json!({"subject": all, "priority": 1, "tier": "Application"});
    let version = "policy.networking.k8s.io/v1alpha2";
    assert_refused(version, "ClusterNetworkPolicy", &[(tier, "spec.tier")]);
}

#[test]
fn mistakes_in_a_service_are_named() {
    let port = |port: Value| json!({"ports": [port]});
    assert_refused(
        "v1",
        "Service",
        &[
            (json!({"clusterIP": "here"}), "spec.clusterIP"),
            (json!({"externalIPs": ["::g"]}), "spec.externalIPs[0]"),
            (port(json!({"port": 0})), "spec.ports[0].port"),
            (port(json!({"port": 1, "nodePort": 70000})), "spec.ports[0].nodePort"),
            (port(json!({"port": 1, "targetPort": -1})), "spec.ports[0].targetPort"),
            (port(json!({"port": 1, "protocol": "ICMP"})), "spec.ports[0].protocol"),
            (json!({"sessionAffinity": "Cookie"}), "spec.sessionAffinity"),
            (
                json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            ),
            (json!({"externalTrafficPolicy": "Near"}), "spec.externalTrafficPolicy"),
        ],
    );
}

/// One valid object of every kind that has a say in what passes.
fn examples() -> Vec<Value> {
    let object = |version: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": "default", "namespace": "x"});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let pods = json!({"podSelector": {"matchLabels": {"a": "b"},
        "matchExpressions": [{"key": "c", "operator": "In", "values": ["d"]}]}});
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
    let all = json!({"namespaces": {"matchLabels": {"a": "b"}}});
    vec![
        object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"podSelector": {},
            "policyTypes": ["Ingress"], "ingress": [{"from": [pods, block],
            "ports": [{"port": 80, "endPort": 90, "protocol": "UDP"}]}]}),
        ),
        object(
            "crd.antrea.io/v1beta1",
            "ClusterNetworkPolicy",
            json!({"priority": 5,
            "tier": "platform", "appliedTo": [pods], "egress": [{"action": "Drop", "name": "r",
            "to": [block, {"group": "g"}, {"fqdn": "a.example"}],
            "ports": [{"port": "web"}], "protocols": [{"icmp": {"icmpType": 8}}]}]}),
        ),
        object("crd.antrea.io/v1beta1", "ClusterGroup", json!({"ipBlocks": [{"cidr": "::/0"}]})),
        object(
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy",
            json!({"priority": 1,
            "subject": all, "egress": [{"action": "Deny", "to": [all, {"networks": ["::/0"]}],
            "ports": [{"portRange": {"start": 1, "end": 2}}]}]}),
        ),
        object(
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            json!({"priority": 1,
            "tier": "Admin", "subject": all, "ingress": [{"action": "Accept", "from": [all],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}]}),
        ),
        object(
            "v1",
            "Service",
            json!({"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}],
            "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP"}),
        ),
    ]
}

/// How many values there are in a value, itself among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

/// Puts another value in the place of the one with this number.
fn replace(value: &mut Value, place: &mut usize, by: &Value) {
    if *place == 0 {
        *value = by.clone();
        *place = usize::MAX;
        return;
    }
    *place -= 1;
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|one| replace(one, place, by)),
        Value::Array(items) => items.iter_mut().for_each(|one| replace(one, place, by)),
        _ => {}
    }
}

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!([])),
        Just(json!([{}])),
        Just(json!([null])),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        "[ -~]{0,12}".prop_map(|value| json!(value)),
        "[é*./:0-9-]{0,12}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-zA-Z]{1,10}", inner, 0..3)
                .prop_map(|fields| json!(fields)),
        ]
    })
}

#[test]
fn the_examples_are_valid() {
    for example in examples() {
        assert_eq!(parse(example).unwrap().objects.len(), 1);
    }
}

proptest! {
    #[test]
    fn an_object_with_junk_in_it_is_taken_or_refused_with_a_field(
        example in prop::sample::select(examples()), place in any::<prop::sample::Index>(),
        junk in junk(),
    ) {
        let mut broken = example;
        let mut place = place.index(count(&broken));
        replace(&mut broken, &mut place, &junk);
        if let Err(wrong) = parse(broken) {
            prop_assert!(!wrong.field.is_empty() && !wrong.reason.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn a_policy_with_one_more_field_is_refused_by_the_name_of_that_field(
        example in prop::sample::select(examples()[..5].to_vec()),
        place in any::<prop::sample::Index>(),
    ) {
        let mut objects = Vec::new();
        places(&example["spec"], "spec", &mut objects);
        let pointer = place.get(&objects).clone();
        let mut broken = example;
        broken.pointer_mut(&pointer).unwrap()["novelty"] = json!(1);
        let wrong = parse(broken).unwrap_err();
        prop_assert!(wrong.field.ends_with("novelty"), "{pointer}: {wrong}");
    }
}

/// Where there are objects with fields of the API's own, as JSON pointers.
fn places(value: &Value, path: &str, objects: &mut Vec<String>) {
    match value {
        // Its fields are labels, and may be called as anybody likes.
        Value::Object(_) if path.ends_with("matchLabels") => {}
        Value::Object(fields) => {
            objects.push(format!("/{path}"));
            for (name, one) in fields {
                places(one, &format!("{path}/{name}"), objects);
            }
        }
        Value::Array(items) => {
            for (index, one) in items.iter().enumerate() {
                places(one, &format!("{path}/{index}"), objects);
            }
        }
        _ => {}
    }
}
