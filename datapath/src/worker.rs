//! One worker: it receives, runs the pipeline, transmits and rests, on a core that a
//! [shift](crate::shift) lends it.
//!
//! Worker `w` owns queue `w` of every port. A round goes over its queues and gathers batches from
//! them, decides about each batch, and sorts the frames by egress port; then each port that got
//! frames is transmitted to and flushed, once. Commands and new States are taken between two
//! rounds, so a round sees one State.
//!
//! After start nothing here allocates: a queue comes with its slot, which the writer has built.
//! Between packets it does its share of [upkeep](crate::upkeep).

mod egress;
mod paying;
mod queues;
mod rest;

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::Receiver;
use seine_pipeline::address::PortId;
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::composed::{self, Survey};
use seine_pipeline::limits::{BATCH_MAX, PORTS_MAX};
use seine_pipeline::packet::Checksum;
use seine_pipeline::run::Context;
use seine_pipeline::verdict::Outcome;
use tokio::sync::oneshot;

use crate::counters::WorkerCounters;
use crate::frame::{Batch, FrameCache};
use crate::ledger::Ledger;
use crate::machine::{Bed, Wake, boot_time_ms, cycles};
use crate::processor::Processor;
use crate::publish::PublicationReader;
use crate::slot::{Command, Slot};
use crate::upkeep::Upkeep;

/// More bytes than this, received or to be copied once more, are sent before others are received:
/// they are then still in a near cache.
const HELD_BYTES_MAX: u64 = 128 << 10;

/// Batches in a row that a queue may fill, before it is the next one's turn: what a busy uplink
/// brings for many Pods then leaves by each of them in one piece.
const TURN_BATCHES: usize = 4;

/// Packets of a round after which a turn is one batch: where many queues are busy, what comes by
/// the others does not wait longer for it.
const LONG_ROUND: usize = 1024;

/// What a worker shares with the rest of the process.
pub struct WorkerParts {
    /// The State to work with.
    pub publication: PublicationReader,
    /// Next hops on the underlay.
    pub adjacencies: Arc<AdjacencyTable>,
    /// What it learns from packets.
    pub upkeep: Upkeep,
    /// Its own frames.
    pub frames: FrameCache,
    /// Its own counters.
    pub counters: Arc<WorkerCounters>,
    /// What it is asked to do.
    pub commands: Receiver<Command>,
    /// Ends its sleep.
    pub wake: Arc<Wake>,
    /// What it runs on.
    pub processor: Processor,
}

/// What tells a worker the time, in milliseconds since the machine started.
pub type Clock = fn() -> u64;

/// The frame that was being worked on when a worker panicked.
pub struct InHand {
    /// The port it came in by.
    pub ingress: PortId,
    /// The packet, as far as it was rewritten.
    pub packet: Vec<u8>,
}

/// One queue's work, of every port.
pub struct Worker {
    parts: WorkerParts,
    clock: Clock,
    /// When the batch was received.
    now_ms: u64,
    slots: Box<[Option<Box<Slot>>]>,
    /// Ports that have a queue here, in the order they are polled.
    polled: Vec<PortId>,
    /// Ports that this round transmits to.
    touched: Vec<PortId>,
    /// Bytes of what waits for ports that copy.
    to_copy: u64,
    /// The packets that are decided about together.
    batch: Batch,
    /// Bytes of them.
    batch_bytes: u64,
    /// The port that each of them came in by.
    origins: ArrayVec<PortId, BATCH_MAX>,
    /// Which of them the pipeline works on, so that a panic can name it.
    in_hand: Option<usize>,
    /// What is known of the batch before anything is done with it.
    survey: Survey,
    /// Whose packets its cycles are spent on.
    ledger: Ledger,
    /// Queues that cannot wake it.
    unwakeable: usize,
    bed: Bed,
}

impl Worker {
    /// A worker without queues.
    pub fn new(parts: WorkerParts) -> std::io::Result<Worker> {
        let bed = Bed::new(&parts.wake)?;
        parts.counters.started_at_cycles.set(cycles());
        Ok(Worker {
            parts,
            clock: boot_time_ms,
            now_ms: boot_time_ms(),
            slots: (0..PORTS_MAX).map(|_| None).collect(),
            polled: Vec::with_capacity(PORTS_MAX),
            touched: Vec::with_capacity(PORTS_MAX),
            to_copy: 0,
            batch: Batch::new(),
            batch_bytes: 0,
            origins: ArrayVec::new(),
            in_hand: None,
            survey: Survey::default(),
            ledger: Ledger::new(),
            unwakeable: 0,
            bed,
        })
    }

    /// Tells it the time otherwise than by the machine's clock, so that it does the same whenever
    /// it is run.
    #[must_use]
    pub fn by_clock(self, clock: Clock) -> Worker {
        Worker { clock, now_ms: clock(), ..self }
    }

    /// Takes a new State and carries out what is asked. Between two rounds.
    pub fn obey(&mut self) {
        self.parts.publication.observe();
        while let Ok(command) = self.parts.commands.try_recv() {
            match command {
                Command::Add(slot, done) => {
                    let refused = self.add(slot);
                    self.hand_back(done, refused);
                }
                Command::Remove(port, done) => {
                    let removed = self.remove(port);
                    self.hand_back(done, removed);
                }
                Command::Sample(done) => {
                    self.sample();
                    let _ = done.send(());
                }
            }
        }
    }

