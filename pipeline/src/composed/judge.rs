//! Rules, asked once more about a connection that is composed.
//!
//! What is composed holds because rules let the connection be opened. Where none of them has
//! changed since, which the connection's policy epoch says, they have to let it now, too. Nothing
//! is known of a connection that is older than its rules: with `existingConnections: keep` it may
//! go on whatever they say.

use crate::connection::Connection;
use crate::packet::{Denied, Facts, Packet, Tracking};
use crate::run::Context;
use crate::stage::egress_security::{ANTREA_POLICY_EGRESS_RULE, EGRESS_DEFAULT_RULE, EGRESS_RULE};
use crate::stage::ingress_security::{
    ANTREA_POLICY_INGRESS_RULE, INGRESS_DEFAULT_RULE, INGRESS_RULE, IngressSecurityClassifier,
};
use crate::stage::{Table, TableId};
use crate::state::State;
use crate::verdict::Verdict;

const EGRESS: [&dyn Table; 3] = [&ANTREA_POLICY_EGRESS_RULE, &EGRESS_RULE, &EGRESS_DEFAULT_RULE];
const INGRESS: [&dyn Table; 4] =
    [&IngressSecurityClassifier, &ANTREA_POLICY_INGRESS_RULE, &INGRESS_RULE, &INGRESS_DEFAULT_RULE];

/// What rules say of the connection of a packet that has walked the stages, as it was opened;
/// `None` where they need not say what they said then.
pub(super) fn judge_again(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
) -> Option<Result<(), Denied>> {
    let Tracking::Known { connection, related: false, .. } = packet.facts.tracking else {
        return None;
    };
    if !is_current(&connection, context.state) {
        return None;
    }
    // As what is judged again by rules that have changed: by whom opened the connection, and how.
    let sent_to = connection.original.tuple.destination;
    let service = connection.decision.service.is_some();
    packet.facts = Facts {
        stale: true,
        judged: false,
        from_node: false,
        egress_rule: None,
        ingress_rule: None,
        node_port: service && context.state.node_port_addresses().any(|it| it == sent_to),
        ..packet.facts
    };
    let denied = denied_by(&EGRESS, TableId::EgressMetric, packet, context);
    // Names are learnt and forgotten without a change of rules.
    if denied.is_some() && context.state.policies().know_names() {
        return None;
    }
    let denied = denied.or_else(|| denied_by(&INGRESS, TableId::IngressMetric, packet, context));
    Some(denied.map_or(Ok(()), Err))
}

/// Whether rules judged the connection, and none that could concern it has changed since.
fn is_current(connection: &Connection, state: &State) -> bool {
    let Connection { original, reply, decision, .. } = connection;
    let now = state.policy_epoch(original.tuple.source, reply.tuple.source);
    let service = decision.service.is_none_or(|id| state.services().by_id(id).is_some());
    !decision.from_node && service && decision.policy_epoch == now
}

/// The answer of the first of these tables that denies it.
fn denied_by(
    tables: &[&dyn Table],
    metric: TableId,
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
) -> Option<Denied> {
    for table in tables {
        match table.apply(packet, context) {
            Verdict::Next => {}
            Verdict::Goto(target) if target == metric => break,
            // What rules do not apply to.
            _ => return None,
        }
    }
    packet.facts.denied
}
