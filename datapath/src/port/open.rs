//! What opening a port gives, and why it may give nothing.

use std::io;
use std::path::PathBuf;

use seine_pipeline::address::Mac;

use crate::netns::NamespaceError;

/// How an XDP program is attached: read back from the kernel, not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver: the fast one, and the only one that Seine attaches in.
    Native,
    /// In the stack, on a socket buffer that was already made.
    Generic,
    /// In the network card.
    Offloaded,
    /// Nothing is attached: a port that has no XDP program, a tap for one.
    None,
}

impl AttachMode {
    /// The word for it in the API and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
            AttachMode::Offloaded => "offloaded",
            AttachMode::None => "none",
        }
    }
}

/// What is known of a device once its port is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Index of the interface in its namespace.
    pub index: u32,
    /// Its own address, at our end of the link.
    pub mac: Mac,
    /// Bytes, without the Ethernet header.
    pub mtu: usize,
    /// How its XDP program is attached.
    pub attach_mode: AttachMode,
    /// Whether `transmit` takes frames with a partial checksum.
    pub partial_checksum: bool,
}

/// Why a port did not open. Nothing of it is left behind on the node, but an XDP program that was
/// pinned before and keeps dropping.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such interface.
    #[error("no interface `{0}` in this network namespace")]
    NoSuchInterface(String),
    /// The kernel could not be asked about the interface, or its answer was no Ethernet device.
    #[error("reading interface `{interface}` failed: {source}")]
    ReadInterface {
        /// The interface.
        interface: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A queue is in use.
    #[error("queue {queue} of `{interface}` already has an AF_XDP socket; end its owner")]
    QueueTaken {
        /// The interface.
        interface: String,
        /// Its queue.
        queue: u32,
    },
    /// The device is open, by another process or with other flags.
    #[error(
        "`{interface}` is taken, or is not a tap that fits: {source}; end its owner, or `ip link \
         delete {interface}`"
    )]
    DeviceTaken {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another XDP program is attached.
    #[error(
        "`{interface}` already has an XDP program; `ip link set {interface} xdp off`, or end its \
         owner"
    )]
    ProgramTaken {
        /// The interface.
        interface: String,
    },
    /// Fewer queues than workers.
    #[error(
        "`{interface}` has {have} queues and {want} workers want one each; make it with \
         numrxqueues and numtxqueues {want}, or `ethtool -L`"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Queues it has.
        have: usize,
        /// Queues wanted.
        want: usize,
    },
    /// More queues than workers: what arrives on the others would be lost.
    #[error(
        "`{interface}` has {have} queues and only {want} workers, so {want} could be served; set \
         that with `ethtool -L`"
    )]
    TooManyQueues {
        /// The interface.
        interface: String,
        /// Queues it has.
        have: usize,
        /// Queues wanted.
        want: usize,
    },
    /// The driver takes no XDP program.
    #[error("the driver of `{interface}` does not take an XDP program in native mode: {source}")]
    NotNative {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is attached elsewhere or otherwise than asked.
    #[error("`{interface}` shows XDP program {found} in {mode} mode, not {wanted} in native mode")]
    NotAttached {
        /// The interface.
        interface: String,
        /// The program that the interface shows; 0 for none.
        found: u32,
        /// How.
        mode: &'static str,
        /// The program that was attached.
        wanted: u32,
    },
    /// A frame cannot hold a packet of this size.
    #[error(
        "MTU {mtu} of `{interface}` does not fit a frame: at most {mtu_max} (frames of \
         {frame_bytes} bytes, {headroom} of them headroom)"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: usize,
        /// The largest that fits.
        mtu_max: usize,
        /// Bytes of a frame.
        frame_bytes: usize,
        /// Bytes of it that packets leave free.
        headroom: usize,
    },
    /// The kernel would not lock the frames, or would not let more sockets share them.
    #[error(
        "cannot lock {bytes} bytes for frames: {source}; raise the memlock limit, or give \
         CAP_IPC_LOCK"
    )]
    FrameMemory {
        /// Bytes.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// No frame is left to give to the queue.
    #[error("no frames are left for `{interface}`; raise `frames.count`")]
    NoFrames {
        /// The interface.
        interface: String,
    },
    /// A right is missing.
    #[error("{action} takes the right {capability}; give it to seine-datapath")]
    NoRight {
        /// What was tried.
        action: &'static str,
        /// The capability.
        capability: &'static str,
    },
    /// The kernel refused the program.
    #[error("the kernel refused the XDP program {program}: {source}\n{log}")]
    Bpf {
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// The verifier's last words.
        log: String,
    },
    /// The pins are not in a BPF file system.
    #[error("`{}` is not in a BPF file system; mount one there (type bpf)", .0.display())]
    NotBpfFileSystem(PathBuf),
    /// A call for which there is no better name failed.
    #[error("{action} for `{interface}` failed: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket cannot be had.
    #[error("cannot listen at `{}`: {source}; its directory must be there and writable", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens there.
    #[error("somebody listens at `{}` already; end its owner", .0.display())]
    SocketTaken(PathBuf),
    /// The path of a namespace has come to name another one.
    #[error("`{}` is not the network namespace any more that it was", .0.display())]
    OtherNamespace(PathBuf),
    /// The namespace of the interface.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A capture file.
    #[error("capture file `{}`: {reason}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl OpenError {
    /// For a call that failed: missing rights get their own name.
    pub(super) fn kernel(
        action: &'static str,
        capability: &'static str,
        interface: &str,
        source: io::Error,
    ) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::NoRight { action, capability },
            _ => OpenError::Kernel { action, interface: interface.to_owned(), source },
        }
    }
}
