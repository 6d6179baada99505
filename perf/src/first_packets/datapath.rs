//! A whole datapath in this process: its writer and gRPC service in a thread of their own, its
//! workers on cores of their own, and ports that bring as many packets as a worker can take.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use seine_datapath::datapath::Datapath;
use seine_datapath::devices::{Claims, DeviceError, Devices, OpenDevice, PodDevice};
use seine_datapath::frame::{Batch, FrameCache, HEADROOM, Region};
use seine_datapath::placement::Placement;
use seine_datapath::port::OpenError;
use seine_datapath::port::af_xdp::LoanOptions;
use seine_datapath::port::{Queue, QueueStats};
use seine_datapath::service::DatapathService;
use seine_datapath::shift::Poll;
use seine_datapath::workers::{self, WorkersPlan};
use seine_datapath::writer::Writer;
use seine_datapath_api::v1::datapath_server::DatapathServer;
use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::address::{Mac, PortKind};
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::describe::{Description, Protocol, describe};
use seine_pipeline::state::State;
use tokio::net::UnixListener;
use tokio::sync::{Mutex, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::cost;
use super::scenario::{self, MTU};

const FRAMES: usize = 4096;
const FRAME_BYTES: usize = 2048;
/// As the datapath does it by itself.
const SAMPLE_EVERY: u32 = 4096;
/// The core of writer and service, and of their caller.
pub const WRITER_CORE: usize = 1;

/// A datapath that runs until it is dropped.
pub struct Running {
    /// Where it serves.
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it with so many workers, all loaded once [`LOADED`] is open.
    pub fn start(workers: usize, folder: &Path) -> Outcome<Running> {
        let socket = folder.join(format!("datapath{workers}.sock"));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (path, folder) = (socket.clone(), folder.to_owned());
        let thread = std::thread::spawn(move || {
            pin(WRITER_CORE);
            let served = runtime().and_then(|runtime| {
                runtime.block_on(serve(workers, &path, &folder, &ready, stopped))
            });
            // Whoever started it has gone on, or hears of it here.
            let _ = ready.send(served);
        });
        let began = is_ready.recv();
        began.map_err(|_| Failure::Unmet("the datapath did not start".to_owned()))??;
        Ok(Running { socket, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The next one serves at the same path.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Keeps this thread on a core, if the machine has it.
pub fn pin(core: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
}

/// For one thread.
pub fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(Failure::io("start", Path::new("a runtime")))
}

fn unmet(error: impl std::error::Error) -> Failure {
    Failure::Unmet(seine_datapath::service::with_sources(&error))
}

async fn serve(
    workers: usize,
    socket: &Path,
    folder: &Path,
    ready: &mpsc::Sender<Outcome>,
    stopped: oneshot::Receiver<()>,
) -> Outcome {
    let region = Region::map(FRAMES, FRAME_BYTES).map_err(unmet)?;
    let adjacencies = Arc::new(AdjacencyTable::new());
    let learned = cost::learned()?;
    let plan = WorkersPlan {
        // The first has a core of its own, a second one shares the writer's.
        placement: Placement::one_each((0..workers).map(Some)),
        poll: Poll::Spin,
        crash_folder: folder.to_owned(),
        learned: learned.clone(),
        sample_every: SAMPLE_EVERY,
    };
    let (publication, handles) =
        workers::start(&plan, region, &adjacencies, State::new(1)).map_err(unmet)?;
    let writer = Writer::new(publication, adjacencies.clone());
    let devices = Box::new(Memory { workers, packet: packet()? });
    let mut datapath = Datapath::new(writer, handles, (adjacencies, learned), devices, region);
    for (kind, name, last) in [
        (PortKind::Gateway, "gateway", 1),
        (PortKind::Host, "host", 1),
        (PortKind::Uplink, "uplink", 2),
    ] {
        let device = open(name, Mac([2, 0, 0, 0, 1, last]), 1500, vec![None; workers]);
        datapath.open_node_port(kind, device).await.map_err(unmet)?;
    }
    let listener = UnixListener::bind(socket).map_err(Failure::io("bind", socket))?;
    let service = DatapathService::new(Arc::new(Mutex::new(datapath)));
    let _ = ready.send(Ok(()));
    let stopped = async { drop(stopped.await) };
    Server::builder()
        .add_service(DatapathServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped)
        .await
        .map_err(unmet)
}

/// The port whose queues bring packets without end.
pub const LOADED: usize = 0;

/// A datagram of the loaded Pod to the world: of one connection, that no policy speaks of.
fn packet() -> Outcome<Vec<u8>> {
    let description = Description {
        ingress: scenario::name(LOADED),
        source: None,
        destination: scenario::v4(0xcb00_7109),
        protocol: Protocol::Udp,
        source_port: 40_000,
        destination_port: 53,
        payload_bytes: 18,
        ttl: 64,
        tcp_flags: None,
        source_mac: None,
        destination_mac: None,
    };
    let state = State::new(1).apply(&scenario::pods_alone()).map_err(unmet)?;
    Ok(describe(&description, &state).map_err(unmet)?.bytes().to_vec())
}

/// Devices that are nothing but memory.
struct Memory {
    workers: usize,
    packet: Vec<u8>,
}

impl Devices for Memory {
    fn ports_namespace(&self) -> String {
        String::new()
    }

    fn open_pod(&mut self, device: &PodDevice) -> Result<OpenDevice, DeviceError> {
        let interface = device.name();
        let number = interface.trim_start_matches("pod").parse().unwrap_or(0_u32);
        let [_, _, high, low] = number.to_be_bytes();
        let packet = (interface == scenario::name(LOADED)).then(|| self.packet.clone());
        Ok(open(interface, Mac([6, 0, 0, 1, high, low]), MTU, vec![packet; self.workers]))
    }

    fn lend(&mut self, interface: &str, _: &LoanOptions) -> Result<(), DeviceError> {
        Err(OpenError::NoSuchInterface(interface.to_owned()).into())
    }

    fn lends_at(&self, _: &str) -> Option<&Path> {
        None
    }

    fn close_pod(&mut self, _: &str) {}

    fn attach_mode(&self, _: &str, _: PortKind) -> String {
        String::new()
    }

    fn claim(&mut self, _: Claims) -> Result<(), DeviceError> {
        Ok(())
    }
}

fn open(interface: &str, mac: Mac, mtu: u16, packets: Vec<Option<Vec<u8>>>) -> OpenDevice {
    let queues = packets.into_iter().map(|packet| Box::new(Source { packet }) as Box<dyn Queue>);
    OpenDevice { interface: interface.to_owned(), mac, mtu, queues: queues.collect() }
}

/// A queue that brings the same packet for ever, or none, and forgets what it is given.
struct Source {
    packet: Option<Vec<u8>>,
}

impl Queue for Source {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        let Some(packet) = &self.packet else { return };
        while !batch.is_full()
            && let Some(mut frame) = frames.allocate()
        {
            frame.set_range(HEADROOM, 0);
            frame.fill(packet);
            batch.push(frame);
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        batch.drain(..).for_each(|frame| frames.free(frame));
    }

    fn flush(&mut self, _: &mut FrameCache) {}

    fn takes_partial_checksum(&self) -> bool {
        true
    }

    fn wake_source(&self) -> Option<RawFd> {
        None
    }

    fn stats(&self) -> QueueStats {
        QueueStats::default()
    }

    fn close(self: Box<Self>, _: &mut FrameCache) {}
}
