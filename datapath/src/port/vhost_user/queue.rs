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
    /// Where the next look begins, so that no pair starves another.
    turn: usize,
    stats: QueueStats,
}

impl VhostUserQueue {
    pub fn new(shared: Arc<Shared>, worker: usize) -> VhostUserQueue {
        VhostUserQueue { shared, worker, turn: 0, stats: QueueStats::default() }
    }
}

impl Queue for VhostUserQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        self.shared.wakes[self.worker].take();
        if self.shared.is_broken() {
            return;
        }
        let workers = self.shared.wakes.len();
        let pairs = QUEUE_PAIRS_MAX.saturating_sub(self.worker).div_ceil(workers);
        for step in 0..pairs {
            if batch.is_full() {
                return;
            }
            let pair = self.worker + (self.turn + step) % pairs * workers;
            if let Some(mut guard) = self.shared.try_lane(2 * pair + 1)
                && let Some(lane) = guard.as_mut()
                && let Err(fault) = lane.receive(frames, batch, &mut self.stats)
            {
                drop(guard);
                self.shared.fail(fault);
                return;
            }
        }
        self.turn = (self.turn + 1) % pairs.max(1);
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
