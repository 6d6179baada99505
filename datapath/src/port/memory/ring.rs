//! A ring of frames from one thread to one other, without a lock and without a locked instruction.
//!
//! Each end keeps its own position and what it last saw of the other's, and looks again only when
//! that says too little: a batch costs one look and one store, and what the ends write lies on
//! cache lines of their own. A place in the ring is 16 bytes, so a cache line carries four frames
//! to the other core.

#![allow(unsafe_code, reason = "places that two threads take turns with")]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use seine_pipeline::packet::Checksum;

use crate::frame::{Batch, Frame, FrameCache, Region};

/// A frame on its way: what [`Region::claim`] makes a [`Frame`] of.
#[derive(Clone, Copy)]
struct Passage {
    index: u32,
    start: u16,
    len: u16,
    checksum: Checksum,
    chained: bool,
}

const VACANT: Passage =
    Passage { index: 0, start: 0, len: 0, checksum: Checksum::Complete, chained: false };

impl Passage {
    #[inline]
    fn of(frame: Frame) -> Passage {
        // A frame has 4096 bytes at most, so nothing is cut.
        let (start, len) = (frame.start() as u16, frame.len() as u16);
        let checksum = frame.checksum;
        let (index, chained) = frame.release_chain();
        Passage { index, start, len, checksum, chained }
    }
}

/// Both ends of a ring.
struct Ring {
    region: &'static Region,
    places: Box<[UnsafeCell<Passage>]>,
    capacity: usize,
    /// Frames ever taken; written by the consumer.
    taken: CachePadded<AtomicU64>,
    /// Frames ever put; written by the producer.
    put: CachePadded<AtomicU64>,
}

// SAFETY: a place is written by the producer before `put` passes it and read by the consumer
// after, and given back the same way by `taken`; there is one of each, and neither is Clone.
unsafe impl Sync for Ring {}
// SAFETY: as above; a place holds plain numbers.
unsafe impl Send for Ring {}

impl Ring {
    #[inline]
    fn place(&self, number: u64) -> *mut Passage {
        // The length is a power of two.
        self.places[number as usize & (self.places.len() - 1)].get()
    }

    /// # Safety
    /// The place must have been put and not been taken, and this must be how it is taken.
    #[inline]
    unsafe fn claim(&self, number: u64) -> Frame {
        // SAFETY: the producer has left this place, as the caller says.
        let passage = unsafe { *self.place(number) };
        let place = (usize::from(passage.start), usize::from(passage.len));
        let Passage { index, checksum, chained, .. } = passage;
        // SAFETY: the index came from `Frame::release` and a place is taken once.
        unsafe { self.region.claim_chain(index, place, checksum, chained) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut frames = FrameCache::new(self.region);
        let (taken, put) = (self.taken.load(Ordering::Acquire), self.put.load(Ordering::Acquire));
        for number in taken..put {
            // SAFETY: both ends are gone, so what lies between them is taken by nobody else.
            frames.free(unsafe { self.claim(number) });
        }
    }
}

/// The end that frames are put into.
pub(super) struct Producer {
    ring: Arc<Ring>,
    put: u64,
    published: u64,
    taken_seen: u64,
}

/// The end that frames are taken from.
pub(super) struct Consumer {
    ring: Arc<Ring>,
    taken: u64,
    put_seen: u64,
}

/// A ring with room for so many frames.
pub(super) fn ring(region: &'static Region, capacity: usize) -> (Producer, Consumer) {
    let capacity = capacity.max(1);
    let ring = Arc::new(Ring {
        region,
        places: (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(VACANT)).collect(),
        capacity,
        taken: CachePadded::default(),
        put: CachePadded::default(),
    });
    let producer = Producer { ring: Arc::clone(&ring), put: 0, published: 0, taken_seen: 0 };
    (producer, Consumer { ring, taken: 0, put_seen: 0 })
}

impl Producer {
    /// How many frames find room; looks at the other end only when fewer than `wanted` seem to.
    #[inline]
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let room = |end: &Producer| end.ring.capacity - (end.put - end.taken_seen) as usize;
        if room(self) < wanted {
            self.taken_seen = self.ring.taken.load(Ordering::Acquire);
        }
        room(self)
    }

