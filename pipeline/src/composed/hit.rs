//! A hit: a packet that is rewritten by what was composed for its direction.

use std::net::IpAddr;

use super::glance::Glance;
use super::outer::traffic_class;
use super::rewrite::{self, Change, Ends, Leaving, macs_of};
use super::shortcut::{Addressed, Rewrite, Shortcut};
use super::{Machine, PacketBuffer};
use crate::address::{Mac, PortId};
use crate::adjacency::AdjacencyId;
use crate::connection::{Candidate, Direction, KeyWords, address};
use crate::packet::{Checksum, Tunnel};
use crate::run::Context;
use crate::state::{State, mac_word};
use crate::tunnel::{self, Flow, PREFIX_LEN, Prefix};
use crate::verdict::DropReason;
use crate::wire::{dns, ethernet};

/// Who a packet has to come from.
#[derive(Clone, Copy)]
pub(super) enum Sender {
    /// Whoever has this MAC address.
    Station(u64),
    /// The peer with this underlay address.
    Remote(u32),
    /// The stages have looked.
    Checked,
}

/// What became of a packet's bytes, and where it goes.
pub(super) struct Taken<'s> {
    pub egress: PortId,
    pub checksum: Checksum,
    /// The tunnel that it goes into.
    pub tunnel: Option<Way<'s>>,
}

/// Rewrites a packet by what was composed; `None`, and nothing rewritten, when it has to take the
/// stages. Known are its checksum, and the bytes of the segments behind it.
#[inline(always)]
pub(super) fn take<'s>(
    bytes: &mut [u8],
    (known, following): (Checksum, usize),
    glance: &Glance,
    candidate: Candidate,
    sender: Sender,
    context: &Context<'s>,
    machine: &impl Machine,
) -> Option<Taken<'s>> {
    let (state, hops) = (context.state, context.state.hops());
    let checksum = glance.checksum(known)?;
    let hit = context.learned.connections.hit(candidate, &glance.words, machine)?;
    let shortcut = Shortcut::from_word(hit.shortcut())?;
    let to = hops.get(shortcut.egress)?;
    let other_key;
    let leaving = match (shortcut.translate, glance.is_v6()) {
        (false, _) => None,
        (true, false) => Some(Leaving::V4(hit.translation()?)),
        (true, true) => {
            other_key = hit.other_key()?;
            Some(Leaving::V6(&other_key))
        }
    };
    let ends = ends(&glance.words, leaving);
    let is_current = hit.is_of(epoch(state, &glance.words, ends.destination));
    if !is_current || !hit.progress.stays(hit.direction) {
        return None;
    }
    let (destination, source) = macs_of(bytes)?;
    let expected = match shortcut.addressed {
        Addressed::Station => to.mac,
        Addressed::Gateway => hops.gateway_mac,
        Addressed::Virtual => mac_word(Mac::VIRTUAL),
        Addressed::Any => destination,
    };
    let authentic = match sender {
        Sender::Station(mac) => source == mac,
        Sender::Remote(remote) => {
            let prefix = state.encapsulations().prefix(shortcut.adjacency?)?;
            shortcut.addressed == Addressed::Any && prefix.remote == remote
        }
        Sender::Checked => true,
    };
    let into_tunnel = shortcut.rewrite == Rewrite::ToPeer;
    let mtu = if into_tunnel { hops.tunnel_mtu } else { to.mtu };
    let fits = glance.len <= mtu && (!shortcut.lower || glance.ttl > 1);
    if destination != expected || !authentic || !fits {
        return None;
    }
    // What a server of names answers is learnt from.
    if hit.direction == Direction::Reply && (ends.ports >> 16) as u16 == dns::PORT {
        return None;
    }
    let tunnel =
        if into_tunnel { Some(Way::of(shortcut.adjacency?, glance, ends, context)?) } else { None };
    let change = Change { glance, to: leaving, checksum, lower: shortcut.lower };
    change.make(bytes)?;
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

/// The ends of a packet of this key as its receiver sees them.
#[inline(always)]
fn ends(key: &KeyWords, leaving: Option<Leaving<'_>>) -> Ends {
    let &[a, b, c, d, fifth, _] = key;
    let own = Ends { source: [a, b], destination: [c, d], ports: (fifth >> 32) as u32 };
    leaving.map_or(own, Leaving::ends)
}

