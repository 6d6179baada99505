//! A port whose device is a pair of rings in memory: tests, simulation, benchmarks.
//!
//! The other end of the wire is a [`MemoryWire`], one a queue. Frames pass through uncopied, with
//! their [`Checksum`] fact, so a benchmark measures the worker and not a copy. The rings are
//! bounded as a device's are: what finds no room stays with its sender. They cost a few cycles a
//! packet and lock nothing.

mod ring;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use seine_pipeline::packet::Checksum;

use self::ring::{Consumer, Producer, ring};
use super::{Queue, QueueStats};
use crate::frame::{Batch, Frame, FrameCache, Region};
use crate::segment::{self, Segmentation};

/// How a memory port behaves.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Queues, and so wires.
    pub queues: usize,
    /// Frames that each direction of a queue holds.
    pub ring_frames: usize,
    /// Whether `transmit` takes frames with a partial checksum.
    pub partial_checksum: bool,
    /// Whether it takes packets in segments whole.
    pub segments: bool,
    /// Bytes of the longest frame that `transmit` takes, Ethernet header included.
    pub frame_bytes_max: usize,
    /// Whether a worker at rest is woken. Costs a locked instruction a packet, and system calls
    /// whenever the ring runs empty: a benchmark's workers spin instead.
    pub wakes: bool,
}

impl Default for MemoryOptions {
    fn default() -> MemoryOptions {
        MemoryOptions {
            queues: 1,
            ring_frames: 1024,
            partial_checksum: true,
            segments: false,
            frame_bytes_max: usize::MAX,
            wakes: true,
        }
    }
}

/// The queues of a memory port, and the far end of each.
pub type MemoryPort = (Vec<Box<dyn Queue>>, Vec<MemoryWire>);

