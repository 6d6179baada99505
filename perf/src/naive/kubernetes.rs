//! networking.k8s.io/v1 NetworkPolicy, by "Network Policies" of the Kubernetes documentation.
//!
//! A Pod that no policy selects takes and sends everything. One that a policy selects is isolated
//! for the policy's types, and then what any of its policies allows passes: they add up, and their
//! order means nothing.

use serde_json::Value;

use super::traffic::{port, protocol};
use super::{
    Action, Cluster, Decision, Direction, Pod, Query, in_block, selector, some_list, text,
};

/// What these policies say; `None` where none isolates the Pod.
pub(super) fn decide(
    cluster: &Cluster,
    direction: Direction,
    subject: &Pod,
    query: &Query,
) -> Option<Decision> {
    let isolating: Vec<&Value> = cluster
        .objects
        .iter()
        .filter(|object| {
            object["apiVersion"] == "networking.k8s.io/v1" && object["kind"] == "NetworkPolicy"
        })
        .filter(|policy| {
            text(&policy["metadata"]["namespace"]) == subject.namespace
                && selector::matches(&policy["spec"]["podSelector"], &subject.labels)
                && has_type(&policy["spec"], direction)
        })
        .collect();
    if isolating.is_empty() {
        return None;
    }
    let (key, ends) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let allows = |policy: &&Value| {
        super::list(&policy["spec"][key]).iter().any(|rule| {
            let peers = some_list(&rule[ends]);
            let ports = some_list(&rule["ports"]);
            peers.is_none_or(|peers| {
                peers.iter().any(|peer| is_peer(cluster, peer, direction, subject, query))
            }) && ports.is_none_or(|ports| {
                ports.iter().any(|wanted| {
                    let number = protocol(&wanted["protocol"]);
                    port(cluster, &wanted["port"], &wanted["endPort"], number, query)
                })
            })
        })
    };
    let names = |policies: Vec<&Value>| {
        policies.iter().map(|policy| text(&policy["metadata"]["name"]).to_owned()).collect()
    };
    let allowing: Vec<&Value> = isolating.iter().copied().filter(allows).collect();
    Some(if allowing.is_empty() {
        Decision { action: Action::Isolate, policies: names(isolating) }
    } else {
        Decision { action: Action::Allow, policies: names(allowing) }
    })
}

/// Without `policyTypes` a policy is always of type Ingress, and of type Egress if it has rules
/// for it.
fn has_type(spec: &Value, direction: Direction) -> bool {
    match (some_list(&spec["policyTypes"]), direction) {
        (Some(types), Direction::Ingress) => types.iter().any(|kind| kind == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|kind| kind == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => some_list(&spec["egress"]).is_some(),
    }
}

fn is_peer(
    cluster: &Cluster,
    peer: &Value,
    direction: Direction,
    subject: &Pod,
    query: &Query,
) -> bool {
    let address = query.peer(direction);
    if !peer["ipBlock"].is_null() {
        return in_block(&peer["ipBlock"], address);
    }
    let Some(pod) = cluster.pod_at(address) else { return false };
    let in_namespace = match &peer["namespaceSelector"] {
        Value::Null => pod.namespace == subject.namespace,
        wanted => selector::matches(wanted, cluster.labels_of(&pod.namespace)),
    };
    in_namespace && selector::matches(&peer["podSelector"], &pod.labels)
}
