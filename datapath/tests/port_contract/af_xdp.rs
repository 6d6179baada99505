//! What only AF_XDP ports promise: programs that outlive their process, claims beside the kernel,
//! frame memory shared between namespaces.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seine_datapath::frame::{Batch, FrameCache, Region};
use seine_datapath::netns::Namespace;
use seine_datapath::port::af_xdp::{self, AfXdpOptions, AfXdpPort, FrameMemory};
use seine_datapath::port::{AttachMode, Interface, OpenError, Queue, QueueFault};
use seine_pipeline::address::PortKind;
use seine_pipeline::packet::Checksum;

use crate::device::{Pod, RawWire, Room, run};
use crate::suite::partial_udp;
use crate::{Sample, Wire};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long to watch for what must not come.
pub(super) const SILENCE: Duration = Duration::from_millis(100);

pub fn open(memory: &FrameMemory, pod: &Pod, kind: PortKind) -> Result<AfXdpPort, OpenError> {
    open_queues(memory, pod, kind, 1)
}

fn open_queues(
    memory: &FrameMemory,
    pod: &Pod,
    kind: PortKind,
    queues: usize,
) -> Result<AfXdpPort, OpenError> {
    let namespace = &pod.ports.namespace;
    let options = AfXdpOptions { interface: "host", namespace, queues, pins: &pod.pins, kind };
    af_xdp::open(memory, options)
}

pub fn memory(pod: &Pod) -> (&'static Region, FrameMemory) {
    let region = Region::map(4096, 2048).unwrap();
    (region, FrameMemory::register(region, &pod.ports.namespace).unwrap())
}

/// Receives until there is something, or the time is over.
pub(super) fn receive(
    queue: &mut dyn Queue,
    frames: &mut FrameCache,
    patience: Duration,
) -> Vec<Sample> {
    let deadline = Instant::now() + patience;
    let mut batch = Batch::new();
    while batch.is_empty() && Instant::now() < deadline {
        queue.receive(frames, &mut batch);
    }
    let sample = |bytes: &[u8], checksum| Sample { bytes: bytes.to_vec(), checksum };
    let received = batch.iter().map(|frame| sample(frame.bytes(), frame.checksum)).collect();
    batch.drain(..).for_each(|frame| frames.free(frame));
    received
}

fn transmit(queue: &mut dyn Queue, frames: &mut FrameCache, sample: &Sample) {
    let mut frame = frames.allocate().unwrap();
    assert!(frame.fill(&sample.bytes));
    frame.checksum = sample.checksum;
    let mut batch = Batch::new();
    batch.push(frame);
    queue.transmit(frames, &mut batch);
    queue.flush(frames);
    assert!(batch.is_empty());
}

pub fn close(port: AfXdpPort, mut frames: FrameCache, region: &Region) {
    port.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    drop(frames);
    assert_eq!(region.free_frames(), region.frames(), "frames were lost or doubled");
}

/// What arrives at a raw socket within a moment.
fn arrives(wire: &mut RawWire) -> bool {
    let deadline = Instant::now() + SILENCE;
    while Instant::now() < deadline {
        if wire.collect().is_some() {
            return true;
        }
    }
    false
}

pub(super) fn socket(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

pub(super) fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    namespace.run(|| Interface::read(interface)).unwrap().unwrap().mac.0
}

