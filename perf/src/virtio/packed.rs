//! A packed virtqueue from the driver's side (VIRTIO 1.2, 2.8): one ring of descriptors that both
//! sides write, each with a whole buffer, so there are no chains.
//!
//! Two bits of a descriptor say whose it is: it is available when the first equals the driver's
//! wrap counter and the second does not, and used when both equal the device's.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use super::memory::SharedMemory;
use super::split::{Direction, Layout, Used};

/// Bytes of a descriptor: address 8, length 4, buffer 2, flags 2.
const DESCRIPTOR_BYTES: usize = 16;
const DESCRIPTOR_WRITE: u16 = 2;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// In both event words: no events, we poll.
const NEVER: u16 = 1;
const EVENT_FLAGS: usize = 2;

/// A place in the ring, and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u16,
    wrap: bool,
}

impl Place {
    const BEGIN: Place = Place { slot: 0, wrap: true };

    fn advance(&mut self, size: u16) {
        self.slot += 1;
        if self.slot == size {
            *self = Place { slot: 0, wrap: !self.wrap };
        }
    }
}

/// The driver's side of one ring.
#[derive(Debug)]
pub struct PackedRing {
    layout: Layout,
    guest: u64,
    buffer_offset: usize,
    direction: Direction,
    /// Whose buffer's address stands in each descriptor.
    addressed: Vec<u16>,
    /// Buffers that we own: `free[taken % size]` is the next.
    free: Vec<u16>,
    taken: u16,
    returned: u16,
    /// Where the next buffer is offered.
    next: Place,
    /// Where the next one comes back.
    seen: Place,
    /// The first one offered since the last `publish`, which is written last: its place and what
    /// stands there after the address.
    first: Option<(usize, u64)>,
}

impl PackedRing {
    /// An empty ring. `guest` is the address that the back end knows offset 0 by; `buffer` the
    /// part of each stride that a descriptor covers.
    pub fn new(
        memory: &SharedMemory,
        layout: Layout,
        guest: u64,
        buffer: Range<usize>,
        direction: Direction,
    ) -> PackedRing {
        assert!(layout.size.is_power_of_two(), "{} is no size of a ring", layout.size);
        assert!(buffer.start <= buffer.end && buffer.end <= layout.stride, "{buffer:?}");
        memory.word_16(layout.available + EVENT_FLAGS).store(NEVER, Ordering::Relaxed);
        PackedRing {
            layout,
            guest,
            buffer_offset: buffer.start,
            direction,
            addressed: vec![u16::MAX; layout.size.into()],
            free: (0..layout.size).collect(),
            taken: 0,
            returned: layout.size,
            next: Place::BEGIN,
            seen: Place::BEGIN,
            first: None,
        }
    }

    fn entry(&self, index: u16) -> usize {
        usize::from(index & (self.layout.size - 1))
    }

    fn descriptor(&self, slot: u16) -> usize {
        self.layout.descriptors + usize::from(slot) * DESCRIPTOR_BYTES
    }

    /// Where the bytes of a buffer lie in memory.
    #[inline]
    pub fn bytes_of(&self, id: u16) -> usize {
        self.layout.buffers + usize::from(id) * self.layout.stride + self.buffer_offset
    }

    /// Where it lies, for the handshake.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Buffers that we own.
    #[inline]
    pub fn free(&self) -> u16 {
        self.returned.wrapping_sub(self.taken)
    }

    /// Takes a buffer that we own, to fill it.
    #[inline]
    pub fn take(&mut self) -> Option<u16> {
        if self.free() == 0 {
            return None;
        }
        let id = self.free[self.entry(self.taken)];
        self.taken = self.taken.wrapping_add(1);
        Some(id)
    }

    /// Makes a taken buffer available with so many bytes; the back end sees it once published.
    #[inline]
    pub fn offer(&mut self, memory: &SharedMemory, id: u16, bytes: u32) {
        let Place { slot, wrap } = self.next;
        let at = self.descriptor(slot);
        if self.addressed[usize::from(slot)] != id {
            self.addressed[usize::from(slot)] = id;
            let address = self.guest + self.bytes_of(id) as u64;
            memory.word_64(at).store(address, Ordering::Relaxed);
        }
        let direction = if self.direction == Direction::Receive { DESCRIPTOR_WRITE } else { 0 };
        let flags = direction | if wrap { AVAILABLE } else { USED };
        let rest = u64::from(bytes) | u64::from(id) << 32 | u64::from(flags) << 48;
        match self.first {
            None => self.first = Some((at + 8, rest.to_le())),
            Some(_) => memory.word_64(at + 8).store(rest.to_le(), Ordering::Relaxed),
        }
        self.next.advance(self.layout.size);
    }