    /// Answers with a slot, or closes it here when the asker has given up, for its frames' sake.
    fn hand_back(&mut self, done: oneshot::Sender<Option<Box<Slot>>>, slot: Option<Box<Slot>>) {
        if let Err(Some(slot)) = done.send(slot) {
            slot.close(&mut self.parts.frames);
        }
    }

    /// Receives, runs and transmits once over all queues. Returns the packets received.
    pub fn round(&mut self) -> usize {
        self.ledger.begin(cycles());
        let mut packets = 0;
        for index in 0..self.polled.len() {
            for _ in 0..TURN_BATCHES {
                packets += self.receive(self.polled[index]);
                let (full, long) = (self.batch.is_full(), self.batch_bytes > HELD_BYTES_MAX);
                if full || long {
                    self.forward();
                    self.close_lap();
                }
                if long || self.to_copy > HELD_BYTES_MAX {
                    self.send_all();
                }
                if !full || packets >= LONG_ROUND {
                    break;
                }
            }
        }
        self.forward();
        if packets == 0 {
            self.ledger.end_idle(cycles());
            self.parts.counters.empty_polls.add(1);
            return 0;
        }
        self.close_lap();
        self.send_all();
        self.charge_shared();
        // Whatever is left waits for the next round or for rest, so that packets never wait long.
        self.parts.upkeep.step(self.now_ms);
        self.parts.counters.packets.add(packets as u64);
        self.parts.counters.show(&mut self.parts.upkeep.memory.composed);
        self.parts.counters.frames_cached.set(self.parts.frames.len() as u64);
        let (busy, own) = self.ledger.end(cycles());
        self.parts.counters.busy_cycles.add(busy);
        self.parts.counters.own_cycles.add(own);
        packets
    }

    fn send_all(&mut self) {
        self.to_copy = 0;
        while let Some(port) = self.touched.pop() {
            self.send(port, true);
        }
    }

    /// What it worked on, after a panic.
    pub fn in_hand(&self) -> Option<InHand> {
        let at = self.in_hand?;
        Some(InHand { ingress: self.origins[at], packet: self.batch[at].bytes().to_vec() })
    }

    /// Adds to the batch what a port has, as far as there is room.
    fn receive(&mut self, port: PortId) -> usize {
        let Some(slot) = &mut self.slots[port.index()] else { return 0 };
        let before = self.batch.len();
        slot.queue.receive(&mut self.parts.frames, &mut self.batch);
        let received = self.batch.len() - before;
        if received == 0 {
            self.ledger.polled_idle();
            return 0;
        }
        slot.counters.cycles.add(self.ledger.received(port, received as u64, cycles()));
        slot.counters.receive_packets.add(received as u64);
        let bytes = egress::bytes_of(&self.batch[before..]);
        slot.counters.receive_bytes.add(bytes);
        self.batch_bytes += bytes;
        self.origins.extend(std::iter::repeat_n(port, received));
        received
    }

    /// Decides about the packets of the batch in their order, and sorts them by egress port.
    fn forward(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.parts.counters.batches.add(1);
        self.now_ms = (self.clock)();
        let outcomes = self.decide();
        self.charge_tolls();
        self.batch_bytes = 0;
        let (batch, origins) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.origins));
        for ((frame, ingress), outcome) in batch.into_iter().zip(origins).zip(outcomes) {
            match outcome {
                Outcome::Output(egress) => self.enqueue(ingress, egress, frame),
                Outcome::Replicate(vlan) => self.replicate(ingress, vlan, frame),
                Outcome::Drop(reason) => self.discard(ingress, reason, frame),
            }
        }
    }

    fn decide(&mut self) -> ArrayVec<Outcome, BATCH_MAX> {
        let Worker { parts, slots, batch, origins, survey, in_hand, now_ms, .. } = self;
        let state = &parts.publication.current().state;
        let connections = &parts.upkeep.learned.connections;
        let packets = batch.iter().zip(origins.iter().copied());
        survey.take(packets, state, connections, &parts.processor);
        let mut context = Context {
            state,
            adjacencies: &parts.adjacencies,
            now_ms: *now_ms,
            learned: &parts.upkeep.learned,
            worker: &mut parts.upkeep.memory,
            dry: false,
            trace: None,
        };
        let mut outcomes = ArrayVec::new();
        for (at, (frame, ingress)) in batch.iter_mut().zip(origins.iter()).enumerate() {
            *in_hand = Some(at);
            #[cfg(test)]
            tests::trip(frame);
            let outcome =
                composed::decide(survey, at, frame, *ingress, &mut context, &parts.processor);
            if let Outcome::Output(egress) = outcome
                && frame.checksum != Checksum::Complete
                && !takes_partial(slots, egress)
                && let Some(mut packet) = frame.packet(*ingress)
            {
                packet.complete_checksum();
                frame.checksum = Checksum::Complete;
            }
            outcomes.push(outcome);
        }
        *in_hand = None;
        outcomes
    }
}

/// An absent port takes anything: the frame is dropped right after.
fn takes_partial(slots: &[Option<Box<Slot>>], egress: PortId) -> bool {
    slots[egress.index()].as_ref().is_none_or(|slot| slot.partial_checksum)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
pub(crate) mod tests;