pub(super) fn delivered(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut bytes = [0; 2048];
    socket.recv(&mut bytes).ok().map(|len| bytes[..len].to_vec())
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_datagram_with_an_unfinished_checksum_reaches_the_pods_socket() {
    let pod = Pod::new(1, 1450);
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Pod).unwrap();
    assert!(port.facts.partial_checksum);
    let socket = socket(&pod.pod.namespace, "10.99.0.2:9");
    let target = mac(&pod.pod.namespace, "eth0");
    let sample = partial_udp(target, b"unfinished");
    transmit(port.queues[0].as_mut(), &mut frames, &sample);
    assert_eq!(delivered(&socket).as_deref(), Some(&b"unfinished"[..]));
    // The same bytes as a finished checksum are wrong, and the pod's kernel says so.
    let wrong = Sample { checksum: Checksum::Complete, ..sample };
    transmit(port.queues[0].as_mut(), &mut frames, &wrong);
    assert_eq!(delivered(&socket), None);
    close(port, frames, region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn what_a_pods_socket_leaves_unfinished_is_recognised() {
    let pod = Pod::new(1, 1450);
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Pod).unwrap();
    let guest = &pod.pod.name;
    run(&format!("ip -n {guest} neigh add 10.99.0.1 lladdr 02:00:00:00:00:08 dev eth0"));
    let socket = socket(&pod.pod.namespace, "10.99.0.2:9");
    socket.send_to(b"payload", "10.99.0.1:9").unwrap();
    let [datagram] = &receive(port.queues[0].as_mut(), &mut frames, PATIENCE)[..] else {
        panic!("one datagram was sent");
    };
    assert_eq!(datagram.checksum, Checksum::Partial { start: 34, offset: 6 });
    assert_eq!(&datagram.bytes[42..49], b"payload");
    close(port, frames, region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn each_queue_has_its_socket_and_no_packet_is_lost_between_them() {
    let pod = Pod::new(2, 1450);
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open_queues(&memory, &pod, PortKind::Pod, 2).unwrap();
    run(&format!("ip -n {} neigh add 10.99.0.1 lladdr 02:00:00:00:00:08 dev eth0", pod.pod.name));
    let socket = socket(&pod.pod.namespace, "10.99.0.2:9");
    let mut by_queue = [0, 0];
    for target in 0..40 {
        // Another flow each, so another queue every now and then.
        socket.send_to(b"payload", ("10.99.0.1", 1000 + target)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let before: usize = by_queue.iter().sum();
        while by_queue.iter().sum::<usize>() == before && Instant::now() < deadline {
            for (queue, count) in port.queues.iter_mut().zip(&mut by_queue) {
                *count += receive(queue.as_mut(), &mut frames, Duration::ZERO).len();
                let mut batch = Batch::new();
                queue.receive(&mut frames, &mut batch);
                *count += batch.len();
                batch.drain(..).for_each(|frame| frames.free(frame));
            }
        }
    }
    assert_eq!(by_queue.iter().sum::<usize>(), 40);
    assert!(by_queue.iter().all(|&count| count > 0), "{by_queue:?}");
    close(port, frames, region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_device_that_is_removed_is_named_and_its_frames_come_back() {
    let pod = Pod::new(1, 1450);
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Pod).unwrap();
    let queue = port.queues[0].as_mut();
    transmit(queue, &mut frames, &Sample::numbered(1, 100));
    run(&format!("ip -n {} link delete host", pod.ports.name));
    // An idle queue learns of it when it is asked.
    queue.stats();
    assert_eq!(queue.fault(), Some(QueueFault::DeviceGone("host".to_owned())));
    let refused = queue.stats().refused;
    transmit(queue, &mut frames, &Sample::numbered(2, 100));
    assert_eq!(queue.stats().refused, refused + 1);
    close(port, frames, region);
    // The name is free for a new device, which the old pins do not hinder.
    let (host, guest) = (&pod.ports.name, &pod.pod.name);
    run(&format!("ip -n {host} link add host mtu 1450 type veth peer name eth0 netns {guest}"));
    let port = open_queues(&memory, &pod, PortKind::Pod, 1).unwrap();
    assert!(!port.attachment.reused());
    close(port, FrameCache::new(region), region);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_device_removed_while_sending_is_named() {
    let pod = Pod::new(1, 1450);
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Pod).unwrap();
    run(&format!("ip -n {} link delete host", pod.ports.name));
    transmit(port.queues[0].as_mut(), &mut frames, &Sample::numbered(1, 100));
    let gone = QueueFault::DeviceGone("host".to_owned());
    assert_eq!(port.queues[0].fault(), Some(gone));
    close(port, frames, region);
}

/// Not a test of its own: what [`a_killed_process_leaves_a_program_that_drops`] kills.
#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn child_that_holds_a_port() {
    let Ok(names) = std::env::var("SEINE_PORT_CONTRACT_CHILD") else { return };
    let (ports, pins) = names.split_once(' ').unwrap();
    let namespace = Namespace::named(ports).unwrap();
    let region = Region::map(4096, 2048).unwrap();
    let memory = FrameMemory::register(region, &namespace).unwrap();
    let options = AfXdpOptions {
        interface: "host",
        namespace: &namespace,
        queues: 1,
        pins: Path::new(pins),
        kind: PortKind::Pod,
    };
    let _port = af_xdp::open(&memory, options).unwrap();
    println!("\nholding");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_killed_process_leaves_a_program_that_drops() {
    let pod = Pod::new(1, 1450);
    let mut sender = RawWire::open(&pod.pod.namespace, "eth0");
    let mut host = RawWire::open(&pod.ports.namespace, "host");
    let sample = Sample::numbered(1, 100);
    assert!(sender.send(&sample) && arrives(&mut host), "without a program the kernel sees it");

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "af_xdp::child_that_holds_a_port", "--include-ignored", "--nocapture"])
        .env("SEINE_PORT_CONTRACT_CHILD", format!("{} {}", pod.ports.name, pod.pins.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"), "the child opened the port");
    assert!(sender.send(&sample) && !arrives(&mut host));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sender.send(&sample) && !arrives(&mut host), "after kill -9 it still drops");

    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Pod).unwrap();
    assert!(port.attachment.reused());
    assert_eq!(port.facts.attach_mode, AttachMode::Native);
    assert!(sender.send(&sample));
    let received = receive(port.queues[0].as_mut(), &mut frames, PATIENCE);
    assert_eq!(received, std::slice::from_ref(&sample));
    for queue in port.queues {
        queue.close(&mut frames);
    }
    assert!(sender.send(&sample) && !arrives(&mut host), "a closed queue drops");
    port.attachment.detach().unwrap();
    assert!(sender.send(&sample) && arrives(&mut host), "a detached port is the kernel's");
    assert!(!pod.pins.join("host").exists(), "no pins are left");
    drop(frames);
    assert_eq!(region.free_frames(), region.frames());
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn ports_share_a_program_and_each_receives_only_its_own() {
    let pod = Pod::new(1, 1450);
    let other = Room::new("other");
    let (host, guest) = (&pod.ports.name, &other.name);
    run(&format!("ip -n {host} link add host2 mtu 1450 type veth peer name eth0 netns {guest}"));
    run(&format!("ip -n {guest} link set eth0 up"));
    run(&format!("ip -n {host} link set host2 up"));
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let namespace = &pod.ports.namespace;
    let options = AfXdpOptions {
        interface: "host2",
        namespace,
        queues: 1,
        pins: &pod.pins,
        kind: PortKind::Pod,
    };
    let mut first = open(&memory, &pod, PortKind::Pod).unwrap();
    let mut second = af_xdp::open(&memory, options).unwrap();
    let program = |interface: &'static str| {
        namespace.run(|| Interface::read(interface)).unwrap().unwrap().program
    };
    assert_eq!(program("host"), program("host2"));
    assert_ne!(program("host"), 0);

    let mut wires =
        [RawWire::open(&pod.pod.namespace, "eth0"), RawWire::open(&other.namespace, "eth0")];
    for (from, wire) in wires.iter_mut().enumerate() {
        let sample = Sample::numbered(from as u32, 100);
        assert!(wire.send(&sample));
        for (at, port) in [&mut first, &mut second].into_iter().enumerate() {
            let patience = if at == from { PATIENCE } else { SILENCE };
            let received = receive(port.queues[0].as_mut(), &mut frames, patience);
            let expected = if at == from { vec![sample.clone()] } else { Vec::new() };
            assert_eq!(received, expected, "sent by {from}, received by {at}");
        }
    }

    first.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    first.attachment.detach().unwrap();
    let sample = Sample::numbered(7, 100);
    assert!(wires[1].send(&sample));
    assert_eq!(receive(second.queues[0].as_mut(), &mut frames, PATIENCE), [sample]);
    second.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    second.attachment.detach().unwrap();
    drop(frames);
    assert_eq!(region.free_frames(), region.frames());
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_frame_moves_between_ports_of_two_namespaces_without_a_copy() {
    let (near, far) = (Pod::new(1, 1450), Pod::new(1, 1450));
    let (region, memory) = memory(&near);
    let mut frames = FrameCache::new(region);
    let mut from = open(&memory, &near, PortKind::Pod).unwrap();
    let mut to = open(&memory, &far, PortKind::Pod).unwrap();
    let mut sender = RawWire::open(&near.pod.namespace, "eth0");
    let mut receiver = RawWire::open(&far.pod.namespace, "eth0");
    let sample = Sample::numbered(7, 900);
    assert!(sender.send(&sample));
    let mut batch = Batch::new();
    let deadline = Instant::now() + PATIENCE;
    while batch.is_empty() && Instant::now() < deadline {
        from.queues[0].receive(&mut frames, &mut batch);
    }
    to.queues[0].transmit(&mut frames, &mut batch);
    to.queues[0].flush(&mut frames);
    let mut arrived = None;
    while arrived.is_none() && Instant::now() < deadline {
        arrived = receiver.collect();
    }
    assert_eq!(arrived, Some(sample));
    to.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    close(from, frames, region);
}
