//! Egress security: what the Pods of this node may send.
//!
//! Antrea: stage EgressSecurity, tables `AntreaPolicyEgressRule`, `EgressRule`,
//! `EgressDefaultRule` and `EgressMetric`.
//! Reads: ingress port, destination address and port after translation.
//! Writes: the rule that allowed or denied it.
//! Hit: to `EgressMetric`, which drops or refuses what was denied.  Miss: next table.
//!
//! A connection is judged until it is answered; from then on its packets go straight to
//! `EgressMetric`. What no Pod of this node sends is none of this stage's business.

use super::judgement::{RuleJudge, RuleMetric};
use crate::stage::TableId;
use crate::state::{RuleDirection::Egress, RuleTable};

/// Rules of Antrea's tiers for what Pods send.
pub const ANTREA_POLICY_EGRESS_RULE: RuleJudge =
    RuleJudge::new(TableId::AntreaPolicyEgressRule, Egress, RuleTable::AntreaPolicy);

/// What Kubernetes' policies allow Pods to send.
pub const EGRESS_RULE: RuleJudge =
    RuleJudge::new(TableId::EgressRule, Egress, RuleTable::NetworkPolicy);

/// What they isolate, and the baseline tiers.
pub const EGRESS_DEFAULT_RULE: RuleJudge =
    RuleJudge::new(TableId::EgressDefaultRule, Egress, RuleTable::Default);

/// Counts, and drops what was denied.
pub const EGRESS_METRIC: RuleMetric = RuleMetric::new(TableId::EgressMetric, Egress);
