//! A guest behind a vhost-user port, opened as an agent opens it: the same pipeline as for
//! everybody, and its misdeeds where an operator sees them.

#[allow(dead_code, reason = "the port contract uses the rest")]
#[path = "../port_contract/guest/driver.rs"]
mod driver;
#[allow(dead_code, reason = "the port contract uses the rest")]
#[path = "../port_contract/guest/front_end.rs"]
mod front_end;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::eventfd::EventFd;
use seine_datapath_api::v1;
use seine_pipeline::packet::Checksum;
use tonic::Code;

use self::driver::{DriverRing, Memory};
use self::front_end::{FrontEnd, request};
use crate::node::{Node, datagram, endpoint, node_object, part, pod_address, pod_mac};

const GUEST: u64 = 0x1_0000_0000;
const USER: u64 = 0x7f00_0000_0000;
const MEMORY_BYTES: usize = 0x10_0000;
const SIZE: u16 = 256;
/// VERSION_1, protocol features, partial checksums.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 3;
/// TCP over IPv4 in segments, both ways.
const SEGMENTS: u64 = 1 << 7 | 1 << 11;
const BUFFER: usize = 0x4_0000;
/// What it is sent is written over what it sends, later.
const SENT: usize = BUFFER + BUFFER_BYTES;
/// Room for a packet of 64 KiB behind its header, in one piece.
const BUFFER_BYTES: usize = 0x2_0000;
const HEADER_BYTES: usize = 12;

/// A guest with one receive buffer at a time.
struct Guest {
    memory: Memory,
    rings: [DriverRing; 2],
    events: [EventFd; 4],
    front_end: FrontEnd,
}

impl Guest {
    fn new(socket: &Path) -> Guest {
        Guest::with(socket, FEATURES)
    }

    fn with(socket: &Path, features: u64) -> Guest {
        let memory = Memory::new(MEMORY_BYTES);
        let ring = |at| DriverRing::new(false, false, SIZE, at, GUEST);
        let mut guest = Guest {
            rings: [ring(0), ring(0x1_0000)],
            events: std::array::from_fn(|_| EventFd::new().unwrap()),
            front_end: FrontEnd::new(UnixStream::connect(socket).unwrap()),
            memory,
        };
        guest.rings[0].add(&guest.memory, 0, &[(GUEST + BUFFER as u64, BUFFER_BYTES as u32, true)]);
        guest.front_end.agree(features).unwrap();
        let words = [GUEST, MEMORY_BYTES as u64, USER, 0];
        assert!(guest.front_end.share(&[(words, &guest.memory.file)]));
        for (index, ring) in (0..).zip(&guest.rings) {
            let [descriptors, driver, device] = ring.places.map(|place| USER + place as u64);
            let talk = &mut guest.front_end;
            let [kick, call] = [0, 1].map(|at| guest.events[2 * index as usize + at].as_raw_fd());
            assert!(talk.ring(request::SET_VRING_NUM, index, SIZE.into()));
            assert!(talk.place(index, 0, [descriptors, device, driver]));
            assert!(talk.event(request::SET_VRING_CALL, index, call));
            assert!(talk.event(request::SET_VRING_KICK, index, kick));
            assert!(talk.ring(request::SET_VRING_ENABLE, index, 1));
        }
        guest
    }

    fn send(&mut self, packet: &[u8]) {
        self.send_as([0; HEADER_BYTES], packet);
    }

    fn send_as(&mut self, header: [u8; HEADER_BYTES], packet: &[u8]) {
        let at = SENT;
        self.memory.write(at, &header);
        self.memory.write(at + HEADER_BYTES, packet);
        let bytes = (HEADER_BYTES + packet.len()) as u32;
        self.rings[1].add(&self.memory, 0, &[(GUEST + at as u64, bytes, false)]);
        // Never for nothing: the worker must have asked for it before it rested.
        if self.rings[1].wants_kick(&self.memory) {
            self.events[2].write(1).unwrap();
        }
    }

    /// Makes a buffer available that lies in what was cut off.
    fn send_what_is_gone(&mut self) {
        let at = GUEST + SENT as u64;
        self.rings[1].add(&self.memory, 1, &[(at, 100, false)]);
        self.events[2].write(1).unwrap();
    }

    async fn collect(&mut self) -> Vec<u8> {
        self.collect_as().await.1
    }

