//! AdminNetworkPolicy and BaselineAdminNetworkPolicy v1alpha1, ClusterNetworkPolicy v1alpha2, by
//! the documentation of network-policy-api.
//!
//! Their Deny is a silent drop. Their place among Antrea's tiers: ClusterNetworkPolicy 220, Admin
//! 251, both baselines 254.

use std::net::IpAddr;

use serde_json::Value;

use super::traffic::{named, protocol};
use super::{
    Action, Cluster, Direction, Pod, Query, Ranked, list, selector, some_list, text, within,
};

/// Adds the rules of one policy.
pub(super) fn rules<'a>(
    cluster: &'a Cluster,
    policy: &'a Value,
    direction: Direction,
    ranked: &mut Vec<Ranked<'a>>,
) {
    let spec = &policy["spec"];
    let tier = match (text(&policy["kind"]), text(&spec["tier"])) {
        ("AdminNetworkPolicy", _) => 251,
        ("ClusterNetworkPolicy", "Admin") => 220,
        _ => 254,
    };
    let key = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    for (index, rule) in list(&spec[key]).iter().enumerate() {
        let action = match text(&rule["action"]) {
            "Allow" | "Accept" => Action::Allow,
            "Pass" => Action::Pass,
            _ => Action::Drop,
        };
        ranked.push(Ranked {
            tier,
            priority: spec["priority"].as_f64().unwrap_or_default(),
            index,
            policy: text(&policy["metadata"]["name"]).to_owned(),
            action,
            decides: Box::new(move |subject, query| {
                selects(cluster, &spec["subject"], subject)
                    && is_peer(cluster, rule, direction, query)
                    && is_traffic(cluster, rule, query)
            }),
        });
    }
}

/// `namespaces: selector`, or `pods: {namespaceSelector, podSelector}`.
fn selects(cluster: &Cluster, wanted: &Value, pod: &Pod) -> bool {
    let namespace = cluster.labels_of(&pod.namespace);
    match (&wanted["namespaces"], &wanted["pods"]) {
        (Value::Null, Value::Null) => false,
        (Value::Null, pods) => {
            selector::matches(&pods["namespaceSelector"], namespace)
                && selector::matches(&pods["podSelector"], &pod.labels)
        }
        (namespaces, _) => selector::matches(namespaces, namespace),
    }
}

fn is_peer(cluster: &Cluster, rule: &Value, direction: Direction, query: &Query) -> bool {
    let address = query.peer(direction);
    let ends = match direction {
        Direction::Ingress => &rule["from"],
        Direction::Egress => &rule["to"],
    };
    list(ends).iter().any(|peer| {
        is_node(cluster, &peer["nodes"], address)
            || list(&peer["networks"]).iter().any(|range| within(range, address))
            || list(&peer["domainNames"])
                .iter()
                .any(|name| cluster.resolves(text(name).trim_end_matches('.'), address))
            || cluster.pod_at(address).is_some_and(|pod| selects(cluster, peer, pod))
    })
}

fn is_node(cluster: &Cluster, wanted: &Value, address: IpAddr) -> bool {
    !wanted.is_null()
        && cluster.nodes.iter().any(|node| {
            node.addresses.contains(&address) && selector::matches(wanted, &node.labels)
        })
}

fn is_traffic(cluster: &Cluster, rule: &Value, query: &Query) -> bool {
    let ports = some_list(&rule["ports"]);
    let protocols = some_list(&rule["protocols"]);
    ports.is_none_or(|ports| ports.iter().any(|wanted| is_port(cluster, wanted, query)))
        && protocols
            .is_none_or(|list| list.iter().any(|wanted| is_protocol(cluster, wanted, query)))
}

/// v1alpha1: `portNumber`, `portRange` or `namedPort`.
fn is_port(cluster: &Cluster, wanted: &Value, query: &Query) -> bool {
    let (number, range) = (&wanted["portNumber"], &wanted["portRange"]);
    if !number.is_null() {
        protocol(&number["protocol"]) == query.protocol && number["port"] == query.port
    } else if !range.is_null() {
        protocol(&range["protocol"]) == query.protocol && is_between(range, query.port)
    } else {
        named(cluster, text(&wanted["namedPort"]), None, query)
    }
}

/// v1alpha2: `tcp`, `udp` or `sctp` with a `destinationPort`, or a `destinationNamedPort`.
fn is_protocol(cluster: &Cluster, wanted: &Value, query: &Query) -> bool {
    if let Some(name) = wanted["destinationNamedPort"].as_str() {
        return named(cluster, name, None, query);
    }
    [("tcp", 6), ("udp", 17), ("sctp", 132)].iter().any(|(key, number)| {
        let port = &wanted[key]["destinationPort"];
        !wanted[key].is_null()
            && *number == query.protocol
            && (port.is_null()
                || port["number"] == query.port
                || is_between(&port["range"], query.port))
    })
}

fn is_between(range: &Value, port: u16) -> bool {
    let bounds = range["start"].as_u64().zip(range["end"].as_u64());
    bounds.is_some_and(|(first, last)| (first..=last).contains(&port.into()))
}