/// Opens a memory port: its queues, and the far end of each.
pub fn open(region: &'static Region, options: MemoryOptions) -> std::io::Result<MemoryPort> {
    let mut queues: Vec<Box<dyn Queue>> = Vec::new();
    let mut wires = Vec::new();
    for _ in 0..options.queues {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let link = Arc::new(Link {
            wake: options.wakes.then(|| EventFd::from_flags(flags)).transpose()?,
            awake: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let (inward, receiving) = ring(region, options.ring_frames);
        let (sending, outward) = ring(region, options.ring_frames);
        wires.push(MemoryWire {
            link: Arc::clone(&link),
            sending: inward,
            receiving: outward,
            frames: FrameCache::new(region),
        });
        queues.push(Box::new(MemoryQueue { link, receiving, sending, options, refused: 0 }));
    }
    Ok((queues, wires))
}

/// What a queue and its wire share beside the rings.
struct Link {
    wake: Option<EventFd>,
    /// Whether `wake` was written since the queue last found its ring empty.
    awake: AtomicBool,
    /// Packets injected that found the ring full.
    lost: AtomicU64,
}

impl Link {
    /// The queue's ring has something in it now.
    fn rouse(&self) {
        if let Some(wake) = &self.wake
            && !self.awake.swap(true, Ordering::SeqCst)
        {
            // Fails only when the counter is full, and then it is readable already.
            let _ = wake.write(1);
        }
    }

    /// The queue found its ring empty. Says whether it has to look once more: what was put
    /// between the look and the swap did not write.
    fn settle(&self) -> bool {
        let Some(wake) = &self.wake else { return false };
        let slept = self.awake.swap(false, Ordering::SeqCst);
        if slept {
            // Fails only when the writer has not come to its write yet: the descriptor then stays
            // readable once more than needed.
            let _ = wake.read();
        }
        slept
    }
}

/// The port's end of a wire.
struct MemoryQueue {
    link: Arc<Link>,
    receiving: Consumer,
    sending: Producer,
    options: MemoryOptions,
    refused: u64,
}

impl Queue for MemoryQueue {
    fn receive(&mut self, _frames: &mut FrameCache, batch: &mut Batch) {
        self.receiving.take(batch);
        if batch.is_full() || !self.link.settle() {
            return;
        }
        let before = batch.len();
        self.receiving.take(batch);
        if batch.len() > before {
            self.link.rouse();
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        let taken = self.sending.room(batch.len()).min(batch.len());
        for frame in batch.drain(..taken) {
            let partial = frame.checksum != Checksum::Complete;
            let refused = frame.is_empty()
                || frame.len() > self.options.frame_bytes_max
                || (partial && !self.options.partial_checksum)
                || (frame.is_chained() && !self.options.segments);
            if refused {
                self.refused += 1;
                frames.free(frame);
            } else if let Err(frame) = self.sending.put(frame) {
                unreachable!("only this queue fills the ring, yet {} found none", frame.offset());
            }
        }
        self.sending.publish();
    }

    fn flush(&mut self, _frames: &mut FrameCache) {}

    fn takes_partial_checksum(&self) -> bool {
        self.options.partial_checksum
    }

    fn takes_segments(&self, _said: Segmentation) -> bool {
        self.options.segments
    }

    fn wake_source(&self) -> Option<RawFd> {
        self.link.wake.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn stats(&self) -> QueueStats {
        QueueStats {
            refused: self.refused,
            device_drops: self.link.lost.load(Ordering::Relaxed),
            ..QueueStats::default()
        }
    }

    fn close(mut self: Box<Self>, frames: &mut FrameCache) {
        while let Some(frame) = self.receiving.take_one() {
            frames.free(frame);
        }
    }
}

/// The far end of one queue: what is injected here the queue receives, what the queue transmits
/// is collected here. Whoever goes last gives the frames on the wire back.
pub struct MemoryWire {
    link: Arc<Link>,
    sending: Producer,
    receiving: Consumer,
    frames: FrameCache,
}

impl MemoryWire {
    /// Sends a copy of `packet` to the queue. `false` when ring or frames are used up, or the
    /// packet is too long for a frame.
    pub fn inject(&mut self, packet: &[u8], checksum: Checksum) -> bool {
        let Some(mut frame) = self.frames.allocate() else {
            return false;
        };
        if !frame.fill(packet) {
            self.frames.free(frame);
            return false;
        }
        frame.checksum = checksum;
        match self.inject_frame(frame) {
            Ok(()) => true,
            Err(frame) => {
                self.frames.free(frame);
                false
            }
        }
    }

    /// Sends a copy of a packet that is to be cut. `false` when ring or frames are used up, or it
    /// cannot be cut so.
    pub fn inject_segments(
        &mut self,
        packet: &[u8],
        checksum: Checksum,
        said: Segmentation,
    ) -> bool {
        let Ok(head) = segment::take_in(packet, checksum, said, &mut self.frames) else {
            return false;
        };
        self.inject_frame(head).map_err(|head| self.frames.free(head)).is_ok()
    }

    /// Sends a frame to the queue; it comes back when the ring is full.
    pub fn inject_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        self.put_frame(frame)?;
        self.publish();
        Ok(())
    }

    /// As [`inject_frame`](Self::inject_frame), but the queue sees it after
    /// [`publish`](Self::publish): one look at a ring for many frames.
    #[inline]
    pub fn put_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        self.sending.put(frame).inspect_err(|_| {
            self.link.lost.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Lets the queue see every frame that was put.
    #[inline]
    pub fn publish(&mut self) {
        if self.sending.publish() {
            self.link.rouse();
        }
    }

    /// The oldest packet that the queue transmitted, copied out.
    pub fn collect(&mut self) -> Option<(Vec<u8>, Checksum)> {
        let frame = self.receiving.take_one()?;
        let packet = (frame.bytes().to_vec(), frame.checksum);
        self.frames.free(frame);
        Some(packet)
    }

    /// The oldest packet that the queue transmitted, copied out whole, and how it is to be cut.
    pub fn collect_segments(&mut self) -> Option<(Vec<u8>, Option<Segmentation>)> {
        let mut head = self.receiving.take_one()?;
        let said = segment::of(&head);
        segment::unite(&mut head);
        let mut packet = head.bytes().to_vec();
        if head.is_chained() {
            packet.extend(head.following_bytes().flatten());
        }
        self.frames.free(head);
        Some((packet, said))
    }

    /// The oldest frame that the queue transmitted.
    pub fn collect_frame(&mut self) -> Option<Frame> {
        self.receiving.take_one()
    }

    /// The oldest frames that the queue transmitted, as many as `batch` has room for.
    pub fn collect_frames(&mut self, batch: &mut Batch) {
        self.receiving.take(batch);
    }

    /// The wire's own frames, to allocate for [`inject_frame`](Self::inject_frame) and to free
    /// what [`collect_frame`](Self::collect_frame) gave.
    pub fn frames(&mut self) -> &mut FrameCache {
        &mut self.frames
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::BorrowedFd;

    use super::*;

    #[allow(unsafe_code, reason = "poll wants a borrowed descriptor")]
    fn readable(queue: &dyn Queue) -> bool {
        let descriptor = queue.wake_source().expect("memory ports wake");
        // SAFETY: the queue keeps its descriptor open, and it outlives this call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let mut polled = [PollFd::new(borrowed, PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).expect("poll") == 1
    }

    #[test]
    fn a_queue_at_rest_wakes_for_a_packet_and_rests_again_after_it() {
        let region = Region::map(512, 2048).expect("memory");
        let mut frames = FrameCache::new(region);
        let (mut queues, mut wires) = open(region, MemoryOptions::default()).expect("open");
        let queue = &mut queues[0];
        for round in 0..3u8 {
            assert!(!readable(queue.as_ref()));
            assert!(wires[0].inject(&[round; 60], Checksum::Complete));
            assert!(readable(queue.as_ref()));
            let mut batch = Batch::new();
            queue.receive(&mut frames, &mut batch);
            assert_eq!(batch.len(), 1);
            frames.free(batch.remove(0));
            queue.receive(&mut frames, &mut batch);
            assert!(batch.is_empty());
        }
    }

    #[test]
    fn frames_left_on_the_wire_return_when_both_ends_are_gone() {
        let region = Region::map(512, 2048).expect("memory");
        let mut frames = FrameCache::new(region);
        let (mut queues, mut wires) = open(region, MemoryOptions::default()).expect("open");
        assert!(wires[0].inject(&[1; 60], Checksum::Complete));
        let mut batch = Batch::new();
        let mut frame = frames.allocate().expect("frame");
        assert!(frame.fill(&[2; 60]));
        batch.push(frame);
        queues[0].transmit(&mut frames, &mut batch);
        drop(wires);
        for queue in queues {
            queue.close(&mut frames);
        }
        drop(frames);
        assert_eq!(region.free_frames(), 512);
    }
}
