//! Source translation: whose answers would not come back here otherwise.
//!
//! Antrea: stage PostRouting, tables `SNATMark` and `SNAT`.
//! Reads: where the packet comes from and goes to, its Service.
//! Writes: the marks for translated sources and hairpins; source address and port.
//! Hit and miss: next table.  Drops: `SnatPortsExhausted`.
//!
//! An endpoint answers whom it sees. It has to see this node where the client would be answered by
//! itself or past this node: a Pod that is its own endpoint; a client outside, of an endpoint on
//! another node or outside. Everybody else is seen as who he is.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::quality::FixedState;

use crate::adjacency::AdjacencyTable;
use crate::connection::{FlowKey, Ingress, Tuple};
use crate::packet::{Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{State, VIRTUAL_SERVICE};
use crate::translate;
use crate::verdict::{DropReason, Verdict};

/// Source ports tried for one connection. With nine of ten taken, one in eight hundred finds none.
const TRIES: u32 = 64;
/// The ports tried when the client's own is taken: above the reserved ones, and below those that
/// Linux gives to the node's own connections.
const PORTS: std::ops::Range<u16> = 1024..32768;

/// Decides whose source is to be translated.
pub struct SnatMark;

impl SnatMark {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        if let Tracking::Known { connection, .. } = packet.facts.tracking {
            // Its route may be another by now: what goes into a tunnel goes by the uplink.
            packet.facts.hairpin = connection.decision.hairpin && packet.facts.tunnel.is_none();
            return Ok(Verdict::Next);
        }
        if packet.facts.service.is_none() {
            return Ok(Verdict::Next);
        }
        let tuple = packet.facts.tuple.ok_or(DropReason::Malformed)?;
        let state = context.state;
        let to_node = state.gateway().is_some_and(|gateway| {
            packet.ethernet().is_ok_and(|header| header.destination() == gateway.mac)
        });
        match packet.facts.source {
            Some(PacketSource::Gateway) if packet.facts.tunnel.is_some() => {
                packet.facts.snat = !state.is_gateway_address(tuple.source);
                let known = if packet.facts.snat { "not known" } else { "known" };
                context.note(format_args!("{} is {known} to peers", tuple.source));
            }
            Some(PacketSource::Gateway) if to_node => {
                (packet.facts.snat, packet.facts.hairpin) = (true, true);
                context.note(format_args!("from the node to the node"));
            }
            Some(PacketSource::Pod) if tuple.source == tuple.destination => {
                (packet.facts.snat, packet.facts.hairpin) = (true, true);
                context.note(format_args!("{} is its own endpoint", tuple.source));
            }
            _ => {}
        }
        Ok(Verdict::Next)
    }
}

impl Table for SnatMark {
    fn id(&self) -> TableId {
        TableId::SnatMark
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["to a Service from", "endpoint", "marks"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        vec![
            row([&"outside", &"behind the tunnel", &"translated"]),
            row([&"the node and outside", &"the node and outside", &"translated, hairpin"]),
            row([&"a Pod", &"the same Pod", &"translated, hairpin"]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        3
    }
}

/// Translates the source.
pub struct Snat;

impl Snat {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        if !packet.facts.snat || packet.facts.tracking != Tracking::New {
            return Ok(Verdict::Next);
        }
        let tuple = packet.facts.tuple.ok_or(DropReason::Malformed)?;
        let (state, from_gateway) =
            (context.state, packet.facts.source == Some(PacketSource::Gateway));
        let address = match from_gateway && packet.facts.hairpin {
            true => virtual_service(tuple.source),
            false => state.gateway_address(tuple.source).ok_or(DropReason::NoNode)?,
        };
        let answers_by = if packet.facts.tunnel.is_some() {
            Ingress::Tunnel
        } else if from_gateway {
            Ingress::Gateway
        } else {
            let port = state.port(packet.ingress).ok_or(DropReason::UnknownPort)?;
            Ingress::Pod(port.id, port.generation)
        };
        let Some(port) = free_port(context, answers_by, Tuple { source: address, ..tuple }) else {
            context.note(format_args!("no port of {address} was free in {TRIES} tries"));
            return Err(DropReason::SnatPortsExhausted);
        };
        translate::source(packet, address, port)?;
        context.note(format_args!("now from {address}, port {port}"));
        Ok(Verdict::Next)
    }
}

/// In whose name the node speaks to itself and to outside.
fn virtual_service(like: IpAddr) -> IpAddr {
    let [v4, v6] = VIRTUAL_SERVICE;
    if like.is_ipv4() { v4 } else { v6 }
}

/// A source port with which the answers are no other connection's: the client's own if possible.
fn free_port(context: &Context<'_>, ingress: Ingress, tuple: Tuple) -> Option<u16> {
    let is_free = |port: &u16| {
        let answer = Tuple { source_port: *port, ..tuple }.reversed();
        !context.knows(&FlowKey { network: 0, ingress, tuple: answer })
    };
    let hash = FixedState::with_seed(context.state.hash_seed()).hash_one(tuple);
    let count = u32::from(PORTS.end - PORTS.start);
    // An odd step meets no port twice in so few turns: all that it shares with their number is 31.
    let (first, step) = (hash as u32 % count, ((hash >> 32) as u32 % count) | 1);
    let others = (0..TRIES).map(|turn| {
        let offset = (u64::from(first) + u64::from(turn) * u64::from(step)) % u64::from(count);
        // Below the number of ports, which has 16 bits.
        PORTS.start + offset as u16
    });
    std::iter::once(tuple.source_port).chain(others).find(is_free)
}

impl Table for Snat {
    fn id(&self) -> TableId {
        TableId::Snat
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["what", "source"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let gateway = state.node().into_iter().flat_map(|node| &node.gateway_addresses);
        let others = gateway.map(|address| row([&"all else", address]));
        let hairpin = VIRTUAL_SERVICE.map(|address| row([&"hairpin of the gateway", &address]));
        hairpin.into_iter().chain(others).collect()
    }

    fn entries(&self, state: &State) -> usize {
        VIRTUAL_SERVICE.len() + state.node().map_or(0, |node| node.gateway_addresses.len())
    }
}