/// Of what forwards packets of this key to this address, and of the rules about them where these
/// count.
#[inline]
pub(super) fn epoch(state: &State, key: &KeyWords, destination: [u64; 2]) -> u32 {
    let (&[_, source, ..], [_, destination]) = (key, destination);
    state.epochs().under_way(source, destination)
}

/// The way into a tunnel.
pub(super) struct Way<'s> {
    next_hop: Mac,
    flow: Flow,
    headers: Headers<'s>,
}

/// What is put in front of a packet.
enum Headers<'s> {
    /// As written before.
    Ready(&'s Prefix),
    /// Over IPv6: between these ends, from this MAC address.
    Between(Tunnel, Mac),
}

impl<'s> Way<'s> {
    /// The way by this next hop; `None` when that is not resolved.
    #[inline(always)]
    fn of(
        adjacency: AdjacencyId,
        glance: &Glance,
        ends: Ends,
        context: &Context<'s>,
    ) -> Option<Way<'s>> {
        let state = context.state;
        let next_hop = context.adjacencies.mac(adjacency)?;
        let headers = match state.encapsulations().prefix(adjacency) {
            Some(prefix) => Headers::Ready(prefix),
            None => {
                let [high, low] = ends.destination;
                between(adjacency, address(high, low, glance.is_v6()), state)?
            }
        };
        let [.., fifth, _] = glance.words;
        let protocol = (fifth >> 8) as u8;
        let Ends { source, destination, ports } = ends;
        let flow = Flow::new(state.hash_seed(), source, destination, ports, protocol);
        Some(Way { next_hop, flow, headers })
    }

    /// Puts the tunnel's headers in front of a packet that was rewritten.
    #[inline(always)]
    pub fn put_on(
        &self,
        frame: &mut impl PacketBuffer,
        ingress: PortId,
        glance: &Glance,
        context: &Context<'_>,
    ) -> Result<(), DropReason> {
        match &self.headers {
            Headers::Ready(prefix)
                if frame.checksum() == Checksum::Complete && frame.following() == 0 =>
            {
                let class = traffic_class(frame.bytes()).ok_or(DropReason::Malformed)?;
                let len = ethernet::LEN + usize::from(glance.len);
                frame.push_front(PREFIX_LEN).ok_or(DropReason::NoHeadroom)?;
                let front = frame.bytes_mut().first_chunk_mut().ok_or(DropReason::NoHeadroom)?;
                let put = prefix.put(front, self.next_hop, class, self.flow, len);
                put.ok_or(DropReason::PacketTooBig)
            }
            _ => self.by_stage(frame, ingress, context),
        }
    }

    /// Over IPv6, or with a sum that has to be finished before.
    #[cold]
    fn by_stage(
        &self,
        frame: &mut impl PacketBuffer,
        ingress: PortId,
        context: &Context<'_>,
    ) -> Result<(), DropReason> {
        let (tunnel, source) = match self.headers {
            Headers::Ready(prefix) => prefix.ends(),
            Headers::Between(tunnel, source) => (tunnel, source),
        };
        let mut packet = frame.packet(ingress).ok_or(DropReason::Malformed)?;
        let seed = context.state.hash_seed();
        let encapsulated = packet
            .parse_ip()
            .and_then(|_| tunnel::encapsulate(&mut packet, tunnel, source, self.next_hop, seed));
        let place = packet.place();
        frame.settle(place);
        encapsulated
    }
}

/// Both ends of the tunnel behind a next hop, and the MAC address that it begins at.
#[cold]
fn between<'s>(adjacency: AdjacencyId, destination: IpAddr, state: &State) -> Option<Headers<'s>> {
    let (node, peer) = (state.node()?, state.peer_by_route(destination)?);
    if peer.adjacency != adjacency {
        return None;
    }
    let (local, remote) = (node.tunnel_address, peer.tunnel_address);
    let tunnel = Tunnel { local, remote, adjacency, kind: node.tunnel_type };
    Some(Headers::Between(tunnel, state.uplink()?.mac))
}
