//! A whole datapath in this process: two workers on memory ports, served over a unix socket.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use seine_datapath::datapath::Datapath;
use seine_datapath::devices::{Claims, DeviceError, Devices, OpenDevice, PodDevice};
use seine_datapath::frame::{Batch, FrameCache, Region};
use seine_datapath::placement::Placement;
use seine_datapath::port::af_xdp::LoanOptions;
use seine_datapath::port::memory::{self, MemoryOptions, MemoryWire};
use seine_datapath::port::vhost_user::{self, Control, VhostUserOptions};
use seine_datapath::port::{OpenError, Queue, QueueFault, QueueStats};
use seine_datapath::service::DatapathService;
use seine_datapath::shift::Poll;
use seine_datapath::workers::{self, WorkersPlan};
use seine_datapath::writer::Writer;
use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_client::DatapathClient;
use seine_datapath_api::v1::datapath_server::DatapathServer;
use seine_pipeline::address::{Mac, PortKind};
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::learned::Learned;
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::State;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};

pub const WORKERS: usize = 2;
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

type Wires = Arc<SyncMutex<HashMap<String, Vec<MemoryWire>>>>;

/// A queue whose worker gets stuck in it while the gate is shut.
struct GatedQueue {
    queue: Box<dyn Queue>,
    shut: Arc<AtomicBool>,
}

impl Queue for GatedQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        while self.shut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.queue.receive(frames, batch);
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        self.queue.transmit(frames, batch);
    }

    fn flush(&mut self, frames: &mut FrameCache) {
        self.queue.flush(frames);
    }

    fn takes_partial_checksum(&self) -> bool {
        self.queue.takes_partial_checksum()
    }

    fn wake_source(&self) -> Option<RawFd> {
        self.queue.wake_source()
    }

    fn stats(&self) -> QueueStats {
        self.queue.stats()
    }

    fn fault(&self) -> Option<QueueFault> {
        self.queue.fault()
    }

    fn close(self: Box<Self>, frames: &mut FrameCache) {
        self.queue.close(frames);
    }
}

/// Memory in the kernel's place. Interfaces "absent*" are not there.
struct MemoryDevices {
    region: &'static Region,
    wires: Wires,
    claims: Arc<SyncMutex<Vec<Claims>>>,
    closed: Arc<SyncMutex<Vec<String>>>,
    guests: HashMap<String, Control>,
    shut: Arc<AtomicBool>,
    options: MemoryOptions,
}

impl MemoryDevices {
    fn device(&mut self, interface: &str, mac: [u8; 6]) -> OpenDevice {
        let (queues, wires) = memory::open(self.region, self.options).expect("memory port");
        self.wires.lock().expect("wires").insert(interface.to_owned(), wires);
        let gated = |queue| -> Box<dyn Queue> {
            Box::new(GatedQueue { queue, shut: Arc::clone(&self.shut) })
        };
        let queues = queues.into_iter().map(gated).collect();
        OpenDevice { interface: interface.to_owned(), mac: Mac(mac), mtu: 1500, queues }
    }
}

impl Devices for MemoryDevices {
    fn ports_namespace(&self) -> String {
        "/run/netns/memory".to_owned()
    }

    fn open_pod(&mut self, device: &PodDevice) -> Result<OpenDevice, DeviceError> {
        let interface = device.name();
        if let PodDevice::VhostUser { socket, mode, owner, pairs, mtu } = device {
            let (socket, mac) = (Path::new(socket), Mac([2, 0, 0, 0, 0xff, 2]));
            let options = VhostUserOptions {
                socket,
                mode: *mode,
                owner: *owner,
                pairs: *pairs,
                queues: WORKERS,
                mtu: *mtu,
                mac,
                polled: false,
            };
            let port = vhost_user::open(self.region, options)?;
            self.guests.insert(interface.to_owned(), port.control);
            let (interface, mtu) = (interface.to_owned(), *mtu as u16);
            return Ok(OpenDevice { interface, mac, mtu, queues: port.queues });
        }
        if interface.starts_with("absent") {
            return Err(OpenError::NoSuchInterface(interface.to_owned()).into());
        }
        Ok(self.device(interface, [2, 0, 0, 0, 0xff, 1]))
    }

