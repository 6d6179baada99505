//! One queue of an AF_XDP port: moves frames between the worker and the rings.
//!
//! The queue keeps a set of the frames that the kernel holds. What a ring returns is believed only
//! if it is in the set, so a frame cannot be freed twice: the kernel does complete a descriptor
//! with bad metadata again and again (it answers EINVAL and leaves it in the ring). Descriptors are
//! checked before they are posted; should EINVAL come all the same, the queue stops with a
//! [`QueueFault`], and closing it gives every frame back once.
//!
//! An idle queue holds [`FILL_MIN`] frames. When half of what it posted comes back at once the
//! level doubles, up to the ring, as long as a quarter of all frames is free. After many rounds of
//! light traffic it halves again; the frames posted above it return with the packets that fill
//! them, for a fill ring cannot be taken back. So a port that goes silent after a burst keeps what
//! it had grown to.
//!
//! A frame that was sent comes back when the receiver is done with it, and a Pod can put that off
//! for as long as it likes. So when few frames are left, a queue sends no more than
//! [`SENDING_MIN`] at once: Pods that hoard cannot take the last ones.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};

use seine_pipeline::address::PortKind;
use seine_pipeline::packet::Checksum;

use super::checksum;
use super::frame_set::FrameSet;
use super::socket::{FrameMemory, METADATA_BYTES, Socket};
use crate::frame::{Batch, Frame, FrameCache, HEADROOM, Region};
use crate::port::{Queue, QueueFault, QueueStats};

/// Frames that an idle queue holds: three initial windows of TCP, and little enough for hundreds of
/// Pods to be idle.
const FILL_MIN: u32 = 32;

/// Rounds of light traffic in a row after which the level halves. Rounds without any do not count:
/// nothing comes back in them.
const CALM_ROUNDS: u32 = 4096;

/// Frames that a queue may be sending however few are left: two batches.
const SENDING_MIN: u32 = 128;

/// System calls that one flush makes at most: where the kernel stops after 32 descriptors, a ring
/// of 2048 takes 64.
const KICKS_MAX: u32 = 64;

/// Bytes of an Ethernet header, the least that a device takes.
const ETHERNET_BYTES: usize = 14;

const XDP_TX_METADATA: u32 = libc::XDP_TX_METADATA;
const METADATA_CHECKSUM: u64 = libc::XDP_TXMD_FLAGS_CHECKSUM as u64;

/// A queue of an AF_XDP port.
pub(super) struct AfXdpQueue {
    socket: Socket,
    region: &'static Region,
    interface: String,
    queue: u32,
    /// Frames in the fill or the receive ring, or between them.
    receiving: FrameSet,
    /// Frames in the transmit or the completion ring, or between them.
    sending: FrameSet,
    fill_level: u32,
    calm_rounds: u32,
    /// Whether the sender is a local kernel, whose unfinished checksums are recognised.
    local_sender: bool,
    partial_checksum: bool,
    frame_bytes_max: usize,
    /// Found by `stats` too, which has no exclusive access.
    fault: RefCell<Option<QueueFault>>,
    system_calls: u64,
    refused: u64,
    unsent: u64,
}

impl AfXdpQueue {
    pub fn new(
        socket: Socket,
        memory: &FrameMemory,
        (interface, queue): (&str, u32),
        kind: PortKind,
        mtu: usize,
    ) -> AfXdpQueue {
        let region = memory.region();
        let local = kind == PortKind::Pod;
        AfXdpQueue {
            socket,
            region,
            interface: interface.to_owned(),
            queue,
            receiving: FrameSet::new(region.frames()),
            sending: FrameSet::new(region.frames()),
            fill_level: FILL_MIN,
            calm_rounds: 0,
            local_sender: local,
            partial_checksum: local && memory.metadata(),
            // With room for one VLAN tag.
            frame_bytes_max: mtu + ETHERNET_BYTES + 4,
            fault: RefCell::new(None),
            system_calls: 0,
            refused: 0,
            unsent: 0,
        }
    }

