//! Simulation of workers: two of them, driven by hand in any order, on memory ports. The seed of a
//! failing run is printed by proptest.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use seine_pipeline::address::{Mac, PortKind};
use seine_pipeline::learned::Learned;
use seine_pipeline::state::{Change, Endpoint, Kind, Node, Object, ObjectId, Permit, Port, State};
use seine_pipeline::verdict::DropReason;
use tokio::sync::oneshot;

use super::*;
use crate::counters::{PortCounters, PortTotals};
use crate::frame::{Frame, Region};
use crate::port::memory::{self, MemoryOptions, MemoryWire};
use crate::processor::Processor;
use crate::publish::{PublicationWriter, publication};
use crate::upkeep::Due;

const WORKERS: usize = 2;
/// Gateway, uplink and three Pods.
pub(crate) const PORTS: usize = 5;
const RING: usize = 128;
/// The payload that makes the worker panic.
const TRIP: &[u8] = b"trip the worker that gets this";

/// A pipeline that panics cannot be had, so this stands in for it.
pub(crate) fn trip(packet: &Frame) {
    assert!(!packet.bytes().ends_with(TRIP), "tripped");
}

pub(crate) fn tripping_packet() -> Vec<u8> {
    datagram(2, 3, TRIP)
}

fn port(index: usize) -> Port {
    let (name, kind) = match index {
        0 => ("gw0".to_owned(), PortKind::Gateway),
        1 => ("eth0".to_owned(), PortKind::Uplink),
        _ => (format!("pod{index}"), PortKind::Pod),
    };
    let mac = Mac([2, 0, 0, 0, 9, index as u8]);
    Port { id: PortId::new(index).unwrap(), name, kind, mac, mtu: 1500, generation: 1 }
}

pub(crate) fn objects() -> Vec<Change> {
    let node = Node {
        name: "node1".into(),
        pod_cidrs: vec!["10.10.1.0/24".parse().unwrap()],
        gateway_addresses: vec!["10.10.1.1".parse().unwrap()],
        tunnel_address: "192.0.2.1".parse().unwrap(),
        tunnel_mtu: 1450,
        encap_mode: Default::default(),
        tunnel_type: Default::default(),
        node_port_addresses: Vec::new(),
        existing_connections: Default::default(),
    };
    let mut changes = vec![Change::Upsert(Object::Node(node))];
    changes.extend((0..PORTS).map(|index| Change::Upsert(Object::Port(port(index)))));
    changes.extend((2..PORTS as u8).map(|number| Change::Upsert(endpoint(number))));
    changes
}

