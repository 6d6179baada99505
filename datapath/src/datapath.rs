//! The datapath of a node, put together: writer, workers, ports and devices.
//!
//! Everything that changes something goes through here, one change at a time. A port opens in the
//! order device, pipeline, workers, and closes in the order pipeline, workers, device: no worker
//! ever has a queue that the pipeline does not know, and an index is used again only when no
//! worker can still send to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use seine_pipeline::address::{PortId, PortKind};
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::connection::{Connection, FlowKey, Ingress};
use seine_pipeline::learned::Learned;
use seine_pipeline::state::{EncapMode, Kind, StaleConnections};
use seine_pipeline::tally::RuleTallies;
use tokio::sync::watch;

use crate::counters::PortCounters;
use crate::devices::{Claims, DeviceError, Devices, OpenDevice, PodDevice};
use crate::frame::{FrameCache, Region};
use crate::objects::INTERFACE_NAME_BYTES_MAX;
use crate::placement::Placement;
use crate::port::af_xdp::LoanOptions;
use crate::ports::{OpenPort, POD_PORTS_MAX, PortTable};
use crate::shift::Poll;
use crate::slot::{Command, Slot};
use crate::upkeep::account;
use crate::workers::{WorkerError, Workers};
use crate::writer::{ChangeError, Mode, Summary, Transaction, Writer};

/// Why a port did not open or close.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The session is over, or the pipeline refused the port.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A worker does not answer.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The name is no name.
    #[error(
        "port name `{0}` is not 1 to {INTERFACE_NAME_BYTES_MAX} bytes of letters, digits, - _ ."
    )]
    Name(String),
    /// The socket cannot be one.
    #[error("socket `{0}` is not an absolute path of at most {SOCKET_BYTES_MAX} bytes")]
    Socket(String),
    /// The name or the device belongs to another open port.
    #[error("port `{name}` is open with device `{interface}`; close it first")]
    Taken {
        /// The open port.
        name: String,
        /// Its device.
        interface: String,
    },
    /// No index is left.
    #[error("{POD_PORTS_MAX} Pod ports are open, which is the limit")]
    TooMany,
    /// Nothing to lend sockets on.
    #[error("`{0}` is no open port of a Pod with a link; open it first")]
    NoLink(String),
    /// Not for an agent to close.
    #[error("port `{0}` is the node's own and stays open")]
    NodePort(String),
    /// The device has not one queue for each worker.
    #[error("device `{interface}` has {queues} queues for {workers} workers")]
    Queues {
        /// The device.
        interface: String,
        /// Queues that it has.
        queues: usize,
        /// Workers that want one each.
        workers: usize,
    },
}

/// Bytes of the path of a socket: the kernel's 107, less what a fresh one is called by.
pub const SOCKET_BYTES_MAX: usize = 100;

/// Next hops to be resolved: the underlay address of each peer, by adjacency index.
pub type Wanted = BTreeMap<usize, IpAddr>;

/// The datapath of one node.
pub struct Datapath {
    /// The one writer of State.
    pub writer: Writer,
    /// The workers, by index.
    pub workers: Workers,
    /// Which ports are open.
    pub ports: PortTable,
    /// Next hops on the underlay.
    pub adjacencies: Arc<AdjacencyTable>,
    /// What workers learn from packets.
    pub learned: Arc<Learned>,
    /// What connections that were ended from here have carried.
    pub ended: RuleTallies,
    devices: Box<dyn Devices>,
    /// Takes the frames of queues that close.
    frames: FrameCache,
    wanted: watch::Sender<Wanted>,
    claims: Claims,
    started: Instant,
}

impl Datapath {
    /// A datapath without ports.
    pub fn new(
        writer: Writer,
        workers: Workers,
        (adjacencies, learned): (Arc<AdjacencyTable>, Arc<Learned>),
        devices: Box<dyn Devices>,
        region: &'static Region,
    ) -> Datapath {
        Datapath {
            writer,
            workers,
            ports: PortTable::default(),
            adjacencies,
            learned,
            ended: RuleTallies::new(),
            devices,
            frames: FrameCache::new(region),
            wanted: watch::Sender::default(),
            claims: Claims::default(),
            started: Instant::now(),
        }
    }

    /// What next hops are wanted, now and whenever that changes.
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// When it was put together.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The machine's devices.
    pub fn devices(&self) -> &dyn Devices {
        self.devices.as_ref()
    }

    /// Bytes of the longest packet that a frame holds, Ethernet header included.
    pub fn packet_bytes_max(&self) -> usize {
        self.frames.region().frame_bytes() - crate::frame::HEADROOM
    }

