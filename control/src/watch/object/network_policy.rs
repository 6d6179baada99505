//! Kubernetes' own NetworkPolicy.
//!
//! What it does not list under `policyTypes` it says nothing about, whatever rules it has for it.

use k8s_openapi::api::networking::v1 as networking;

use super::{Wrong, each, selector, traffic};
use crate::model::{
    NamespaceScope, Peer, Policy, PolicyKind, PolicyName, PolicyRule, RuleAction, Subject, TierOf,
    Traffic,
};

/// Makes a policy of the model.
pub(super) fn policy(policy: networking::NetworkPolicy) -> Result<Policy, Wrong> {
    let name = selector::name_of(&policy.metadata)?;
    let namespace = selector::namespace_of(&policy.metadata)?;
    let spec = policy.spec.unwrap_or_default();
    let ingress = spec.ingress.unwrap_or_default();
    let egress = spec.egress.unwrap_or_default();
    let (isolates_ingress, isolates_egress) =
        directions(spec.policy_types.as_deref().unwrap_or_default(), !egress.is_empty())
            .map_err(|wrong| wrong.within("spec"))?;
    let subject =
        selector::pods(NamespaceScope::Named(namespace.clone()), spec.pod_selector.as_ref())
            .map_err(|wrong| wrong.within("spec"))?;
    // Both are read even where they do not count: an object with a mistake is not valid.
    let ingress = each("spec.ingress", &ingress, |one| {
        rule(&namespace, ("from", one.from.as_deref()), one.ports.as_deref())
    })?;
    let egress = each("spec.egress", &egress, |one| {
        rule(&namespace, ("to", one.to.as_deref()), one.ports.as_deref())
    })?;
    Ok(Policy {
        name: PolicyName { kind: PolicyKind::K8sNetworkPolicy, namespace, name },
        tier: TierOf::NetworkPolicy,
        priority: 0.0,
        applied_to: vec![Subject::Pods(subject)],
        isolates_ingress,
        isolates_egress,
        ingress: if isolates_ingress { ingress } else { Vec::new() },
        egress: if isolates_egress { egress } else { Vec::new() },
    })
}

/// Which directions the policy speaks of. Without a word, of what is received, and of what is sent
/// if it has a rule for that.
fn directions(types: &[String], has_egress_rules: bool) -> Result<(bool, bool), Wrong> {
    if types.is_empty() {
        return Ok((true, has_egress_rules));
    }
    for one in types {
        if !["Ingress", "Egress"].contains(&one.as_str()) {
            let reason = format!("`{one}` is neither Ingress nor Egress");
            return Err(Wrong::new("policyTypes", reason));
        }
    }
    let lists = |direction: &str| types.iter().any(|one| one == direction);
    Ok((lists("Ingress"), lists("Egress")))
}

fn rule(
    namespace: &str,
    (field, peers): (&str, Option<&[networking::NetworkPolicyPeer]>),
    ports: Option<&[networking::NetworkPolicyPort]>,
) -> Result<PolicyRule, Wrong> {
    // An empty list and none at all both mean everybody, and likewise every port.
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    Ok(PolicyRule {
        name: String::new(),
        action: RuleAction::Allow,
        applied_to: Vec::new(),
        peers: peers.map(|peers| each(field, peers, |one| peer(namespace, one))).transpose()?,
        traffic: ports.map(|ports| each("ports", ports, port)).transpose()?,
        log: false,
        log_label: String::new(),
    })
}

fn peer(namespace: &str, peer: &networking::NetworkPolicyPeer) -> Result<Peer, Wrong> {
    let namespaces = peer.namespace_selector.as_ref();
    if let Some(block) = &peer.ip_block {
        if namespaces.is_some() || peer.pod_selector.is_some() {
            return Err(Wrong::new("ipBlock", "cannot be set with selectors in one peer"));
        }
        let except = block.except.as_deref().unwrap_or_default();
        let block = traffic::ip_block(&block.cidr, except);
        return Ok(Peer::IpBlock(block.map_err(|wrong| wrong.within("ipBlock"))?));
    }
    let scope = match namespaces {
        Some(namespaces) => NamespaceScope::Matching(
            selector::labels(namespaces).map_err(|wrong| wrong.within("namespaceSelector"))?,
        ),
        None if peer.pod_selector.is_some() => NamespaceScope::Named(namespace.to_owned()),
        None => {
            return Err(Wrong::new(
                ".",
                "one of podSelector, namespaceSelector, ipBlock is needed",
            ));
        }
    };
    Ok(Peer::Pods(selector::pods(scope, peer.pod_selector.as_ref())?))
}

fn port(port: &networking::NetworkPolicyPort) -> Result<Traffic, Wrong> {
    Ok(Traffic {
        port: traffic::destination(port.port.as_ref(), port.end_port)?,
        ..Traffic::of(traffic::protocol(port.protocol.as_deref())?)
    })
}
