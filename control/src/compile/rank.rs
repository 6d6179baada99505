//! Where a rule stands among those of its table, as one number that never has to be assigned anew.
//!
//! From the highest bit: 8 bits tier, 39 bits priority of the policy, 16 bits place of the rule
//! within it, 1 bit that puts rules that let pass behind those that do not. Why so is written in
//! docs/decisions/0022-rank-of-rules.md.

use crate::model::{Cluster, Policy, RuleAction, STATIC_TIERS, TierOf};

/// The tier whose rules stand behind Kubernetes' policies, as all later ones do.
const BASELINE_TIER: u32 = 253;
/// The application tier: Antrea spreads its priorities wider in log lines.
const APPLICATION_TIER: u32 = 250;
const TIER_MAX: u32 = 254;
const PRIORITY_FRACTION_BITS: u32 = 25;
/// Antrea's highest; 14 bits before the point hold it.
const PRIORITY_MAX: f64 = 10000.0;
const RULES_MAX: usize = 1 << 16;

/// Kubernetes' isolation: before all baseline tiers.
pub(super) const ISOLATION: u64 = 0;
/// The priority that Antrea's log lines show for rules of Kubernetes' policies.
pub(super) const KUBERNETES_PRIORITY: &str = "190";

/// Where a policy stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    tier: u32,
    priority: f64,
}

/// Why a policy has no place.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("tier: there is no Tier `{0}`")]
    NoTier(String),
    #[error("tier: its priority {0} is above {TIER_MAX}")]
    TierPriority(u32),
    #[error("priority: {0} is not within 0 and 10000")]
    Priority(f64),
    #[error("rules: more than {RULES_MAX} in one direction")]
    Rules,
}

impl Place {
    /// Where a policy stands; `None` for Kubernetes' own, which have no order.
    pub(super) fn of(policy: &Policy, cluster: &Cluster) -> Result<Option<Self>, PlaceError> {
        let tier = match &policy.tier {
            TierOf::NetworkPolicy => return Ok(None),
            TierOf::Fixed(tier) => *tier,
            TierOf::Named(name) => {
                tier_priority(name, cluster).ok_or_else(|| PlaceError::NoTier(name.clone()))?
            }
        };
        if tier > TIER_MAX {
            return Err(PlaceError::TierPriority(tier));
        }
        if !(0.0..=PRIORITY_MAX).contains(&policy.priority) {
            return Err(PlaceError::Priority(policy.priority));
        }
        if policy.ingress.len().max(policy.egress.len()) > RULES_MAX {
            return Err(PlaceError::Rules);
        }
        Ok(Some(Self { tier, priority: policy.priority }))
    }

    /// Whether Kubernetes' policies come first.
    pub(super) fn is_baseline(self) -> bool {
        self.tier >= BASELINE_TIER
    }

    /// The rank of one of its rules.
    pub(super) fn rank(self, rule: usize, action: RuleAction) -> u64 {
        let priority = (self.priority * f64::from(1u32 << PRIORITY_FRACTION_BITS)).round() as u64;
        let lets_pass = matches!(action, RuleAction::Allow | RuleAction::Pass);
        u64::from(self.tier) << 56 | priority << 17 | (rule as u64) << 1 | u64::from(lets_pass)
    }

    /// The priority that Antrea's log lines show: that of the rule's flow before any is shifted.
    pub(super) fn shown(self, rule: usize) -> String {
        let (top, spread, least) = match self.tier {
            BASELINE_TIER.. => (180.0, 10.0, 10.0),
            APPLICATION_TIER => (65000.0 - 200.0 * 250.0, 100.0, 100.0),
            tier => (65000.0 - 200.0 * f64::from(tier), 20.0, 100.0),
        };
        let shown: f64 = top - spread * self.priority - rule as f64;
        (shown.max(least) as u32).to_string()
    }
}

/// Antrea's own tiers are known in any case of letters, as Antrea has it.
fn tier_priority(name: &str, cluster: &Cluster) -> Option<u32> {
    let fixed = || STATIC_TIERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    cluster.tiers.get(name).copied().or_else(|| fixed().map(|(_, priority)| *priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(tier: u32, priority: f64) -> Place {
        Place { tier, priority }
    }

    #[test]
    fn tier_counts_before_priority_before_place_before_action() {
        use RuleAction::{Allow, Drop, Pass, Reject};
        let ordered = [
            place(50, 10000.0).rank(65535, Allow),
            place(100, 1.0).rank(0, Reject),
            place(100, 1.0).rank(0, Pass),
            place(100, 1.0).rank(1, Drop),
            place(100, 1.000_001).rank(0, Drop),
            place(250, 5.0).rank(0, Drop),
            place(251, 0.0).rank(0, Allow),
            place(254, 0.0).rank(0, Allow),
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b));
        assert_eq!(place(100, 1.0).rank(0, Drop), place(100, 1.0).rank(0, Reject));
        assert!(ISOLATION < place(253, 0.0).rank(0, Drop));
    }

    #[test]
    fn log_lines_show_the_priorities_of_antreas_flows() {
        assert_eq!(place(250, 5.0).shown(0), "14500");
        assert_eq!(place(50, 1.0).shown(2), "54978");
        assert_eq!(place(250, 10000.0).shown(0), "100");
        assert_eq!(place(253, 1.0).shown(0), "170");
    }
}
