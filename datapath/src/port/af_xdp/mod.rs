//! AF_XDP ports: the host end of a Pod's veth, and the node's uplink beside the kernel.
//!
//! ```text
//!  FrameMemory   the region, registered once on an anchor socket that is never closed
//!  open          interface -> program attached and pinned -> one socket a queue -> queues
//!    Attachment  the program and its maps: outlives the process by its pins
//!    AfXdpQueue  a socket's four rings, owned by one worker
//! ```
//!
//! An own module, because xsk-rs offers neither transmit metadata (checksums) nor flags of the
//! frame memory, and swallows the EAGAIN that says "kick again".
//!
//! Always native and copying: a veth has no zero-copy, and sockets that share frame memory share
//! its mode. One frame holds a packet; larger ones are the kernel's drops. A copying socket
//! receives without ever needing a wake-up; only transmitting takes system calls.

#![allow(unsafe_code, reason = "the rings and bpf(2) are shared with the kernel")]

mod attach;
mod bpf;
mod checksum;
mod frame_set;
mod loan;
mod pod_program;
mod program;
mod queue;
mod ring;
mod socket;

use std::path::Path;

use seine_pipeline::address::PortKind;

pub use attach::{Attachment, CLAIMS_MAX, Claim, forget_pins, is_pinned, mount_pins};
pub use loan::{Loan, LoanOptions};
use queue::AfXdpQueue;
pub use socket::FrameMemory;
use socket::Socket;

use super::Queue;
use super::interface::Interface;
use super::open::{OpenError, PortFacts};
use crate::frame::{FrameCache, HEADROOM};
use crate::netns::Namespace;

/// Entries of each of a queue's rings: the most frames it can hold in one direction. With 2048 a
/// worker may miss a time slice of 4 ms at 500,000 packets a second. Two rings cost the kernel 16
/// bytes an entry, two cost 8: 96 KiB a queue.
const RING_ENTRIES: u32 = 2048;

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct AfXdpOptions<'a> {
    /// The interface.
    pub interface: &'a str,
    /// The namespace it is in.
    pub namespace: &'a Namespace,
    /// Queues: as many as workers, and as the interface has.
    pub queues: usize,
    /// Directory for pins, in a BPF file system (see [`mount_pins`]).
    pub pins: &'a Path,
    /// A Pod's port takes all that arrives and believes partial checksums; the uplink takes what
    /// is claimed, and believes none.
    pub kind: PortKind,
}

/// An open port.
pub struct AfXdpPort {
    /// What is known of the interface.
    pub facts: PortFacts,
    /// Its queues, in order.
    pub queues: Vec<Box<dyn Queue>>,
    /// Its program.
    pub attachment: Attachment,
}

/// Opens a port. The program is attached first, and drops until the sockets are there.
pub fn open(memory: &FrameMemory, options: AfXdpOptions<'_>) -> Result<AfXdpPort, OpenError> {
    options.namespace.run(|| open_here(memory, options))?
}

fn open_here(memory: &FrameMemory, options: AfXdpOptions<'_>) -> Result<AfXdpPort, OpenError> {
    let interface = Interface::read(options.interface)?;
    check(&interface, memory, options.queues)?;
    let attachment = Attachment::open(&interface, options.pins, options.kind)?;
    // Read again, for how it is attached now.
    let opened = Interface::read(options.interface).and_then(|interface| {
        let queues = open_queues(memory, &attachment, &interface, options)?;
        Ok((interface, queues))
    });
    let (interface, queues) = opened.inspect_err(|_| attachment.give_up())?;
    let facts = PortFacts {
        index: interface.index,
        mac: interface.mac,
        mtu: interface.mtu,
        attach_mode: interface.attach_mode,
        partial_checksum: queues.iter().all(|queue| queue.takes_partial_checksum()),
    };
    Ok(AfXdpPort { facts, queues, attachment })
}

/// What must hold before anything is changed.
fn check(interface: &Interface, memory: &FrameMemory, want: usize) -> Result<(), OpenError> {
    let (have, name) = (interface.queues, interface.name.clone());
    if have < want {
        return Err(OpenError::TooFewQueues { interface: name, have, want });
    }
    if have > want {
        return Err(OpenError::TooManyQueues { interface: name, have, want });
    }
    // With room for the Ethernet header and one VLAN tag.
    let frame_bytes = memory.region().frame_bytes();
    let mtu_max = frame_bytes - HEADROOM - 18;
    if interface.mtu > mtu_max {
        let (mtu, headroom) = (interface.mtu, HEADROOM);
        return Err(OpenError::MtuTooLarge {
            interface: name,
            mtu,
            mtu_max,
            frame_bytes,
            headroom,
        });
    }
    Ok(())
}

fn open_queues(
    memory: &FrameMemory,
    attachment: &Attachment,
    interface: &Interface,
    options: AfXdpOptions<'_>,
) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    let mut frames = FrameCache::new(memory.region());
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(options.queues);
    for number in 0..options.queues as u32 {
        match open_queue(memory, attachment, interface, (number, options.kind), &mut frames) {
            Ok(queue) => queues.push(queue),
            Err(error) => {
                queues.into_iter().for_each(|queue| queue.close(&mut frames));
                return Err(error);
            }
        }
    }
    Ok(queues)
}

fn open_queue(
    memory: &FrameMemory,
    attachment: &Attachment,
    interface: &Interface,
    (number, kind): (u32, PortKind),
    frames: &mut FrameCache,
) -> Result<Box<dyn Queue>, OpenError> {
    let name = &interface.name;
    let socket = Socket::open(memory, name, interface.index, number, RING_ENTRIES)?;
    let connected = attachment.connect(number, std::os::fd::AsRawFd::as_raw_fd(&socket));
    let mut queue = Box::new(AfXdpQueue::new(socket, memory, (name, number), kind, interface.mtu));
    queue.fill(frames);
    let filled = queue.is_filled();
    let result = match connected {
        Err(source) => {
            let action = "entering a socket into the map";
            Err(OpenError::kernel(action, "CAP_NET_ADMIN", name, source))
        }
        Ok(()) if !filled => Err(OpenError::NoFrames { interface: name.clone() }),
        Ok(()) => return Ok(queue),
    };
    queue.close(frames);
    result
}
