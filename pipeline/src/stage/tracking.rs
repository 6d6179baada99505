//! What a packet is to its connection: whether it has to be judged, by what it is found, and what
//! it is charged to.

use std::net::IpAddr;

use crate::connection::{
    Account, ConnectionId, Direction, FlowKey, Found, Ingress, Judged, NotInserted, Tuple,
};
use crate::packet::{Facts, Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::state::{EndpointAddress, Holder, State};
use crate::verdict::DropReason;
use crate::wire::icmp;
use crate::wire::ip::Ip;

/// The network of all Pods.
const NETWORK: u16 = 0;

impl Facts {
    /// Whether nothing need be judged any more: the packet's connection is under way, or what would
    /// judge it has done so a moment ago.
    pub(crate) fn is_decided(&self) -> bool {
        self.judged || self.is_under_way()
    }

    /// Whether the packet's connection is under way: the other side has answered, or this is its
    /// answer. Until then each further packet of the side that began is judged as the first was,
    /// and so is what would open the connection again, for policy may have closed it since; and
    /// what comes by the gateway on a connection that the node itself began: that was let through
    /// for being the node's. And where that is wanted, any packet after rules have changed.
    pub(crate) fn is_under_way(&self) -> bool {
        let Tracking::Known { direction, related, connection, .. } = self.tracking else {
            return false;
        };
        let unanswered = connection.progress.is_unanswered();
        let foreign = connection.decision.from_node && !self.from_node;
        let judged_again = unanswered || foreign || self.opens_again;
        related || !self.stale && (direction == Direction::Reply || !judged_again)
    }
}

/// Takes a packet that has to be judged from what its port may send of such, unless it is only
/// described.
pub(super) fn admit(packet: &Packet<'_>, context: &mut Context<'_>) -> Result<(), DropReason> {
    if context.dry {
        return Ok(());
    }
    let ingress = ingress(packet, context.state).ok_or(DropReason::UnknownPort)?;
    let worker = &mut context.worker.connections;
    let account = Account::of(ingress, packet.facts.from_node);
    let admitted = context.learned.connections.admit(account, context.now_ms, worker);
    admitted.map_err(reason)
}

/// What the tables of this moment are remembered by.
pub(super) fn judged_now(context: &Context<'_>) -> Judged {
    Judged::now(context.state.revision(), context.now_ms)
}

/// Whether the tables of this moment have let the unanswered connection through that the packet
/// goes on with. They look at addresses and ports only, but of ICMP at more than is remembered.
pub(super) fn is_judged(
    packet: &Packet<'_>,
    context: &Context<'_>,
    ip: &Ip,
    found: &Found,
) -> bool {
    let (at, from_node) = (found.connection.progress, found.connection.decision.from_node);
    let mine = found.direction == Direction::Original && from_node == packet.facts.from_node;
    let by_ports = !matches!(ip.protocol, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6);
    let connections = &context.learned.connections;
    mine && by_ports
        && at.is_unanswered()
        && connections.is_judged(found.id, at, judged_now(context))
}

/// What a packet came in by, as far as it belongs to its connection.
pub(crate) fn ingress(packet: &Packet<'_>, state: &State) -> Option<Ingress> {
    match packet.facts.source? {
        PacketSource::Pod => {
            state.port(packet.ingress).map(|port| Ingress::Pod(port.id, port.generation))
        }
        PacketSource::Gateway => Some(Ingress::Gateway),
        PacketSource::Tunnel => Some(Ingress::Tunnel),
    }
}

/// What a connection is found by.
pub(super) fn key(ingress: Ingress, tuple: Tuple) -> FlowKey {
    FlowKey { network: NETWORK, ingress, tuple }
}

/// The drop that a connection ends in which cannot begin.
pub(super) fn reason(not_inserted: NotInserted) -> DropReason {
    match not_inserted {
        NotInserted::Full => DropReason::ConnectionTableFull,
        NotInserted::Quota => DropReason::ConnectionQuota,
        NotInserted::Budget => DropReason::NewConnectionBudget,
        NotInserted::Exists => DropReason::ConnectionClash,
    }
}

/// Whether what the packet is sent to is still the port that the connection began with, and still
/// an endpoint of its Service if nobody has answered. The end it comes from is part of the key that
/// it was found by.
pub(super) fn is_current(found: &Found, context: &Context<'_>) -> bool {
    let state = context.state;
    let Found { direction, connection, .. } = found;
    let to = connection.translated(*direction);
    let endpoint = EndpointAddress { address: to.destination, port: to.destination_port };
    if let Some(service) = connection.decision.service
        && *direction == Direction::Original
        && connection.progress.is_unanswered()
        && state.services().by_id(service).is_none_or(|it| !it.has_endpoint(endpoint))
    {
        return false;
    }
    let target: IpAddr = to.destination;
    let far = match found.direction {
        Direction::Original => found.connection.reply.ingress,
        Direction::Reply => found.connection.original.ingress,
    };
    let owner = state.owner(target).map(|(_, port)| port);
    // Who has an allowed address is asked by what goes on towards it, as by what began.
    let held = || state.holder(target, &context.learned.announcements).map(|it| it.port);
    let is_original = found.direction == Direction::Original;
    let owner = owner.or_else(|| if is_original { held() } else { None });
    let owner = owner.and_then(|port| state.port(port));
    match far {
        Ingress::Pod(port, generation) => {
            let speaker = || {
                let asked = (!is_original).then(|| state.speaker_for(port, target)).flatten();
                asked.and_then(|_| state.port(port))
            };
            let end = owner.or_else(speaker);
            end.is_some_and(|end| (end.id, end.generation) == (port, generation))
        }
        Ingress::Gateway | Ingress::Tunnel => owner.is_none(),
    }
}

/// Who has the allowed address that this is sent to. What answers goes back to who asked, and to
/// nobody else: rules for a receiver do not judge answers.
pub(super) fn holder_of<'s>(
    packet: &Packet<'_>,
    context: &Context<'s>,
    destination: IpAddr,
) -> Option<Holder<'s>> {
    match packet.facts.tracking {
        Tracking::Known { direction: Direction::Reply, .. } => None,
        _ => context.state.holder(destination, &context.learned.announcements),
    }
}

/// Ends a connection, unless the packet is only described; says whether it was there.
pub(super) fn forget(context: &Context<'_>, id: ConnectionId) -> bool {
    let ended = if context.dry { None } else { context.learned.connections.remove(id) };
    if let Some(ended) = &ended {
        context.worker.tallies.account(&ended.decision, &ended.counts);
    }
    ended.is_some()
}
