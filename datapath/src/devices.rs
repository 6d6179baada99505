//! Where ports come from: the one seam between the process and the machine's network devices.
//!
//! The process opens and closes devices through [`Devices`]; on a node that is the kernel's veths,
//! uplink and tap, in tests it is memory.

use std::net::IpAddr;

use seine_pipeline::address::Mac;

use crate::port::Queue;

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

/// Why a device cannot be opened or steered; the message names the device and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such interface.
    #[error("no interface `{interface}` in {place}")]
    NoSuchInterface {
        /// The interface.
        interface: String,
        /// The network namespace that was looked into.
        place: String,
    },
    /// Somebody else has it.
    #[error("`{interface}` is taken: {reason}")]
    Taken {
        /// The interface.
        interface: String,
        /// By whom, as far as known.
        reason: String,
    },
    /// Anything else that the kernel refused.
    #[error("cannot use `{interface}`")]
    Refused {
        /// The interface.
        interface: String,
        /// What the backend said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Traffic that the uplink takes from the kernel: Geneve from these hosts to this address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The node's own address on the underlay; none claims nothing.
    pub tunnel_address: Option<IpAddr>,
}

/// The machine's devices.
pub trait Devices: Send + Sync {
    /// Where host ends of Pod links are looked for: "/run/netns/seine-ports".
    fn ports_namespace(&self) -> String;

    /// Opens the host end of a Pod's link.
    fn open_pod(&mut self, port: &str, interface: &str) -> Result<OpenDevice, DeviceError>;

    /// Forgets a Pod's device, after its queues were closed. The next packet from it is dropped
    /// in the kernel, or the device is gone.
    fn close_pod(&mut self, port: &str);

    /// How the device is attached now, read from the kernel: "native", or empty.
    fn attach_mode(&self, interface: &str, kind: seine_pipeline::address::PortKind) -> String;

    /// Says what the uplink takes from the kernel.
    fn claim(&mut self, claims: &Claims) -> Result<(), DeviceError>;
}
