//! Composed decisions: what the stages decided about a connection, done again without them.
//!
//! A packet of a connection under way costs a [`glance`], one look at the connection table, and one
//! [`rewrite`]. What the stages decided about its direction stands in the connection's record, a
//! [`shortcut`] of one word, and holds while the State's epochs of its two ends are what they were.
//! Whatever a glance does not understand, and whatever is not composed or no longer current, walks
//! the stages, and what these decide is composed anew. Denials never are.
//!
//! A batch is surveyed before anything is done with it, so that no packet waits for memory: first
//! all keys are hashed and their buckets asked for, then all records, and only then packet by
//! packet is acted on.
//!
//! `run` with and without gives the same packets, counters and connections: held by tests over
//! generated States, and on a node by taking one packet in so many both ways: [`sample`].

mod clock;
mod compose;
mod glance;
mod hit;
mod judge;
mod rewrite;
mod sample;
mod shortcut;

use arrayvec::ArrayVec;

pub use clock::{STAGES_COUNT, StageClock, StageCost};
pub use sample::Sampler;

use crate::address::{PortId, PortKind};
use crate::connection::{Candidate, ConnectionTable, Ingress};
use crate::limits::BATCH_MAX;
use crate::packet::{Checksum, Packet, Place};
use crate::run::Context;
use crate::stage::classifier::{Classifier, PipelineRootClassifier};
use crate::stage::{Table, TableId};
use crate::state::State;
use crate::tunnel;
use crate::verdict::{DropReason, Outcome, Verdict};
use crate::wire::{ethernet, geneve, ipv4, udp};
use clock::walk_timed;
use compose::compose;
use glance::Glance;
use hit::{macs_of, take};

/// What the pipeline asks of the processor.
pub trait Machine {
    /// Asks for the cache line at `place`, which will soon be read.
    fn prefetch<T>(&self, place: &T);
    /// As that, for a line that will soon be written.
    fn prefetch_to_write<T>(&self, place: &T) {
        self.prefetch(place);
    }
    /// A count of cycles that never goes back.
    fn cycles(&self) -> u64;
}

/// A processor that fetches what is asked for when it is read, and has no clock.
pub struct Plain;

impl Machine for Plain {
    fn prefetch<T>(&self, _: &T) {}

    fn cycles(&self) -> u64 {
        0
    }
}

/// A packet in the memory of whoever moves it.
pub trait PacketBuffer {
    /// From the outermost header to the end of the payload.
    fn bytes(&self) -> &[u8];
    /// As [`bytes`](Self::bytes), to rewrite.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// What the L4 checksum field holds.
    fn checksum(&self) -> Checksum;
    /// Payload bytes of the segments behind it.
    fn following(&self) -> usize;
    /// Says where the packet lies in its buffer now, and what became of it.
    fn settle(&mut self, place: Place);
    /// Cuts the packet off behind so many bytes.
    fn truncate(&mut self, len: usize, checksum: Checksum);
    /// The packet as the stages see it; `None` when it does not lie within its buffer.
    fn packet(&mut self, ingress: PortId) -> Option<Packet<'_>>;
}

/// What is known of the packets of a batch before anything is done with them.
#[derive(Default)]
pub struct Survey {
    seen: ArrayVec<Option<Seen>, BATCH_MAX>,
}

#[derive(Debug)]
struct Seen {
    glance: Glance,
    candidate: Option<Candidate>,
}

