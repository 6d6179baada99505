//! Conntrack: remembers what was decided about a new connection.
//!
//! Antrea: stage Conntrack, table `ConntrackCommit`.
//! Reads: everything that was found out about the packet.
//! Writes: the connection, with a key for each direction; the endpoint of a client with affinity.
//! Hit: next table.  Miss: drop `ConnectionTableFull`, `ConnectionQuota`, `ConnectionClash`.
//!
//! Only what is let through comes here, so nothing is remembered of what was denied: each attempt
//! is judged again. Antrea commits early in the tables of rules, and an attempt that is denied
//! later leaves an entry behind.

use super::reevaluation;
use super::tracking::{forget, ingress, judged_now, key, reason};
use crate::address::PortKind;
use crate::adjacency::AdjacencyTable;
use crate::connection::{
    Decision, Direction, FlowKey, Ingress, Key, NewConnection, NotInserted, Progress, Signal,
};
use crate::packet::{Facts, Packet, Tracking};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// Remembers a new connection.
pub struct ConntrackCommit;

impl ConntrackCommit {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        if packet.facts.is_decided() {
            context.note(format_args!("known already"));
            return Ok(Verdict::Next);
        }
        if packet.facts.stale {
            return reevaluation::confirm(packet, context);
        }
        let new = Self::connection(packet, context.state)?;
        context.note(format_args!("answers will be {}", new.reply.tuple));
        if context.dry {
            return Ok(Verdict::Next);
        }
        let (judged, bytes) = (judged_now(context), packet.counted_bytes()?);
        if let Tracking::Known { id, connection, .. } = packet.facts.tracking {
            let connections = &context.learned.connections;
            let foreign = connection.decision.from_node && !packet.facts.from_node;
            let Decision { policy_epoch, .. } = connection.decision;
            let decided = Decision { policy_epoch, ..new.decision };
            let same = connection.decision == decided && connection.reply == new.reply;
            if packet.facts.opens_again || foreign || same {
                // What is remembered stays: it is right, or not this packet's to change.
                connections.note(id, Direction::Original, bytes, context.now_ms);
                if !packet.facts.opens_again && !foreign {
                    connections.judge(id, new.progress, judged);
                }
                return Ok(Verdict::Next);
            }
            let _ = forget(context, id);
        }
        let (connections, worker) = (&context.learned.connections, &mut context.worker.connections);
        let mut inserted = match (packet.facts.key, packet.facts.answers) {
            (Some(key), Some(answers)) => {
                connections.insert_by(&new, &[key, answers], context.now_ms, worker)
            }
            _ => connections.insert(&new, context.now_ms, worker),
        };
        if inserted == Err(NotInserted::Exists) && Self::gives_way(&new, context) {
            let worker = &mut context.worker.connections;
            inserted = connections.insert(&new, context.now_ms, worker);
        }
        let tallies = &context.worker.tallies;
        context.worker.connections.report_evicted(|ended| {
            tallies.account(&ended.decision, &ended.counts);
        });
        let id = match inserted {
            Ok(id) => id,
            Err(NotInserted::Exists) => {
                // Another worker had the same packet at the same moment, sent again.
                let found = connections.find(&new.original);
                let same = found.filter(|it| it.connection.reply == new.reply);
                same.ok_or(DropReason::ConnectionClash)?.id
            }
            Err(other) => return Err(reason(other)),
        };
        connections.note(id, Direction::Original, bytes, context.now_ms);
        connections.judge(id, new.progress, judged);
        learn_affinity(packet, context);
        Ok(Verdict::Next)
    }

    /// The connection that the packet opens.
    fn connection(packet: &Packet<'_>, state: &State) -> Result<NewConnection, DropReason> {
        let (ip, facts) = (packet.ip()?, &packet.facts);
        let original = facts.original.ok_or(DropReason::Malformed)?;
        let tuple = facts.tuple.ok_or(DropReason::Malformed)?;
        let progress = match facts.tracking {
            Tracking::Known { connection, .. } => Some(connection.progress),
            Tracking::New | Tracking::Untracked => {
                Progress::opened_by(Signal::of(&ip, packet.payload()))
            }
        };
        let from = ingress(packet, state).ok_or(DropReason::UnknownPort)?;
        Ok(NewConnection {
            original: key(from, original),
            progress: progress.ok_or(DropReason::InvalidConnection)?,
            reply: Self::reply(packet, state).map(|ingress| key(ingress, tuple.reversed()))?,
            decision: Decision {
                source: facts.source.ok_or(DropReason::UnknownPort)?,
                from_node: facts.from_node,
                service: facts.service,
                snat: facts.snat,
                hairpin: facts.hairpin,
                egress_rule: facts.egress_rule,
                ingress_rule: facts.ingress_rule,
                policy_epoch: state.policy_epoch(original.source, tuple.destination),
            },
        })
    }

    /// What answers will be looked for by, if the packet opens a connection. As soon as it is known
    /// where it leaves: the processor has time to bring their place while rules judge it.
    pub(super) fn answers(packet: &Packet<'_>, context: &Context<'_>) -> Option<Key> {
        if packet.facts.tracking != Tracking::New {
            return None;
        }
        let connections = &context.learned.connections;
        let tuple = packet.facts.tuple?.reversed();
        let answers = connections.key(&key(Self::reply(packet, context.state).ok()?, tuple));
        connections.fetch(&answers);
        Some(answers)
    }

    /// What answers will come in by: what the packet leaves by.
    fn reply(packet: &Packet<'_>, state: &State) -> Result<Ingress, DropReason> {
        let egress = packet.facts.egress.and_then(|port| state.port(port));
        let port = egress.ok_or(DropReason::NoEgressPort)?;
        Ok(match port.kind {
            PortKind::Pod => Ingress::Pod(port.id, port.generation),
            PortKind::Gateway | PortKind::Host => Ingress::Gateway,
            PortKind::Uplink => Ingress::Tunnel,
        })
    }

    /// Ends what stands in the way and is over, or was never answered.
    fn gives_way(new: &NewConnection, context: &Context<'_>) -> bool {
        let connections = &context.learned.connections;
        let mut given_way = false;
        for key in [&new.original, &new.reply] as [&FlowKey; 2] {
            let found = connections.find(key);
            let over = found.filter(|it| it.connection.progress.may_give_way());
            given_way |= over.is_some_and(|it| forget(context, it.id));
        }
        given_way
    }
}

/// The client of a Service has an endpoint from now on: not before policy has let it.
fn learn_affinity(packet: &Packet<'_>, context: &Context<'_>) {
    let Facts { affinity: Some(affinity), endpoint: Some(endpoint), .. } = packet.facts else {
        return;
    };
    let service = context.state.services().by_id(affinity.service);
    let seconds = service.map_or(0, |installed| installed.service.affinity_seconds);
    let expires_ms = context.now_ms + u64::from(seconds) * 1000;
    context.learned.affinities.learn(&affinity, endpoint, expires_ms, context.now_ms);
}

impl Table for ConntrackCommit {
    fn id(&self) -> TableId {
        TableId::ConntrackCommit
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["packet", "effect"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        vec![row([&"the first of a connection", &"remembered"])]
    }

    fn entries(&self, _: &State) -> usize {
        1
    }
}
