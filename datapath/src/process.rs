//! The worker process: everything from the locked run_dir to the served socket.
//!
//! Fail closed: the order is memory, namespace, gateway, uplink, workers, socket. Nothing is
//! forwarded before the agent has sent a Node, and Pod ports that an earlier process has opened
//! drop by their pinned programs until the agent opens them again. Ending leaves all that in
//! place; only [`remove`] takes it away.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use seine_datapath_api::v1::datapath_server::DatapathServer;
use seine_pipeline::address::PortKind;
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::connection::{ConnectionMemory, ConnectionTable};
use seine_pipeline::learned::Learned;
use seine_pipeline::state::State;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::check::{Lock, lock};
use crate::configuration::{Configuration, Frames};
use crate::datapath::{Datapath, PortError};
use crate::frame::{Region, RegionError};
use crate::links;
use crate::machine::prefetch;
use crate::memory::{self, MapError};
use crate::netns::{Namespace, NamespaceError};
use crate::next_hop::NextHops;
use crate::node_devices::{NodeDevices, NodeDevicesError, Opened};
use crate::placement::{Placement, PlacementError, usable_cores};
use crate::reload::{Reloader, reload};
use crate::service::DatapathService;
use crate::underlay::NextHopError;
use crate::workers::{self, WorkerError, WorkersPlan};
use crate::writer::Writer;

