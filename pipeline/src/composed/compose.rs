//! How what the stages have decided about a packet becomes a shortcut for those that follow it.

use super::hit::epoch;
use super::rewrite::macs_of;
use super::shortcut::{Addressed, Rewrite, Shortcut};
use crate::address::{Mac, PortKind};
use crate::connection::{ConnectionId, Direction, address_words};
use crate::packet::{Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::state::mac_word;
use crate::verdict::Outcome;

/// Remembers what the stages have decided about a packet, for those that follow it.
pub(super) fn compose(
    packet: &Packet<'_>,
    addressed: Option<(u64, u64)>,
    outcome: Outcome,
    context: &Context<'_>,
) {
    if let Some((id, direction, shortcut, epoch)) = composed(packet, addressed, outcome, context) {
        context.learned.connections.decide(id, direction, shortcut.word(), epoch);
    }
}

fn composed(
    packet: &Packet<'_>,
    addressed: Option<(u64, u64)>,
    outcome: Outcome,
    context: &Context<'_>,
) -> Option<(ConnectionId, Direction, Shortcut, u32)> {
    let (facts, state, hops) = (&packet.facts, context.state, context.state.hops());
    let Outcome::Output(egress) = outcome else { return None };
    let Tracking::Known { id, direction, related: false, connection } = facts.tracking else {
        return None;
    };
    // What the node began has rights that what comes by the gateway has not.
    let special = direction == Direction::Original && connection.decision.from_node;
    if !facts.is_under_way() || special || facts.contested || facts.egress != Some(egress) {
        return None;
    }
    // What the node answers it with is another packet by now.
    let (ip, to) = (facts.ip?, connection.translated(direction));
    if (ip.source, ip.destination, ip.protocol) != (to.source, to.destination, to.protocol) {
        return None;
    }
    let to = hops.get(egress)?;
    let source = facts.source?;
    // Of the node's two ports, the key does not tell which one it came in by.
    if source == PacketSource::Gateway && to.kind != Some(PortKind::Pod) && facts.tunnel.is_none() {
        return None;
    }
    let adjacency = facts.tunnel.map(|tunnel| tunnel.adjacency);
    let mtu = if adjacency.is_some() { hops.tunnel_mtu } else { to.mtu };
    let rewrite = match (adjacency, facts.routed) {
        (Some(_), _) => Rewrite::ToPeer,
        (None, false) => Rewrite::None,
        (None, true) => {
            let now = macs_of(packet.bytes())?;
            let virtual_mac = mac_word(Mac::VIRTUAL);
            let to_station = now == (to.mac, hops.gateway_mac);
            let to_gateway = now == (hops.gateway_mac, virtual_mac);
            match (to_station, to_gateway) {
                (true, _) => Rewrite::ToStation,
                (false, true) => Rewrite::ToGateway,
                (false, false) => return None,
            }
        }
    };
    let (destination, from) = addressed?;
    // The packets that it is for come from there; the spoof guard may judge others otherwise.
    let own = hops.get(packet.ingress).map(|hop| hop.mac);
    if source == PacketSource::Pod && own != Some(from) {
        return None;
    }
    let addressed = match source {
        PacketSource::Tunnel => Addressed::Any,
        _ if destination == to.mac => Addressed::Station,
        _ if destination == hops.gateway_mac => Addressed::Gateway,
        _ if destination == mac_word(Mac::VIRTUAL) => Addressed::Virtual,
        _ => return None,
    };
    let (own, other) = match direction {
        Direction::Original => (connection.original, connection.reply),
        Direction::Reply => (connection.reply, connection.original),
    };
    let translate = own.tuple.reversed() != other.tuple;
    // What IPv4 leaves with as IPv6, or the other way round, is not kept.
    if own.tuple.source.is_ipv6() != other.tuple.source.is_ipv6() {
        return None;
    }
    // What comes by a tunnel comes from the peer whose range the sender's address is of.
    let (adjacency, remote) = match (source, facts.tunnel) {
        (PacketSource::Tunnel, _) => {
            let peer = state.peer_by_route(own.tuple.source)?;
            (Some(peer.adjacency), Some(peer.tunnel_address))
        }
        (_, tunnel) => (adjacency, tunnel.map(|tunnel| tunnel.remote)),
    };
    if let (Some(adjacency), Some(remote)) = (adjacency, remote)
        && state.encapsulations().prefix(adjacency).is_some_and(|prefix| !prefix.is_to(remote))
    {
        return None;
    }
    let shortcut = Shortcut {
        egress,
        rewrite,
        addressed,
        lower: facts.routed && source != PacketSource::Gateway,
        translate,
        adjacency,
    };
    // It goes to where the other direction's packets come from.
    let epoch = epoch(state, &own.words(), address_words(other.tuple.source));
    (facts.mtu == usize::from(mtu)).then_some((id, direction, shortcut, epoch))
}
