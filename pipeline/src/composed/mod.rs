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
mod outer;
mod rewrite;
mod sample;
mod shortcut;
mod survey;

pub use clock::{STAGES_COUNT, StageClock, StageCost};
pub use sample::Sampler;
pub use survey::Survey;

use arrayvec::ArrayVec;

use crate::address::{PortId, PortKind};
use crate::connection::{Ingress, Line};
use crate::limits::BATCH_MAX;
use crate::packet::{Checksum, Packet, Place};
use crate::run::Context;
use crate::stage::classifier::{Classifier, PipelineRootClassifier};
use crate::stage::{Table, TableId};
use crate::sync::{AtomicU64, Ordering};
use crate::tunnel::PREFIX_LEN;
use crate::verdict::{DropReason, Outcome, Verdict};
use crate::wire::ethernet;
use clock::walk_timed;
use compose::compose;
use glance::Glance;
use hit::{Sender, take};
use rewrite::macs_of;
use survey::Seen;

/// What the pipeline asks of the processor.
pub trait Machine {
    /// Asks for the cache line at `place`, which will soon be read.
    fn prefetch<T>(&self, place: &T);
    /// As that, for a line that will soon be written.
    fn prefetch_to_write<T>(&self, place: &T) {
        self.prefetch(place);
    }
    /// The place of the first of a line's words that is `wanted` in the bits that `mask` has; one
    /// behind the last when none is.
    #[inline]
    fn first_alike(&self, line: &Line, wanted: u64, mask: u64) -> usize {
        let alike = |word: &AtomicU64| (word.load(Ordering::Relaxed) ^ wanted) & mask == 0;
        line.0.iter().position(alike).unwrap_or(line.0.len())
    }
    /// Whether a line begins with this key; over IPv4 the first and the third word, zero in a key,
    /// may be anything.
    #[inline]
    fn has_key(&self, line: &Line, key: &[u64; 6], v4: bool) -> bool {
        let [a, b, c, d, e, f, ..] = &line.0;
        let &[key_a, key_b, key_c, key_d, key_e, key_f] = key;
        let differ = |word: &AtomicU64, other| word.load(Ordering::Relaxed) ^ other;
        differ(b, key_b) | differ(d, key_d) | differ(e, key_e) | differ(f, key_f) == 0
            && (v4 || differ(a, key_a) | differ(c, key_c) == 0)
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
    /// Lets the packet begin `len` bytes earlier; `None`, and nothing changed, without room for it.
    fn push_front(&mut self, len: usize) -> Option<()>;
    /// Lets the packet begin `len` bytes later, or with its end.
    fn pop_front(&mut self, len: usize);
    /// Cuts the packet off behind so many bytes.
    fn truncate(&mut self, len: usize, checksum: Checksum);
    /// The packet as the stages see it; `None` when it does not lie within its buffer.
    fn packet(&mut self, ingress: PortId) -> Option<Packet<'_>>;
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
    /// What packets took that each took long, since whoever wants to know has emptied it.
    pub tolls: ArrayVec<Toll, BATCH_MAX>,
}

/// What one packet took that was not decided about by what was composed alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toll {
    /// The port it came in by.
    pub ingress: PortId,
    /// Cycles.
    pub cycles: u64,
}

impl ComposedMemory {
    /// Nothing counted yet, and nothing sampled.
    pub fn new() -> ComposedMemory {
        ComposedMemory {
            hits: 0,
            walks: 0,
            sampler: Sampler::new(0),
            stages: StageClock::default(),
            tolls: ArrayVec::new(),
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
    let seen = survey.seen(at);
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
    if let Some(seen) = seen {
        return match hit(seen, frame, ingress, context, machine) {
            Some(outcome) => (outcome, true),
            None => (by_stages(frame, ingress, context, machine), false),
        };
    }
    let from = context.state.hops().get(ingress);
    if from.is_some_and(|from| from.kind == Some(PortKind::Uplink)) {
        return timed(ingress, context, machine, |context| {
            tunnelled(frame, ingress, context, machine)
        });
    }
    (by_stages(frame, ingress, context, machine), false)
}

/// A packet that takes the stages, by its own clock: it costs as much as many that do not.
fn by_stages(
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
) -> Outcome {
    timed(ingress, context, machine, |context| walked(frame, ingress, context, machine))
}

/// Does what takes long for a packet, and notes how long.
#[inline(always)]
fn timed<T>(
    ingress: PortId,
    context: &mut Context<'_>,
    machine: &impl Machine,
    work: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    let began = machine.cycles();
    let done = work(context);
    let cycles = machine.cycles().wrapping_sub(began);
    // There is room for each packet of a batch; who never empties it does not want to know.
    let _ = context.worker.composed.tolls.try_push(Toll { ingress, cycles });
    done
}

fn walked(
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
#[inline(always)]
fn hit(
    seen: &Seen,
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    context: &Context<'_>,
    machine: &impl Machine,
) -> Option<Outcome> {
    let Seen { glance, candidate, outer, .. } = seen;
    let known = (frame.checksum(), frame.following());
    let (front, sender) = match outer {
        None => (0, Sender::Station(context.state.hops().get(ingress)?.mac)),
        Some(outer) => (PREFIX_LEN, Sender::Remote(outer.remote)),
    };
    let bytes = frame.bytes_mut().get_mut(front..)?;
    let taken = take(bytes, known, glance, (*candidate)?, sender, context, machine)?;
    if front > 0 {
        frame.pop_front(front);
    }
    frame.truncate(ethernet::LEN + usize::from(glance.len), taken.checksum);
    let Some(tunnel) = taken.tunnel else { return Some(Outcome::Output(taken.egress)) };
    Some(match tunnel.put_on(frame, ingress, glance, context) {
        Ok(()) => Outcome::Output(taken.egress),
        Err(reason) => Outcome::Drop(reason),
    })
}

/// A packet that comes in by the uplink behind other headers than most: they are taken off as the
/// stages do it. Says what became of it, and whether without the other stages.
#[cold]
fn tunnelled(
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
        Ok(target) => match taken_out(&mut packet, context, machine) {
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
            Verdict::Output(_) | Verdict::Answer | Verdict::Replicate(_) => break,
        }
    }
    Err(Outcome::Drop(DropReason::NotTunnel))
}

/// A packet out of a tunnel that needs nothing but what was composed.
fn taken_out(
    packet: &mut Packet<'_>,
    context: &Context<'_>,
    machine: &impl Machine,
) -> Option<Outcome> {
    let connections = &context.learned.connections;
    let glance = Glance::of(packet.bytes(), Ingress::Tunnel.words(), false)?;
    let candidate = connections.candidate(connections.hash_of(&glance.words), machine)?;
    let (known, sender) = ((packet.checksum, packet.following), Sender::Checked);
    let taken = take(packet.bytes_mut(), known, &glance, candidate, sender, context, machine)?;
    packet.checksum = taken.checksum;
    Some(Outcome::Output(taken.egress))
}

#[cfg(all(test, not(loom)))]
mod key_tests;
#[cfg(all(test, not(loom)))]
mod sample_tests;
#[cfg(all(test, not(loom)))]
mod toll_tests;