/// How long a new process waits for the lock of the one before it.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Why the process did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The run_dir.
    #[error("cannot use `{}`: {source}", path.display())]
    RunDir {
        /// What of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else's.
    #[error("another seine-datapath runs with run_dir `{}`; end it first, or use another", .0.display())]
    Running(PathBuf),
    /// Packet memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Memory for connections.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// The node's devices.
    #[error(transparent)]
    Devices(#[from] NodeDevicesError),
    /// The workers.
    #[error(transparent)]
    Workers(#[from] WorkerError),
    /// Where they run.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// One of the node's ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Next hops.
    #[error(transparent)]
    NextHops(#[from] NextHopError),
    /// They are not followed any more.
    #[error("the kernel's news of routes and neighbours have ended")]
    NextHopsEnded,
    /// The namespace of Pod links.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The gRPC server.
    #[error("serving `{}` ended", path.display())]
    Serve {
        /// The socket.
        path: PathBuf,
        /// What the server said.
        source: tonic::transport::Error,
    },
    /// Signals cannot be received, or there is no randomness.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// An empty table of connections, in memory that no other table shares.
fn connections(configuration: &Configuration, seed: u64) -> Result<ConnectionTable, MapError> {
    let limits = configuration.connections.limits();
    let (lines, pages) =
        memory::map(ConnectionTable::lines(&limits), configuration.memory.huge_pages)?;
    let mib = size_of_val(lines) >> 20;
    tracing::info!(connections = limits.connections, mib, ?pages, "connections have memory");
    let table = ConnectionTable::in_memory(limits, seed, ConnectionMemory::Lent(lines));
    Ok(table.fetching(prefetch))
}

/// Starts everything, serves until SIGTERM or SIGINT, and stops the workers.
pub async fn serve(configuration: &Configuration, path: &Path) -> Result<(), ProcessError> {
    let system = |what| move |source| ProcessError::System { what, source };
    // First of all: unheard, it ends a process, and asks to read a file again.
    let hangup = signal(SignalKind::hangup()).map_err(system("SIGHUP"))?;
    prepare_run_dir(&configuration.run_dir)?;
    let _lock = wait_for_lock(&configuration.run_dir).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;

    let Frames { count, bytes } = configuration.frames;
    let region = Region::map_in(count, bytes, configuration.memory.huge_pages)?;
    let Opened { devices, uplink, uplink_index, gateway, host } =
        NodeDevices::open(configuration, region)?;
    let adjacencies = Arc::new(AdjacencyTable::new());
    let seed = hash_seed().map_err(system("randomness"))?;
    let learned = Arc::new(Learned::with_connections(connections(configuration, seed)?, seed));
    let plan = WorkersPlan {
        placement: Placement::of(
            &configuration.workers,
            configuration.workers.queue_count(),
            &usable_cores(),
        )?,
        poll: configuration.workers.poll(),
        crash_folder: configuration.crash_folder(),
        learned: learned.clone(),
        sample_every: configuration.connections.sample_every,
    };
    let (publication, workers) = workers::start(&plan, region, &adjacencies, State::new(seed))?;
    let writer = Writer::new(publication, adjacencies.clone());
    let shared = (adjacencies.clone(), learned);
    let mut datapath = Datapath::new(writer, workers, shared, Box::new(devices), region);
    datapath.open_node_port(PortKind::Gateway, gateway).await?;
    datapath.open_node_port(PortKind::Host, host).await?;
    datapath.open_node_port(PortKind::Uplink, uplink).await?;
    let next_hops = NextHops::listen(uplink_index, adjacencies, datapath.wanted())?;
    let mut following = tokio::spawn(next_hops.follow());

    let socket = configuration.socket();
    let listener = listen(&socket)?;
    let datapath = Arc::new(Mutex::new(datapath));
    let reloader = Arc::new(Mutex::new(Reloader::new(path.to_owned(), configuration.clone())));
    let reloading = reload_at(hangup, reloader.clone(), datapath.clone());
    let server = Server::builder()
        .concurrency_limit_per_connection(64)
        .add_service(DatapathServer::new(DatapathService::new(datapath).reloading(reloader)))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tracing::info!(
        node = configuration.node,
        socket = %socket.display(),
        workers = configuration.workers.queue_count(),
        "ready: nothing is forwarded before the agent has installed a Node"
    );
    let ending = tokio::select! {
        served = server => served.map_err(|source| ProcessError::Serve { path: socket, source }),
        _ = &mut following => Err(ProcessError::NextHopsEnded),
        () = reloading => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("ending: Pod ports drop until the datapath runs again");
    ending
}

/// Reads the configuration again whenever the signal comes.
async fn reload_at(
    mut hangup: Signal,
    reloader: Arc<Mutex<Reloader>>,
    datapath: Arc<Mutex<Datapath>>,
) {
    while hangup.recv().await.is_some() {
        // What came of it is in the log.
        let _ = reload(reloader.clone(), datapath.clone()).await;
    }
}

/// Takes away what a datapath with this configuration leaves on a node: pinned programs, taps,
/// namespace, socket. Works after a crash, and twice.
pub fn remove(configuration: &Configuration) -> Result<(), ProcessError> {
    let run_dir = &configuration.run_dir;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ProcessError::RunDir { path, source }
    };
    if run_dir.exists() {
        let locks = (
            lock(run_dir, Lock::Parent, true).map_err(failed(run_dir))?,
            lock(run_dir, Lock::WorkerProcess, true).map_err(failed(run_dir))?,
        );
        if locks.0.is_none() || locks.1.is_none() {
            return Err(ProcessError::Running(run_dir.clone()));
        }
    }
    for tap in [&configuration.gateway.interface, &configuration.gateway.host_interface] {
        if matches!(links::kind(tap), Ok(Some(kind)) if kind == "tun") {
            links::delete(tap).map_err(failed(Path::new(tap)))?;
        }
    }
    let pins = configuration.pins();
    if pins.exists() {
        // Detaching every program: the last reference to a link is its pin.
        remove_pins(&pins).map_err(failed(&pins))?;
        match umount2(&pins, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(failed(&pins)(error.into())),
        }
    }
    Namespace::remove(&configuration.ports_namespace)?;
    for name in ["datapath.sock", "parent.lock", "worker.lock"] {
        remove_file(&run_dir.join(name)).map_err(failed(run_dir))?;
    }
    // Crash reports stay, and with them the directory.
    for folder in [pins.as_path(), run_dir.as_path()] {
        match fs::remove_dir(folder) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(failed(folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the run_dir, for root alone.
pub fn prepare_run_dir(run_dir: &Path) -> Result<(), ProcessError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(|source| ProcessError::RunDir { path: run_dir.to_owned(), source })
}

async fn wait_for_lock(run_dir: &Path) -> Result<nix::fcntl::Flock<fs::File>, ProcessError> {
    let patience = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(run_dir, Lock::WorkerProcess, true) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if tokio::time::Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(None) => return Err(ProcessError::Running(run_dir.to_owned())),
            Err(source) => {
                return Err(ProcessError::RunDir { path: run_dir.to_owned(), source });
            }
        }
    }
}

/// Listens on a socket that only root can open, in place of one that a dead process left.
fn listen(socket: &Path) -> Result<UnixListener, ProcessError> {
    let failed = |source| ProcessError::RunDir { path: socket.to_owned(), source };
    remove_file(socket).map_err(failed)?;
    // The run_dir is for root alone, so nobody connects between the two calls.
    let listener = UnixListener::bind(socket).map_err(failed)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes each interface's directory of pins. What else is there is the kernel's own.
fn remove_pins(pins: &Path) -> io::Result<()> {
    for directory in fs::read_dir(pins)? {
        let directory = directory?;
        if directory.file_type()?.is_dir() {
            for pin in fs::read_dir(directory.path())? {
                remove_file(&pin?.path())?;
            }
            fs::remove_dir(directory.path())?;
        }
    }
    Ok(())
}

/// Keys the hash tables, so that nobody outside can aim at one bucket.
fn hash_seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
