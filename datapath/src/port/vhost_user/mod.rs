//! vhost-user ports: virtual machines, and Pods with a driver of their own in user space.
//!
//! The guest's memory is mapped here, and its rings are worked on in place: a copy in and a copy
//! out, no system call while both sides poll. rust-vmm's `vhost` speaks the protocol, on a thread
//! of the port's own; the rings are ours.
//!
//! ```text
//!  front end --socket--> control: device   describes rings and memory
//!                            |  exchange    takes a lane from its worker, gives it back
//!  guest --rings, memory--> queue: lane    copies packets
//! ```
//!
//! The guest is not trusted: see [`fault`](GuestFault) for what it may do to its own port, and
//! decision 0029 for what it may not do to others. What is not there: UDP in segments, live
//! migration.

#![allow(unsafe_code, reason = "maps and copies a guest's memory; eventfds that it holds, too")]

mod control;
mod copy;
mod device;
mod early;
mod events;
mod fault;
mod features;
mod guard;
mod inflight;
mod lane;
#[cfg(test)]
mod lane_tests;
mod memory;
mod packed;
mod queue;
mod ring;
mod shared;
mod split;

use std::path::Path;
use std::sync::Arc;

use seine_pipeline::address::Mac;

pub use control::Control;
pub use fault::GuestFault;
pub use shared::QUEUE_PAIRS_MAX;

use self::queue::VhostUserQueue;
use self::shared::Shared;
use super::Queue;
use super::open::{AttachMode, OpenError, PortFacts};
use crate::frame::{HEADROOM, Region};

const ETHERNET_BYTES: usize = 14;

/// Who listens at the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We do, and front ends connect.
    Server,
    /// The front end does, and we connect, again and again.
    Client,
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwner {
    /// User id; 0 is root.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct VhostUserOptions<'a> {
    /// The socket.
    pub socket: &'a Path,
    /// Who listens at it.
    pub mode: Mode,
    /// Whose the socket is that we listen at: nobody else but root may connect.
    pub owner: SocketOwner,
    /// Pairs of rings that the guest may have, from 1 to [`QUEUE_PAIRS_MAX`].
    pub pairs: usize,
    /// Queues: as many as workers. The guest may have more or fewer pairs of rings.
    pub queues: usize,
    /// Bytes of the largest packet either way, without the Ethernet header.
    pub mtu: usize,
    /// The MAC address of our end.
    pub mac: Mac,
    /// Whether workers poll without rest: guests then need not kick.
    pub polled: bool,
}

/// An open port.
pub struct VhostUserPort {
    /// What is known of it.
    pub facts: PortFacts,
    /// Its queues, in order.
    pub queues: Vec<Box<dyn Queue>>,
    /// Its control thread: to be dropped after the queues are closed.
    pub control: Control,
}

/// Opens a port. It is there at once; a guest may come later, go, and come back.
pub fn open(
    region: &'static Region,
    options: VhostUserOptions<'_>,
) -> Result<VhostUserPort, OpenError> {
    let socket = options.socket.display().to_string();
    let mtu_max = region.frame_bytes() - HEADROOM - ETHERNET_BYTES;
    if options.mtu > mtu_max {
        return Err(OpenError::MtuTooLarge {
            interface: socket,
            mtu: options.mtu,
            mtu_max,
            frame_bytes: region.frame_bytes(),
            headroom: HEADROOM,
        });
    }
    let packet_bytes_max = options.mtu + ETHERNET_BYTES;
    let shared = Shared::new(socket.clone(), options.queues, options.polled, packet_bytes_max)
        .map_err(|source| OpenError::Kernel {
            action: "making descriptors to wake workers",
            interface: socket,
            source,
        })?;
    let shared = Arc::new(shared);
    let control = control::start(shared.clone(), &options)?;
    let queue = |worker| {
        let queue: Box<dyn Queue> = Box::new(VhostUserQueue::new(shared.clone(), worker));
        queue
    };
    let facts = PortFacts {
        index: 0,
        mac: options.mac,
        mtu: options.mtu,
        attach_mode: AttachMode::None,
        partial_checksum: true,
    };
    Ok(VhostUserPort { facts, queues: (0..options.queues).map(queue).collect(), control })
}
