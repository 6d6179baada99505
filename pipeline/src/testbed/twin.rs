//! The same node once more, by composed decisions: whatever a test sends goes through both, and
//! both have to say the same.

use std::ops::Range;

use super::{HEADROOM, Node, learned};
use crate::address::PortId;
use crate::composed::{self, PacketBuffer, Plain, Sampler, Survey};
use crate::connection::{ConnectionTable, Counts};
use crate::learned::{Learned, WorkerMemory};
use crate::limits::{CONNECTIONS_MAX, ConnectionLimits};
use crate::packet::{Checksum, Packet, Place};
use crate::run::Context;
use crate::tally::RuleCounts;
use crate::verdict::Outcome;
use crate::wire::field::{self, Composed, Field, Fields};

/// Tables are held against each other after this many packets, and after the first few.
const COMPARED_EVERY: u64 = 64;
/// One hit in so many takes the stages, too.
const SAMPLED_EVERY: u32 = 3;

/// What a node has learnt that decides by what was composed.
pub struct Twin {
    learned: Learned,
    /// Each takes the packets that another one has left.
    workers: Vec<WorkerMemory>,
    packets: u64,
    /// What the stages read of packets that needed them not.
    read: Fields,
}

/// A packet in memory of its own, with room around it.
pub struct Buffer {
    bytes: Vec<u8>,
    range: Range<usize>,
    checksum: Checksum,
    following: usize,
}

impl Buffer {
    /// A copy of a frame, with as much room in front as AF_XDP leaves.
    pub fn of(frame: &[u8], checksum: Checksum) -> Buffer {
        let mut bytes = vec![0xee; HEADROOM];
        bytes.extend(frame);
        let range = HEADROOM..bytes.len();
        Buffer { bytes, range, checksum, following: 0 }
    }
}

impl PacketBuffer for Buffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }

    fn checksum(&self) -> Checksum {
        self.checksum
    }

    fn following(&self) -> usize {
        self.following
    }

    fn settle(&mut self, place: Place) {
        Place { range: self.range, checksum: self.checksum, following: self.following } = place;
    }

    fn push_front(&mut self, len: usize) -> Option<()> {
        self.range.start = self.range.start.checked_sub(len)?;
        Some(())
    }

    fn pop_front(&mut self, len: usize) {
        self.range.start = self.range.end.min(self.range.start + len);
    }

    fn truncate(&mut self, len: usize, checksum: Checksum) {
        self.range.end = self.range.end.min(self.range.start + len);
        self.checksum = checksum;
    }

    fn packet(&mut self, ingress: PortId) -> Option<Packet<'_>> {
        let Range { start, end } = self.range;
        let mut packet = Packet::new(&mut self.bytes, start, end, ingress, self.checksum)?;
        packet.following = self.following;
        Some(packet)
    }
}

impl Twin {
    /// One that has seen no packet, whose workers take turns: the answer to what the one has sent
    /// comes in on the other. Each has budgets of its own.
    pub fn with_workers(count: usize) -> Twin {
        Twin::new(learned(), count)
    }

    fn new(learned: Learned, count: usize) -> Twin {
        let worker = |_| {
            let mut worker = WorkerMemory::new();
            worker.composed.sampler = Sampler::new(SAMPLED_EVERY);
            worker
        };
        Twin {
            learned,
            workers: (0..count).map(worker).collect(),
            packets: 0,
            read: Fields::default(),
        }
    }

    pub(super) fn limit(&mut self, limits: ConnectionLimits) {
        let learned = Learned { connections: ConnectionTable::new(limits, 1), ..learned() };
        *self = Twin::new(learned, self.workers.len());
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        let limit = CONNECTIONS_MAX as usize;
        for worker in &mut self.workers {
            let worker = &mut worker.connections;
            while self.learned.connections.expire(worker, now_ms, limit, |_| ()) == limit {}
        }
    }

