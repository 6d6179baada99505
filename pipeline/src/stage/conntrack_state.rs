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
use crate::connection::{Ingress, Tuple};
use crate::packet::{Packet, PacketSource, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::ipv6::Fragment;

/// Where a packet of a connection under way goes on: behind all that only its first had to pass.
const UNDER_WAY: TableId = TableId::EgressMetric;

/// Finds the packet's connection, and translates what is known of it.
pub struct ConntrackZone;

impl ConntrackZone {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        let ingress = ingress(packet, context.state).ok_or(DropReason::UnknownPort)?;
        let tuple = Self::tuple(packet, context, &ip, ingress)?;
        packet.facts.original = Some(tuple);
        packet.facts.tuple = Some(tuple);
        packet.facts.tracking = Tracking::New;
        context.note(format_args!("{tuple}"));
        Ok(Verdict::Next)
    }

    /// From whom to whom the packet is; of a later fragment, as its first said.
    fn tuple(
        packet: &Packet<'_>,
        context: &Context<'_>,
        ip: &Ip,
        ingress: Ingress,
    ) -> Result<Tuple, DropReason> {
        let fragments = &context.learned.fragments;
        if ip.fragment == Fragment::Later {
            let tuple = fragments.follow(ip, ingress, context.now_ms);
            return tuple.ok_or(DropReason::FragmentUnknown);
        }
        let tuple = Tuple::of(ip, packet.payload()).ok_or(DropReason::Malformed)?;
        let report =
            ip.icmp_type(packet.payload()).is_some_and(|kind| icmp::is_report(ip.is_v6(), kind));
        // An error quotes so little that it needs no fragments.
        if ip.fragment == Fragment::First && !report && !context.dry {
            fragments.begin(ip, ingress, &tuple, context.now_ms);
        }
        Ok(tuple)
    }
}

/// What a packet came in by, as far as it belongs to its connection.
fn ingress(packet: &Packet<'_>, state: &State) -> Option<Ingress> {
    match packet.facts.source? {
        PacketSource::Pod => {
            state.port(packet.ingress).map(|port| Ingress::Pod(port.id, port.generation))
        }
        PacketSource::Gateway => Some(Ingress::Gateway),
        PacketSource::Tunnel => Some(Ingress::Tunnel),
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