    /// What came, behind its header. Its one buffer is not posted again.
    async fn collect_as(&mut self) -> (Vec<u8>, Vec<u8>) {
        for _ in 0..5000 {
            if let Some((_, bytes)) = self.rings[0].used(&self.memory) {
                let mut header = self.memory.read(BUFFER, bytes as usize);
                let packet = header.split_off(HEADER_BYTES);
                return (header, packet);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("nothing came");
    }
}

fn open(session: u64, socket: &Path, mode: v1::vhost_user::Mode) -> v1::OpenPortRequest {
    let socket = socket.display().to_string();
    let (mode, mtu) = (mode.into(), 1450);
    let vhost_user = Some(v1::VhostUser { socket, mode, mtu, ..v1::VhostUser::default() });
    v1::OpenPortRequest { session, name: "pod2".into(), interface: String::new(), vhost_user }
}

#[tokio::test]
async fn a_guest_speaks_to_a_pod_through_the_pipeline_and_its_misdeeds_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pod2.sock");
    let mut node = Node::start().await;
    let session = node.hello().await;
    let request = open(session, &socket, v1::vhost_user::Mode::Server);
    let port = node.client.open_port(request.clone()).await.unwrap().into_inner();
    assert_eq!((port.attach_mode.as_str(), port.queues), ("waiting", 2));
    assert_eq!(port.device.unwrap().interface, socket.display().to_string());
    node.open(session, "pod3").await;
    let objects = vec![node_object(), endpoint(2), endpoint(3)];
    let mode = v1::transaction_part::Mode::Full;
    node.apply(vec![part(session, 1, mode, objects)]).await.unwrap();

    let mut guest = Guest::new(&socket);
    assert_eq!(node.ports().await["pod2"].attach_mode, "connected");
    let packet = datagram(2, 3, b"from a guest");
    guest.send(&packet);
    assert_eq!(node.collect("pod3", 1).await, [(packet.clone(), Checksum::Complete)]);
    for number in 0..200_u64 {
        // Amid its spinning, at its rest, and between the two.
        tokio::time::sleep(Duration::from_micros(number * 37 % 900)).await;
        guest.send(&packet);
        let arrived = node.collect("pod3", 1).await;
        assert_eq!(arrived.len(), 1, "packet {number} found a worker asleep");
    }
    let packet = datagram(3, 2, b"to a guest");
    node.inject("pod3", 1, &packet, Checksum::Complete);
    assert_eq!(guest.collect().await, packet);
    guest.send(&datagram(4, 3, b"spoofed"));
    assert_eq!(node.collect("pod3", 1).await, [], "the spoof guard holds for guests, too");

    guest.memory.file.set_len(BUFFER as u64).unwrap();
    guest.send_what_is_gone();
    let mut fault = String::new();
    for _ in 0..5000 {
        fault = node.ports().await["pod2"].fault.clone();
        if !fault.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(fault.contains("cut short"), "{fault}");
    let port = node.client.open_port(request).await.unwrap().into_inner();
    assert_eq!((port.attach_mode.as_str(), port.fault.as_str()), ("waiting", ""));
    let _next = Guest::new(&socket);
    let request = v1::ClosePortRequest { session, name: "pod2".into() };
    assert!(node.client.close_port(request).await.unwrap().into_inner().closed);
    assert!(!socket.exists());
}

/// TCP from one Pod to another, as its kernel leaves it to a device that cuts.
fn large(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(pod_mac(from), pod_mac(to))
        .ipv4(pod_address(from).octets(), pod_address(to).octets(), 64)
        .tcp(4000, 80, 1, 65535)
        .ack(1)
        .psh()
        .write(&mut packet, payload)
        .unwrap();
    let mut sum = 6 + 20 + payload.len() as u32;
    for word in packet[26..34].chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    let partial = (sum & 0xffff) + (sum >> 16);
    packet[50..52].copy_from_slice(&(partial as u16).to_be_bytes());
    packet
}

#[tokio::test]
async fn a_guests_segments_reach_another_guest_whole_and_any_other_pod_cut() {
    const SIZE: usize = 1400;
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start().await;
    let session = node.hello().await;
    let sockets = [2, 4].map(|number| folder.path().join(format!("pod{number}.sock")));
    for (socket, name) in sockets.iter().zip(["pod2", "pod4"]) {
        let name = name.into();
        let request = open(session, socket, v1::vhost_user::Mode::Server);
        node.client.open_port(v1::OpenPortRequest { name, ..request }).await.unwrap();
    }
    node.open(session, "pod3").await;
    let objects = vec![node_object(), endpoint(2), endpoint(3), endpoint(4)];
    let mode = v1::transaction_part::Mode::Full;
    node.apply(vec![part(session, 1, mode, objects)]).await.unwrap();
    let [mut sender, mut receiver] =
        [&sockets[0], &sockets[1]].map(|socket| Guest::with(socket, FEATURES | SEGMENTS));
    let payload: Vec<u8> = (0..65_535 - 40).map(|at| (at / 3) as u8).collect();
    let header = [1, 1, 54, 0, (SIZE & 0xff) as u8, (SIZE >> 8) as u8, 34, 0, 16, 0, 0, 0];

    let packet = large(2, 4, &payload);
    sender.send_as(header, &packet);
    let (said, arrived) = receiver.collect_as().await;
    assert_eq!(said[..10], header[..10]);
    assert!(arrived == packet, "not a byte differs");

    sender.send_as(header, &large(2, 3, &payload));
    let segments = payload.len().div_ceil(SIZE);
    let arrived = node.collect("pod3", segments).await;
    assert_eq!(arrived.len(), segments);
    let partial = Checksum::Partial { start: 34, offset: 16 };
    assert!(arrived.iter().all(|(_, checksum)| *checksum == partial));
    let bytes: Vec<u8> = arrived.iter().flat_map(|(bytes, _)| &bytes[54..]).copied().collect();
    assert!(bytes == payload, "not a byte differs");

    // Of no size, and so of none that can be cut.
    sender.send_as([1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0], &large(2, 3, &payload));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !node.drops().await.iter().any(|drop| drop.contains("BadSegmentation")) {
        assert!(std::time::Instant::now() < deadline, "it was never dropped");
    }
    assert_eq!(node.ports().await["pod2"].fault, "");
}

#[tokio::test]
async fn a_vhost_user_port_is_refused_by_name() {
    use v1::vhost_user::Mode;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pod2.sock");
    let mut node = Node::start().await;
    let session = node.hello().await;
    let long = folder.path().join("x".repeat(100));
    let both =
        v1::OpenPortRequest { interface: "pod2".into(), ..open(session, &socket, Mode::Server) };
    let mut large = open(session, &socket, Mode::Server);
    large.vhost_user.as_mut().unwrap().mtu = 9000;
    let mut many = open(session, &socket, Mode::Server);
    many.vhost_user.as_mut().unwrap().queues = 17;
    let nowhere = folder.path().join("absent").join("pod2.sock");
    for (request, code) in [
        (open(session, &socket, Mode::Unspecified), Code::InvalidArgument),
        (open(session, Path::new("pod2.sock"), Mode::Client), Code::InvalidArgument),
        (open(session, Path::new(""), Mode::Client), Code::InvalidArgument),
        (open(session, &long, Mode::Server), Code::InvalidArgument),
        (open(session, &nowhere, Mode::Server), Code::FailedPrecondition),
        (open(session, folder.path(), Mode::Server), Code::FailedPrecondition),
        (both, Code::InvalidArgument),
        (many, Code::InvalidArgument),
        (large, Code::FailedPrecondition),
    ] {
        let refused = node.client.open_port(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let request = open(session, &socket, Mode::Server);
    let refused = node.client.open_port(request).await.unwrap_err();
    assert!(refused.message().contains("somebody listens"), "{refused}");
    drop(listener);
    let request = open(session, &socket, Mode::Server);
    node.client.open_port(request).await.expect("a socket that nobody listens at is replaced");
}

#[tokio::test]
async fn a_socket_is_its_owners_and_a_link_is_none() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use v1::vhost_user::Mode;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pod2.sock");
    let mut node = Node::start().await;
    let session = node.hello().await;
    // One's own can be had without any right.
    let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let group = if group == 0 { 1 } else { group };
    let mut request = open(session, &socket, Mode::Server);
    let wanted = request.vhost_user.as_mut().unwrap();
    (wanted.socket_user, wanted.socket_group, wanted.queues) = (user, group, 1);
    node.client.open_port(request).await.unwrap();
    let facts = std::fs::symlink_metadata(&socket).unwrap();
    assert_eq!((facts.uid(), facts.gid()), (user, group));
    assert_eq!(facts.permissions().mode() & 0o777, 0o660);
    let mut talk = FrontEnd::new(UnixStream::connect(&socket).unwrap());
    talk.agree(FEATURES).unwrap();
    assert_eq!(talk.ask(request::GET_QUEUE_NUM, &[]), Some(1));

    let (true_name, link) = (folder.path().join("true.sock"), folder.path().join("link.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&true_name).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::os::unix::fs::symlink(&true_name, &link).unwrap();
    let named = |name: &str, path| v1::OpenPortRequest {
        name: name.into(),
        ..open(session, path, Mode::Client)
    };
    node.client.open_port(named("pod3", &link)).await.unwrap();
    // As long as several attempts take: the other port, opened behind it, comes through.
    node.client.open_port(named("pod4", &true_name)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        held.extend(listener.accept().ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held.len(), 1, "one by its name, none by the link");
    assert_eq!(node.ports().await["pod3"].attach_mode, "waiting");
}
