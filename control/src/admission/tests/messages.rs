//! Multicast, IGMP, and what is above TCP.

use super::*;

#[test]
fn a_rule_to_multicast_groups_is_about_nothing_else() {
    let group = json!({"ipBlock": {"cidr": "224.1.0.0/16"}});
    let to = |action: &str, to: Value| egress(json!({"action": action, "to": to}));
    assert_allowed(&to("Drop", json!([group])));
    let mistakes = [
        (to("Reject", json!([group])), "multicast does not support action Pass or Reject"),
        (
            to("Allow", json!([group, {"ipBlock": {"cidr": "10.0.0.0/8"}}])),
            "can not set multicast groupAddress and unicast ip address at the same time",
        ),
        (
            to("Allow", json!([with(group.clone(), web())])),
            "can not set multicast groupAddress and selectors at the same time",
        ),
    ];
    for (verdict, reason) in mistakes {
        assert_denied(&verdict, "spec.egress[0].to", reason);
    }
}

#[test]
fn a_rule_on_igmp_is_about_nothing_else() {
    let igmp = json!({"igmp": {"igmpType": 17, "groupAddress": "224.0.0.1"}});
    let rule = |action: &str, protocol: Value, more: Value| {
        ingress(with(json!({"action": action, "protocols": [protocol]}), more))
    };
    assert_allowed(&rule("Allow", igmp.clone(), json!({})));
    assert_allowed(&rule("Pass", json!({"icmp": {}}), json!({"from": [web()]})));
    let alone = "protocol IGMP can not be used with other protocols or other properties like \
                 from, to";
    let mistakes = [
        (rule("Allow", with(igmp.clone(), json!({"icmp": {}})), json!({})), alone),
        (rule("Allow", igmp.clone(), json!({"from": [web()]})), alone),
        (rule("Allow", igmp.clone(), json!({"ports": [{"port": 1}]})), alone),
        (rule("Pass", igmp.clone(), json!({})), "protocol IGMP does not support Pass or Reject"),
        (
            rule("Allow", json!({"igmp": {"groupAddress": "10.0.0.1"}}), json!({})),
            "groupAddress 10.0.0.1 is not multicast address",
        ),
    ];
    for (verdict, reason) in mistakes {
        assert_denied(&verdict, "spec.ingress[0].protocols", reason);
    }
}

#[test]
fn what_is_above_tcp_is_allowed_only_where_it_is_looked_at() {
    let ask = |gate: Option<bool>, action: &str, more: Value| {
        let rule = json!({"action": action, "l7Protocols": [{"http": {"host": "a.example"}}]});
        let spec = json!({"appliedTo": [web()], "egress": [with(rule, more)]});
        let gates = gate.map_or(json!({}), |on| json!({"L7NetworkPolicy": on}));
        super::ask(json!({"operation": "CREATE", "featureGates": gates,
            "object": object("NetworkPolicy", "p", spec)}))
    };
    assert_allowed(&ask(Some(true), "Allow", json!({"ports": [{"protocol": "TCP"}]})));
    let off = "layer 7 protocols can only be used when L7NetworkPolicy is enabled";
    let services = json!({"toServices": [{"name": "s", "namespace": "x"}]});
    let mistakes = [
        (ask(None, "Allow", json!({})), off),
        (ask(Some(false), "Allow", json!({})), off),
        (ask(Some(true), "Pass", json!({})), "layer 7 protocols only support Allow"),
        (ask(Some(true), "Allow", services), "layer 7 protocols can not be used with toServices"),
        (
            ask(Some(true), "Allow", json!({"ports": [{"protocol": "UDP"}]})),
            "HTTP protocol can only be used when layer 4 protocol is TCP or unset",
        ),
        (
            ask(Some(true), "Allow", json!({"protocols": [{"icmp": {}}]})),
            "HTTP protocol can not be used with protocol IGMP or ICMP",
        ),
    ];
    for (verdict, reason) in mistakes {
        assert_denied(&verdict, "spec.egress[0].l7Protocols", reason);
    }
}
