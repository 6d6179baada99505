//! Connection tracking: which connection a packet belongs to, and what is already decided about it.
//!
//! Antrea: stage ConntrackState, tables `ConntrackZone` and `ConntrackState`.
//! Reads: ingress port, addresses, protocol, ports or ICMP identifier.
//! Writes: from whom to whom the packet is, and what it is to the connection table.
//! Hit: a connection under way goes to the first table that judges every packet.  Miss: next table.
//!
//! Antrea needs two zones, and un-translates a source before it looks for the destination's; one
//! connection with two keys needs neither, so there is no table `UnSNAT`.

use crate::adjacency::AdjacencyTable;
use crate::connection::Tuple;
use crate::packet::{Packet, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// Where a packet of a connection under way goes on: behind all that only its first had to pass.
const UNDER_WAY: TableId = TableId::EgressMetric;

/// Finds the packet's connection, and translates what is known of it.
pub struct ConntrackZone;

impl ConntrackZone {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        let tuple = Tuple::of(&ip, packet.payload()).ok_or(DropReason::Malformed)?;
        packet.facts.original = Some(tuple);
        packet.facts.tuple = Some(tuple);
        packet.facts.tracking = Tracking::New;
        context.note(format_args!("{tuple}"));
        Ok(Verdict::Next)
    }
}

impl Table for ConntrackZone {
    fn id(&self) -> TableId {
        TableId::ConntrackZone
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["protocol", "told apart by"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        vec![
            row([&"TCP, UDP, SCTP", &"addresses and ports"]),
            row([&"ICMP, ICMPv6 queries", &"addresses and identifier"]),
            row([&"else", &"addresses"]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        3
    }
}

/// Separates new connections from those under way.
pub struct ConntrackState;

impl Table for ConntrackState {
    fn id(&self) -> TableId {
        TableId::ConntrackState
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        match packet.facts.tracking {
            Tracking::Known { .. } => {
                context.note(format_args!("under way"));
                Verdict::Goto(UNDER_WAY)
            }
            Tracking::New | Tracking::Untracked => {
                context.note(format_args!("new"));
                Verdict::Next
            }
        }
    }

    fn columns(&self) -> &'static [&'static str] {
        &["connection", "next"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        vec![row([&"under way", &UNDER_WAY]), row([&"new", &"next table"])]
    }

    fn entries(&self, _: &State) -> usize {
        2
    }
}
