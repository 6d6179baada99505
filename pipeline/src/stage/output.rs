//! Output: sends the packet, through the tunnel if that is its way.
//!
//! Antrea: stage Output, table `Output`.
//! Reads: egress port, tunnel, next hop.  Writes: the tunnel's headers; finishes a partial checksum
//! that goes into the tunnel.
//! Hit: output.  Miss: drop `NoEgressPort`, `NoNextHop`.
//!
//! The next hop is read from the adjacency table at this moment, so a neighbour that moves needs
//! no new State.

use crate::adjacency::AdjacencyTable;
use crate::packet::Packet;
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::tunnel;
use crate::verdict::{DropReason, Verdict};

/// Sends.
pub struct Output;

impl Output {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let egress = packet.facts.egress.ok_or(DropReason::NoEgressPort)?;
        let port = state.port(egress).ok_or(DropReason::NoEgressPort)?;
        let Some(way) = packet.facts.tunnel else {
            context.note(format_args!("port {}", port.name));
            return Ok(Verdict::Output(egress));
        };
        let remote = way.remote;
        let Some(next_hop) = context.adjacencies.mac(way.adjacency) else {
            context.note(format_args!("the next hop to {remote} is not resolved"));
            return Err(DropReason::NoNextHop);
        };
        tunnel::encapsulate(packet, way, port.mac, next_hop, state.hash_seed())?;
        let kind = way.kind.name();
        context.note(format_args!("{kind} to {remote} by {next_hop}, port {}", port.name));
        Ok(Verdict::Output(egress))
    }
}

impl Table for Output {
    fn id(&self) -> TableId {
        TableId::Output
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["port", "peer", "tunnel address", "next hop"]
    }

    fn rows(&self, state: &State, adjacencies: &AdjacencyTable) -> Vec<Vec<String>> {
        let uplink = state.uplink();
        let plain =
            state.open_ports().filter(|port| uplink.is_none_or(|uplink| uplink.id != port.id));
        let plain = plain.map(|port| row([&port.name, &"", &"", &""]));
        let peers = uplink.into_iter().flat_map(|port| {
            state.known_peers().map(|peer| {
                let next_hop = adjacencies.mac(peer.adjacency);
                let next_hop = next_hop.map_or("unresolved".to_owned(), |mac| mac.to_string());
                row([&port.name, &peer.name, &peer.tunnel_address, &next_hop])
            })
        });
        plain.chain(peers).collect()
    }

    fn entries(&self, state: &State) -> usize {
        let plain = state.open_ports().count() - usize::from(state.uplink().is_some());
        let peers = if state.uplink().is_some() { state.known_peers().count() } else { 0 };
        plain + peers
    }
}
