//! What is measured: the datapath's workers, with a memory port for every Pod.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crossbeam::channel::bounded;
use seine_datapath::counters::{PortCounters, PortTotals, WorkerCounters};
use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::machine::{Wake, prefetch};
use seine_datapath::memory::{self, HugePages, Pages};
use seine_datapath::port::Queue;
use seine_datapath::port::memory::{MemoryOptions, MemoryWire, open};
use seine_datapath::processor::Processor;
use seine_datapath::publish::{PublicationWriter, publication};
use seine_datapath::slot::{COMMANDS_MAX, Command, Slot};
use seine_datapath::upkeep::Upkeep;
use seine_datapath::worker::{Worker, WorkerParts};
use seine_pipeline::address::PortId;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::connection::{ConnectionMemory, ConnectionTable, Occupancy};
use seine_pipeline::learned::Learned;
use seine_pipeline::limits::ConnectionLimits;
use seine_pipeline::state::State;
use seine_pipeline::verdict::DropReason;
use tokio::sync::oneshot;

use super::guests::Guests;
use super::objects::{FIRST_POD, NEXT_HOP_MAC, installed};
use super::profile::{Kind, Ports, Profile};
use super::veths::Veths;

/// Keys the hash tables: the same in every run, so that runs differ by nothing that can be helped.
const SEED: u64 = 0x5e1e;
/// Frames that a worker may keep in its own cache.
const FRAMES_OF_A_WORKER: usize = 1024;
/// Frames that a packet of 64 KiB takes at most: one for each segment, and some to spare.
const SEGMENTED_FRAMES: usize = 48;
/// Connections that a table has room for at least: what the datapath has by default.
const CONNECTIONS_MIN: u32 = 1 << 18;
/// One composed decision in so many is checked against the stages, as the datapath does by default.
const SAMPLE_EVERY: u32 = 1024;
/// Bytes of a cache line, of which the table is made.
const LINE_BYTES: usize = 64;

