//! Where ports come from: the one seam between the process and the machine's network devices.
//!
//! The process opens and closes devices through [`Devices`]; on a node that is
//! [`NodeDevices`](crate::node_devices::NodeDevices), in tests it is memory.

use std::net::SocketAddr;
use std::path::Path;

use seine_pipeline::address::{Mac, PortKind};

use crate::port::af_xdp::LoanOptions;
use crate::port::vhost_user::{Mode, SocketOwner};
use crate::port::{OpenError, Queue};

/// A device that is open: one queue for each worker.
pub struct OpenDevice {
    /// The name of the interface.
    pub interface: String,
    /// Its own MAC address.
    pub mac: Mac,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// One queue for each worker, in the order of the workers.
    pub queues: Vec<Box<dyn Queue>>,
}

/// What a Pod's port is opened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodDevice {
    /// The host end of its veth, in the ports namespace.
    Link(String),
    /// A guest with a driver in its own memory.
    VhostUser {
        /// The socket, by which it is named.
        socket: String,
        /// Who listens at it.
        mode: Mode,
        /// Whose it is, where we listen.
        owner: SocketOwner,
        /// Pairs of rings that the guest may have.
        pairs: usize,
        /// Bytes, without the Ethernet header.
        mtu: usize,
    },
}

impl PodDevice {
    /// What it is called: its interface, or its socket.
    pub fn name(&self) -> &str {
        match self {
            PodDevice::Link(interface) => interface,
            PodDevice::VhostUser { socket, .. } => socket,
        }
    }
}

/// Why a device cannot be opened or steered; the message names the device and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The uplink does not take the claims.
    #[error("cannot claim tunnelled packets on `{interface}`: {source}")]
    Claim {
        /// The uplink.
        interface: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Which traffic of the uplink is the datapath's; all else stays the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// UDP to this address, the node's own on the underlay, and the tunnel's port; none claims
    /// nothing.
    pub tunnel: Option<SocketAddr>,
}

/// The machine's devices.
pub trait Devices: Send + Sync {
    /// Where host ends of Pod links are looked for: "/run/netns/seine-ports".
    fn ports_namespace(&self) -> String;

    /// Opens a Pod's device.
    fn open_pod(&mut self, device: &PodDevice) -> Result<OpenDevice, DeviceError>;

    /// Offers the Pod behind an open link sockets on its own end. The same once more leaves what
    /// is lent alone; anything else takes the place of the offer before.
    fn lend(&mut self, interface: &str, loan: &LoanOptions) -> Result<(), DeviceError>;

    /// Where the Pod behind a link takes them, if they are offered.
    fn lends_at(&self, interface: &str) -> Option<&Path>;

    /// Forgets a Pod's device, after its queues were closed. A link stays in a namespace that
    /// forwards nothing, until it is deleted; a socket goes.
    fn close_pod(&mut self, interface: &str);

    /// How the device is attached now, read from the kernel: "native", or empty; of a vhost-user
    /// port whether its front end is "connected" or we are "waiting" for it.
    fn attach_mode(&self, interface: &str, kind: PortKind) -> String;

    /// Says whether workers never rest, for devices that open from now on.
    fn set_polled(&mut self, _polled: bool) {}

    /// Says what the uplink takes from the kernel.
    fn claim(&mut self, claims: Claims) -> Result<(), DeviceError>;
}