    /// Lets the back end see what was made available. Says whether it asks for a kick.
    #[inline]
    pub fn publish(&mut self, memory: &SharedMemory) -> bool {
        let Some((at, rest)) = self.first.take() else { return false };
        memory.word_64(at).store(rest, Ordering::Release);
        // It may be about to sleep: its wish is read after our descriptors can be seen (2.8.10).
        fence(Ordering::SeqCst);
        memory.word_16(self.layout.used + EVENT_FLAGS).load(Ordering::Relaxed) != NEVER
    }

    /// The next buffer that came back, which we own from now on.
    #[inline]
    pub fn used(&mut self, memory: &SharedMemory) -> Option<Used> {
        let Place { slot, wrap } = self.seen;
        let at = self.descriptor(slot);
        let flags = memory.word_16(at + 14).load(Ordering::Acquire);
        let is_used = (flags & AVAILABLE != 0) == wrap && (flags & USED != 0) == wrap;
        if !is_used || self.free() == self.layout.size {
            return None;
        }
        let id = memory.word_16(at + 12).load(Ordering::Relaxed);
        let bytes = memory.word_32(at + 8).load(Ordering::Relaxed);
        assert!(id < self.layout.size, "the back end returned a buffer that is none");
        self.seen.advance(self.layout.size);
        let entry = self.entry(self.returned);
        self.free[entry] = id;
        self.returned = self.returned.wrapping_add(1);
        Some(Used { id, bytes: bytes as usize })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn ring(size: u16) -> (SharedMemory, PackedRing) {
        let memory = SharedMemory::new(1).unwrap();
        let (layout, end) = Layout::at(0, size, 128);
        assert!(end <= memory.bytes());
        let ring = PackedRing::new(&memory, layout, 0x1000_0000, 52..128, Direction::Transmit);
        (memory, ring)
    }

    /// What a back end does with the buffer at a place: both bits as its wrap counter.
    fn give_back(memory: &SharedMemory, ring: &PackedRing, place: Place) {
        let flags = if place.wrap { AVAILABLE | USED } else { 0 };
        memory.word_16(ring.descriptor(place.slot) + 14).store(flags, Ordering::Release);
    }

    fn is_available(memory: &SharedMemory, ring: &PackedRing, place: Place) -> bool {
        let flags = memory.word_16(ring.descriptor(place.slot) + 14).load(Ordering::Acquire);
        (flags & AVAILABLE != 0) == place.wrap && (flags & USED != 0) != place.wrap
    }

    #[test]
    fn nothing_is_seen_before_it_is_published_and_everything_after() {
        let (memory, mut ring) = ring(8);
        for _ in 0..3 {
            let id = ring.take().unwrap();
            ring.offer(&memory, id, 76);
        }
        assert!(!is_available(&memory, &ring, Place::BEGIN));
        assert!(ring.publish(&memory), "nobody said that it polls");
        assert!((0..3).all(|slot| is_available(&memory, &ring, Place { slot, wrap: true })));
        assert!(!is_available(&memory, &ring, Place { slot: 3, wrap: true }));
    }

    #[test]
    fn buffers_go_round_many_times_and_the_bits_turn_with_them() {
        let (memory, mut ring) = ring(4);
        let mut place = Place::BEGIN;
        for round in 0..50 {
            let id = ring.take().unwrap();
            ring.offer(&memory, id, 60 + round);
            ring.publish(&memory);
            assert!(is_available(&memory, &ring, place), "round {round}");
            assert_eq!(ring.used(&memory), None, "round {round}");
            give_back(&memory, &ring, place);
            assert_eq!(ring.used(&memory), Some(Used { id, bytes: 60 + round as usize }));
            place.advance(4);
        }
        assert_eq!(ring.free(), 4);
    }

    #[test]
    fn what_was_never_given_does_not_come_back() {
        let (memory, mut ring) = ring(4);
        give_back(&memory, &ring, Place::BEGIN);
        assert_eq!(ring.used(&memory), None);
    }
}
