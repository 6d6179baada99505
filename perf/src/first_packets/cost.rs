//! Takes the time of first packets, one by one, with warm and with cold caches.
//!
//! What is timed is the pipeline alone, from the packet in memory to what becomes of it, with
//! connections in memory as the datapath has them. The packet itself is looked at before, as
//! whoever has just received it would have done.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seine_datapath::machine::{cycles, prefetch};
use seine_datapath::memory::{self, HugePages};
use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::address::Mac;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::connection::{ConnectionMemory, ConnectionTable};
use seine_pipeline::describe::{Described, describe};
use seine_pipeline::learned::{Learned, WorkerMemory};
use seine_pipeline::limits::ConnectionLimits;
use seine_pipeline::run::{Context, run};
use seine_pipeline::state::State;
use seine_pipeline::verdict;

use super::scenario::Scenario;

/// Packets that come together.
pub const BATCH: usize = 32;
/// What is walked to evict caches.
pub const WALKED_MIB: usize = 256;
/// Connections looked at between two batches, to end those whose time is up.
const EXPIRED_AT_ONCE: usize = 4 * BATCH;
/// The seed of every table: runs are to be alike.
const SEED: u64 = 1;

/// How often something is done.
#[derive(Clone, Copy, Debug)]
pub struct Samples {
    /// Packets with warm caches.
    pub warm: usize,
    /// Walks, each before one batch.
    pub cold: usize,
}

/// TSC cycles of first packets.
#[derive(Clone, Debug, Default)]
pub struct Cycles {
    /// Of each packet, others having gone before.
    pub warm: Vec<u64>,
    /// Of the first packet after each walk and after packets of another node, of which nothing is
    /// shared but the code: tables are evicted.
    pub tables: Vec<u64>,
    /// Of the first packet after each walk: code and tables are evicted.
    pub all: Vec<u64>,
    /// Of that and those behind it in its batch, the mean.
    pub batch: Vec<u64>,
}

/// Memory that is walked so that nothing else is left in any cache.
#[derive(Debug)]
pub struct Walk(Vec<u64>);

impl Walk {
    /// So many MiB.
    pub fn new(mib: usize) -> Walk {
        Walk((0..(mib << 20) as u64 / 8).collect())
    }

    /// Reads and writes a word of every cache line.
    pub fn evict(&mut self) {
        for line in self.0.chunks_mut(8) {
            if let Some(word) = line.first_mut() {
                *word = black_box(*word).wrapping_add(1);
            }
        }
    }
}

/// How many nanoseconds a cycle of the time stamp counter takes.
pub fn nanoseconds_per_cycle() -> f64 {
    let (began, start) = (Instant::now(), cycles());
    while began.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    began.elapsed().as_nanos() as f64 / cycles().saturating_sub(start).max(1) as f64
}

/// A node in memory, with its worker's side of the world.
pub struct Bench {
    scenario: Scenario,
    size: usize,
    state: State,
    adjacencies: AdjacencyTable,
    learned: Arc<Learned>,
    worker: WorkerMemory,
    now_ms: u64,
    packets: usize,
}

/// What all benches share, for memory of connections is never given back.
pub fn learned() -> Outcome<Arc<Learned>> {
    let limits = ConnectionLimits::default();
    let (lines, _) = memory::map(ConnectionTable::lines(&limits), HugePages::Auto)
        .map_err(|error| Failure::Unmet(error.to_string()))?;
    let connections =
        ConnectionTable::in_memory(limits, SEED, ConnectionMemory::Lent(lines)).fetching(prefetch);
    Ok(Arc::new(Learned::with_connections(connections, SEED)))
}

impl Bench {
    /// The node that a scenario wants.
    pub fn new(scenario: Scenario, size: usize, learned: Arc<Learned>) -> Outcome<Bench> {
        let state = State::new(SEED).apply(&scenario.changes(size));
        let state = state.map_err(|refusal| Failure::Unmet(refusal.to_string()))?;
        let adjacencies = AdjacencyTable::new();
        if let Some(first) = AdjacencyId::new(0) {
            adjacencies.set(first, Some(Mac([2, 0, 0, 0, 9, 9])));
        }
        let worker = WorkerMemory::new();
        // What an earlier bench has opened is gone by now.
        learned.connections.flush(|_| true, |_| {});
        Ok(Bench {
            scenario,
            size,
            state,
            adjacencies,
            learned,
            worker,
            now_ms: 1_000_000,
            packets: 0,
        })
    }

    /// Takes all samples. The other node's packets bring the code back.
    pub fn measure(
        &mut self,
        samples: Samples,
        walk: &mut Walk,
        other: &mut Bench,
    ) -> Outcome<Cycles> {
        let mut cycles = Cycles::default();
        // Branches and pages come to be known.
        for _ in 0..samples.warm.min(2000) / BATCH {
            self.batch(BATCH, || Ok(()))?;
        }
        while cycles.warm.len() < samples.warm {
            cycles.warm.extend(self.batch(BATCH, || Ok(()))?);
        }
        for _ in 0..samples.cold {
            let alone = self.batch(1, || {
                walk.evict();
                other.batch(BATCH, || Ok(())).map(drop)
            })?;
            cycles.tables.extend(alone);
            let batch = self.batch(BATCH, || {
                walk.evict();
                Ok(())
            })?;
            cycles.all.extend(batch.first());
            cycles.batch.push(batch.iter().sum::<u64>() / BATCH as u64);
        }
        Ok(cycles)
    }

    /// Runs so many packets, after what is to be done when they are ready; gives the cycles of
    /// each.
    fn batch(&mut self, size: usize, before: impl FnOnce() -> Outcome) -> Outcome<Vec<u64>> {
        let mut batch = Vec::with_capacity(size);
        for _ in 0..size {
            let description = self.scenario.packet(self.size, self.packets);
            self.packets += 1;
            let described = describe(&description, &self.state);
            batch.push(described.map_err(|error| Failure::Unmet(error.to_string()))?);
        }
        self.now_ms += size as u64;
        let mut taken = Vec::with_capacity(size);
        let mut fates = Vec::with_capacity(size);
        before()?;
        for described in &batch {
            black_box(described.bytes().iter().fold(0_u8, |sum, byte| sum ^ byte));
        }
        for described in &mut batch {
            let began = cycles();
            let fate = self.run(described);
            taken.push(cycles().wrapping_sub(began));
            fates.push(fate);
        }
        for fate in fates {
            if !matches!(fate, Some(verdict::Outcome::Output(_))) {
                let what = self.scenario.name();
                return Err(Failure::Unmet(format!("{what}: a first packet met {fate:?}")));
            }
        }
        let worker = &mut self.worker.connections;
        self.learned.connections.expire(worker, self.now_ms, EXPIRED_AT_ONCE, |_| {});
        Ok(taken)
    }

    fn run(&mut self, described: &mut Described) -> Option<verdict::Outcome> {
        let mut packet = described.packet()?;
        let mut context = Context {
            state: &self.state,
            adjacencies: &self.adjacencies,
            now_ms: self.now_ms,
            learned: &self.learned,
            worker: &mut self.worker,
            dry: false,
            trace: None,
        };
        Some(run(&mut packet, &mut context))
    }
}
