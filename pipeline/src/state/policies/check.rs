//! What a group or rule must satisfy by itself.

use crate::state::check::refuse;
use crate::state::{Action, Group, Kind, Refusal, Rule, RuleDirection, RuleTable, Traffic};
use crate::wire::{dns, icmp, sctp, tcp, udp};

pub(in crate::state) fn group(group: &Group) -> Result<(), Refusal> {
    let refuse = |field, reason: String| refuse(Kind::Group, &group.name, field, reason);
    for member in &group.members {
        if member.trunc() != *member {
            let reason =
                format!("{member} has bits set behind its length: {} is meant?", member.trunc());
            return refuse("members", reason);
        }
    }
    if !group.members.is_sorted_by(|one, other| one < other) {
        return refuse("members", "are not in order, or one is there twice".to_owned());
    }
    for name in &group.fqdns {
        let legal = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.' | b'*');
        if name.is_empty() || name.len() > dns::NAME_MAX || !name.bytes().all(legal) {
            return refuse("fqdns", format!("`{name}` is no name, nor a pattern of names"));
        }
    }
    Ok(())
}

pub(in crate::state) fn rule(rule: &Rule) -> Result<(), Refusal> {
    let refuse = |field, reason: &str| refuse(Kind::Rule, &rule.name, field, reason);
    if rule.applied_to_groups.is_empty() && rule.applied_to_services.is_empty() {
        return refuse("applied_to_groups", "neither a group nor a Service is named");
    }
    if rule.direction == RuleDirection::Egress && !rule.applied_to_services.is_empty() {
        return refuse("applied_to_services", "NodePort traffic is judged on ingress only");
    }
    if rule.direction == RuleDirection::Ingress && !rule.peer_services.is_empty() {
        return refuse("peer_services", "a Service is a peer on egress only");
    }
    match (rule.action, rule.table) {
        (Action::Pass, RuleTable::NetworkPolicy | RuleTable::Default) => {
            return refuse("action", "only rules before Kubernetes' policies can leave it to them");
        }
        (Action::Isolate, RuleTable::AntreaPolicy | RuleTable::NetworkPolicy) => {
            return refuse("action", "isolation is of the default table only");
        }
        (Action::Drop | Action::Reject, RuleTable::NetworkPolicy) => {
            return refuse("action", "Kubernetes' policies only allow");
        }
        _ => {}
    }
    rule.traffic.iter().try_for_each(|traffic| self::traffic(rule, traffic))
}

fn traffic(rule: &Rule, traffic: &Traffic) -> Result<(), Refusal> {
    let refuse = |field, reason: String| refuse(Kind::Rule, &rule.name, field, reason);
    let Traffic { protocol, ports, source_ports, icmp_type, icmp_code } = *traffic;
    let ported = [tcp::PROTOCOL, udp::PROTOCOL, sctp::PROTOCOL].contains(&protocol);
    for (field, range) in [("traffic.ports", ports), ("traffic.source_ports", source_ports)] {
        let Some(range) = range else { continue };
        if !ported {
            return refuse(field, format!("protocol {protocol} has none"));
        }
        if range.first > range.last {
            return refuse(field, format!("{} is above {}", range.first, range.last));
        }
    }
    let messages = [icmp::PROTOCOL_V4, icmp::PROTOCOL_V6].contains(&protocol);
    if icmp_type.is_some() && !messages {
        return refuse("traffic.icmp_type", format!("protocol {protocol} has none"));
    }
    if icmp_code.is_some() && icmp_type.is_none() {
        return refuse("traffic.icmp_code", "means nothing without a type".to_owned());
    }
    Ok(())
}