    /// Installs a transaction and everything that follows from it.
    pub async fn apply(&mut self, transaction: Transaction) -> Result<Summary, PortError> {
        let before = self.writer.current();
        let beside_node = names_nodes(&transaction);
        let result = self.writer.apply(transaction).await;
        if matches!(result, Ok(_) | Err(ChangeError::NotPassed(_))) {
            let stale = StaleConnections::between(&before.state, &self.writer.current().state);
            if !stale.is_empty() {
                self.end_connections(|connection| stale.contains(connection));
            }
            if beside_node {
                self.wanted.send_replace(self.writer.peers());
                self.claim()?;
            }
        }
        Ok(result?)
    }

    /// Opens a Pod's port for a session. One that is open with the same device stays as it is.
    pub async fn open_pod(
        &mut self,
        session: u64,
        name: &str,
        device: &PodDevice,
    ) -> Result<(), PortError> {
        self.writer.check_session(session)?;
        check_name(name)?;
        let interface = device.name();
        match device {
            PodDevice::Link(interface) => check_name(interface)?,
            PodDevice::VhostUser { socket, .. } => check_socket(socket)?,
        }
        let taken = |port: &OpenPort| PortError::Taken {
            name: port.name.clone(),
            interface: port.interface.clone(),
        };
        if let Some(port) = self.ports.find(name) {
            let same = port.kind == PortKind::Pod && port.interface == interface;
            if same && port.fault().is_none() {
                return Ok(());
            }
            if !same {
                return Err(taken(port));
            }
            // Its device went away and came back under the same name, or a worker was stuck.
            self.close(name).await?;
        }
        if let Some(port) = self.ports.by_interface(PortKind::Pod, interface) {
            return Err(taken(port));
        }
        let device = self.devices.open_pod(device)?;
        let opened = self.open(PortKind::Pod, name, device).await;
        if opened.is_err() {
            self.devices.close_pod(interface);
        }
        opened
    }

    /// Opens one of the node's own ports, at start.
    pub async fn open_node_port(
        &mut self,
        kind: PortKind,
        device: OpenDevice,
    ) -> Result<(), PortError> {
        let name = device.interface.clone();
        self.open(kind, &name, device).await
    }

    /// Closes a Pod's port for a session. Says whether it was open.
    pub async fn close_pod(&mut self, session: u64, name: &str) -> Result<bool, PortError> {
        self.writer.check_session(session)?;
        match self.ports.find(name) {
            None => Ok(false),
            Some(port) if port.kind != PortKind::Pod => Err(PortError::NodePort(name.to_owned())),
            Some(_) => self.close(name).await.map(|()| true),
        }
    }

    /// Lends the Pod of an open port sockets on its own end of its link.
    pub fn lend(&mut self, session: u64, name: &str, loan: &LoanOptions) -> Result<(), PortError> {
        self.writer.check_session(session)?;
        check_name(&loan.interface)?;
        check_socket(&loan.socket.to_string_lossy())?;
        let port = self.ports.find(name).filter(|port| port.kind == PortKind::Pod);
        let interface = port.map(|port| port.interface.clone());
        // A vhost-user port is named by its socket, and has no other end.
        let interface = interface.filter(|interface| !interface.starts_with('/'));
        let interface = interface.ok_or_else(|| PortError::NoLink(name.to_owned()))?;
        Ok(self.devices.lend(&interface, loan)?)
    }

    /// Makes every worker carry over what its queues counted themselves.
    pub async fn sample(&self) -> Result<(), WorkerError> {
        for worker in self.workers.iter() {
            worker.ask(Command::Sample).await?;
        }
        Ok(())
    }

    /// Runs the workers on these cores from now on, and has them wait in this way.
    pub async fn place(&mut self, placement: &Placement, poll: Poll) -> Result<(), WorkerError> {
        self.workers.place(placement, poll).await?;
        self.devices.set_polled(poll == Poll::Spin);
        Ok(())
    }

