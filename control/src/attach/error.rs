//! Why a Pod was not attached, with the code and the advice that CNI wants.

use std::path::PathBuf;

use ipnet::IpNet;
use seine_cni::Code;

use crate::attachments::{AttachmentKey, RecordError};
use crate::datapath_session::SessionError;
use crate::ipam::LeaseError;
use crate::model::PortRequestError;
use crate::namespace::NamespaceError;
use crate::netlink::NetlinkError;

/// Why an attachment was not made, removed or found as expected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface name cannot be one.
    #[error("`{0}` cannot be the name of an interface")]
    InterfaceName(String),
    /// The datapath is not connected.
    #[error("seine-datapath is not connected: {0}")]
    DatapathAway(String),
    /// Soon perhaps.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The Pod's namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The Pod's namespace is the node's.
    #[error("`{0}` is the node's own network namespace")]
    OwnNamespace(PathBuf),
    /// Attached already.
    #[error("{0} is attached already")]
    Exists(AttachmentKey),
    /// An interface that we did not make has that name.
    #[error("the namespace already has an interface `{0}`")]
    InterfaceExists(String),
    /// Two attachments would have one port name.
    #[error("the port name {0} belongs to another attachment")]
    NameTaken(String),
    /// No address.
    #[error("no address is left in the Pod range {0}")]
    Exhausted(IpNet),
    /// The record of attachments.
    #[error(transparent)]
    Record(RecordError),
    /// The kernel refused a step.
    #[error("{}", .0.with_reason())]
    Kernel(#[from] NetlinkError),
    /// A setting of the Pod's namespace could not be written.
    #[error("cannot write `{value}` to {path}: {source}")]
    Setting {
        /// Which one.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The Pod asks for a port that cannot be.
    #[error(transparent)]
    PortRequest(#[from] PortRequestError),
    /// A UID that cannot be a part of a path.
    #[error("the Pod's UID `{0}` is not 1 to 64 letters, digits and `-`")]
    PodUid(String),
    /// No unix socket can have such a path.
    #[error("the socket `{}` would have a path of {bytes} bytes, and {max} is the most", .path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The most that fits.
        max: usize,
    },
    /// Another attachment has the Pod's folder.
    #[error("the socket `{}` belongs to another attachment", .0.display())]
    SocketTaken(PathBuf),
    /// Somebody else could change what is in it.
    #[error("`{}` is not ours alone: it must belong to our user, writable by nobody else", .0.display())]
    NotOurs(PathBuf),
    /// A folder of a socket.
    #[error("cannot {action} `{}`: {source}", .path.display())]
    Folder {
        /// "make", "remove".
        action: &'static str,
        /// What.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The datapath refused.
    #[error("{0}")]
    Datapath(SessionError),
    /// A CHECK found a difference.
    #[error("{0}")]
    Differs(String),
}

impl From<RecordError> for AttachError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Lease(LeaseError::Exhausted(range)) => Self::Exhausted(range),
            RecordError::NoRange => Self::NotReady(error.to_string()),
            error => Self::Record(error),
        }
    }
}

impl From<SessionError> for AttachError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Away(reason) => Self::DatapathAway(reason),
            SessionError::Busy => Self::NotReady(error.to_string()),
            // Another agent has taken the session over, or the datapath has just restarted.
            SessionError::Refused { code: tonic::Code::FailedPrecondition, .. } => {
                Self::NotReady(error.to_string())
            }
            error => Self::Datapath(error),
        }
    }
}

impl AttachError {
    /// The code in an answer to ADD, DEL and CHECK.
    pub fn code(&self) -> Code {
        match self {
            Self::InterfaceName(_) => Code::InvalidEnvironment,
            Self::Namespace(NamespaceError::Missing(_) | NamespaceError::NotANamespace(_))
            | Self::OwnNamespace(_) => Code::InvalidNamespace,
            Self::DatapathAway(_) | Self::NotReady(_) => Code::TryAgainLater,
            Self::Exhausted(_) => Code::NoAddressLeft,
            Self::Exists(_) | Self::InterfaceExists(_) => Code::InterfaceTaken,
            Self::NameTaken(_) | Self::SocketTaken(_) => Code::PortNameTaken,
            Self::PortRequest(_) | Self::PodUid(_) | Self::SocketPath { .. } => Code::PortRefused,
            Self::Record(_) => Code::RecordFailed,
            Self::Kernel(_)
            | Self::Setting { .. }
            | Self::Namespace(_)
            | Self::NotOurs(_)
            | Self::Folder { .. } => Code::KernelRefused,
            Self::Datapath(_) => Code::DatapathRefused,
            Self::Differs(_) => Code::CheckFailed,
        }
    }

    /// The code in an answer to STATUS: 51 when running Pods are affected as well.
    pub fn status_code(&self) -> Code {
        match self {
            Self::DatapathAway(_) => Code::NotAvailableLimited,
            _ => Code::NotAvailable,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::InterfaceName(_) => "CNI_IFNAME: at most 15 bytes without `/`, `:` and spaces",
            Self::DatapathAway(_) => "start seine-datapath, or wait until it has restarted",
            Self::NotReady(_) => "try again later; the log of seine-agent says what it waits for",
            Self::Namespace(_) => "CNI_NETNS must be the path of the container's namespace",
            Self::OwnNamespace(_) => "give the container a network namespace of its own",
            Self::Exists(_) | Self::InterfaceExists(_) => "DEL the attachment before adding again",
            Self::NameTaken(_) => "DEL the other attachment, or use another container id",
            Self::Exhausted(_) => "delete Pods of this node, or give the Node a larger podCIDR",
            Self::Record(_) => "see the state_dir of seine-agent: is its disk full or read-only?",
            Self::PortRequest(_) => "change the Pod's annotation, or take it away",
            Self::PodUid(_) => "the runtime gives it in CNI_ARGS as K8S_POD_UID",
            Self::SocketPath { .. } => "set a shorter vhostUser.socketDir for seine-agent",
            Self::SocketTaken(_) => "wait until the Pod's former sandbox has had its DEL",
            Self::NotOurs(_) => "give seine-agent a vhostUser.socketDir of its own",
            Self::Folder { .. } => "see vhostUser.socketDir of seine-agent: is it writable?",
            Self::Kernel(_) | Self::Setting { .. } => "see the log of seine-agent",
            Self::Datapath(_) => "see the log of seine-datapath",
            Self::Differs(_) => "delete the Pod; its next ADD makes everything anew",
        }
    }
}
