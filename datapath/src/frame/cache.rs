//! A worker's store of frames over the depot that all share.

use arrayvec::ArrayVec;
use seine_pipeline::packet::Checksum;

use super::{Frame, HEADROOM, Region};

/// Frames that a worker keeps to itself before it gives some back.
const CACHE_MAX: usize = 512;
/// Frames moved between cache and depot at once.
const CACHE_STEP: usize = 128;

/// A worker's own store of frames: a stack, so that the frame used next is the one still in cache.
pub struct FrameCache {
    region: &'static Region,
    indexes: ArrayVec<u32, CACHE_MAX>,
    short: bool,
}

impl FrameCache {
    /// An empty cache over the region's depot.
    pub fn new(region: &'static Region) -> FrameCache {
        FrameCache { region, indexes: ArrayVec::new(), short: false }
    }

    /// The region behind it.
    pub fn region(&self) -> &'static Region {
        self.region
    }

    /// Frames in the cache itself.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether the cache itself holds none; the depot may.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// An empty frame, or none when cache and depot are both empty.
    #[inline]
    pub fn allocate(&mut self) -> Option<Frame> {
        if self.indexes.is_empty() {
            self.refill();
        }
        let Some(index) = self.indexes.pop() else {
            self.short = true;
            return None;
        };
        // SAFETY: indexes in cache and depot came from `Frame::release` or were never used, and
        // popping took this one out.
        Some(unsafe { self.region.claim(index, HEADROOM, 0, Checksum::Complete) })
    }

    #[cold]
    fn refill(&mut self) {
        while self.indexes.len() < CACHE_STEP
            && let Some(index) = self.region.depot.pop()
        {
            self.indexes.push(index);
        }
    }

    /// A frame with the same packet in it, if there is one for it; of what follows, nothing.
    pub fn copy(&mut self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.allocate()?;
        copy.set_range(frame.start(), frame.len());
        copy.bytes_mut().copy_from_slice(frame.bytes());
        copy.checksum = frame.checksum;
        Some(copy)
    }

    /// Whether a frame was wanted and not there since this was last asked.
    pub fn take_short(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    /// Takes a frame back.
    pub fn free(&mut self, mut frame: Frame) {
        if frame.chained {
            self.free_followers(&mut frame);
        }
        if self.indexes.is_full() {
            for index in self.indexes.drain(CACHE_MAX - CACHE_STEP..) {
                // The depot holds as many as there are frames: it cannot be full.
                let _ = self.region.depot.push(index);
            }
        }
        self.indexes.push(frame.release());
    }

    /// Gives everything back to the depot.
    pub fn drain(&mut self) {
        for index in self.indexes.drain(..) {
            let _ = self.region.depot.push(index);
        }
    }
}

impl Drop for FrameCache {
    fn drop(&mut self) {
        self.drain();
    }
}
