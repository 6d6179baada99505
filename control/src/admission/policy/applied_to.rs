//! Whom a policy applies to: said once, for the policy or for each rule, and one way at a time.

use super::{check_labels, rules};
use crate::watch::api::antrea::{AppliedTo, PolicySpec};
use crate::watch::object::Wrong;

pub(super) fn check(spec: &PolicySpec) -> Result<(), Wrong> {
    let with_own = rules(spec).filter(|(_, rule)| !rule.applied_to.is_empty()).count();
    let reason = if !spec.applied_to.is_empty() && with_own > 0 {
        Some("appliedTo should not be set in both spec and rules")
    } else if spec.applied_to.is_empty() && with_own == 0 {
        Some("appliedTo needs to be set in either spec or rules")
    } else if with_own > 0 && with_own != rules(spec).count() {
        Some("appliedTo field should either be set in all rules or in none of them")
    } else {
        None
    };
    if let Some(reason) = reason {
        return Err(Wrong::new("appliedTo", reason));
    }
    check_entries(&spec.applied_to, !spec.egress.is_empty())?;
    for (place, rule) in rules(spec) {
        check_entries(&rule.applied_to, place.starts_with("egress"))
            .map_err(|wrong| wrong.within(&place))?;
    }
    Ok(())
}

fn check_entries(entries: &[AppliedTo], sends: bool) -> Result<(), Wrong> {
    for (index, one) in entries.iter().enumerate() {
        check_entry(one, sends).map_err(|wrong| wrong.within(&format!("appliedTo[{index}]")))?;
    }
    let services = entries.iter().filter(|one| one.service.is_some()).count();
    if services > 0 && services < entries.len() {
        let reason = "a rule/policy cannot be applied to Services and other peers at the same time";
        return Err(Wrong::new("appliedTo", reason));
    }
    Ok(())
}

fn check_entry(one: &AppliedTo, sends: bool) -> Result<(), Wrong> {
    let alone = [
        ("group", !one.group.is_empty()),
        ("nodeSelector", one.node_selector.is_some()),
        ("serviceAccount", one.service_account.is_some()),
        ("service", one.service.is_some()),
    ];
    let others = [
        one.pod_selector.is_some(),
        one.namespace_selector.is_some(),
        one.external_entity_selector.is_some(),
    ];
    let count = alone.iter().filter(|(_, is_set)| *is_set).count()
        + others.iter().filter(|is_set| **is_set).count();
    for (field, is_set) in alone {
        if is_set && count > 1 {
            let reason = format!("{field} cannot be set with other peers in appliedTo");
            return Err(Wrong::new(field, reason));
        }
    }
    if one.service.is_some() && sends {
        return Err(Wrong::new("service", "egress rule cannot be applied to Services"));
    }
    check_labels([
        ("podSelector", &one.pod_selector),
        ("namespaceSelector", &one.namespace_selector),
        ("externalEntitySelector", &one.external_entity_selector),
        ("nodeSelector", &one.node_selector),
    ])
}