    /// Posts frames up to the level. Without frames it posts none, and the device drops.
    pub fn fill(&mut self, frames: &mut FrameCache) {
        let missing = self.fill_level.saturating_sub(self.receiving.len());
        let room = self.socket.fill.room(missing).min(missing);
        for _ in 0..room {
            let Some(frame) = frames.allocate() else { break };
            let offset = frame.offset();
            self.receiving.insert(frame.release());
            self.socket.fill.push(offset);
        }
        if room > 0 {
            self.socket.fill.publish();
        }
    }

    /// Whether the kernel holds any frame for packets to come.
    pub fn is_filled(&self) -> bool {
        !self.receiving.is_empty()
    }

    fn stop(&self, fault: QueueFault) {
        // The first fault is the cause of those after it.
        self.fault.borrow_mut().get_or_insert(fault);
    }

    fn desynchronised(&self, what: &'static str) {
        let interface = self.interface.clone();
        self.stop(QueueFault::Desynchronised { interface, queue: self.queue, what });
    }

    fn stopped(&mut self) -> bool {
        self.fault.get_mut().is_some()
    }

    /// Raises or lowers the level by how much of it came back at once.
    fn adjust_level(&mut self, returned: u32) {
        if returned == 0 {
            return;
        }
        if returned >= self.fill_level / 2 {
            self.calm_rounds = 0;
            let plenty = self.region.free_frames() > self.region.frames() / 4;
            if self.fill_level < self.socket.fill.entries() && plenty {
                self.fill_level *= 2;
            }
        } else if returned >= self.fill_level / 8 {
            self.calm_rounds = 0;
        } else {
            self.calm_rounds += 1;
            if self.calm_rounds == CALM_ROUNDS {
                self.calm_rounds = 0;
                self.fill_level = (self.fill_level / 2).max(FILL_MIN);
            }
        }
    }

    /// Frames that may be posted for sending: any number, until seven eighths of all are in use.
    fn sending_room(&self) -> u32 {
        if self.region.free_frames() > self.region.frames() / 8 {
            return u32::MAX;
        }
        SENDING_MIN.saturating_sub(self.sending.len())
    }

    /// Takes back the frames that were sent.
    fn reap(&mut self, frames: &mut FrameCache) {
        if self.sending.is_empty() || self.socket.completion.available() == 0 {
            return;
        }
        while let Some(address) = self.socket.completion.pop() {
            let (index, _) = self.locate(address);
            if !self.sending.remove(index) {
                self.desynchronised("a frame was completed that was not being sent");
                break;
            }
            // SAFETY: `sending` held the index, so it came from `release` when the frame was
            // posted, and it left the set just now: no other frame was made of it.
            let frame = unsafe { self.region.claim(index, HEADROOM, 0, Checksum::Complete) };
            frames.free(frame);
        }
        self.socket.completion.release();
    }

    /// The frame that an address lies in, and where.
    fn locate(&self, address: u64) -> (u32, usize) {
        let bytes = self.region.frame_bytes() as u64;
        ((address / bytes) as u32, (address % bytes) as usize)
    }

    /// Has the kernel send what is posted.
    fn send(&mut self, frames: &mut FrameCache) {
        for _ in 0..KICKS_MAX {
            let before = self.socket.transmit.unconsumed();
            if before == 0 || self.stopped() {
                return;
            }
            self.system_calls += 1;
            let errno = match self.socket.kick() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(0),
            };
            match errno {
                // EAGAIN: the kernel's own budget is used up, or the completion ring is full.
                0 | libc::EAGAIN => self.reap(frames),
                // The device dropped one; its frame is completed, and the rest is still posted.
                libc::EBUSY => self.unsent += 1,
                // Down, or short of memory: the frames stay posted for a later flush.
                libc::ENETDOWN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => return,
                libc::ENXIO => self.stop(QueueFault::DeviceGone(self.interface.clone())),
                libc::EINVAL => self.desynchronised("a descriptor was refused"),
                _ => self.stop(QueueFault::Device { interface: self.interface.clone(), errno }),
            }
            if errno != libc::EBUSY && self.socket.transmit.unconsumed() == before {
                return;
            }
        }
    }

    /// Whether a frame can be posted as it is.
    fn accepts(&self, frame: &Frame) -> bool {
        let fits = frame.len() >= ETHERNET_BYTES && frame.len() <= self.frame_bytes_max;
        fits && match frame.checksum {
            // The kernel checks every address as if metadata stood before it.
            Checksum::Complete => frame.start() >= METADATA_BYTES,
            Checksum::Partial { start, offset } => {
                let end = usize::from(start) + usize::from(offset) + 2;
                self.partial_checksum && frame.start() >= METADATA_BYTES && end <= frame.len()
            }
        }
    }

    fn post(&mut self, mut frame: Frame) {
        let start = frame.start();
        let mut descriptor = libc::xdp_desc {
            addr: frame.offset() + start as u64,
            len: frame.len() as u32,
            options: 0,
        };
        if let Checksum::Partial { start: from, offset } = frame.checksum {
            let metadata = &mut frame.buffer_mut()[start - METADATA_BYTES..start];
            metadata.fill(0);
            metadata[..8].copy_from_slice(&METADATA_CHECKSUM.to_ne_bytes());
            metadata[8..10].copy_from_slice(&from.to_ne_bytes());
            metadata[10..12].copy_from_slice(&offset.to_ne_bytes());
            descriptor.options = XDP_TX_METADATA;
        }
        self.sending.insert(frame.release());
        self.socket.transmit.push(descriptor);
    }
}