    fn lend(&mut self, interface: &str, _: &LoanOptions) -> Result<(), DeviceError> {
        Err(OpenError::NoSuchInterface(interface.to_owned()).into())
    }

    fn lends_at(&self, _: &str) -> Option<&Path> {
        None
    }

    fn close_pod(&mut self, interface: &str) {
        self.guests.remove(interface);
        self.closed.lock().expect("closed").push(interface.to_owned());
    }

    fn attach_mode(&self, interface: &str, _kind: PortKind) -> String {
        let state = |guest: &Control| if guest.is_connected() { "connected" } else { "waiting" };
        self.guests.get(interface).map(state).unwrap_or_default().to_owned()
    }

    fn claim(&mut self, claims: Claims) -> Result<(), DeviceError> {
        self.claims.lock().expect("claims").push(claims);
        Ok(())
    }
}

pub struct Node {
    pub client: DatapathClient<Channel>,
    pub datapath: Arc<Mutex<Datapath>>,
    pub region: &'static Region,
    pub claims: Arc<SyncMutex<Vec<Claims>>>,
    pub closed: Arc<SyncMutex<Vec<String>>>,
    /// While it is set, workers are stuck.
    pub shut: Arc<AtomicBool>,
    wires: Wires,
    _folder: TempDir,
}

impl Node {
    /// A node with gateway and uplink, and nothing installed.
    pub async fn start() -> Node {
        Node::start_with(MemoryOptions { queues: WORKERS, ..MemoryOptions::default() }).await
    }

    pub async fn start_with(options: MemoryOptions) -> Node {
        let region = Region::map(8192, 2048).expect("memory");
        let adjacencies = Arc::new(AdjacencyTable::new());
        let folder = tempfile::tempdir().expect("folder");
        let learned = Arc::new(Learned::new(7));
        let plan = WorkersPlan {
            learned: learned.clone(),
            placement: Placement::one_each([None; WORKERS]),
            poll: Poll::Adaptive { spin: Duration::from_micros(20) },
            crash_folder: folder.path().join("crash"),
            sample_every: 1,
        };
        let (publication, workers) =
            workers::start(&plan, region, &adjacencies, State::new(7)).expect("workers");
        let (wires, claims, closed) = (Wires::default(), Arc::default(), Arc::default());
        let shut: Arc<AtomicBool> = Arc::default();
        let mut devices = MemoryDevices {
            region,
            wires: Arc::clone(&wires),
            claims: Arc::clone(&claims),
            closed: Arc::clone(&closed),
            guests: HashMap::new(),
            shut: Arc::clone(&shut),
            options,
        };
        let gateway = devices.device("seine-gw0", GATEWAY_MAC);
        let uplink = devices.device("eth0", [2, 0, 0, 0, 0, 0xfd]);
        let writer = Writer::new(publication, Arc::clone(&adjacencies));
        let mut datapath =
            Datapath::new(writer, workers, (adjacencies, learned), Box::new(devices), region);
        datapath.open_node_port(PortKind::Gateway, gateway).await.expect("gateway");
        datapath.open_node_port(PortKind::Uplink, uplink).await.expect("uplink");

        let datapath = Arc::new(Mutex::new(datapath));
        let socket = folder.path().join("datapath.sock");
        let listener = UnixListener::bind(&socket).expect("socket");
        let service = DatapathServer::new(DatapathService::new(Arc::clone(&datapath)));
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        let client = seine_datapath_api::connect(&socket).await.expect("client");
        Node { client, datapath, region, claims, closed, shut, wires, _folder: folder }
    }

    pub async fn hello(&mut self) -> u64 {
        let request = v1::HelloRequest { client: "test".into(), version: 1 };
        self.client.hello(request).await.expect("hello").into_inner().session
    }

    pub async fn open(&mut self, session: u64, name: &str) -> v1::Port {
        let (name, interface) = (name.to_owned(), name.to_owned());
        let request = v1::OpenPortRequest { session, name, interface, vhost_user: None };
        self.client.open_port(request).await.expect("open").into_inner()
    }

    pub async fn apply(
        &mut self,
        parts: Vec<v1::TransactionPart>,
    ) -> Result<v1::TransactionReply, tonic::Status> {
        self.client.apply(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner)
    }

