//! Connection tracking: which connection a packet belongs to, and what is already decided about it.
//!
//! Antrea: stage ConntrackState, tables `ConntrackZone` and `ConntrackState`.
//! Reads: ingress port, addresses, protocol, ports or ICMP identifier and type, TCP flags; of ICMP
//! errors what they quote.
//! Writes: from whom to whom the packet is, and what it is to the connection table; of a known
//! connection everything that its first packet found out, and the whole translation.
//! Hit: a connection under way goes to the first table that judges every packet.  Miss: a packet
//! that may open a connection, next table; else drop `InvalidConnection`, `FragmentUnknown`.
//!
//! Antrea needs two zones, and un-translates a source before it looks for the destination's; one
//! connection with two keys needs neither, so there is no table `UnSNAT`. The table is shared: it
//! does not matter which worker sees the other direction.
//!
//! A connection stays whatever becomes of the tables, but not of its ends: when the far one is no
//! longer the port that it was, it is over, and the packet is judged as the first of another.
//! Until it is answered its packets are judged again, and so is whoever would open it once more.

use super::reevaluation;
use super::tracking::{admit, forget, ingress, is_current, is_judged, key};
use crate::adjacency::AdjacencyTable;
use crate::connection::{Connection, Direction, Found, Ingress, Progress, Signal, Step, Tuple};
use crate::packet::{Packet, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::translate::{self, Quoted};
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::ipv6::Fragment;

/// Where a packet of a connection under way goes on: behind all that only its first had to pass.
const UNDER_WAY: TableId = TableId::EgressMetric;

/// Where one of a connection goes on that nobody has answered yet: its endpoint is chosen.
const JUDGED_AGAIN: TableId = TableId::AntreaPolicyEgressRule;

/// How often a worker looks again where another one has let the same connection progress.
const LOOKS: usize = 4;

/// Finds the packet's connection, and translates what is known of it.
pub struct ConntrackZone;

impl ConntrackZone {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        let ingress = ingress(packet, context.state).ok_or(DropReason::UnknownPort)?;
        if is_report(packet, &ip) {
            return Self::report(packet, context, &ip, ingress);
        }
        let tuple = Self::tuple(packet, context, &ip, ingress)?;
        packet.facts.original = Some(tuple);
        packet.facts.tuple = Some(tuple);
        context.note(format_args!("{tuple}"));
        let signal = Signal::of(&ip, packet.payload());
        let later = ip.fragment == Fragment::Later;
        let connections = &context.learned.connections;
        let key = connections.key(&key(ingress, tuple));
        packet.facts.key = Some(key);
        if let Some(found) = connections.find_by(&key) {
            if !is_current(&found, context) {
                context.note(format_args!("{tuple}, of a connection whose other end is gone"));
                let _ = forget(context, found.id);
            } else if later {
                return Self::go_on(packet, context, &ip, found);
            } else {
                match progress(context, &found, signal) {
                    Step::To(progress) => {
                        let connection = Connection { progress, ..found.connection };
                        let found = Found { connection, ..found };
                        let again = signal.opens() && found.direction == Direction::Original;
                        packet.facts.opens_again = again && !progress.is_unanswered();
                        return Self::go_on(packet, context, &ip, found);
                    }
                    Step::Anew => {
                        let _ = forget(context, found.id);
                    }
                    Step::Invalid => {
                        let at = found.connection.progress;
                        context.note(format_args!("{tuple}: {signal:?} in {at:?}"));
                        return Err(DropReason::InvalidConnection);
                    }
                }
            }
        }
        if later {
            return Err(DropReason::FragmentUnknown);
        }
        if Progress::opened_by(signal).is_none() {
            context.note(format_args!("{tuple}: {signal:?} of no connection"));
            return Err(DropReason::InvalidConnection);
        }
        admit(packet, context)?;
        packet.facts.tracking = Tracking::New;
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
        if ip.fragment == Fragment::First && !context.dry {
            fragments.begin(ip, ingress, &tuple, context.now_ms);
        }
        Ok(tuple)
    }

    /// A packet of a connection under way.
    fn go_on(
        packet: &mut Packet<'_>,
        context: &mut Context<'_>,
        ip: &Ip,
        found: Found,
    ) -> Result<Verdict, DropReason> {
        let to = found.connection.translated(found.direction);
        if let Some(from) = packet.facts.tuple.filter(|from| *from != to) {
            context.note(format_args!("{from}, now {to}"));
        }
        packet.facts.judged = is_judged(packet, context, ip, &found);
        packet.facts.stale = reevaluation::is_stale(&found, context.state);
        // The node's two ports share a key: what began by the gateway is judged as the gateway's.
        packet.facts.from_node &= !packet.facts.stale || found.connection.decision.from_node;
        recall(packet, found, false);
        let revoked = found.connection.progress == Progress::Revoked;
        if !packet.facts.is_decided() && (!packet.facts.stale || revoked) {
            admit(packet, context)?;
        }
        translate::both(packet, to)?;
        // Rules for NodePorts judge it again, too.
        let sent_to = found.connection.original.tuple.destination;
        let node_port = || context.state.node_port_addresses().any(|address| address == sent_to);
        let again = !packet.facts.is_decided() && packet.facts.service.is_some();
        packet.facts.node_port = again && node_port();
        if packet.facts.is_decided() && !context.dry {
            let (connections, bytes) = (&context.learned.connections, packet.counted_bytes()?);
            connections.note(found.id, found.direction, bytes, context.now_ms);
        }
        Ok(Verdict::Next)
    }

    /// An ICMP error: it belongs to the connection of the packet that it quotes, which went the
    /// other way.
    fn report(
        packet: &mut Packet<'_>,
        context: &mut Context<'_>,
        ip: &Ip,
        ingress: Ingress,
    ) -> Result<Verdict, DropReason> {
        let outer = Tuple::of(ip, packet.payload()).ok_or(DropReason::Malformed)?;
        packet.facts.original = Some(outer);
        packet.facts.tuple = Some(outer);
        context.note(format_args!("{outer}"));
        // Nobody needs an error in fragments, or one about a packet that somebody else sent.
        let quoted = Quoted::of(packet, ip).ok_or(DropReason::InvalidConnection)?;
        let about = quoted.tuple.reversed();
        context.note(format_args!("{outer}, about {}", quoted.tuple));
        if about.destination != outer.destination || ip.fragment != Fragment::Whole {
            return Err(DropReason::InvalidConnection);
        }
        let found = context.learned.connections.find(&key(ingress, about));
        let found = found.filter(|found| is_current(found, context));
        let found = found.ok_or(DropReason::InvalidConnection)?;
        // It is let through like an answer. So whoever began can tell of errors only when there was
        // an answer; and of the node's own connections nobody but the node.
        let answered = !found.connection.progress.is_unanswered();
        let foreign = found.connection.decision.from_node && !packet.facts.from_node;
        let revoked = found.connection.progress == Progress::Revoked;
        if revoked || found.direction == Direction::Original && (!answered || foreign) {
            return Err(DropReason::InvalidConnection);
        }
        let to = found.connection.translated(found.direction);
        // A router on the way keeps its own address; the other end has the one that it is known by.
        let source = if outer.source == about.source { to.source } else { outer.source };
        let outer = Tuple { source, destination: to.destination, ..outer };
        translate::quoted(packet, &quoted, to.reversed(), outer)?;
        recall(packet, found, true);
        Ok(Verdict::Next)
    }
}

