//! What only taps promise: to survive their process, and to be quiet at rest.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use seine_datapath::frame::{Batch, FrameCache, Region};
use seine_datapath::port::tap::{self, TapOptions, TapPort};
use seine_datapath::port::{AttachMode, Interface, OpenError, QueueFault};
use seine_pipeline::address::Mac;
use seine_pipeline::packet::Checksum;

use crate::device::{RawWire, Room, readable, run};
use crate::suite::partial_udp;
use crate::{Sample, Wire};

fn open(region: &'static Region, room: &Room, io_uring: bool) -> Result<TapPort, OpenError> {
    let namespace = &room.namespace;
    tap::open(
        region,
        TapOptions { interface: "gateway", namespace, queues: 2, io_uring, mac: None },
    )
}

fn close(port: TapPort, mut frames: FrameCache, region: &Region) {
    port.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    drop(frames);
    assert_eq!(region.free_frames(), region.frames(), "frames were lost or doubled");
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_tap_keeps_its_addresses_while_nobody_has_it_open() {
    for io_uring in [true, false] {
        let room = Room::new("tap");
        let region = Region::map(1024, 2048).unwrap();
        let port = open(region, &room, io_uring).unwrap();
        let before = port.facts;
        assert_eq!(before.attach_mode, AttachMode::None);
        run(&format!("ip -n {} address add 10.99.0.2/24 dev gateway", room.name));
        run(&format!("ip -n {} link set gateway up", room.name));
        close(port, FrameCache::new(region), region);

        let port = open(region, &room, io_uring).unwrap();
        assert_eq!(port.facts, before, "the same device");
        let bind = || UdpSocket::bind("10.99.0.2:9");
        room.namespace.run(bind).unwrap().expect("the address is still there");
        close(port, FrameCache::new(region), region);
        tap::remove(&room.namespace, "gateway").unwrap();
        let read = room.namespace.run(|| Interface::read("gateway")).unwrap();
        assert!(matches!(read, Err(OpenError::NoSuchInterface(_))));
        tap::remove(&room.namespace, "gateway").expect("removing twice is a success");
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_tap_gets_the_mac_address_that_is_asked_for() {
    let room = Room::new("tap");
    let region = Region::map(1024, 2048).unwrap();
    let mac = Mac([2, 0, 0x5e, 1, 2, 3]);
    let options = TapOptions {
        interface: "gateway",
        namespace: &room.namespace,
        queues: 2,
        io_uring: true,
        mac: Some(mac),
    };
    let port = tap::open(region, options).unwrap();
    assert_eq!(port.facts.mac, mac);
    close(port, FrameCache::new(region), region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_tap_that_another_has_open_is_taken() {
    let room = Room::new("tap");
    let region = Region::map(1024, 2048).unwrap();
    let port = open(region, &room, true).unwrap();
    let taken = open(region, &room, true).err().expect("it is taken");
    assert!(matches!(taken, OpenError::DeviceTaken { .. }), "{taken}");
    close(port, FrameCache::new(region), region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn an_interface_that_is_no_tap_is_refused() {
    let room = Room::new("tap");
    run(&format!("ip -n {} link add gateway type veth peer name other", room.name));
    let region = Region::map(1024, 2048).unwrap();
    let refused = open(region, &room, true).err().expect("it is a veth");
    assert!(matches!(refused, OpenError::DeviceTaken { .. }), "{refused}");
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn an_idle_tap_costs_no_system_calls() {
    let room = Room::new("tap");
    let region = Region::map(1024, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let mut port = open(region, &room, true).unwrap();
    run(&format!("ip -n {} link set gateway up", room.name));
    let queue = port.queues[0].as_mut();
    let mut batch = Batch::new();
    // Arms the poll request, and takes in what bringing the device up set off.
    for _ in 0..10 {
        queue.receive(&mut frames, &mut batch);
    }
    let before = queue.stats().system_calls;
    for _ in 0..1000 {
        queue.receive(&mut frames, &mut batch);
    }
    assert_eq!(queue.stats().system_calls, before);
    assert!(batch.is_empty());
    close(port, frames, region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_burst_takes_far_fewer_system_calls_than_packets() {
    let room = Room::new("tap");
    let region = Region::map(4096, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let namespace = &room.namespace;
    let options =
        TapOptions { interface: "gateway", namespace, queues: 1, io_uring: true, mac: None };
    let mut port = tap::open(region, options).unwrap();
    run(&format!("ip -n {} link set gateway up", room.name));
    let mut wire = RawWire::open(namespace, "gateway");
    let queue = port.queues[0].as_mut();
    let before = queue.stats().system_calls;
    let mut received = 0;
    for burst in 0..8 {
        assert!((0..50).all(|number| wire.send(&Sample::numbered(burst * 50 + number, 100))));
        let deadline = Instant::now() + Duration::from_secs(10);
        while received < (burst as usize + 1) * 50 && Instant::now() < deadline {
            let mut batch = Batch::new();
            queue.receive(&mut frames, &mut batch);
            received += batch.len();
            batch.drain(..).for_each(|frame| frames.free(frame));
        }
    }
    let calls = queue.stats().system_calls - before;
    assert_eq!(received, 400);
    assert!(calls <= 80, "{calls} system calls for 400 packets");
    close(port, frames, region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_datagram_with_an_unfinished_checksum_reaches_the_nodes_socket() {
    for io_uring in [true, false] {
        let room = Room::new("tap");
        let region = Region::map(1024, 2048).unwrap();
        let mut frames = FrameCache::new(region);
        let mut port = open(region, &room, io_uring).unwrap();
        run(&format!("ip -n {} address add 10.99.0.2/24 dev gateway", room.name));
        run(&format!("ip -n {} link set gateway up", room.name));
        let socket = room.namespace.run(|| UdpSocket::bind("10.99.0.2:9")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sample = partial_udp(port.facts.mac.0, b"unfinished");
        let wrong = Sample { checksum: Checksum::Complete, ..sample.clone() };
        for (sample, arrives) in [(sample, true), (wrong, false)] {
            let mut frame = frames.allocate().unwrap();
            assert!(frame.fill(&sample.bytes));
            frame.checksum = sample.checksum;
            let mut batch = Batch::new();
            batch.push(frame);
            port.queues[1].transmit(&mut frames, &mut batch);
            port.queues[1].flush(&mut frames);
            let mut bytes = [0; 100];
            assert_eq!(socket.recv(&mut bytes).is_ok(), arrives);
        }
        close(port, frames, region);
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_tap_that_is_removed_is_named_and_its_frames_come_back() {
    for io_uring in [true, false] {
        let room = Room::new("tap");
        let region = Region::map(1024, 2048).unwrap();
        let mut frames = FrameCache::new(region);
        let mut port = open(region, &room, io_uring).unwrap();
        run(&format!("ip -n {} link set gateway up", room.name));
        let mut batch = Batch::new();
        for _ in 0..3 {
            port.queues[0].receive(&mut frames, &mut batch);
        }
        run(&format!("ip -n {} link delete gateway", room.name));
        let wake = port.queues[0].wake_source().unwrap();
        assert!(readable(wake, Duration::from_secs(10)), "the worker is woken to see it");
        for _ in 0..3 {
            port.queues[0].receive(&mut frames, &mut batch);
        }
        assert!(batch.is_empty());
        let gone = QueueFault::DeviceGone("gateway".to_owned());
        assert_eq!(port.queues[0].fault(), Some(gone));
        close(port, frames, region);
    }
}