    pub fn inject(&self, port: &str, queue: usize, packet: &[u8], checksum: Checksum) {
        let mut wires = self.wires.lock().expect("wires");
        let wire = &mut wires.get_mut(port).expect("port")[queue];
        assert!(wire.inject(packet, checksum), "ring of {port} is full");
    }

    /// The packets that came out of a port, once there are `count` of them, or after a second.
    pub async fn collect(&self, port: &str, count: usize) -> Vec<(Vec<u8>, Checksum)> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut packets = Vec::new();
        while packets.len() < count && Instant::now() < deadline {
            packets.extend(self.collect_now(port));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        packets.extend(self.collect_now(port));
        packets
    }

    fn collect_now(&self, port: &str) -> Vec<(Vec<u8>, Checksum)> {
        let mut wires = self.wires.lock().expect("wires");
        let wires = wires.get_mut(port).expect("port");
        wires.iter_mut().flat_map(|wire| std::iter::from_fn(|| wire.collect())).collect()
    }

    /// Forgets the far ends of a port's wires, and with them the frames on the wire.
    pub fn unplug(&self, port: &str) {
        self.wires.lock().expect("wires").remove(port);
    }

    /// Waits until the workers have received this many packets in all.
    pub async fn received(&mut self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let packets: u64 = self.workers().await.iter().map(|worker| worker.packets).sum();
            if packets >= count {
                assert_eq!(packets, count);
                return;
            }
            assert!(Instant::now() < deadline, "{packets} of {count} packets received");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn workers(&mut self) -> Vec<v1::Worker> {
        let request = v1::ListWorkersRequest {};
        self.client.list_workers(request).await.expect("workers").into_inner().workers
    }

    pub async fn ports(&mut self) -> HashMap<String, v1::Port> {
        let request = v1::ListPortsRequest {};
        let ports = self.client.list_ports(request).await.expect("ports").into_inner().ports;
        ports.into_iter().map(|port| (port.name.clone(), port)).collect()
    }

    /// Every drop counted so far: "port reason packets".
    pub async fn drops(&mut self) -> Vec<String> {
        let request = v1::ListDropsRequest {};
        let drops = self.client.list_drops(request).await.expect("drops").into_inner().drops;
        drops.iter().map(|it| format!("{} {} {}", it.port, it.reason, it.packets)).collect()
    }
}

/// Address and MAC of Pod number `number`, which is attached to port "pod<number>".
pub fn pod_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, 1, number)
}

pub fn pod_mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

pub fn node_object() -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Node(v1::Node {
            name: "node1".into(),
            pod_cidrs: vec!["10.10.1.0/24".into()],
            gateway_addresses: vec!["10.10.1.1".into()],
            tunnel_address: "192.0.2.1".into(),
            tunnel_mtu: 1450,
            ..v1::Node::default()
        })),
    }
}

pub fn endpoint(number: u8) -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
            name: format!("default/pod{number}/eth0"),
            port: format!("pod{number}"),
            mac: pod_mac(number).to_vec(),
            addresses: vec![pod_address(number).to_string()],
            mtu: 1450,
            ..v1::Endpoint::default()
        })),
    }
}

pub fn peer(name: &str, number: u8) -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Peer(v1::Peer {
            name: name.into(),
            pod_cidrs: vec![format!("10.10.{number}.0/24")],
            gateway_addresses: vec![format!("10.10.{number}.1")],
            tunnel_address: format!("192.0.2.{number}"),
        })),
    }
}

/// A whole transaction in one part.
pub fn part(
    session: u64,
    revision: u64,
    mode: v1::transaction_part::Mode,
    upserts: Vec<v1::Object>,
) -> v1::TransactionPart {
    let deletes = Vec::new();
    v1::TransactionPart {
        session,
        revision,
        mode: mode.into(),
        upserts,
        deletes,
        last: true,
        ..v1::TransactionPart::default()
    }
}

/// A datagram from one Pod to another.
pub fn datagram(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(pod_mac(from), pod_mac(to))
        .ipv4(pod_address(from).octets(), pod_address(to).octets(), 64)
        .udp(4000, 53)
        .write(&mut packet, payload)
        .expect("packet");
    packet
}