    /// Writes a frame, which the other end sees after [`publish`](Self::publish). It comes back
    /// when there is no room.
    #[inline]
    pub(super) fn put(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.room(1) == 0 {
            return Err(frame);
        }
        // SAFETY: the consumer has left this place: fewer than `capacity` frames are in the ring,
        // and it looks no further than `ring.put`.
        unsafe { *self.ring.place(self.put) = Passage::of(frame) };
        self.put += 1;
        Ok(())
    }

    /// Lets the other end see all that was put. Says whether that was anything new.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let new = self.put != self.published;
        if new {
            self.ring.put.store(self.put, Ordering::Release);
            self.published = self.put;
        }
        new
    }
}

impl Consumer {
    /// Takes as many frames as there are and the batch has room for.
    #[inline]
    pub(super) fn take(&mut self, batch: &mut Batch) {
        let room = batch.remaining_capacity() as u64;
        if self.put_seen - self.taken < room {
            self.put_seen = self.ring.put.load(Ordering::Acquire);
        }
        let count = room.min(self.put_seen - self.taken);
        if count == 0 {
            return;
        }
        for number in self.taken..self.taken + count {
            // SAFETY: put, as `put_seen` says, and `taken` passes it right below.
            batch.push(unsafe { self.ring.claim(number) });
        }
        self.taken += count;
        self.ring.taken.store(self.taken, Ordering::Release);
    }

    /// Takes the oldest frame.
    pub(super) fn take_one(&mut self) -> Option<Frame> {
        if self.put_seen == self.taken {
            self.put_seen = self.ring.put.load(Ordering::Acquire);
        }
        if self.put_seen == self.taken {
            return None;
        }
        // SAFETY: put, as `put_seen` says, and `taken` passes it right below.
        let frame = unsafe { self.ring.claim(self.taken) };
        self.taken += 1;
        self.ring.taken.store(self.taken, Ordering::Release);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_fits_four_times_into_a_cache_line() {
        assert_eq!(size_of::<Passage>(), 16);
    }

    #[test]
    fn a_million_frames_cross_in_order_and_each_once() {
        let region = Region::map(256, 2048).expect("memory");
        let (mut there, mut arriving) = ring(region, 100);
        let (mut back, mut returning) = ring(region, 256);
        let echo = std::thread::spawn(move || {
            let mut batch = Batch::new();
            let mut expected = 0_u32;
            while expected < 1_000_000 {
                arriving.take(&mut batch);
                for frame in batch.drain(..) {
                    assert_eq!(frame.bytes(), expected.to_le_bytes());
                    expected += 1;
                    assert!(back.put(frame).is_ok(), "room for all frames there are");
                }
                back.publish();
                std::thread::yield_now();
            }
        });
        let mut frames = FrameCache::new(region);
        let mut number = 0_u32;
        while number < 1_000_000 {
            let before = number;
            while number < 1_000_000
                && there.room(1) > 0
                && let Some(mut frame) = returning.take_one().or_else(|| frames.allocate())
            {
                assert!(frame.fill(&number.to_le_bytes()));
                assert!(there.put(frame).is_ok());
                number += 1;
            }
            there.publish();
            if number == before {
                std::thread::yield_now();
            }
        }
        echo.join().expect("echo");
        drop((there, returning, frames));
        assert_eq!(region.free_frames(), 256);
    }

    #[test]
    fn a_full_ring_gives_the_frame_back() {
        let region = Region::map(8, 2048).expect("memory");
        let mut frames = FrameCache::new(region);
        let (mut producer, mut consumer) = ring(region, 3);
        for _ in 0..3 {
            assert!(producer.put(frames.allocate().expect("frame")).is_ok());
        }
        let refused = producer.put(frames.allocate().expect("frame"));
        frames.free(refused.expect_err("no room"));
        assert!(consumer.take_one().is_none(), "not published");
        producer.publish();
        assert!(consumer.take_one().is_some_and(|frame| {
            frames.free(frame);
            true
        }));
        assert_eq!(producer.room(2), 1);
    }
}
