//! Antrea's policies, each by itself: Antrea's questions, in Antrea's order, so that of several
//! mistakes the same one is named.

mod applied_to;
mod peer;
mod traffic;

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Features;
use crate::watch::api::antrea::{Action, AppliedTo, IpBlock, PolicySpec, Rule};
use crate::watch::object::{Wrong, check_key, check_value};

/// Longer ones are cut off in the kernel's log, where policies of Nodes are logged.
const NODE_LOG_LABEL_LENGTH_MAX: usize = 12;

/// Whether the policy can be, and what to warn of if it can.
pub(crate) fn validate(spec: &PolicySpec, features: Features) -> Result<Vec<String>, Wrong> {
    check_pass_action(spec)?;
    check_rule_names(spec)?;
    applied_to::check(spec)?;
    peer::check(spec)?;
    peer::check_of_services(spec)?;
    peer::check_domain_names(spec)?;
    traffic::check_multicast(spec)?;
    traffic::check_igmp(spec)?;
    traffic::check_l7(spec, features)?;
    traffic::check_ports(spec)?;
    Ok(log_label_warnings(spec))
}

/// Every rule, ingress first, with its place.
fn rules(spec: &PolicySpec) -> impl Iterator<Item = (String, &Rule)> {
    placed("ingress", &spec.ingress).chain(placed("egress", &spec.egress))
}

fn placed<'a>(
    direction: &'static str,
    rules: &'a [Rule],
) -> impl Iterator<Item = (String, &'a Rule)> {
    rules.iter().enumerate().map(move |(index, rule)| (format!("{direction}[{index}]"), rule))
}

fn check_pass_action(spec: &PolicySpec) -> Result<(), Wrong> {
    if !spec.tier.eq_ignore_ascii_case("baseline") {
        return Ok(());
    }
    match rules(spec).find(|(_, rule)| rule.action == Some(Action::Pass)) {
        Some((place, _)) => Err(Wrong::new(
            format!("{place}.action"),
            "`Pass` action should not be set for Baseline Tier policy rules",
        )),
        None => Ok(()),
    }
}

/// Rules without a name get one of their own from Antrea before they are asked about.
fn check_rule_names(spec: &PolicySpec) -> Result<(), Wrong> {
    let mut names = BTreeSet::new();
    for (place, rule) in rules(spec).filter(|(_, rule)| !rule.name.is_empty()) {
        if !names.insert(&rule.name) {
            let reason = "rules names must be unique within the policy";
            return Err(Wrong::new(format!("{place}.name"), reason));
        }
    }
    Ok(())
}

fn log_label_warnings(spec: &PolicySpec) -> Vec<String> {
    let is_of_nodes = |one: &AppliedTo| one.node_selector.is_some();
    if !spec.applied_to.iter().any(is_of_nodes) {
        return Vec::new();
    }
    rules(spec)
        .map(|(_, rule)| rule)
        .filter(|rule| rule.enable_logging && rule.log_label.len() > NODE_LOG_LABEL_LENGTH_MAX)
        .map(|rule| {
            format!(
                "LogLabels for Node NetworkPolicies are limited to {NODE_LOG_LABEL_LENGTH_MAX} \
                 characters, but the label {:?} for policy rule {:?} exceeds the limit and will \
                 be truncated in kernel logs",
                rule.log_label, rule.name
            )
        })
        .collect()
}

/// Whether the labels of these selectors can be labels.
pub(super) fn check_labels<'a>(
    selectors: impl IntoIterator<Item = (&'static str, &'a Option<LabelSelector>)>,
) -> Result<(), Wrong> {
    for (field, selector) in selectors {
        let labels = selector.iter().flat_map(|selector| selector.match_labels.iter().flatten());
        for (key, value) in labels {
            check_key(key)
                .and_then(|()| check_value(value))
                .map_err(|reason| Wrong::new(format!("{field}.matchLabels"), reason))?;
        }
    }
    Ok(())
}

/// Whether the ranges of a block are ranges, the excepted ones within the whole.
pub(super) fn check_ip_block(block: &IpBlock) -> Result<(), Wrong> {
    if block.cidr.is_empty() {
        return Err(Wrong::new("cidr", "field 'cidr' is required in an ipBlock"));
    }
    let parse =
        |text: &str| text.parse::<IpNet>().map_err(|_| format!("invalid CIDR address: {text}"));
    let whole = parse(&block.cidr).map_err(|reason| Wrong::new("cidr", reason))?.trunc();
    for (index, text) in block.except.iter().enumerate() {
        let wrong = |reason: String| Wrong::new(format!("except[{index}]"), reason);
        let hole = parse(text)
            .map_err(|reason| wrong(format!("invalid except CIDR value: {reason}")))?
            .trunc();
        if !whole.contains(&hole) || whole.prefix_len() >= hole.prefix_len() {
            let cidr = &block.cidr;
            return Err(wrong(format!("except CIDR {text} is not a strict subset of CIDR {cidr}")));
        }
    }
    Ok(())
}

/// Whether the range begins with the address of a multicast group.
pub(super) fn is_multicast(block: &IpBlock) -> bool {
    block.cidr.parse::<IpNet>().is_ok_and(|range| range.addr().is_multicast())
}
