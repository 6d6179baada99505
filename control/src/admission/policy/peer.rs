//! The far ends of rules.

use super::{check_ip_block, check_labels, rules};
use crate::watch::api::antrea::{AppliedTo, Peer, PeerNamespaces, PolicySpec};
use crate::watch::object::{Wrong, check_key};

/// Whether each peer is said one way at a time, and `toServices` is all there is to its rule.
pub(super) fn check(spec: &PolicySpec) -> Result<(), Wrong> {
    for (place, rule) in rules(spec) {
        let is_ingress = place.starts_with("ingress");
        let more = !rule.to.is_empty() || rule.ports.is_some() || rule.protocols.is_some();
        if !is_ingress && rule.to_services.is_some() && more {
            let reason = "`toServices` cannot be used with `to`, `ports` or `protocols`";
            return Err(Wrong::new(format!("{place}.toServices"), reason));
        }
        let (field, peers) = if is_ingress { ("from", &rule.from) } else { ("to", &rule.to) };
        for (index, peer) in peers.iter().enumerate() {
            check_peer(peer).map_err(|wrong| wrong.within(&format!("{place}.{field}[{index}]")))?;
        }
    }
    Ok(())
}

fn check_peer(peer: &Peer) -> Result<(), Wrong> {
    if let Some(namespaces) = &peer.namespaces {
        if peer.namespace_selector.is_some() {
            let reason = "namespaces and namespaceSelector cannot be set at the same time for a \
                          single NetworkPolicyPeer";
            return Err(Wrong::new("namespaces", reason));
        }
        check_namespaces(namespaces)?;
    }
    if let Some(block) = &peer.ip_block {
        check_ip_block(block).map_err(|wrong| wrong.within("ipBlock"))?;
    }
    let alone = [
        ("group", !peer.group.is_empty()),
        ("serviceAccount", peer.service_account.is_some()),
        ("nodeSelector", peer.node_selector.is_some()),
    ];
    for (field, is_set) in alone {
        if is_set && fields_set(peer) > 1 {
            let reason = format!("{field} cannot be set with other peers in rules");
            return Err(Wrong::new(field, reason));
        }
    }
    check_labels([
        ("podSelector", &peer.pod_selector),
        ("namespaceSelector", &peer.namespace_selector),
        ("externalEntitySelector", &peer.external_entity_selector),
        ("nodeSelector", &peer.node_selector),
    ])
}

fn check_namespaces(namespaces: &PeerNamespaces) -> Result<(), Wrong> {
    if !namespaces.matching.is_empty() && !namespaces.same_labels.is_empty() {
        let reason =
            "only one matching criteria can be specified in a single peer namespaces field";
        return Err(Wrong::new("namespaces", reason));
    }
    match namespaces.same_labels.iter().find(|key| check_key(key).is_err()) {
        Some(key) => Err(Wrong::new(
            "namespaces.sameLabels",
            format!("Invalid label key in sameLabels rule: {key}"),
        )),
        None => Ok(()),
    }
}

fn fields_set(peer: &Peer) -> usize {
    let set = [
        peer.ip_block.is_some(),
        peer.pod_selector.is_some(),
        peer.namespace_selector.is_some(),
        peer.namespaces.is_some(),
        peer.external_entity_selector.is_some(),
        !peer.group.is_empty(),
        !peer.fqdn.is_empty(),
        peer.service_account.is_some(),
        peer.node_selector.is_some(),
        !peer.scope.is_empty(),
    ];
    set.iter().filter(|is_set| **is_set).count()
}

/// What applies to Services sees clients from outside, who are no workloads.
pub(super) fn check_of_services(spec: &PolicySpec) -> Result<(), Wrong> {
    let is_of_service =
        |entries: &[AppliedTo]| entries.first().is_some_and(|one| one.service.is_some());
    let whole = is_of_service(&spec.applied_to);
    for (place, rule) in rules(spec).filter(|(place, _)| place.starts_with("ingress")) {
        let is_block = |peer: &Peer| peer.ip_block.is_some() && fields_set(peer) == 1;
        if (whole || is_of_service(&rule.applied_to)) && !rule.from.iter().all(is_block) {
            let reason = "a rule/policy that is applied to Services can only use ipBlock to \
                          select workloads";
            return Err(Wrong::new(format!("{place}.from"), reason));
        }
    }
    Ok(())
}

/// Whether the domain names of egress rules are made of what domain names are made of.
pub(super) fn check_domain_names(spec: &PolicySpec) -> Result<(), Wrong> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.*".contains(&byte);
    for (place, rule) in rules(spec).filter(|(place, _)| place.starts_with("egress")) {
        let wrong = rule.to.iter().find(|peer| !peer.fqdn.bytes().all(is_known));
        if let Some(peer) = wrong {
            let reason = format!("invalid characters in egress rule fqdn field: {}", peer.fqdn);
            return Err(Wrong::new(format!("{place}.to"), reason));
        }
    }
    Ok(())
}