/// Whether the packet tells its receiver what became of another one.
fn is_report(packet: &Packet<'_>, ip: &Ip) -> bool {
    ip.icmp_type(packet.payload()).is_some_and(|kind| icmp::is_report(ip.is_v6(), kind))
}

/// Lets the connection progress, unless the packet is only described.
fn progress(context: &Context<'_>, found: &Found, signal: Signal) -> Step {
    let (connections, id) = (&context.learned.connections, found.id);
    let mut at = found.connection.progress;
    for _ in 0..LOOKS {
        let step = at.step(signal, found.direction);
        let Step::To(next) = step else { return step };
        if next == at || context.dry || connections.advance(id, at, next) {
            return step;
        }
        let Some(now) = connections.get(id) else { return step };
        at = now.progress;
    }
    Step::To(at)
}

/// Gives the packet what the first of its connection found out.
fn recall(packet: &mut Packet<'_>, found: Found, related: bool) {
    let Found { id, direction, connection } = found;
    let (decision, facts) = (connection.decision, &mut packet.facts);
    facts.tracking = Tracking::Known { id, direction, related, connection };
    facts.service = decision.service;
    facts.rewrite = decision.service.is_some();
    facts.snat = decision.snat;
    facts.hairpin = decision.hairpin;
    if facts.is_decided() {
        facts.egress_rule = decision.egress_rule;
        facts.ingress_rule = decision.ingress_rule;
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
            row([&"ICMP, ICMPv6 queries", &"addresses, identifier and type"]),
            row([&"ICMP, ICMPv6 errors", &"what they quote"]),
            row([&"else", &"addresses"]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        4
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
            Tracking::Known { direction, related, connection, .. } => {
                let at = connection.progress;
                let direction = match direction {
                    Direction::Original => "as the first packet",
                    Direction::Reply => "as its answer",
                };
                let error = if related { "an error about it, " } else { "" };
                let facts = &packet.facts;
                let again = match (facts.stale, facts.judged, facts.opens_again) {
                    (true, ..) => ", by rules that have changed",
                    (_, true, _) => ", judged already",
                    (_, _, true) => ", to be opened again",
                    _ => "",
                };
                context.note(format_args!("{at:?}, {error}{direction}{again}"));
                Verdict::Goto(if facts.is_decided() { UNDER_WAY } else { JUDGED_AGAIN })
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
        vec![
            row([&"under way", &UNDER_WAY]),
            row([&"not answered yet, but judged by these tables", &UNDER_WAY]),
            row([&"not answered yet, or to be opened again", &JUDGED_AGAIN]),
            row([&"judged by rules that have changed, with `reevaluate`", &JUDGED_AGAIN]),
            row([&"new", &"next table"]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        5
    }
}
