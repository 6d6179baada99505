//! A worker allocates nothing while packets move, composed, sampled or by the stages.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use crossbeam::channel::bounded;
use seine_datapath::counters::WorkerCounters;
use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::machine::Wake;
use seine_datapath::port::memory::{MemoryOptions, MemoryWire, open};
use seine_datapath::processor::Processor;
use seine_datapath::publish::publication;
use seine_datapath::slot::{Command, Slot};
use seine_datapath::upkeep::Upkeep;
use seine_datapath::worker::{Worker, WorkerParts};
use seine_pipeline::address::PortId;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::packet::Checksum;
use seine_pipeline::testbed::{NEXT_HOP_MAC, Node, answered, flags, learned, tcp, udp};
use tokio::sync::oneshot;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches a thread-local
// number only, whose initialiser is const and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gateway, uplink and two Pods.
const PORTS: usize = 4;
const FRAMES: usize = 1024;
/// Conversations that go on at the same time.
const CONVERSATIONS: u16 = 20;

/// A worker that samples one composed decision in so many, and the far ends of its ports.
fn worker(node: &Node, sample_every: u32) -> (Worker, Vec<MemoryWire>, Arc<WorkerCounters>) {
    let region = Region::map(FRAMES, 2048).unwrap();
    let wake = Arc::new(Wake::new().unwrap());
    let (_, mut readers) = publication(node.state.clone(), vec![wake.clone()]);
    let (commands, receiver) = bounded(PORTS);
    let (counters, adjacencies) = (Arc::<WorkerCounters>::default(), AdjacencyTable::new());
    adjacencies.set(AdjacencyId::new(0).unwrap(), Some(NEXT_HOP_MAC));
    let mut worker = Worker::new(WorkerParts {
        publication: readers.pop().unwrap(),
        adjacencies: Arc::new(adjacencies),
        upkeep: Upkeep::new(Arc::new(learned())).sampling(sample_every),
        frames: FrameCache::new(region),
        counters: counters.clone(),
        commands: receiver,
        wake,
        processor: Processor::detect(),
    })
    .unwrap();
    let mut wires = Vec::new();
    for port in 0..PORTS {
        let options = MemoryOptions { ring_frames: 64, ..MemoryOptions::default() };
        let (mut queues, mut far) = open(region, options).unwrap();
        let id = PortId::new(port).unwrap();
        let slot = Slot::new(id, queues.pop().unwrap(), Arc::default());
        let (done, _) = oneshot::channel();
        assert!(commands.try_send(Command::Add(slot, done)).is_ok());
        worker.obey();
        wires.push(far.pop().unwrap());
    }
    (worker, wires, counters)
}

/// The rounds' packets, and allocations meanwhile.
fn rounds(worker: &mut Worker) -> (usize, usize) {
    let before = ALLOCATIONS.get();
    let mut packets = 0;
    loop {
        let received = worker.round();
        packets += received;
        if received == 0 {
            return (packets, ALLOCATIONS.get() - before);
        }
    }
}

#[test]
fn a_round_allocates_nothing_whatever_its_packets_take() {
    let node = Node::with_pods(["a", "b"]);
    let from = node.state.port_by_name("a").unwrap().index();
    for sample_every in [1, 1024] {
        let (mut worker, mut wires, counters) = worker(&node, sample_every);
        // Whatever is made once.
        rounds(&mut worker);
        let mut packets: Vec<(usize, Vec<u8>)> = Vec::new();
        for number in 0..CONVERSATIONS {
            let to = ["b", "remote"][usize::from(number % 2)];
            let probe = match number % 4 {
                0 | 1 => udp(),
                _ => tcp().flags(flags::ACK),
            };
            let probe = probe.from("a").to(to).port(80).source_port(40_000 + number);
            packets.push((from, node.frame(&probe)));
        }
        for turn in 0..8 {
            for (port, packet) in packets.drain(..) {
                assert!(wires[port].inject(&packet, Checksum::Complete));
            }
            let moved = rounds(&mut worker);
            assert_eq!(moved, (usize::from(CONVERSATIONS), 0), "turn {turn}");
            for (port, wire) in wires.iter_mut().enumerate() {
                while let Some((packet, _)) = wire.collect() {
                    packets.push((port, answered(&packet)));
                }
            }
            assert_eq!(packets.len(), usize::from(CONVERSATIONS), "turn {turn}");
        }
        let (hits, samples) = (counters.composed_hits.read(), counters.samples.read());
        assert_eq!(hits, 5 * u64::from(CONVERSATIONS));
        assert_eq!(samples, hits / u64::from(sample_every));
        assert_eq!(counters.mismatches.read(), 0);
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the allocator counts");
}
