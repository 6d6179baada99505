//! Rules of policy routing: which table is asked for whom.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// The kernel's name for where the node's own packets come from.
const ORIGIN: &str = "lo";

/// A rule that what the node itself sends, and nothing that it forwards, asks a table of its own:
/// `ip rule add iif lo priority 830 lookup 83`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginRule {
    /// For IPv6, or else for IPv4.
    pub v6: bool,
    /// Rules are asked in the order of these.
    pub priority: u32,
    /// The table.
    pub table: u8,
    /// Who made it: a number of `/etc/iproute2/rt_protos`.
    pub protocol: u8,
}

impl Netlink {
    /// Every such rule of both families.
    pub fn origin_rules(&mut self) -> Result<Vec<OriginRule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers =
                self.exchange("list rules", RouteNetlinkMessage::GetRule(message), NLM_F_DUMP)?;
            rules.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => rule_of(&message),
                _ => None,
            }));
        }
        Ok(rules)
    }

    /// Adds a rule. One that is there already is a success.
    pub fn add_origin_rule(&mut self, rule: OriginRule) -> Result<(), NetlinkError> {
        let request = format!("add the rule `iif lo lookup {}`", rule.table);
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match self.exchange(&request, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Deletes a rule. One that is not there is a success.
    pub fn delete_origin_rule(&mut self, rule: OriginRule) -> Result<(), NetlinkError> {
        let request = format!("delete the rule `iif lo lookup {}`", rule.table);
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        match self.exchange(&request, message, NLM_F_ACK) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

fn rule_message(rule: OriginRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = rule.table;
    message.header.action = RuleAction::ToTable;
    message.attributes.extend([
        RuleAttribute::Iifname(ORIGIN.into()),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)),
    ]);
    message
}

fn rule_of(message: &RuleMessage) -> Option<OriginRule> {
    let mut rule = OriginRule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        table: message.header.table,
        protocol: 0,
    };
    let mut origin = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => origin = name == ORIGIN,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            _ => {}
        }
    }
    origin.then_some(rule)
}
