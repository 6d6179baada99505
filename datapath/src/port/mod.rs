//! Ports: where frames come from and go to.
//!
//! A port is a device with one queue for each worker; worker `w` owns queue `w` of every port, so
//! nothing on the packet path is shared between cores. Each kind of port has its folder or file:
//!
//! * [`af_xdp`]: the host end of a Pod's veth, and the node's uplink beside the kernel.
//! * [`tap`]: `seine-gw0`, the node's own leg, with a virtio-net header.
//! * [`vhost_user`]: virtual machines, and Pods with a driver of their own in user space.
//! * [`memory`], [`pcap`]: tests, replay, benchmarks.

pub mod af_xdp;
mod interface;
pub mod memory;
mod open;
pub mod pcap;
pub mod tap;
pub mod vhost_user;
mod virtio_net;

pub use interface::Interface;
pub use open::{AttachMode, OpenError, PortFacts};
pub use vhost_user::GuestFault;

use std::io;
use std::os::fd::RawFd;

use crate::frame::{Batch, FrameCache};
use crate::segment::Segmentation;

/// One queue of a port. Its worker owns it, so nothing here locks; nothing here blocks.
pub trait Queue: Send {
    /// Appends received frames to `batch` until it is full. Zero frames is a normal answer.
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch);

    /// Takes frames from the front of `batch`, in order. What the device has no room for stays
    /// there; what it refuses for good is freed and counted in [`QueueStats::refused`].
    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch);

    /// Collects finished frames and wakes the kernel, if it asked to be woken. Called once after
    /// the transmits of a round, and only when there were any or some are still under way.
    fn flush(&mut self, frames: &mut FrameCache);

    /// Whether `transmit` takes frames with a partial checksum. If not, the worker completes it.
    fn takes_partial_checksum(&self) -> bool;

    /// Whether `transmit` copies packets itself: of many bytes, the sooner the better.
    fn copies(&self) -> bool {
        false
    }

    /// Whether `transmit` takes such a packet whole, as the [chain](crate::frame) that it is. If
    /// not, the worker cuts it. Takes partial checksums, if it does.
    fn takes_segments(&self, _said: Segmentation) -> bool {
        false
    }

    /// A descriptor that polls readable when `receive` would find something, for a worker at rest.
    /// `None` for a port that must be polled.
    fn wake_source(&self) -> Option<RawFd>;

    /// What it counted since it was opened. May make a system call: for once a second, or when
    /// asked, never per packet.
    fn stats(&self) -> QueueStats;

    /// Why it neither receives nor transmits any more, if so. It still has to be closed, for the
    /// frames it holds. A device that vanished while idle is noticed by [`stats`](Self::stats).
    fn fault(&self) -> Option<QueueFault> {
        None
    }

    /// Makes it ready to be used by another thread, after a flush. What cannot be stays with its
    /// thread, and works there as before.
    fn uproot(&mut self, _frames: &mut FrameCache) -> io::Result<()> {
        Ok(())
    }

    /// Closes the queue: every frame it still holds goes back.
    fn close(self: Box<Self>, frames: &mut FrameCache);
}

/// Why an open queue stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// The device is gone.
    #[error("interface `{0}` was removed; close the port and open it again when it is back")]
    DeviceGone(String),
    /// The kernel broke the rules of a ring, or refused a descriptor that was checked: what it
    /// says about frames can no longer be believed.
    #[error("kernel and queue {queue} of `{interface}` disagree: {what}; reopen the port")]
    Desynchronised {
        /// The interface.
        interface: String,
        /// Its queue.
        queue: u32,
        /// What was seen.
        what: &'static str,
    },
    /// A capture file broke.
    #[error("capture file `{file}`: {reason}")]
    Capture {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A guest broke the rules of its rings or of its memory.
    #[error("the guest at `{socket}`: {fault}; its port is down until it is opened again")]
    Guest {
        /// The socket of its port.
        socket: String,
        /// What it did.
        fault: GuestFault,
    },
    /// Reading or writing the device failed in a way that does not pass.
    #[error("input or output on `{interface}` failed with errno {errno}; reopen the port")]
    Device {
        /// The interface, or the file.
        interface: String,
        /// What the kernel said.
        errno: i32,
    },
}

/// What a queue counts itself; packets and bytes are counted by the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// System calls made.
    pub system_calls: u64,
    /// Frames that the device refused for good.
    pub refused: u64,
    /// Frames whose sender described them as they are not: cut short, too long, or a checksum
    /// outside of them.
    pub malformed: u64,
    /// Packets that their sender wants cut as they cannot be.
    pub bad_segmentation: u64,
    /// Frames that the device dropped because no buffer was posted, its ring was full, or there
    /// were too few frames for a packet in segments.
    pub device_drops: u64,
}
