//! Kernels that leave TCP uncut, and others that get it whole or cut: byte by byte what was sent.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use seine_datapath::frame::{Batch, Frame, FrameCache, Region};
use seine_datapath::netns::Namespace;
use seine_datapath::port::tap::{self, TapOptions};
use seine_datapath::port::{Interface, Queue};
use seine_datapath::segment;
use seine_pipeline::address::{PortId, PortKind};
use seine_pipeline::packet::Checksum;

use crate::af_xdp;
use crate::device::{Pod, Room, run};

const BYTES: usize = 8 << 20;
const PORT: u16 = 4242;
/// Tries to get frames out: a device may need some to send what it has.
const TRIES: usize = 1000;

fn byte(at: usize) -> u8 {
    (at / 5 + at / 65_536) as u8
}

/// Sends all, and then gets all back.
fn talk(mut stream: TcpStream, sends_first: bool) {
    for turn in [sends_first, !sends_first] {
        if turn {
            let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
            stream.write_all(&bytes).expect("to send");
        } else {
            let mut bytes = vec![0; BYTES];
            stream.read_exact(&mut bytes).expect("to receive");
            let wrong = bytes.iter().enumerate().position(|(at, it)| *it != byte(at));
            assert_eq!(wrong, None, "the first byte that differs");
        }
    }
}

/// A worker's work without a pipeline.
struct Forwarder {
    frames: FrameCache,
    /// Packets that came uncut.
    uncut: usize,
    /// Segments that they were cut into.
    cut: usize,
}

impl Forwarder {
    fn forward(&mut self, from: &mut dyn Queue, to: &mut dyn Queue) {
        let mut batch = Batch::new();
        from.receive(&mut self.frames, &mut batch);
        let mut leaving = Vec::new();
        for mut frame in batch {
            if frame.checksum != Checksum::Complete && !to.takes_partial_checksum() {
                let mut packet = frame.packet(PortId::new(0).unwrap()).unwrap();
                packet.complete_checksum();
                frame.checksum = Checksum::Complete;
            }
            let said = segment::of(&frame);
            self.uncut += usize::from(said.is_some());
            if said.is_none_or(|said| to.takes_segments(said)) {
                leaving.push(frame);
            } else {
                let before = leaving.len();
                segment::cut(frame, |segment| leaving.push(segment));
                self.cut += leaving.len() - before;
            }
        }
        self.send(leaving, to);
    }

    fn send(&mut self, leaving: Vec<Frame>, to: &mut dyn Queue) {
        let mut leaving = leaving.into_iter().peekable();
        let mut batch = Batch::new();
        for _ in 0..TRIES {
            while !batch.is_full()
                && let Some(frame) = leaving.next()
            {
                batch.push(frame);
            }
            if batch.is_empty() {
                return;
            }
            to.transmit(&mut self.frames, &mut batch);
            to.flush(&mut self.frames);
        }
        batch.into_iter().chain(leaving).for_each(|frame| self.frames.free(frame));
    }
}

/// Tells each room where the other is: these answer no ARP.
fn introduce(ends: [(&Room, &str); 2]) {
    for (number, (room, interface)) in (1..).zip(ends) {
        let (other, far) = ends[2 - number];
        let mac = other.namespace.run(|| Interface::read(far)).unwrap().unwrap().mac.0;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        for address in [format!("10.99.0.{}", 3 - number), format!("fd00:99::{}", 3 - number)] {
            let line = format!("neigh replace {address} lladdr {mac} dev {interface}");
            run(&format!("ip -n {} {line}", room.name));
        }
    }
}

/// Lets two kernels talk through two queues. Says how many packets came uncut, and into how many
/// segments they were cut.
fn between(
    region: &'static Region,
    mut queues: [Box<dyn Queue>; 2],
    [near, far]: [&Namespace; 2],
) -> (usize, usize) {
    let over = AtomicBool::new(false);
    let forwarder = std::thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            let [one, two] = &mut queues;
            let frames = FrameCache::new(region);
            let mut forwarder = Forwarder { frames, uncut: 0, cut: 0 };
            while !over.load(Ordering::Relaxed) {
                forwarder.forward(one.as_mut(), two.as_mut());
                forwarder.forward(two.as_mut(), one.as_mut());
            }
            forwarder
        });
        for address in ["10.99.0.2", "fd00:99::2"] {
            let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), PORT);
            let listener = far.run(|| TcpListener::bind(address)).unwrap().expect("an address");
            let server = scope.spawn(move || talk(listener.accept().expect("a client").0, false));
            talk(near.run(|| TcpStream::connect(address)).unwrap().expect("a server"), true);
            server.join().expect("the server");
        }
        over.store(true, Ordering::Relaxed);
        forwarder.join().expect("the forwarder")
    });
    let Forwarder { mut frames, uncut, cut } = forwarder;
    queues.into_iter().for_each(|queue| queue.close(&mut frames));
    drop(frames);
    (uncut, cut)
}

/// A tap in a namespace of its own, with the addresses of this number.
fn tap_in(room: &Room, region: &'static Region, number: u8, io_uring: bool) -> Box<dyn Queue> {
    let namespace = &room.namespace;
    let options = TapOptions { interface: "gateway", namespace, queues: 1, io_uring, mac: None };
    let mut port = tap::open(region, options).unwrap();
    address(room, "gateway", number);
    port.queues.remove(0)
}

fn address(room: &Room, interface: &str, number: u8) {
    let switch = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    room.namespace.run(|| std::fs::write(switch, "0")).unwrap().unwrap();
    let room = &room.name;
    run(&format!("ip -n {room} address replace 10.99.0.{number}/24 dev {interface}"));
    run(&format!("ip -n {room} address replace fd00:99::{number}/64 dev {interface} nodad"));
    run(&format!("ip -n {room} link set {interface} up"));
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn tcp_goes_from_tap_to_tap_uncut() {
    for io_uring in [true, false] {
        let (near, far) = (Room::new("near"), Room::new("far"));
        let region = Region::map(8192, 2048).unwrap();
        let queues =
            [(&near, 1), (&far, 2)].map(|(room, number)| tap_in(room, region, number, io_uring));
        introduce([(&near, "gateway"), (&far, "gateway")]);
        let (uncut, cut) = between(region, queues, [&near.namespace, &far.namespace]);
        assert!(uncut > 0 && cut == 0, "{uncut} came uncut, and were cut into {cut}");
        assert_eq!(region.free_frames(), region.frames(), "frames were lost or doubled");
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn tcp_goes_from_a_tap_to_a_pod_cut() {
    let (near, pod) = (Room::new("near"), Pod::new(1, 1500));
    let (region, memory) = af_xdp::memory(&pod);
    let port = af_xdp::open(&memory, &pod, PortKind::Pod).unwrap();
    address(&pod.pod, "eth0", 2);
    let veth = port.queues.into_iter().next().unwrap();
    let queues = [tap_in(&near, region, 1, true), veth];
    introduce([(&near, "gateway"), (&pod.pod, "eth0")]);
    let (uncut, cut) = between(region, queues, [&near.namespace, &pod.pod.namespace]);
    assert!(cut > uncut && uncut > 0, "{uncut} came uncut, and were cut into {cut}");
}
