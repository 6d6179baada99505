//! Simulation of shifts: two of them, driven by hand in any order, while workers go to and fro
//! between them. The seed of a failing run is printed by proptest.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeMap;

use crossbeam::channel::{Sender, unbounded};
use proptest::prelude::*;
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::learned::Learned;
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::State;

use super::*;
use crate::counters::WorkerCounters;
use crate::frame::{FrameCache, Region};
use crate::port::memory::{self, MemoryOptions, MemoryWire};
use crate::processor::Processor;
use crate::publish::{PublicationWriter, publication};
use crate::slot::{Command, Slot};
use crate::upkeep::Upkeep;
use crate::worker::WorkerParts;
use crate::worker::tests::{PORTS, datagram_by, objects};

const WORKERS: usize = 3;
const SHIFTS: usize = 2;
const START_MS: u64 = 1_000_000;
/// Longer than a datagram's connection is kept.
const EXPIRED_MS: u64 = START_MS + 600_000;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(START_MS) };
}

/// Shifts, the workers of which have a queue of each port, and the far ends of all wires.
struct Simulation {
    shifts: Vec<Shift>,
    orders: Vec<Sender<Order>>,
    /// Of each worker its shift.
    places: [usize; WORKERS],
    counters: Vec<Arc<WorkerCounters>>,
    learned: Arc<Learned>,
    wires: Vec<Vec<MemoryWire>>,
    _writer: PublicationWriter,
}

impl Simulation {
    /// All workers on the first shift.
    fn new() -> Simulation {
        NOW_MS.set(START_MS);
        let region = Region::map(8192, 2048).unwrap();
        let learned = Arc::new(Learned::new(7));
        let wakes: Vec<_> = (0..WORKERS).map(|_| Arc::new(Wake::new().unwrap())).collect();
        let state = State::new(7).apply(&objects()).unwrap();
        let (writer, readers) = publication(state, wakes.clone());
        let (mut workers, mut commands, mut counters) = (Vec::new(), Vec::new(), Vec::new());
        for (publication, wake) in readers.into_iter().zip(wakes) {
            let (sender, receiver) = bounded(PORTS);
            commands.push(sender);
            let own = Arc::<WorkerCounters>::default();
            counters.push(own.clone());
            let parts = WorkerParts {
                publication,
                adjacencies: Arc::new(AdjacencyTable::new()),
                upkeep: Upkeep::new(learned.clone()),
                frames: FrameCache::new(region),
                counters: own,
                commands: receiver,
                wake,
                processor: Processor::detect(),
            };
            workers.push(Box::new(Worker::new(parts).unwrap().by_clock(|| NOW_MS.get())));
        }
        let mut wires = Vec::new();
        for port in 0..PORTS {
            let options = MemoryOptions { queues: WORKERS, ..MemoryOptions::default() };
            let (queues, far) = memory::open(region, options).unwrap();
            for (queue, commands) in queues.into_iter().zip(&commands) {
                let slot = Slot::new(PortId::new(port).unwrap(), queue, Arc::default());
                assert!(commands.try_send(Command::Add(slot, oneshot::channel().0)).is_ok());
            }
            wires.push(far);
        }
        workers.iter_mut().for_each(|worker| worker.obey());
        let (mut shifts, mut orders) = (Vec::new(), Vec::new());
        for _ in 0..SHIFTS {
            let (sender, receiver) = unbounded();
            orders.push(sender);
            let (workers, wake) = (std::mem::take(&mut workers), Arc::new(Wake::new().unwrap()));
            let shift = Shift::new(workers, Poll::Spin, receiver, Arc::default(), wake);
            shifts.push(shift.unwrap());
        }
        let places = [0; WORKERS];
        Simulation { shifts, orders, places, counters, learned, wires, _writer: writer }
    }

    fn order<T>(&mut self, shift: usize, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> T {
        let (done, mut answer) = oneshot::channel();
        self.orders[shift].send(order(done)).unwrap();
        assert!(self.shifts[shift].follow_orders());
        answer.try_recv().unwrap()
    }

    fn relocate(&mut self, worker: usize, to: usize) {
        let given = self.order(self.places[worker], |done| Order::Give(worker, done)).unwrap();
        self.order(to, |done| Order::Take(given, done));
        self.places[worker] = to;
    }

    fn packets(&self) -> Vec<u64> {
        self.counters.iter().map(|counters| counters.packets.read()).collect()
    }

    fn run_dry(&mut self) {
        while self.shifts.iter_mut().map(|shift| shift.round(false)).sum::<usize>() > 0 {}
    }
}

/// Numbered packets: each connection has a queue that it comes in by.
#[derive(Default)]
struct Ledger {
    sent: BTreeMap<Flow, u32>,
    arrived: BTreeMap<Flow, u32>,
}

/// From which Pod and port to which Pod.
type Flow = (u8, u16, u8);

fn queue_of((_, source_port, _): Flow) -> usize {
    usize::from(source_port) % WORKERS
}

impl Ledger {
    fn send(&mut self, simulation: &mut Simulation, flow: Flow, count: usize) {
        let (from, source_port, to) = flow;
        for _ in 0..count {
            let number = self.sent.entry(flow).or_default();
            let packet = datagram_by((from, source_port), (to, 53), &number.to_be_bytes());
            let wire = &mut simulation.wires[from as usize][queue_of(flow)];
            *number += u32::from(wire.inject(&packet, Checksum::Complete));
        }
    }