impl Survey {
    /// Looks at all packets of a batch, each with the port it came in by.
    pub fn take<'f, F: PacketBuffer + 'f>(
        &mut self,
        batch: impl Iterator<Item = (&'f F, PortId)> + Clone,
        state: &State,
        connections: &ConnectionTable,
        machine: &impl Machine,
    ) {
        self.seen.clear();
        for (frame, _) in batch.clone() {
            if let Some(first) = frame.bytes().first() {
                machine.prefetch_to_write(first);
            }
        }
        for (frame, ingress) in batch.take(BATCH_MAX) {
            let Some(mut glance) = glance_at(frame.bytes(), ingress, state) else {
                self.seen.push(None);
                continue;
            };
            glance.hash = connections.hash_of(&glance.words);
            if let Some(line) = connections.bucket_of(glance.hash) {
                machine.prefetch(line);
            }
            self.seen.push(Some(Seen { glance, candidate: None }));
        }
        for seen in self.seen.iter_mut().flatten() {
            seen.candidate = connections.candidate(seen.glance.hash);
            if let Some([original, reply, decided]) =
                seen.candidate.and_then(|it| connections.lines_of(it))
            {
                machine.prefetch(decided);
                machine.prefetch_to_write(original);
                machine.prefetch_to_write(reply);
            }
        }
    }
}

/// Where a packet from a peer most often begins: behind headers without options over IPv4.
const TUNNEL_HEADERS: usize = ethernet::LEN + ipv4::LEN + udp::LEN + geneve::LEN;

#[inline(always)]
fn glance_at(bytes: &[u8], ingress: PortId, state: &State) -> Option<Glance> {
    let hop = state.hops().get(ingress)?;
    let from_pod = match hop.kind? {
        PortKind::Pod => true,
        PortKind::Gateway => false,
        PortKind::Uplink => {
            let behind = bytes.get(TUNNEL_HEADERS..)?;
            return Glance::of(behind, hop.ingress(ingress), false);
        }
        // What the node itself sends has rights of its own.
        PortKind::Host => return None,
    };
    Glance::of(bytes, hop.ingress(ingress), from_pod)
}

/// What one worker remembers of composed decisions.
#[derive(Debug)]
pub struct ComposedMemory {
    /// Packets that were decided about without the stages.
    pub hits: u64,
    /// Packets that took the stages.
    pub walks: u64,
    /// Takes one hit in so many through the stages, too.
    pub sampler: Sampler,
    /// What the stages cost.
    pub stages: StageClock,
}

impl ComposedMemory {
    /// Nothing counted yet, and nothing sampled.
    pub fn new() -> ComposedMemory {
        ComposedMemory {
            hits: 0,
            walks: 0,
            sampler: Sampler::new(0),
            stages: StageClock::default(),
        }
    }
}

impl Default for ComposedMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// Decides about a packet of a batch and rewrites it accordingly, by what was composed where that
/// is enough. `at` is its place in the batch that was surveyed.
pub fn decide(
    survey: &Survey,
    at: usize,
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
) -> Outcome {
    let seen = survey.seen.get(at).and_then(Option::as_ref);
    let ComposedMemory { sampler, hits, .. } = &context.worker.composed;
    let sampled = sampler.is_due(*hits) && sample::begin(frame, ingress, seen, context);
    let (outcome, hit) = act(seen, frame, ingress, context, machine);
    let composed = &mut context.worker.composed;
    if !hit {
        composed.walks += 1;
        if sampled {
            composed.sampler.put_off(composed.hits);
        }
        return outcome;
    }
    composed.hits += 1;
    if sampled {
        sample::compare(frame, ingress, outcome, context);
    }
    outcome
}

/// Rewrites a packet by what was composed if that is enough, else by the stages. Says what became
/// of it, and whether without them.
#[inline(always)]
fn act(
    seen: Option<&Seen>,
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
) -> (Outcome, bool) {
    let from = context.state.hops().get(ingress);
    if from.is_some_and(|from| from.kind == Some(PortKind::Uplink)) {
        return tunnelled(seen, frame, ingress, context, machine);
    }
    match seen.and_then(|seen| hit(seen, frame, ingress, context)) {
        Some(outcome) => (outcome, true),
        None => (by_stages(frame, ingress, context, machine), false),
    }
}

/// A packet that takes the stages.
fn by_stages(
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
) -> Outcome {
    let addressed = macs_of(frame.bytes());
    let Some(mut packet) = frame.packet(ingress) else {
        return Outcome::Drop(DropReason::Malformed);
    };
    let outcome = walk_timed(&mut packet, context, None, machine);
    compose(&packet, addressed, outcome, context);
    let place = packet.place();
    frame.settle(place);
    outcome
}

/// A packet that needs nothing but what was composed.
#[inline]
fn hit(
    seen: &Seen,
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &Context<'_>,
) -> Option<Outcome> {
    let glance = &seen.glance;
    let from = context.state.hops().get(ingress)?;
    let (known, from) = ((frame.checksum(), frame.following()), Some(from.mac));
    let taken = take(frame.bytes_mut(), known, glance, seen.candidate?, from, context)?;
    frame.truncate(ethernet::LEN + usize::from(glance.len), taken.checksum);
    let Some((tunnel, source, next_hop)) = taken.tunnel else {
        return Some(Outcome::Output(taken.egress));
    };
    let mut packet = frame.packet(ingress)?;
    let encapsulated = packet.parse_ip().and_then(|_| {
        tunnel::encapsulate(&mut packet, tunnel, source, next_hop, context.state.hash_seed())
    });
    let place = packet.place();
    frame.settle(place);
    Some(encapsulated.map_or_else(Outcome::Drop, |()| Outcome::Output(taken.egress)))
}

/// A packet that comes in by the uplink: the tunnel's headers are taken off as the stages do it.
/// Says what became of it, and whether without the other stages.
fn tunnelled(
    seen: Option<&Seen>,
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
) -> (Outcome, bool) {
    let Some(mut packet) = frame.packet(ingress) else {
        return (Outcome::Drop(DropReason::Malformed), false);
    };
    let decided = match enter(&mut packet, context) {
        Err(outcome) => (outcome, false),
        Ok(target) => match taken_out(seen, &mut packet, context) {
            Some(outcome) => (outcome, true),
            None => {
                let addressed = macs_of(packet.bytes());
                let outcome = walk_timed(&mut packet, context, Some(target), machine);
                compose(&packet, addressed, outcome, context);
                (outcome, false)
            }
        },
    };
    let place = packet.place();
    frame.settle(place);
    decided
}

/// Takes the tunnel's headers off; gives the table that comes next.
fn enter(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<TableId, Outcome> {
    let tables: [&dyn Table; 2] = [&PipelineRootClassifier, &Classifier];
    for table in tables {
        match table.apply(packet, context) {
            Verdict::Next => {}
            Verdict::Goto(target) => return Ok(target),
            Verdict::Drop(reason) => return Err(Outcome::Drop(reason)),
            Verdict::Output(_) | Verdict::Answer => break,
        }
    }
    Err(Outcome::Drop(DropReason::NotTunnel))
}

/// A packet out of a tunnel that needs nothing but what was composed.
fn taken_out(
    seen: Option<&Seen>,
    packet: &mut Packet<'_>,
    context: &Context<'_>,
) -> Option<Outcome> {
    let connections = &context.learned.connections;
    let glance = Glance::of(packet.bytes(), Ingress::Tunnel.words(), false)?;
    // What was seen behind the outer headers may lie elsewhere than where it was looked for.
    let seen = seen.filter(|seen| seen.glance.words == glance.words);
    let candidate = match seen {
        Some(seen) => seen.candidate,
        None => connections.candidate(connections.hash_of(&glance.words)),
    };
    let known = (packet.checksum, packet.following);
    let taken = take(packet.bytes_mut(), known, &glance, candidate?, None, context)?;
    packet.checksum = taken.checksum;
    Some(Outcome::Output(taken.egress))
}

#[cfg(all(test, not(loom)))]
mod key_tests;
#[cfg(all(test, not(loom)))]
mod sample_tests;
