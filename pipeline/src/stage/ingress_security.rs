//! Ingress security: what the Pods of this node may receive.
//!
//! Antrea: stage IngressSecurity, tables `IngressSecurityClassifier`, `AntreaPolicyIngressRule`,
//! `IngressRule`, `IngressDefaultRule` and `IngressMetric`.
//! Reads: egress port, source address, destination port, who sends it.
//! Writes: the rule that allowed or denied it.
//! Hit: to `IngressMetric`, which drops or refuses what was denied.  Miss: next table.
//!
//! The receiver is known by the port that the packet leaves by, not by its address. What the node
//! itself sends always passes: the kubelet's probes must not fail for a policy. So does what a Pod
//! sends to itself by a Service.

use super::judgement::{RuleJudge, RuleMetric};
use super::reevaluation;
use crate::adjacency::AdjacencyTable;
use crate::connection::Direction;
use crate::fqdn;
use crate::packet::{Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row};
use crate::state::{RuleDirection::Ingress, RuleTable, State};
use crate::verdict::Verdict;

/// Tells what no rule for receivers applies to.
pub struct IngressSecurityClassifier;

impl Table for IngressSecurityClassifier {
    fn id(&self) -> TableId {
        TableId::IngressSecurityClassifier
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        let facts = &packet.facts;
        let reply = matches!(facts.tracking, Tracking::Known { direction: Direction::Reply, .. });
        if facts.from_node && !reply {
            context.note(format_args!("the node itself sends it"));
            return Verdict::Goto(TableId::ConntrackCommit);
        }
        if facts.stale {
            return reevaluation::classify(packet, context);
        }
        if facts.is_decided() {
            if reply && let Err(reason) = fqdn::learn(packet, context) {
                return Verdict::Drop(reason);
            }
            context.note(format_args!("under way"));
            return Verdict::Goto(TableId::IngressMetric);
        }
        if facts.node_port && facts.source == Some(PacketSource::Gateway) {
            context.note(format_args!("sent to a NodePort"));
            return Verdict::Next;
        }
        if facts.hairpin {
            context.note(format_args!("back to its sender"));
            return Verdict::Goto(TableId::ConntrackCommit);
        }
        if facts.egress.is_none_or(|port| context.state.sender(port).is_none()) {
            context.note(format_args!("no Pod of this node receives it"));
            return Verdict::Goto(TableId::IngressMetric);
        }
        Verdict::Next
    }

    fn columns(&self) -> &'static [&'static str] {
        &["packet", "next"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let (commit, metric) = (TableId::ConntrackCommit, TableId::IngressMetric);
        vec![
            row([&"from the node itself", &commit]),
            row([&"under way", &metric]),
            row([&"to a NodePort", &TableId::AntreaPolicyIngressRule]),
            row([&"back to its sender", &commit]),
            row([&"to the gateway or a peer", &metric]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        5
    }
}

/// Rules of Antrea's tiers for what Pods receive.
pub const ANTREA_POLICY_INGRESS_RULE: RuleJudge =
    RuleJudge::new(TableId::AntreaPolicyIngressRule, Ingress, RuleTable::AntreaPolicy);

/// What Kubernetes' policies allow Pods to receive.
pub const INGRESS_RULE: RuleJudge =
    RuleJudge::new(TableId::IngressRule, Ingress, RuleTable::NetworkPolicy);

/// What they isolate, and the baseline tiers.
pub const INGRESS_DEFAULT_RULE: RuleJudge =
    RuleJudge::new(TableId::IngressDefaultRule, Ingress, RuleTable::Default);

/// Counts, and drops what was denied.
pub const INGRESS_METRIC: RuleMetric = RuleMetric::new(TableId::IngressMetric, Ingress);