/// Why a connection may not begin, but for what policy says.
const REFUSALS: [DropReason; 4] = [
    DropReason::ConnectionTableFull,
    DropReason::ConnectionQuota,
    DropReason::NewConnectionBudget,
    DropReason::ConnectionClash,
];

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The objects were refused.
    #[error(transparent)]
    Refused(#[from] seine_pipeline::state::Refusal),
    /// No memory for packets.
    #[error(transparent)]
    Frames(#[from] seine_datapath::frame::RegionError),
    /// No memory for connections.
    #[error(transparent)]
    Connections(#[from] seine_datapath::memory::MapError),
    /// No descriptor for a worker or a port.
    #[error("cannot open a worker or a port: {0}")]
    Open(#[from] std::io::Error),
    /// A port was refused.
    #[error(transparent)]
    Port(#[from] seine_datapath::port::OpenError),
    /// There is no room for ports.
    #[error(transparent)]
    Room(#[from] seine_e2e::failure::Failure),
    /// A port without what a worker needs of it.
    #[error("the port of Pod {0} has no queue")]
    NoQueue(usize),
}

/// Workers that nobody drives yet, and the far ends of their ports.
pub struct Switch {
    /// Takes the packets.
    pub workers: Vec<Worker>,
    /// The far ends: of each worker, one for each port.
    pub wires: Vec<Vec<MemoryWire>>,
    /// What Pods' ports are, if they are not in memory.
    pub outside: Outside,
    /// What can be seen from outside.
    pub watch: Watch,
    /// Publishes changes.
    pub writer: PublicationWriter,
    /// All packet memory.
    pub region: &'static Region,
}

/// What the ports of Pods are. To be dropped after the workers.
pub enum Outside {
    /// Rings in memory.
    Nothing,
    /// Sockets where guests connect.
    Guests(Guests),
    /// Host ends of veths.
    Veths(Veths),
}

/// What can be seen of workers from outside.
#[derive(Clone)]
pub struct Watch {
    /// Of each worker.
    pub workers: Vec<Arc<WorkerCounters>>,
    ports: Vec<Arc<PortCounters>>,
    learned: Arc<Learned>,
    /// The threads that workers run on.
    pub threads: Arc<Mutex<Vec<i32>>>,
    /// Ends the loops of all workers.
    pub stop: Arc<AtomicBool>,
    /// What the connection table is made of.
    pub pages: Pages,
    /// Bytes of the connection table.
    pub table_bytes: usize,
    /// The same for each connection that it has room for.
    pub bytes_per_connection: f64,
}

impl Watch {
    /// Packets and busy cycles of all workers.
    pub fn work(&self) -> (u64, u64) {
        let sum = |(packets, cycles), it: &Arc<WorkerCounters>| {
            (packets + it.packets.read(), cycles + it.busy_cycles.read())
        };
        self.workers.iter().fold((0, 0), sum)
    }

    /// Packets that needed no stage.
    pub fn hits(&self) -> u64 {
        self.workers.iter().map(|it| it.composed_hits.read()).sum()
    }

    /// Packets about which the stages decided otherwise than what was composed.
    pub fn mismatches(&self) -> u64 {
        self.workers.iter().map(|it| it.mismatches.read()).sum()
    }

    /// Batches that all workers received.
    pub fn batches(&self) -> u64 {
        self.workers.iter().map(|it| it.batches.read()).sum()
    }

    /// This thread is one that a worker runs on.
    pub fn enter(&self) {
        let thread = nix::unistd::gettid().as_raw();
        self.threads.lock().unwrap_or_else(|it| it.into_inner()).push(thread);
    }

    /// Nanoseconds that workers' threads had a core.
    pub fn on_core_ns(&self) -> u64 {
        let threads = self.threads.lock().unwrap_or_else(|it| it.into_inner());
        let had = |thread: &i32| {
            let path = format!("/proc/self/task/{thread}/schedstat");
            let text = std::fs::read_to_string(path).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        threads.iter().filter_map(had).sum()
    }

    /// How full the table of connections is, and how many have ended by timeout or to make room.
    pub fn occupancy(&self) -> Occupancy {
        self.learned.connections.occupancy()
    }

    /// First packets that were dropped so far because their connection had no place, or their port
    /// no right to another.
    pub fn refused(&self) -> u64 {
        let totals = PortTotals::sum(self.ports.iter().map(Arc::as_ref));
        REFUSALS.iter().map(|reason| totals.drops[reason.index()]).sum()
    }

    /// What was dropped, in words: "SpoofedSource 3, EgressFull 1".
    pub fn drops(&self) -> String {
        let totals = PortTotals::sum(self.ports.iter().map(Arc::as_ref));
        let counted = DropReason::ALL.iter().filter(|it| totals.drops[it.index()] > 0);
        let named = counted.map(|it| format!("{} {}", it.name(), totals.drops[it.index()]));
        named.collect::<Vec<_>>().join(", ")
    }
}

impl Switch {
    /// Opens it.
    pub fn open(profile: &Profile) -> Result<Switch, SwitchError> {
        let frames_each = if profile.tso { SEGMENTED_FRAMES } else { 1 };
        let mut frames = profile.workers * (profile.in_flight * frames_each + FRAMES_OF_A_WORKER);
        if profile.ports == Ports::AfXdp {
            frames += Veths::frames(profile);
        }
        let huge = if profile.huge_pages { HugePages::Auto } else { HugePages::Off };
        let region = Region::map_in(frames, 2048, huge)?;
        let limits = limits(profile);
        let lines = ConnectionTable::lines(&limits);
        let (lent, pages) = memory::map(lines, huge)?;
        let memory = ConnectionMemory::Lent(lent);
        let table = ConnectionTable::in_memory(limits, SEED, memory).fetching(prefetch);
        let table_bytes = lines * LINE_BYTES;
        let adjacencies = Arc::new(AdjacencyTable::new());
        if let Some(peer) = AdjacencyId::new(0) {
            adjacencies.set(peer, Some(NEXT_HOP_MAC));
        }
        let wakes: Result<Vec<_>, _> =
            (0..profile.workers).map(|_| Wake::new().map(Arc::new)).collect();
        let wakes = wakes?;
        let state = State::new(SEED).apply(&installed(profile))?;
        let (writer, readers) = publication(state, wakes.clone());
        let mut switch = Switch {
            workers: Vec::new(),
            wires: Vec::new(),
            outside: match profile.ports {
                Ports::Memory => Outside::Nothing,
                Ports::VhostUser => Outside::Guests(Guests::new()?),
                Ports::AfXdp => Outside::Veths(Veths::new(profile, region)?),
            },
            watch: Watch {
                workers: Vec::new(),
                ports: Vec::new(),
                table_bytes,
                bytes_per_connection: table_bytes as f64 / table.occupancy().capacity as f64,
                learned: Arc::new(Learned::with_connections(table, SEED)),
                threads: Arc::default(),
                stop: Arc::default(),
                pages,
            },
            writer,
            region,
        };
        for (publication, wake) in readers.into_iter().zip(wakes) {
            let (commands, receiver) = bounded(COMMANDS_MAX);
            let counters = Arc::new(WorkerCounters::default());
            let mut worker = Worker::new(WorkerParts {
                publication,
                adjacencies: adjacencies.clone(),
                upkeep: Upkeep::new(switch.watch.learned.clone()).sampling(SAMPLE_EVERY),
                frames: FrameCache::new(region),
                counters: counters.clone(),
                commands: receiver,
                wake,
                processor: Processor::detect(),
            })?;
            let mut wires = Vec::new();
            for port in 0..profile.pods + FIRST_POD {
                let queue = match &mut switch.outside {
                    Outside::Guests(guests) if port >= FIRST_POD => guests.open(region)?,
                    Outside::Veths(veths) if port >= FIRST_POD => veths.open()?,
                    _ => {
                        let (queue, wire) = memory_port(profile, region)?;
                        wires.push(wire);
                        queue
                    }
                };
                let counters: Arc<PortCounters> = Arc::default();
                let Some(id) = PortId::new(port) else { continue };
                let slot = Slot::new(id, queue, counters.clone());
                // A worker takes commands when it obeys, and here nobody else drives it yet.
                let (done, _) = oneshot::channel();
                let _ = commands.send(Command::Add(slot, done));
                worker.obey();
                switch.watch.ports.push(counters);
            }
            switch.watch.workers.push(counters);
            switch.workers.push(worker);
            switch.wires.push(wires);
        }
        Ok(switch)
    }
}

/// A port in memory, and its far end.
fn memory_port(
    profile: &Profile,
    region: &'static Region,
) -> Result<(Box<dyn Queue>, MemoryWire), SwitchError> {
    // All may meet at one port: it receives a batch a round, however many wait there.
    let ring_frames = profile.in_flight;
    let options = MemoryOptions { ring_frames, wakes: false, ..Default::default() };
    let (mut queues, mut far) = open(region, options)?;
    queues.pop().zip(far.pop()).ok_or(SwitchError::NoQueue(0))
}

/// Room for all connections of the profile, whoever began them and however fast.
fn limits(profile: &Profile) -> ConnectionLimits {
    let connections = match profile.kind {
        Kind::Established => profile.connections.max(CONNECTIONS_MIN),
        Kind::New => profile.connections,
    };
    ConnectionLimits {
        connections,
        per_port: connections,
        first_packets_per_s: u32::MAX,
        first_packets_burst: u32::MAX,
    }
}
