//! What a Pod's port is on, as the record has it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::SocketMode;

/// What a Pod's port is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Device {
    /// A pair of interfaces, one of them in the Pod.
    #[default]
    Veth,
    /// A pair of interfaces, and sockets on the one in the Pod that are lent to it.
    AfXdp(LentSockets),
    /// A driver in user space.
    VhostUser(VhostUser),
}

/// AF_XDP sockets for a Pod, and where it takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentSockets {
    /// The unix socket.
    pub socket: PathBuf,
    /// How many there are.
    pub queues: u32,
    /// Whose the unix socket is.
    pub user: u32,
    /// And of which group.
    pub group: u32,
}

/// A driver in user space, and where it is met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostUser {
    /// The unix socket.
    pub socket: PathBuf,
    /// Who listens at it.
    pub mode: SocketMode,
    /// Pairs of rings that the driver may have.
    pub queues: u32,
    /// Whose the socket is.
    pub user: u32,
    /// And of which group.
    pub group: u32,
}
