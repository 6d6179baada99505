//! Switching: the egress port, by destination MAC.
//!
//! Antrea: stage Switching, table `L2ForwardingCalc`.
//! Reads: destination MAC, ingress port, the mark of hairpins.  Writes: the egress port.
//! Hit: next table.  Miss: drop `UnknownDestinationMac`.
//!
//! The virtual MAC stands for every peer: which one was decided by `L3Forwarding`.

use crate::address::Mac;
use crate::adjacency::AdjacencyTable;
use crate::packet::Packet;
use crate::run::Context;
use crate::stage::conntrack_commit::ConntrackCommit;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// Decides by destination MAC.
pub struct L2ForwardingCalc;

impl L2ForwardingCalc {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let mac = packet.ethernet()?.destination();
        let egress = if packet.facts.tunnel.is_some() {
            context.note(format_args!("{mac} is behind the tunnel"));
            state.uplink().ok_or(DropReason::NoEgressPort)?.id
        } else if let Some(port) = packet.facts.holder {
            context.note(format_args!("{mac} has the address"));
            port
        } else if let Some((endpoint, port)) = state.station(mac) {
            context.note(format_args!("{mac} is {}", endpoint.name));
            port
        } else if let Some(gateway) = state.gateway()
            && gateway.mac == mac
        {
            context.note(format_args!("{mac} is {}", gateway.name));
            gateway.id
        } else {
            return Err(DropReason::UnknownDestinationMac);
        };
        if packet.facts.hairpin {
            context.note(format_args!("back out by the port it came in by"));
            packet.facts.egress = Some(packet.ingress);
            return Ok(Verdict::Next);
        }
        if egress == packet.ingress {
            return Err(DropReason::Hairpin);
        }
        packet.facts.egress = Some(egress);
        packet.facts.answers = ConntrackCommit::answers(packet, context);
        Ok(Verdict::Next)
    }
}

impl Table for L2ForwardingCalc {
    fn id(&self) -> TableId {
        TableId::L2ForwardingCalc
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["MAC", "port", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let pods =
            state.bound().map(|(endpoint, port)| row([&endpoint.mac, &port.name, &endpoint.name]));
        let gateway = state.gateway().map(|port| row([&port.mac, &port.name, &"the gateway"]));
        let uplink = state.uplink().map(|port| row([&Mac::VIRTUAL, &port.name, &"peers"]));
        pods.chain(gateway).chain(uplink).collect()
    }

    fn entries(&self, state: &State) -> usize {
        let own = [state.gateway(), state.uplink()].iter().flatten().count();
        state.bound().count() + own
    }
}