    /// Everything arrives in order, and by the queue of its number.
    fn collect(&mut self, simulation: &mut Simulation) {
        for (to, wires) in simulation.wires.iter_mut().enumerate() {
            for (queue, wire) in wires.iter_mut().enumerate() {
                while let Some((packet, _)) = wire.collect() {
                    let source_port = u16::from_be_bytes([packet[34], packet[35]]);
                    let flow = (packet[29], source_port, to as u8);
                    let number: [u8; 4] = packet[packet.len() - 4..].try_into().unwrap();
                    let next = self.arrived.entry(flow).or_default();
                    assert_eq!(u32::from_be_bytes(number), *next, "out of order in {flow:?}");
                    assert_eq!(queue, queue_of(flow), "by another queue than it came in by");
                    *next += 1;
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A Pod sends to a Pod.
    Send { flow: Flow, count: usize },
    /// A shift goes one round.
    Round { shift: usize },
    /// A worker goes to another shift, or leaves its own and comes back.
    Move { worker: usize, to: usize },
    /// The Pods read what was sent to them.
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = || 2..PORTS as u8;
    let flow = (pod(), 4000..4006_u16, pod());
    prop_oneof![
        4 => (flow, 1..100_usize).prop_map(|(flow, count)| Step::Send { flow, count }),
        5 => (0..SHIFTS).prop_map(|shift| Step::Round { shift }),
        3 => (0..WORKERS, 0..SHIFTS).prop_map(|(worker, to)| Step::Move { worker, to }),
        2 => Just(Step::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn workers_that_move_lose_no_packet_keep_the_order_and_keep_connections_until_their_time(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut simulation = Simulation::new();
        let mut ledger = Ledger::default();
        for step in &steps {
            match *step {
                Step::Send { flow, count } if flow.0 != flow.2 => {
                    ledger.send(&mut simulation, flow, count);
                }
                Step::Send { .. } => {}
                Step::Round { shift } => {
                    simulation.shifts[shift].round(false);
                    // A Pod that does not read for long loses packets, and rightly so.
                    ledger.collect(&mut simulation);
                }
                Step::Move { worker, to } => simulation.relocate(worker, to),
                Step::Collect => ledger.collect(&mut simulation),
            }
        }
        simulation.run_dry();
        ledger.collect(&mut simulation);
        prop_assert_eq!(&ledger.arrived, &ledger.sent);
        let connections = &simulation.learned.connections;
        prop_assert_eq!(connections.occupancy().used, ledger.sent.len() as u64);

        (0..WORKERS).for_each(|worker| simulation.relocate(worker, 1));
        NOW_MS.set(EXPIRED_MS);
        for _ in 0..16 {
            simulation.shifts[1].round(true);
        }
        prop_assert_eq!(simulation.learned.connections.occupancy().used, 0);
    }
}

/// A shift that does not rest looks after a worker without packets, too.
#[test]
fn connections_of_an_idle_worker_end_while_another_of_its_shift_is_busy() {
    let mut simulation = Simulation::new();
    let mut ledger = Ledger::default();
    ledger.send(&mut simulation, (2, 4001, 3), 1);
    simulation.run_dry();
    assert_eq!(simulation.learned.connections.occupancy().used, 1);
    NOW_MS.set(EXPIRED_MS);
    ledger.send(&mut simulation, (2, 4002, 3), 1);
    let idle = queue_of((2, 4001, 3));
    let before = simulation.packets()[idle];
    assert_eq!(simulation.shifts[0].round(true), 1);
    assert_eq!(simulation.packets()[idle], before);
    let left = simulation.learned.connections.iter(EXPIRED_MS).map(|it| it.connection);
    let ports: Vec<u16> = left.map(|connection| connection.original.tuple.source_port).collect();
    assert_eq!(ports, [4002]);
}

#[test]
fn a_worker_that_nobody_waits_for_any_more_stays() {
    let mut simulation = Simulation::new();
    let (done, answer) = oneshot::channel();
    drop(answer);
    simulation.orders[0].send(Order::Give(1, done)).unwrap();
    assert!(simulation.shifts[0].follow_orders());
    let mut ledger = Ledger::default();
    ledger.send(&mut simulation, (2, 4000 + 1, 3), 5);
    simulation.run_dry();
    ledger.collect(&mut simulation);
    assert_eq!(ledger.arrived, ledger.sent);
    let refused = simulation.order(1, |done| Order::Give(1, done));
    assert!(matches!(refused, Err(GiveError::NotHere)));
}

#[test]
fn a_shift_ends_when_its_orders_do() {
    let mut simulation = Simulation::new();
    assert!(simulation.shifts[0].follow_orders());
    simulation.orders.clear();
    assert!(!simulation.shifts[0].follow_orders());
}