pub(super) fn endpoint(number: u8) -> Object {
    Object::Endpoint(Endpoint {
        name: format!("default/pod{number}/eth0"),
        port: format!("pod{number}"),
        mac: Mac(mac(number)),
        addresses: vec![[10, 10, 1, number].into()],
        mtu: 1450,
        permit: Permit::default(),
        network_id: 0,
        interface_index: 0,
    })
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

fn datagram(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    datagram_by((from, 4000), (to, 53), payload)
}

/// From and to these Pods and ports.
pub(crate) fn datagram_by(
    (from, source_port): (u8, u16),
    (to, destination_port): (u8, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([10, 10, 1, from], [10, 10, 1, to], 64)
        .udp(source_port, destination_port)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// Two workers and the far ends of all their wires.
pub(crate) struct Simulation {
    pub region: &'static Region,
    pub workers: Vec<Worker>,
    commands: Vec<Sender<Command>>,
    pub writer: PublicationWriter,
    pub counters: Vec<Vec<Arc<PortCounters>>>,
    pub wires: Vec<Vec<MemoryWire>>,
    pods_installed: [bool; PORTS],
}

impl Simulation {
    pub fn new() -> Simulation {
        Simulation::with_rings_of(RING)
    }

    pub fn with_rings_of(ring_frames: usize) -> Simulation {
        let region = Region::map(4096, 2048).unwrap();
        let adjacencies = Arc::new(AdjacencyTable::new());
        let learned = Arc::new(Learned::new(7));
        let wakes: Vec<_> = (0..WORKERS).map(|_| Arc::new(Wake::new().unwrap())).collect();
        let state = State::new(7).apply(&objects()).unwrap();
        let (writer, readers) = publication(state, wakes.clone());
        let (mut workers, mut commands) = (Vec::new(), Vec::new());
        // One worker compares by words, the other as wide as it can.
        let processors = [Processor::baseline(), Processor::detect()].into_iter().cycle();
        for ((publication, wake), processor) in readers.into_iter().zip(wakes).zip(processors) {
            let (sender, receiver) = bounded(64);
            commands.push(sender);
            let parts = WorkerParts {
                publication,
                adjacencies: adjacencies.clone(),
                upkeep: Upkeep::new(learned.clone()),
                frames: FrameCache::new(region),
                counters: Arc::default(),
                commands: receiver,
                wake,
                processor,
            };
            workers.push(Worker::new(parts).unwrap());
        }
        let mut simulation = Simulation {
            region,
            workers,
            commands,
            writer,
            counters: Vec::new(),
            wires: Vec::new(),
            pods_installed: [true; PORTS],
        };
        (0..PORTS).for_each(|index| simulation.open(index, ring_frames));
        simulation
    }

    fn open(&mut self, index: usize, ring_frames: usize) {
        let options = MemoryOptions { queues: WORKERS, ring_frames, ..MemoryOptions::default() };
        let (queues, wires) = memory::open(self.region, options).unwrap();
        let counters: Vec<Arc<PortCounters>> = queues.iter().map(|_| Arc::default()).collect();
        for (worker, (queue, counters)) in queues.into_iter().zip(&counters).enumerate() {
            let slot = Slot::new(PortId::new(index).unwrap(), queue, counters.clone());
            let (done, _) = oneshot::channel();
            assert!(self.commands[worker].try_send(Command::Add(slot, done)).is_ok());
        }
        self.counters.push(counters);
        self.wires.push(wires);
    }

    /// Adds or deletes a Pod's Endpoint.
    fn toggle(&mut self, number: usize) {
        let installed = &mut self.pods_installed[number];
        *installed = !*installed;
        let change = if *installed {
            Change::Upsert(endpoint(number as u8))
        } else {
            let name = format!("default/pod{number}/eth0");
            Change::Delete(ObjectId { kind: Kind::Endpoint, name })
        };
        let current = self.writer.current();
        let state = current.state.apply(&[change]).unwrap();
        self.writer.publish(current.revision + 1, state);
    }

    pub(super) fn totals(&self) -> Vec<PortTotals> {
        let sum =
            |workers: &Vec<Arc<PortCounters>>| PortTotals::sum(workers.iter().map(Arc::as_ref));
        self.counters.iter().map(sum).collect()
    }

    /// Closes everything and counts the frames.
    pub(super) fn close(mut self) -> usize {
        let mut frames = FrameCache::new(self.region);
        for worker in &mut self.workers {
            for index in 0..PORTS {
                worker.remove(PortId::new(index).unwrap()).unwrap().close(&mut frames);
            }
        }
        self.wires.clear();
        self.workers.clear();
        drop(frames);
        self.region.free_frames()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A Pod sends to a Pod, by one of its queues.
    Send { from: u8, to: u8, queue: usize, count: usize },
    /// A Pod sends from an address that is not its own.
    Spoof { from: u8, queue: usize },
    /// A worker takes what is new and goes one round.
    Round { worker: usize },
    /// An Endpoint comes or goes; workers see it at their next round.
    Toggle { number: usize },
    /// A Pod reads what was sent to it.
    Collect { port: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 2..PORTS as u8;
    prop_oneof![
        4 => (pod.clone(), pod.clone(), 0..WORKERS, 1..100_usize)
            .prop_map(|(from, to, queue, count)| Step::Send { from, to, queue, count }),
        1 => (pod, 0..WORKERS).prop_map(|(from, queue)| Step::Spoof { from, queue }),
        6 => (0..WORKERS).prop_map(|worker| Step::Round { worker }),
        1 => (2..PORTS).prop_map(|number| Step::Toggle { number }),
        2 => (2..PORTS).prop_map(|port| Step::Collect { port }),
    ]
}

/// What a simulation did, told apart from the counters.
#[derive(Default)]
struct Ledger {
    /// Per port: packets put into its ring, less those that found no room.
    sent: [u64; PORTS],
    /// Per port and queue: the numbers of packets that arrived.
    arrived: [VecDeque<u32>; PORTS],
    number: u32,
}

impl Ledger {
    fn send(&mut self, simulation: &mut Simulation, step: &Step) {
        let (from, queue, packets) = match *step {
            Step::Send { from, to, queue, count } => {
                let packets: Vec<_> = (0..count)
                    .map(|_| {
                        self.number += 1;
                        datagram(from, to, &self.number.to_be_bytes())
                    })
                    .collect();
                (from, queue, packets)
            }
            Step::Spoof { from, queue } => (from, queue, vec![datagram(99, 2, b"spoof")]),
            _ => return,
        };
        for packet in packets {
            let wire = &mut simulation.wires[from as usize][queue];
            self.sent[from as usize] += u64::from(wire.inject(&packet, Checksum::Complete));
        }
    }

    fn collect(&mut self, simulation: &mut Simulation, port: usize) {
        for wire in &mut simulation.wires[port] {
            while let Some((packet, _)) = wire.collect() {
                let number: [u8; 4] = packet[packet.len() - 4..].try_into().unwrap();
                assert_ne!(&packet[26..30], [10, 10, 1, 99], "a spoofed packet arrived");
                assert_eq!(packet[5] as usize, port, "for another Pod");
                self.arrived[port].push_back(u32::from_be_bytes(number));
            }
        }
    }
}

/// An empty fill ring wakes nobody, so a worker that ran out of frames must look again by itself.
#[test]
fn a_worker_short_of_frames_sleeps_for_a_moment_only() {
    let mut simulation = Simulation::new();
    let worker = &mut simulation.workers[0];
    let held: Vec<Frame> = std::iter::from_fn(|| worker.parts.frames.allocate()).collect();
    // A wake that is pending from the start is not what ends the sleep below.
    worker.bed.sleep(&worker.parts.wake, 0);
    let wake = worker.parts.wake.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        wake.wake();
    });
    let before = Instant::now();
    let limit_ms = worker.retire(Due::Never);
    worker.sleep(limit_ms);
    let slept = before.elapsed();
    assert!(slept >= Duration::from_millis(5) && slept < Duration::from_secs(4), "{slept:?}");
    held.into_iter().for_each(|frame| worker.parts.frames.free(frame));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_packet_is_forwarded_once_or_counted_under_a_reason_and_no_frame_is_lost(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut simulation = Simulation::new();
        let mut ledger = Ledger::default();
        for step in &steps {
            match *step {
                Step::Round { worker } => {
                    simulation.workers[worker].obey();
                    simulation.workers[worker].round();
                }
                Step::Toggle { number } => simulation.toggle(number),
                Step::Collect { port } => ledger.collect(&mut simulation, port),
                _ => ledger.send(&mut simulation, step),
            }
        }
        for worker in 0..WORKERS {
            simulation.workers[worker].obey();
            while simulation.workers[worker].round() > 0 {}
        }
        (0..PORTS).for_each(|port| ledger.collect(&mut simulation, port));

        let totals = simulation.totals();
        let received: u64 = totals.iter().map(|port| port.receive_packets).sum();
        let transmitted: u64 = totals.iter().map(|port| port.transmit_packets).sum();
        let dropped: u64 = totals.iter().map(PortTotals::drops_total).sum();
        prop_assert_eq!(received, transmitted + dropped);
        for (port, totals) in totals.iter().enumerate() {
            prop_assert_eq!(totals.receive_packets, ledger.sent[port]);
            prop_assert_eq!(totals.transmit_packets, ledger.arrived[port].len() as u64);
            let mut numbers: Vec<u32> = ledger.arrived[port].iter().copied().collect();
            numbers.sort_unstable();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), ledger.arrived[port].len(), "a packet came twice");
        }
        for worker in 0..WORKERS {
            let counters = &simulation.workers[worker].parts.counters;
            let paid: u64 = simulation.counters.iter().map(|port| port[worker].cycles.read()).sum();
            let (busy, own) = (counters.busy_cycles.read(), counters.own_cycles.read());
            prop_assert_eq!(paid + own, busy, "cycles are somebody's, and once");
        }
        for (port, totals) in totals.iter().enumerate() {
            prop_assert_eq!(totals.cycles > 0, totals.receive_packets > 0, "port {}", port);
        }
        let frames = simulation.region.frames();
        prop_assert_eq!(simulation.close(), frames);
    }
}

#[test]
fn a_round_sees_one_state() {
    let mut simulation = Simulation::new();
    simulation.workers[0].obey();
    let wire = &mut simulation.wires[2][0];
    assert!(wire.inject(&datagram(2, 3, b"____"), Checksum::Complete));
    simulation.toggle(3);
    // Published, but not taken: the packet still goes by the State before.
    assert_eq!(simulation.workers[0].round(), 1);
    assert_eq!(simulation.totals()[3].transmit_packets, 1);
    let wire = &mut simulation.wires[2][0];
    assert!(wire.inject(&datagram(2, 3, b"____"), Checksum::Complete));
    simulation.workers[0].obey();
    simulation.workers[0].round();
    let drops = simulation.totals()[2].drops;
    assert_eq!(drops[DropReason::UnknownDestination.index()], 1);
    assert_eq!(simulation.totals()[3].transmit_packets, 1);
}

#[test]
fn a_frame_for_a_port_without_a_queue_is_counted_at_its_sender() {
    let mut simulation = Simulation::new();
    simulation.workers[0].obey();
    let mut frames = FrameCache::new(simulation.region);
    simulation.workers[0].remove(PortId::new(3).unwrap()).unwrap().close(&mut frames);
    assert!(simulation.wires[2][0].inject(&datagram(2, 3, b"____"), Checksum::Complete));
    assert_eq!(simulation.workers[0].round(), 1);
    assert_eq!(simulation.totals()[2].drops[DropReason::NoEgressPort.index()], 1);
}

#[test]
fn a_panic_leaves_the_frame_in_hand() {
    let mut simulation = Simulation::new();
    simulation.workers[0].obey();
    let packet = tripping_packet();
    assert!(simulation.wires[2][0].inject(&packet, Checksum::Complete));
    let worker = &mut simulation.workers[0];
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.round()));
    assert!(result.is_err());
    let in_hand = worker.in_hand().unwrap();
    assert_eq!((in_hand.ingress.index(), in_hand.packet), (2, packet));
}
