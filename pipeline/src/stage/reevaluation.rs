//! Judging connections under way again, after rules about them have changed.
//!
//! Antrea: nothing; its `ConntrackState` lets all that is established pass, which is `keep`, and
//! the default here. With `existingConnections: reevaluate` a connection remembers as of when rules
//! judged it (see `state/epochs.rs`). Its next packet, of either direction, walks the tables of
//! rules again if that is not now, as one that opens it would: what they ask about are the ends
//! of the connection, not those of the packet. If they let it, the connection remembers by which
//! rules, and as of now. If not, it is over: this packet and all that follow are judged one by one,
//! until nobody sends any more, or rules allow it again.
//!
//! The node's own connections are judged by nothing, and so not again. ICMP errors leave it to the
//! connection's own packets to be judged.

use std::net::IpAddr;

use crate::address::PortId;
use crate::connection::{
    Connection, ConnectionId, Decision, Direction, Found, Ingress, Progress, Tuple,
};
use crate::fqdn;
use crate::packet::{Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::stage::TableId;
use crate::state::State;
use crate::table::Flow;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{bytes_at, icmp};

/// Whom rules are asked about: who opens a connection, and to whom.
pub(super) struct Parties {
    /// The port of the Pod of this node that opens it.
    pub(super) sender: Option<PortId>,
    /// The port by which its packets leave, if known by now.
    pub(super) receiver: Option<PortId>,
    /// Who opens it, not who it is made to look like.
    pub(super) source: IpAddr,
    /// To whom, after translation.
    pub(super) destination: IpAddr,
    /// From where.
    pub(super) opened_by: PacketSource,
}

impl Parties {
    pub(super) fn of(packet: &Packet<'_>) -> Result<Parties, DropReason> {
        let facts = &packet.facts;
        if let (true, Tracking::Known { connection, .. }) = (facts.stale, facts.tracking) {
            return Ok(Parties::of_connection(&connection));
        }
        let opened_by = facts.source.ok_or(DropReason::UnknownPort)?;
        Ok(Parties {
            sender: (opened_by == PacketSource::Pod).then_some(packet.ingress),
            receiver: facts.egress,
            source: facts.original.ok_or(DropReason::Malformed)?.source,
            destination: facts.tuple.ok_or(DropReason::Malformed)?.destination,
            opened_by,
        })
    }

    fn of_connection(connection: &Connection) -> Parties {
        let pod = |ingress| match ingress {
            Ingress::Pod(port, _) => Some(port),
            Ingress::Gateway | Ingress::Tunnel => None,
        };
        Parties {
            sender: pod(connection.original.ingress),
            receiver: pod(connection.reply.ingress),
            source: connection.original.tuple.source,
            destination: connection.reply.tuple.source,
            opened_by: connection.decision.source,
        }
    }

    /// From whom to whom, after translation.
    pub(super) fn tuple(packet: &Packet<'_>) -> Result<Tuple, DropReason> {
        match packet.facts.tracking {
            Tracking::Known { connection, .. } if packet.facts.stale => {
                Ok(connection.translated(Direction::Original))
            }
            _ => packet.facts.tuple.ok_or(DropReason::Malformed),
        }
    }

    /// Protocol, ports and ICMP type, as rules ask for them.
    pub(super) fn flow(packet: &Packet<'_>) -> Result<Flow, DropReason> {
        let (ip, tuple) = (packet.ip()?, Parties::tuple(packet)?);
        let message = ip.icmp_type(packet.payload());
        let icmp = message.and_then(|_| bytes_at::<2>(packet.payload(), ip.upper));
        // Of ICMP queries a tuple holds the identifier, where others have ports. A later fragment
        // has those of its first.
        let (source_port, destination_port) = match tuple.has_ports() {
            true => (tuple.source_port, tuple.destination_port),
            false => (0, 0),
        };
        // Of what is judged again a rule means the question, also when this is its answer.
        let asked = |kind| match packet.facts.stale {
            true => icmp::query_of(ip.is_v6(), kind).unwrap_or(kind),
            false => kind,
        };
        let icmp = icmp.map(|[kind, code]| (asked(kind), code));
        Ok(Flow { protocol: ip.protocol, source_port, destination_port, icmp })
    }
}

/// Whether rules have changed since they judged a connection that is under way, or forbid it.
pub(super) fn is_stale(found: &Found, state: &State) -> bool {
    let Found { direction, connection, .. } = found;
    let unanswered = *direction == Direction::Original && connection.progress.is_unanswered();
    if connection.progress == Progress::Revoked {
        return true;
    }
    if !state.reevaluates() || unanswered || connection.decision.from_node {
        return false;
    }
    now(connection, state).policy_epoch.is_newer_than(connection.decision.policy_epoch)
}

/// What was decided about a connection, as if rules had done so now.
fn now(connection: &Connection, state: &State) -> Decision {
    let (source, destination) = (connection.original.tuple.source, connection.reply.tuple.source);
    Decision { policy_epoch: state.policy_epoch(source, destination), ..connection.decision }
}

/// Where a packet goes on by which rules for receivers judge its connection again.
pub(super) fn classify(packet: &Packet<'_>, context: &mut Context<'_>) -> Verdict {
    let facts = &packet.facts;
    let Tracking::Known { connection, .. } = facts.tracking else { return Verdict::Next };
    let Parties { receiver, opened_by, .. } = Parties::of_connection(&connection);
    if facts.node_port && opened_by == PacketSource::Gateway {
        context.note(format_args!("opened to a NodePort"));
        return Verdict::Next;
    }
    if facts.hairpin {
        context.note(format_args!("back to its sender"));
        return Verdict::Goto(TableId::ConntrackCommit);
    }
    if receiver.is_none_or(|port| context.state.sender(port).is_none()) {
        context.note(format_args!("no Pod of this node is its receiver"));
        return Verdict::Goto(TableId::IngressMetric);
    }
    Verdict::Next
}

/// Remembers by which rules a connection passes now.
pub(super) fn confirm(
    packet: &Packet<'_>,
    context: &mut Context<'_>,
) -> Result<Verdict, DropReason> {
    context.note(format_args!("may go on"));
    let Tracking::Known { id, direction, connection, .. } = packet.facts.tracking else {
        return Ok(Verdict::Next);
    };
    if context.dry {
        return Ok(Verdict::Next);
    }
    if direction == Direction::Reply {
        fqdn::learn(packet, context)?;
    }
    let known = connection.decision;
    let decision = Decision {
        egress_rule: packet.facts.egress_rule,
        ingress_rule: packet.facts.ingress_rule,
        ..now(&connection, context.state)
    };
    let connections = &context.learned.connections;
    // Another worker may know of newer rules.
    if !known.policy_epoch.is_newer_than(decision.policy_epoch) {
        revise(context, id, &connection, decision);
        if connection.progress == Progress::Revoked {
            let again = Progress::allowed_again(connection.original.tuple.protocol);
            connections.advance(id, Progress::Revoked, again);
        }
    }
    connections.note(id, direction, packet.counted_bytes()?, context.now_ms);
    Ok(Verdict::Next)
}

fn revise(context: &Context<'_>, id: ConnectionId, connection: &Connection, decision: Decision) {
    let connections = &context.learned.connections;
    if let Some(counts) = connections.revise(id, &connection.decision, &decision) {
        context.worker.tallies.hand_over(&connection.decision, &decision, &counts);
    }
}

/// Ends the connection of a packet by which rules have denied it.
pub(super) fn revoke(packet: &Packet<'_>, context: &Context<'_>) -> Result<(), DropReason> {
    let Tracking::Known { id, direction, connection, .. } = packet.facts.tracking else {
        return Ok(());
    };
    if !packet.facts.stale || context.dry {
        return Ok(());
    }
    let rules = Decision { egress_rule: None, ingress_rule: None, ..connection.decision };
    let decision = Decision { policy_epoch: now(&connection, context.state).policy_epoch, ..rules };
    revise(context, id, &connection, decision);
    let connections = &context.learned.connections;
    connections.revoke(id);
    // It is kept in mind for as long as anybody sends.
    connections.note(id, direction, packet.counted_bytes()?, context.now_ms);
    Ok(())
}
