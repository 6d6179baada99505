//! What a rule says beside whom it joins: its names, its table, its rank, its action.

use seine_datapath_api::v1;

use super::rank::{self, Place};
use crate::model::{Policy, PolicyKind, PolicyName, PolicyRule, RuleAction};

/// A rule as it will be, but for its groups and its traffic.
pub(super) fn template(
    policy: &Policy,
    place: Option<Place>,
    direction: v1::rule::Direction,
    index: usize,
    rule: &PolicyRule,
) -> Result<v1::Rule, &'static str> {
    use v1::rule::{Action, Table};
    let table = match place {
        None => Table::NetworkPolicy,
        Some(place) if place.is_baseline() => Table::Default,
        Some(_) => Table::AntreaPolicy,
    };
    let action = match rule.action {
        RuleAction::Allow => Action::Allow,
        _ if table == Table::NetworkPolicy => {
            return Err("action: Kubernetes' policies only allow");
        }
        RuleAction::Drop => Action::Drop,
        RuleAction::Reject => Action::Reject,
        // Upstream's API knows it in its baseline, too: after that there is only the default.
        RuleAction::Pass
            if table == Table::Default && policy.name.kind == PolicyKind::ClusterNetworkPolicy =>
        {
            Action::Allow
        }
        RuleAction::Pass if table == Table::Default => {
            return Err("action: nothing comes after the baseline tier to pass to");
        }
        RuleAction::Pass => Action::Pass,
    };
    let (rank, priority) = match place {
        None => (0, rank::KUBERNETES_PRIORITY.to_owned()),
        Some(place) => (place.rank(index, rule.action), place.shown(index)),
    };
    let (kind, _) = words(policy.name.kind);
    let name = match policy.name.namespace.as_str() {
        "" => format!("{kind}/{}/{}/{index}", policy.name.name, word(direction)),
        space => format!("{kind}/{space}/{}/{}/{index}", policy.name.name, word(direction)),
    };
    Ok(v1::Rule {
        name,
        policy: shown(&policy.name),
        rule_name: rule.name.clone(),
        direction: direction.into(),
        table: table.into(),
        rank,
        action: action.into(),
        log: rule.log,
        log_label: rule.log_label.clone(),
        priority,
        ..v1::Rule::default()
    })
}

/// A kind of policy in names of rules, and in audit lines.
fn words(kind: PolicyKind) -> (&'static str, &'static str) {
    match kind {
        PolicyKind::K8sNetworkPolicy => ("knp", "K8sNetworkPolicy"),
        PolicyKind::AntreaClusterNetworkPolicy => ("acnp", "AntreaClusterNetworkPolicy"),
        PolicyKind::AntreaNetworkPolicy => ("annp", "AntreaNetworkPolicy"),
        PolicyKind::AdminNetworkPolicy => ("anp", "AdminNetworkPolicy"),
        PolicyKind::BaselineAdminNetworkPolicy => ("banp", "BaselineAdminNetworkPolicy"),
        PolicyKind::ClusterNetworkPolicy => ("cnp", "ClusterNetworkPolicy"),
    }
}

/// A direction in names of rules.
pub(super) fn word(direction: v1::rule::Direction) -> &'static str {
    match direction {
        v1::rule::Direction::Egress => "egress",
        _ => "ingress",
    }
}

/// A policy as operators know it.
pub(super) fn shown(policy: &PolicyName) -> String {
    let (_, kind) = words(policy.kind);
    match policy.namespace.as_str() {
        "" => format!("{kind}:{}", policy.name),
        namespace => format!("{kind}:{namespace}/{}", policy.name),
    }
}
