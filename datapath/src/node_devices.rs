//! The devices of a node: Pod links and uplink by AF_XDP, guests by vhost-user, the node's own two
//! legs as taps.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use seine_pipeline::address::{Mac, PortKind};

use crate::configuration::{Configuration, PollMode};
use crate::devices::{Claims, DeviceError, Devices, OpenDevice, PodDevice};
use crate::frame::Region;
use crate::netns::{DIRECTORY, Namespace, NamespaceError};
use crate::port::af_xdp::{
    self, AfXdpOptions, AfXdpPort, Attachment, Claim, FrameMemory, Loan, LoanOptions, forget_pins,
    mount_pins,
};
use crate::port::tap::{self, TapOptions};
use crate::port::vhost_user::{self, Control, VhostUserOptions, VhostUserPort};
use crate::port::{AttachMode, Interface, OpenError, PortFacts};

/// The IP protocol number of UDP.
const UDP: u8 = 17;

/// Why the node's devices are not there.
#[derive(Debug, thiserror::Error)]
pub enum NodeDevicesError {
    /// A device or the memory for it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The BPF file system for pins.
    #[error("cannot mount a BPF file system at `{}`: {source}; it takes the right CAP_SYS_ADMIN", path.display())]
    Pins {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The devices of this node.
pub struct NodeDevices {
    ports_namespace: String,
    ports: Namespace,
    node: Namespace,
    pins: PathBuf,
    memory: FrameMemory,
    workers: usize,
    uplink: String,
    uplink_attachment: Attachment,
    pods: HashMap<String, PodHold>,
    /// What was lent to Pods, by our end of their links.
    loans: HashMap<String, Loan>,
    /// Whether workers never sleep, so that guests need not kick.
    polled: bool,
}

/// What keeps a Pod's device open.
enum PodHold {
    Link(Attachment),
    VhostUser(Control),
}

/// What is open at start.
pub struct Opened {
    /// The devices, to open more.
    pub devices: NodeDevices,
    /// The node's NIC.
    pub uplink: OpenDevice,
    /// Its index, to listen for next hops.
    pub uplink_index: u32,
    /// The node's own leg into the Pod network.
    pub gateway: OpenDevice,
    /// What the node itself sends by. It has the gateway's MAC address: to everybody else the two
    /// are one.
    pub host: OpenDevice,
}

impl NodeDevices {
    /// Makes the ports namespace and the gateway if they are not there, and opens gateway and
    /// uplink in the calling thread's network namespace.
    pub fn open(
        configuration: &Configuration,
        region: &'static Region,
    ) -> Result<Opened, NodeDevicesError> {
        let (pins, workers) = (configuration.pins(), configuration.workers.queue_count());
        mount_pins(&pins)
            .map_err(|source| NodeDevicesError::Pins { path: pins.clone(), source })?;
        let ports = Namespace::isolated(&configuration.ports_namespace)?;
        forget_absent(&ports, &pins);
        let node = Namespace::current()?;
        let memory = FrameMemory::register(region, &ports)?;
        let tap = |interface, mac| {
            let namespace = &node;
            let options = TapOptions { interface, namespace, queues: workers, io_uring: true, mac };
            tap::open(region, options).map(|tap| device(interface, tap.facts, tap.queues))
        };
        let gateway = tap(&configuration.gateway.interface, None)?;
        let host = tap(&configuration.gateway.host_interface, Some(gateway.mac))?;
        let uplink = configuration.uplink.interface.clone();
        let AfXdpPort { facts, queues, attachment } = af_xdp::open(
            &memory,
            AfXdpOptions {
                interface: &uplink,
                namespace: &node,
                queues: workers,
                pins: &pins,
                kind: PortKind::Uplink,
            },
        )?;
        let uplink_device = device(&uplink, facts, queues);
        let ports_namespace = configuration.ports_namespace.clone();
        let devices = NodeDevices {
            ports_namespace,
            ports,
            node,
            pins,
            memory,
            workers,
            uplink,
            uplink_attachment: attachment,
            pods: HashMap::new(),
            loans: HashMap::new(),
            polled: configuration.workers.poll == PollMode::Spin,
        };
        Ok(Opened { devices, uplink: uplink_device, uplink_index: facts.index, gateway, host })
    }
}

impl NodeDevices {
    fn open_link(&mut self, interface: &str) -> Result<OpenDevice, DeviceError> {
        let options = AfXdpOptions {
            interface,
            namespace: &self.ports,
            queues: self.workers,
            pins: &self.pins,
            kind: PortKind::Pod,
        };
        let AfXdpPort { facts, queues, attachment } = af_xdp::open(&self.memory, options)?;
        self.pods.insert(interface.to_owned(), PodHold::Link(attachment));
        Ok(device(interface, facts, queues))
    }

    fn open_guest(&mut self, options: VhostUserOptions<'_>) -> Result<OpenDevice, DeviceError> {
        let socket = &options.socket.display().to_string();
        let VhostUserPort { facts, queues, control } =
            vhost_user::open(self.memory.region(), options)?;
        self.pods.insert(socket.to_owned(), PodHold::VhostUser(control));
        Ok(device(socket, facts, queues))
    }
}

/// A MAC address for our end of a guest's port, which nobody sends to: local, and always the same
/// for a socket.
fn local_mac(socket: &str) -> Mac {
    // FNV-1a.
    let hash = socket.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    Mac([2, a, b, c, d, e])
}

impl Devices for NodeDevices {
    fn ports_namespace(&self) -> String {
        format!("{DIRECTORY}/{}", self.ports_namespace)
    }

    fn open_pod(&mut self, device: &PodDevice) -> Result<OpenDevice, DeviceError> {
        match device {
            PodDevice::Link(interface) => self.open_link(interface),
            PodDevice::VhostUser { socket, mode, owner, pairs, mtu } => {
                self.open_guest(VhostUserOptions {
                    socket: Path::new(socket),
                    mode: *mode,
                    owner: *owner,
                    pairs: *pairs,
                    queues: self.workers,
                    mtu: *mtu,
                    mac: local_mac(socket),
                    polled: self.polled,
                })
            }
        }
    }

    fn lend(&mut self, interface: &str, loan: &LoanOptions) -> Result<(), DeviceError> {
        if self.loans.get(interface).is_some_and(|held| held.is(loan)) {
            return Ok(());
        }
        // Before the next one: an interface has room for one program.
        self.loans.remove(interface);
        self.loans.insert(interface.to_owned(), Loan::open(loan.clone())?);
        Ok(())
    }

    fn lends_at(&self, interface: &str) -> Option<&Path> {
        self.loans.get(interface).map(Loan::socket)
    }

    fn close_pod(&mut self, interface: &str) {
        self.loans.remove(interface);
        if let Some(PodHold::Link(attachment)) = self.pods.remove(interface)
            && let Err(error) = attachment.detach()
        {
            tracing::warn!(interface, %error, "the XDP program stays until the interface goes");
        }
    }

    fn attach_mode(&self, interface: &str, kind: PortKind) -> String {
        if let Some(PodHold::VhostUser(control)) = self.pods.get(interface)
            && kind == PortKind::Pod
        {
            let state = if control.is_connected() { "connected" } else { "waiting" };
            return state.to_owned();
        }
        let namespace = match kind {
            PortKind::Pod => &self.ports,
            PortKind::Uplink => &self.node,
            PortKind::Gateway | PortKind::Host => return String::new(),
        };
        match namespace.run(|| Interface::read(interface)) {
            Ok(Ok(found)) if found.attach_mode != AttachMode::None => {
                found.attach_mode.name().to_owned()
            }
            _ => String::new(),
        }
    }

    fn set_polled(&mut self, polled: bool) {
        self.polled = polled;
    }

    fn claim(&mut self, claims: Claims) -> Result<(), DeviceError> {
        let claims = claims.tunnel.into_iter();
        let udp = |to: SocketAddr| Claim { address: to.ip(), protocol: UDP, port: to.port() };
        let claims: Vec<Claim> = claims.map(udp).collect();
        self.uplink_attachment
            .set_claims(&claims)
            .map_err(|source| DeviceError::Claim { interface: self.uplink.clone(), source })
    }
}

fn device(
    interface: &str,
    facts: PortFacts,
    queues: Vec<Box<dyn crate::port::Queue>>,
) -> OpenDevice {
    // A frame holds no packet of more than 64 KiB, so a larger MTU says nothing more.
    let mtu = u16::try_from(facts.mtu).unwrap_or(u16::MAX);
    OpenDevice { interface: interface.to_owned(), mac: facts.mac, mtu, queues }
}

/// Removes pins of Pod links that were deleted while no datapath ran. What cannot be removed now
/// does no harm: the link behind it is dead.
fn forget_absent(ports: &Namespace, pins: &Path) {
    let Ok(entries) = std::fs::read_dir(pins) else { return };
    for entry in entries.flatten() {
        let pin = entry.file_name().to_string_lossy().into_owned();
        // How a pin's directory spells a name that a BPF file system does not take.
        let interface = pin.replace("__", "\0").replace("_d", ".").replace('\0', "_");
        let here = ports.run(|| Interface::read(&interface));
        if matches!(here, Ok(Err(OpenError::NoSuchInterface(_))))
            && matches!(Interface::read(&interface), Err(OpenError::NoSuchInterface(_)))
            && let Err(error) = forget_pins(pins, &interface)
        {
            tracing::warn!(interface, %error, "cannot remove old pins");
        }
    }
}
