//! Ports, protocols, and what is above them.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{is_multicast, rules};
use crate::admission::Features;
use crate::watch::api::antrea::{Action, Peer, PolicySpec, Port, Rule};
use crate::watch::object::Wrong;

/// Whether rules that name multicast groups name nothing else, and ask for nothing that multicast
/// cannot do.
pub(super) fn check_multicast(spec: &PolicySpec) -> Result<(), Wrong> {
    for (index, rule) in spec.egress.iter().enumerate() {
        let blocks = || rule.to.iter().filter_map(|peer| Some((peer, peer.ip_block.as_ref()?)));
        let multicast = blocks().filter(|(_, block)| is_multicast(block)).count();
        if multicast == 0 {
            continue;
        }
        let has_selectors = |peer: &Peer| {
            peer.pod_selector.is_some()
                || peer.namespace_selector.is_some()
                || peer.namespaces.is_some()
                || peer.external_entity_selector.is_some()
                || peer.service_account.is_some()
                || peer.node_selector.is_some()
        };
        let reason = if answers_or_passes(rule) {
            "multicast does not support action Pass or Reject"
        } else if multicast < blocks().count() {
            "can not set multicast groupAddress and unicast ip address at the same time"
        } else if blocks().any(|(peer, _)| has_selectors(peer)) {
            "can not set multicast groupAddress and selectors at the same time"
        } else {
            continue;
        };
        return Err(Wrong::new(format!("egress[{index}].to"), reason));
    }
    Ok(())
}

fn answers_or_passes(rule: &Rule) -> bool {
    matches!(rule.action, Some(Action::Pass | Action::Reject))
}

/// Whether rules on IGMP are about nothing else. To Antrea one such rule decides for all that come
/// after it in the policy, and so it does here.
pub(super) fn check_igmp(spec: &PolicySpec) -> Result<(), Wrong> {
    let (mut has_igmp, mut has_icmp) = (false, false);
    for (place, rule) in rules(spec) {
        let wrong = |reason: String| Err(Wrong::new(format!("{place}.protocols"), reason));
        for protocol in rule.protocols.iter().flatten() {
            if let Some(igmp) = &protocol.igmp {
                has_igmp = true;
                let group = &igmp.group_address;
                let is_group = group.parse().is_ok_and(|address: IpAddr| address.is_multicast());
                if !group.is_empty() && !is_group {
                    return wrong(format!("groupAddress {group} is not multicast address"));
                }
                if answers_or_passes(rule) {
                    return wrong("protocol IGMP does not support Pass or Reject".into());
                }
            }
            has_icmp |= protocol.icmp.is_some();
        }
        let has_more = rule.ports.iter().flatten().next().is_some()
            || rule.to_services.iter().flatten().next().is_some()
            || !rule.from.is_empty()
            || !rule.to.is_empty();
        if has_igmp && (has_more || has_icmp) {
            return wrong(
                "protocol IGMP can not be used with other protocols or other properties like \
                 from, to"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Whether rules on what is above TCP can be.
pub(super) fn check_l7(spec: &PolicySpec, features: Features) -> Result<(), Wrong> {
    for (place, rule) in rules(spec).filter(|(_, rule)| !rule.l7_protocols.is_empty()) {
        let has_http = rule.l7_protocols.iter().any(|one| one.http.is_some());
        let is_tcp = |port: &Port| port.protocol.as_deref().is_none_or(|name| name == "TCP");
        let reason = if !features.l7_network_policy {
            "layer 7 protocols can only be used when L7NetworkPolicy is enabled"
        } else if rule.action != Some(Action::Allow) {
            "layer 7 protocols only support Allow"
        } else if rule.to_services.iter().flatten().next().is_some() {
            "layer 7 protocols can not be used with toServices"
        } else if has_http && !rule.ports.iter().flatten().all(is_tcp) {
            "HTTP protocol can only be used when layer 4 protocol is TCP or unset"
        } else if has_http && rule.protocols.iter().flatten().next().is_some() {
            "HTTP protocol can not be used with protocol IGMP or ICMP"
        } else {
            continue;
        };
        return Err(Wrong::new(format!("{place}.l7Protocols"), reason));
    }
    Ok(())
}

/// Whether ranges of ports have a beginning that is not behind their end.
pub(super) fn check_ports(spec: &PolicySpec) -> Result<(), Wrong> {
    for (place, rule) in rules(spec) {
        for (index, port) in rule.ports.iter().flatten().enumerate() {
            check_port(port).map_err(|wrong| wrong.within(&format!("{place}.ports[{index}]")))?;
        }
    }
    Ok(())
}

fn check_port(port: &Port) -> Result<(), Wrong> {
    let wrong = |field: &str, reason: &str| Err(Wrong::new(field, reason));
    match (&port.port, port.end_port) {
        (None, Some(_)) => wrong("endPort", "if `endPort` is specified `port` must be specified"),
        (Some(IntOrString::String(_)), Some(_)) => {
            wrong("endPort", "if `port` is a string `endPort` cannot be specified")
        }
        (Some(IntOrString::Int(first)), Some(last)) if last < *first => {
            wrong("endPort", "`endPort` should be greater than or equal to `port`")
        }
        _ => Ok(()),
    }?;
    match (port.source_port, port.source_end_port) {
        (None, Some(_)) => {
            wrong("sourceEndPort", "if `sourceEndPort` is specified `sourcePort` must be specified")
        }
        (Some(first), Some(last)) if last < first => wrong(
            "sourceEndPort",
            "`sourceEndPort` should be greater than or equal to `sourcePort`",
        ),
        _ => Ok(()),
    }
}
