//! A worker's queue of a vhost-user port: the rings of a guest that are its to serve.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::shared::{QUEUE_PAIRS_MAX, Shared};
use crate::frame::{Batch, FrameCache};
use crate::port::{Queue, QueueFault, QueueStats};
use crate::segment::Segmentation;

/// The queue of one worker. It receives from every pair of rings whose number leaves the worker's
/// own when divided by the number of workers, and transmits to one.
pub(super) struct VhostUserQueue {
    shared: Arc<Shared>,
    worker: usize,
    /// The pairs that it receives from, as bits.
    own: u64,
    /// The pair that the next look begins with, so that none starves another.
    turn: u32,
    stats: QueueStats,
}

impl VhostUserQueue {
    pub fn new(shared: Arc<Shared>, worker: usize) -> VhostUserQueue {
        let pairs = (worker..QUEUE_PAIRS_MAX).step_by(shared.wakes.len());
        let own = pairs.map(|pair| 1 << pair).sum();
        VhostUserQueue { shared, worker, own, turn: 0, stats: QueueStats::default() }
    }
}

impl Queue for VhostUserQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        self.shared.wakes[self.worker].take();
        if self.shared.is_broken() {
            return;
        }
        // Most of a node's guests have one pair, and most of them nothing to say.
        let mut ready = (self.shared.senders() & self.own).rotate_right(self.turn);
        let begin = self.turn;
        while ready != 0 && !batch.is_full() {
            let pair = (begin + ready.trailing_zeros()) % u64::BITS;
            ready &= ready - 1;
            self.turn = (pair + 1) % u64::BITS;
            if let Some(mut guard) = self.shared.try_lane(2 * pair as usize + 1)
                && let Some(lane) = guard.as_mut()
                && let Err(fault) = lane.receive(frames, batch, &mut self.stats)
            {
                drop(guard);
                self.shared.fail(fault);
                return;
            }
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        if self.shared.is_broken() {
            self.stats.refused += batch.len() as u64;
            batch.drain(..).for_each(|frame| frames.free(frame));
            return;
        }
        // Without a guest there is no room.
        if let Some(mut guard) = self.shared.transmit_lane(self.worker)
            && let Some(lane) = guard.as_mut()
            && let Err(fault) = lane.transmit(frames, batch, &mut self.stats)
        {
            drop(guard);
            self.shared.fail(fault);
        }
    }

    /// Nothing is under way, and the guest was called.
    fn flush(&mut self, _frames: &mut FrameCache) {}

    fn takes_partial_checksum(&self) -> bool {
        // What a guest would not take is completed on the way in.
        true
    }

    fn copies(&self) -> bool {
        true
    }

    fn takes_segments(&self, said: Segmentation) -> bool {
        self.shared.takes().holds(said)
    }

    fn wake_source(&self) -> Option<RawFd> {
        // Its guest was told not to kick.
        (!self.shared.polled).then(|| self.shared.wakes[self.worker].descriptor())
    }

    fn stats(&self) -> QueueStats {
        self.stats
    }

    fn fault(&self) -> Option<QueueFault> {
        self.shared.fault().cloned()
    }

    fn close(self: Box<Self>, _frames: &mut FrameCache) {}
}
