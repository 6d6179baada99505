//! A port whose device is a pair of rings in memory: tests, simulation, benchmarks.
//!
//! The other end of the wire is a [`MemoryWire`], one a queue. Frames pass through uncopied, with
//! their [`Checksum`] fact, so a benchmark measures the worker and not a copy. The rings are
//! bounded as a device's are: what finds no room stays with its sender.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use seine_pipeline::packet::Checksum;

use super::{Queue, QueueStats};
use crate::frame::{Batch, Frame, FrameCache, Region};

/// How a memory port behaves.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Queues, and so wires.
    pub queues: usize,
    /// Frames that each direction of a queue holds.
    pub ring_frames: usize,
    /// Whether `transmit` takes frames with a partial checksum.
    pub partial_checksum: bool,
    /// Bytes of the longest frame that `transmit` takes, Ethernet header included.
    pub frame_bytes_max: usize,
}

impl Default for MemoryOptions {
    fn default() -> MemoryOptions {
        MemoryOptions {
            queues: 1,
            ring_frames: 1024,
            partial_checksum: true,
            frame_bytes_max: usize::MAX,
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
        let link = Arc::new(Link {
            region,
            to_queue: ArrayQueue::new(options.ring_frames.max(1)),
            from_queue: ArrayQueue::new(options.ring_frames.max(1)),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            awake: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let wire = MemoryWire { link: Arc::clone(&link), frames: FrameCache::new(region) };
        queues.push(Box::new(MemoryQueue { link, options, refused: 0 }));
        wires.push(wire);
    }
    Ok((queues, wires))
}

/// What a queue and its wire share.
struct Link {
    region: &'static Region,
    to_queue: ArrayQueue<Frame>,
    from_queue: ArrayQueue<Frame>,
    wake: EventFd,
    /// Whether `wake` was written since the queue last found its ring empty.
    awake: AtomicBool,
    /// Packets injected that found the ring full.
    lost: AtomicU64,
}

impl Link {
    fn push(&self, frame: Frame) -> Result<(), Frame> {
        self.to_queue.push(frame).inspect_err(|_| {
            self.lost.fetch_add(1, Ordering::Relaxed);
        })?;
        if !self.awake.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full, and then it is readable already.
            let _ = self.wake.write(1);
        }
        Ok(())
    }

    fn pop(&self) -> Option<Frame> {
        if let Some(frame) = self.to_queue.pop() {
            return Some(frame);
        }
        if self.awake.swap(false, Ordering::SeqCst) {
            // Fails only when the writer has not come to its write yet: the descriptor then stays
            // readable once more than needed.
            let _ = self.wake.read();
            // What was pushed between the look and the swap did not write.
            return self.to_queue.pop().inspect(|_| {
                if !self.awake.swap(true, Ordering::SeqCst) {
                    let _ = self.wake.write(1);
                }
            });
        }
        None
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut frames = FrameCache::new(self.region);
        for ring in [&self.to_queue, &self.from_queue] {
            while let Some(frame) = ring.pop() {
                frames.free(frame);
            }
        }
    }
}

/// The port's end of a wire.
struct MemoryQueue {
    link: Arc<Link>,
    options: MemoryOptions,
    refused: u64,
}

impl Queue for MemoryQueue {
    fn receive(&mut self, _frames: &mut FrameCache, batch: &mut Batch) {
        while !batch.is_full()
            && let Some(frame) = self.link.pop()
        {
            batch.push(frame);
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        let room = self.link.from_queue.capacity() - self.link.from_queue.len();
        let taken = room.min(batch.len());
        for frame in batch.drain(..taken) {
            let partial = frame.checksum != Checksum::Complete;
            let refused = frame.is_empty()
                || frame.len() > self.options.frame_bytes_max
                || (partial && !self.options.partial_checksum);
            if refused {
                self.refused += 1;
                frames.free(frame);
            } else if let Err(frame) = self.link.from_queue.push(frame) {
                unreachable!("only this queue fills the ring, yet {} found none", frame.offset());
            }
        }
    }

    fn flush(&mut self, _frames: &mut FrameCache) {}

    fn takes_partial_checksum(&self) -> bool {
        self.options.partial_checksum
    }

    fn wake_source(&self) -> Option<RawFd> {
        Some(self.link.wake.as_raw_fd())
    }

    fn stats(&self) -> QueueStats {
        QueueStats {
            refused: self.refused,
            device_drops: self.link.lost.load(Ordering::Relaxed),
            ..QueueStats::default()
        }
    }

    fn close(self: Box<Self>, frames: &mut FrameCache) {
        while let Some(frame) = self.link.to_queue.pop() {
            frames.free(frame);
        }
    }
}

/// The far end of one queue: what is injected here the queue receives, what the queue transmits
/// is collected here. Whoever goes last gives the frames on the wire back.
pub struct MemoryWire {
    link: Arc<Link>,
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
        match self.link.push(frame) {
            Ok(()) => true,
            Err(frame) => {
                self.frames.free(frame);
                false
            }
        }
    }

    /// Sends a frame to the queue; it comes back when the ring is full.
    pub fn inject_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        self.link.push(frame)
    }

    /// The oldest packet that the queue transmitted, copied out.
    pub fn collect(&mut self) -> Option<(Vec<u8>, Checksum)> {
        let frame = self.link.from_queue.pop()?;
        let packet = (frame.bytes().to_vec(), frame.checksum);
        self.frames.free(frame);
        Some(packet)
    }

    /// The oldest frame that the queue transmitted.
    pub fn collect_frame(&mut self) -> Option<Frame> {
        self.link.from_queue.pop()
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
