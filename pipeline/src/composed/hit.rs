//! A hit: a packet that is rewritten by what was composed for its direction.

use super::glance::Glance;
use super::rewrite::{self, Change};
use super::shortcut::{Addressed, Rewrite, Shortcut};
use crate::address::{Mac, PortId};
use crate::adjacency::AdjacencyId;
use crate::connection::{Candidate, Direction, FlowKey, KeyWords};
use crate::packet::{Checksum, Tunnel};
use crate::run::Context;
use crate::state::{State, mac_word};
use crate::wire::{dns, ethernet};

/// What became of a packet's bytes, and where it goes.
pub(super) struct Taken {
    pub egress: PortId,
    pub checksum: Checksum,
    /// The tunnel, and the MAC addresses on the underlay.
    pub tunnel: Option<(Tunnel, Mac, Mac)>,
}

/// Rewrites a packet by what was composed; `None`, and nothing rewritten, when it has to take the
/// stages. Known are its checksum, and the bytes of the segments behind it. `from` is the MAC
/// address that it has to come from.
#[inline]
pub(super) fn take(
    bytes: &mut [u8],
    (known, following): (Checksum, usize),
    glance: &Glance,
    candidate: Candidate,
    from: Option<u64>,
    context: &Context<'_>,
) -> Option<Taken> {
    let (state, hops) = (context.state, context.state.hops());
    let checksum = glance.checksum(known)?;
    let hit = context.learned.connections.hit(candidate, &glance.words)?;
    if !hit.progress.stays(hit.direction) {
        return None;
    }
    let shortcut = Shortcut::from_word(hit.shortcut())?;
    let to = hops.get(shortcut.egress)?;
    let other = if shortcut.translate { Some(hit.other_key()?) } else { None };
    if !hit.is_of(epoch(state, &glance.words, other.as_ref())) {
        return None;
    }
    let (destination, source) = macs_of(bytes)?;
    let addressed = match shortcut.addressed {
        Addressed::Station => destination == to.mac,
        Addressed::Gateway => destination == hops.gateway_mac,
        Addressed::Virtual => destination == mac_word(Mac::VIRTUAL),
        Addressed::Any => true,
    };
    let mtu = if shortcut.adjacency.is_some() { hops.tunnel_mtu } else { to.mtu };
    let fits = glance.len <= mtu && (!shortcut.lower || glance.ttl > 1);
    if !addressed || from.is_some_and(|from| source != from) || !fits {
        return None;
    }
    // What a server of names answers is learnt from.
    if hit.direction == Direction::Reply && answered_by(&glance.words, other.as_ref()) == dns::PORT
    {
        return None;
    }
    let tunnel = match shortcut.adjacency {
        Some(adjacency) => Some(underlay(adjacency, &glance.words, other.as_ref(), context)?),
        None => None,
    };
    let change = Change { glance, to: other.as_ref(), checksum, lower: shortcut.lower };
    change.make(bytes.get_mut(ethernet::LEN..)?)?;
    let gateway = hops.gateway_mac;
    match shortcut.rewrite {
        Rewrite::None => {}
        Rewrite::ToStation => rewrite::macs(bytes, gateway, to.mac),
        Rewrite::ToGateway => rewrite::macs(bytes, mac_word(Mac::VIRTUAL), gateway),
        Rewrite::ToPeer => rewrite::macs(bytes, gateway, mac_word(Mac::VIRTUAL)),
    }
    hit.note(u64::from(glance.len) + following as u64, context.now_ms);
    Some(Taken { egress: shortcut.egress, checksum, tunnel })
}

/// The port that the receiver sees a packet come from.
#[inline]
fn answered_by(key: &KeyWords, other: Option<&KeyWords>) -> u16 {
    // Source and destination port are the highest two halves of the fifth word's upper half.
    let [_, _, _, _, fifth, _] = key;
    other.map_or((fifth >> 48) as u16, |[_, _, _, _, fifth, _]| (fifth >> 32) as u16)
}

/// Of what forwards packets of this key, and of the rules about them where these count.
#[inline]
pub(super) fn epoch(state: &State, key: &KeyWords, other: Option<&KeyWords>) -> u32 {
    let &[_, source, _, own, ..] = key;
    // Translated, it goes to where the other direction's packets come from.
    let destination = other.map_or(own, |&[_, source, ..]| source);
    state.epochs().under_way(source, destination)
}

/// Both ends of the tunnel behind a next hop, and the MAC addresses on the underlay; `None` when
/// the next hop is not resolved.
fn underlay(
    adjacency: AdjacencyId,
    key: &KeyWords,
    other: Option<&KeyWords>,
    context: &Context<'_>,
) -> Option<(Tunnel, Mac, Mac)> {
    let state = context.state;
    let destination = FlowKey::from_words(other.unwrap_or(key))?.tuple;
    let destination = if other.is_some() { destination.source } else { destination.destination };
    let (node, peer) = (state.node()?, state.peer_by_route(destination)?);
    if peer.adjacency != adjacency {
        return None;
    }
    let tunnel = Tunnel {
        local: node.tunnel_address,
        remote: peer.tunnel_address,
        adjacency,
        kind: node.tunnel_type,
    };
    Some((tunnel, state.uplink()?.mac, context.adjacencies.mac(adjacency)?))
}

/// Destination and source MAC address of a frame.
#[inline]
pub(super) fn macs_of(bytes: &[u8]) -> Option<(u64, u64)> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *bytes.first_chunk::<{ ethernet::LEN }>()?;
    let word = u64::from_be_bytes;
    Some((word([0, 0, a, b, c, d, e, f]), word([0, 0, g, h, i, j, k, l])))
}