impl Queue for AfXdpQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        if self.stopped() {
            return;
        }
        if !self.sending.is_empty() {
            self.flush(frames);
        }
        let returned = self.socket.receive.available();
        self.adjust_level(returned);
        let taken = (returned as usize).min(batch.remaining_capacity());
        for _ in 0..taken {
            let Some(descriptor) = self.socket.receive.pop() else { break };
            let (index, start) = self.locate(descriptor.addr);
            let len = descriptor.len as usize;
            if start + len > self.region.frame_bytes() || !self.receiving.remove(index) {
                self.desynchronised("a packet was received into a frame that was not posted");
                break;
            }
            // SAFETY: `receiving` held the index, so it came from `release` when the frame was
            // posted, and it left the set just now: no other frame was made of it.
            let mut frame = unsafe { self.region.claim(index, start, len, Checksum::Complete) };
            if self.local_sender {
                frame.checksum = checksum::recognise(frame.bytes());
            }
            batch.push(frame);
        }
        if taken > 0 {
            self.socket.receive.release();
        }
        self.fill(frames);
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        if self.stopped() {
            self.refused += batch.len() as u64;
            batch.drain(..).for_each(|frame| frames.free(frame));
            return;
        }
        let wanted = self.sending_room().min(batch.len() as u32);
        let room = self.socket.transmit.room(wanted).min(wanted);
        for frame in batch.drain(..room as usize) {
            if self.accepts(&frame) {
                self.post(frame);
            } else {
                self.refused += 1;
                frames.free(frame);
            }
        }
        self.socket.transmit.publish();
    }

    fn flush(&mut self, frames: &mut FrameCache) {
        if !self.stopped() {
            self.send(frames);
            self.reap(frames);
        }
    }

    fn takes_partial_checksum(&self) -> bool {
        self.partial_checksum
    }

    fn wake_source(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn stats(&self) -> QueueStats {
        if self.socket.pending_error() == Some(libc::ENETDOWN) {
            self.stop(QueueFault::DeviceGone(self.interface.clone()));
        }
        let device_drops = self.socket.statistics().map_or(0, |counted| {
            // What found the fill ring empty is among the dropped.
            counted.rx_dropped + counted.rx_ring_full
        });
        QueueStats {
            system_calls: self.system_calls,
            refused: self.refused,
            device_drops: device_drops + self.unsent,
            ..QueueStats::default()
        }
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault.borrow().clone()
    }

    fn close(self: Box<Self>, frames: &mut FrameCache) {
        let AfXdpQueue { socket, region, receiving, sending, .. } = *self;
        // The kernel waits here until nothing of it writes to frames any more. What it was still
        // sending, it had copied.
        drop(socket);
        for index in receiving.iter().chain(sending.iter()) {
            // SAFETY: the sets hold each index that was posted and did not come back; a frame is
            // in one of them only, and nobody but the closed socket knew of it.
            let frame = unsafe { region.claim(index, HEADROOM, 0, Checksum::Complete) };
            frames.free(frame);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