    /// Who talks to whom, how far it has come, and how much has gone either way.
    fn table(learned: &Learned, now_ms: u64) -> Vec<String> {
        let lines = learned.connections.iter(now_ms).map(|listed| {
            let counts: [Counts; 2] = listed.counts;
            format!("{:?} {counts:?} idle {} ms", listed.connection, listed.idle_ms)
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }
}

impl Node {
    /// Sends a packet that has gone through the stages by what was composed, and holds the two
    /// against each other.
    #[track_caller]
    pub(super) fn follow(
        &mut self,
        ingress: PortId,
        (came, known, following): (&[u8], Checksum, usize),
        (outcome, left, place): (Outcome, &[u8], Place),
    ) {
        let Some(mut twin) = self.twin.take() else { return };
        let read = field::take_read();
        let mut buffer = Buffer { following, ..Buffer::of(came, known) };
        let mut survey = Survey::default();
        let batch = [(&buffer, ingress)];
        survey.take(batch.into_iter(), &self.state, &twin.learned.connections, &Plain);
        let turn = twin.packets as usize % twin.workers.len();
        let worker = &mut twin.workers[turn];
        let mut context = Context {
            state: &self.state,
            adjacencies: &self.adjacencies,
            now_ms: self.now_ms,
            learned: &twin.learned,
            worker,
            dry: false,
            trace: None,
        };
        let hits = context.worker.composed.hits;
        let composed = composed::decide(&survey, 0, &mut buffer, ingress, &mut context, &Plain);
        assert_eq!(composed, outcome, "composed, and by the stages: {came:02x?}");
        if let Outcome::Output(_) | Outcome::Replicate(_) = outcome {
            assert_eq!(buffer.bytes(), left, "composed, and by the stages: {came:02x?}");
            let known = (buffer.checksum, buffer.following);
            let expected = (place.checksum, place.following);
            assert_eq!(known, expected, "composed, and by the stages: {came:02x?}");
        }
        let memory = &mut twin.workers[turn].composed;
        assert_eq!(memory.sampler.take_evidence(), None, "sampled");
        if memory.hits > hits {
            let mut overlooked = read.iter().filter(|it| it.composed() == Composed::Never);
            assert_eq!(overlooked.next(), None, "read by the stages: {came:02x?}");
            twin.read = twin.read.with(read);
        }
        twin.packets += 1;
        if twin.packets < COMPARED_EVERY / 4 || twin.packets.is_multiple_of(COMPARED_EVERY) {
            let composed = Twin::table(&twin.learned, self.now_ms);
            assert_eq!(composed, Twin::table(&self.learned, self.now_ms));
        }
        self.twin = Some(twin);
    }

    /// Asserts that both ways of deciding have led to the same connections, and counts of rules.
    #[track_caller]
    pub fn assert_twins(&self) {
        let Some(twin) = &self.twin else { return };
        let composed = Twin::table(&twin.learned, self.now_ms);
        assert_eq!(composed, Twin::table(&self.learned, self.now_ms));
        for (id, rule) in self.state.rules() {
            let mut counts = RuleCounts::default();
            twin.workers.iter().for_each(|worker| counts += worker.tallies.get(id));
            assert_eq!(counts, self.worker.tallies.get(id), "counts of {}", rule.name);
        }
    }

    /// What the stages have read of packets that took what was composed.
    pub fn read_of_composed(&self) -> Vec<Field> {
        self.twin.iter().flat_map(|twin| twin.read.iter()).collect()
    }

    /// Samples that rules judged once more, and those that proved nothing.
    pub fn judged(&self) -> (u64, u64) {
        let samplers = self.twin.iter().flat_map(|twin| &twin.workers);
        samplers
            .map(|worker| &worker.composed.sampler)
            .fold((0, 0), |(judged, outdated), it| (judged + it.judged, outdated + it.outdated))
    }

    /// Packets that took what was composed, and packets that took the stages.
    pub fn composed(&self) -> (u64, u64) {
        let workers = self.twin.iter().flat_map(|twin| &twin.workers);
        workers.fold((0, 0), |(hits, walks), worker| {
            (hits + worker.composed.hits, walks + worker.composed.walks)
        })
    }
}