    async fn open(
        &mut self,
        kind: PortKind,
        name: &str,
        device: OpenDevice,
    ) -> Result<(), PortError> {
        let OpenDevice { interface, mac, mtu, queues } = device;
        if queues.len() != self.workers.len() {
            let (count, workers) = (queues.len(), self.workers.len());
            queues.into_iter().for_each(|queue| queue.close(&mut self.frames));
            return Err(PortError::Queues { interface, queues: count, workers });
        }
        let Some((id, generation)) = self.ports.allocate() else {
            queues.into_iter().for_each(|queue| queue.close(&mut self.frames));
            return Err(PortError::TooMany);
        };
        let counters: Vec<_> = queues.iter().map(|_| Arc::new(PortCounters::default())).collect();
        let name = name.to_owned();
        let whole = false;
        let port = OpenPort { id, generation, name, kind, interface, mac, mtu, counters, whole };
        let slots: Vec<Box<Slot>> = queues
            .into_iter()
            .zip(&port.counters)
            .map(|(queue, counters)| Slot::new(id, queue, counters.clone()))
            .collect();
        let name = port.name.clone();
        let announced = self.writer.announce(port.object()).await;
        self.ports.insert(port);
        let mut failed: Option<PortError> = announced.err().map(PortError::from);
        for (worker, slot) in self.workers.iter().zip(slots) {
            if failed.is_some() {
                slot.close(&mut self.frames);
                continue;
            }
            match worker.ask(|done| Command::Add(slot, done)).await {
                Ok(None) => {}
                Ok(Some(refused)) => {
                    refused.close(&mut self.frames);
                    failed = Some(WorkerError::QueueRefused { worker: worker.index }.into());
                }
                Err(error) => failed = Some(error.into()),
            }
        }
        match failed {
            None => {
                self.ports.set_whole(&name, true);
                Ok(())
            }
            Some(error) => {
                self.detach(&name, id).await?;
                Err(error)
            }
        }
    }

    async fn close(&mut self, name: &str) -> Result<(), PortError> {
        let Some(port) = self.ports.find(name) else { return Ok(()) };
        let (id, interface) = (port.id, port.interface.clone());
        self.detach(name, id).await?;
        self.devices.close_pod(&interface);
        Ok(())
    }

    /// Takes a port from pipeline and workers. When a worker does not answer the index stays
    /// taken, for that worker may still send to it, and the port is there to be closed again.
    async fn detach(&mut self, name: &str, id: PortId) -> Result<(), PortError> {
        self.ports.set_whole(name, false);
        self.writer.withdraw(name).await?;
        for worker in self.workers.iter() {
            if let Some(slot) = worker.ask(|done| Command::Remove(id, done)).await? {
                slot.close(&mut self.frames);
            }
        }
        self.frames.drain();
        // No packet finds them any more, and they would keep others out until their time is up.
        let here = |key: &FlowKey| matches!(key.ingress, Ingress::Pod(port, _) if port == id);
        self.end_connections(|it| here(&it.original) || here(&it.reply));
        self.ports.remove(name);
        self.ports.release(id);
        Ok(())
    }

    /// Ends connections, and adds what they have carried to their rules.
    fn end_connections(&self, over: impl Fn(&Connection) -> bool) {
        let ended = self.learned.connections.flush(over, |ended| account(&self.ended, ended));
        if ended > 0 {
            tracing::debug!(ended, "connections ended");
        }
    }

    fn claim(&mut self) -> Result<(), DeviceError> {
        let node = self.writer.node();
        let tunnelled = node.filter(|node| node.encap_mode == EncapMode::Encap);
        let tunnel =
            tunnelled.map(|node| SocketAddr::new(node.tunnel_address, node.tunnel_type.port()));
        let claims = Claims { tunnel };
        if claims != self.claims {
            self.devices.claim(claims)?;
            self.claims = claims;
        }
        Ok(())
    }
}

/// A path is shown in lists and logs, so it is text.
fn check_socket(path: &str) -> Result<(), PortError> {
    let plain = !path.chars().any(char::is_control) && path.len() <= SOCKET_BYTES_MAX;
    let file = std::path::Path::new(path);
    match plain && file.is_absolute() && file.file_name().is_some() {
        true => Ok(()),
        false => Err(PortError::Socket(path.to_owned())),
    }
}

/// Whether next hops and claims may be others afterwards. Looking for that takes as long as there
/// are objects, and most transactions are about policies and Services.
fn names_nodes(transaction: &Transaction) -> bool {
    let of_nodes = |kind| matches!(kind, Kind::Node | Kind::Peer);
    transaction.mode == Mode::Full
        || transaction.upserts.iter().any(|desired| of_nodes(desired.id().kind))
        || transaction.deletes.iter().any(|id| of_nodes(id.kind))
}

fn check_name(name: &str) -> Result<(), PortError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=INTERFACE_NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(allowed) && !matches!(name, "." | "..") {
        return Ok(());
    }
    Err(PortError::Name(name.to_owned()))
}
