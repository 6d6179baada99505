//! A split virtqueue from the driver's side (VIRTIO 1.2, 2.7): each descriptor has one buffer for
//! ever, so there are no chains and nothing to allocate.
//!
//! Buffers go round in the order in which they come back. A back end that uses them in order then
//! finds in each place of the available ring what stood there before, which spares both sides the
//! transfer of a cache line.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use super::memory::SharedMemory;

/// Bytes of a descriptor: address 8, length 4, flags 2, next 2.
const DESCRIPTOR_BYTES: usize = 16;
/// Bytes before the entries of both rings: flags 2, index 2.
const RING_HEADER_BYTES: usize = 4;
/// Bytes of an entry of the used ring: descriptor 4, length 4.
const USED_BYTES: usize = 8;
/// In a descriptor: the back end writes here.
const DESCRIPTOR_WRITE: u16 = 2;
/// In the available ring: do not interrupt us, we poll.
const NO_INTERRUPT: u16 = 1;
/// In the used ring: do not kick us, we poll.
const NO_NOTIFY: u16 = 1;
/// Rings begin on lines of their own, so that the sides do not get in each other's way.
const LINE_BYTES: usize = 64;

/// Who writes into the buffers of a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The back end: we receive.
    Receive,
    /// We: they are transmitted.
    Transmit,
}

/// Where a ring lies in memory, by offset.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Descriptors, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: usize,
    /// The available ring, which we write.
    pub available: usize,
    /// The used ring, which the back end writes.
    pub used: usize,
    /// The first buffer; the others follow.
    pub buffers: usize,
    /// From one buffer to the next.
    pub stride: usize,
}

impl Layout {
    /// Lays out a ring from `at` on, and says where it ends.
    pub fn at(at: usize, size: u16, stride: usize) -> (Layout, usize) {
        let entries = usize::from(size);
        let line = |at: usize| at.next_multiple_of(LINE_BYTES);
        let descriptors = line(at);
        let available = line(descriptors + entries * DESCRIPTOR_BYTES);
        let used = line(available + RING_HEADER_BYTES + 2 * entries + 2);
        let buffers = line(used + RING_HEADER_BYTES + USED_BYTES * entries + 2);
        let layout = Layout { size, descriptors, available, used, buffers, stride };
        (layout, buffers + entries * stride)
    }
}

/// A buffer that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// Its descriptor.
    pub id: u16,
    /// Bytes that the back end says it wrote.
    pub bytes: usize,
}

/// The driver's side of one ring.
#[derive(Debug)]
pub struct SplitRing {
    layout: Layout,
    /// Where in each buffer its descriptor begins.
    buffer_offset: usize,
    /// Lengths that stand in the descriptors.
    lengths: Vec<u32>,
    /// Descriptors that we own, in a ring of its own: `free[taken % size]` is the next.
    free: Vec<u16>,
    taken: u16,
    returned: u16,
    /// Made available so far, those included that are not published yet.
    available: u16,
    /// Published so far.
    published: u16,
    /// Taken from the used ring so far.
    seen: u16,
    /// The back end's index when we last looked.
    filled: u16,
}

impl SplitRing {
    /// Writes the descriptors of an empty ring. `guest` is the address that the back end knows
    /// offset 0 by; `buffer` the part of each stride that a descriptor covers.
    pub fn new(
        memory: &SharedMemory,
        layout: Layout,
        guest: u64,
        buffer: Range<usize>,
        direction: Direction,
    ) -> SplitRing {
        assert!(layout.size.is_power_of_two(), "{} is no size of a ring", layout.size);
        assert!(buffer.start <= buffer.end && buffer.end <= layout.stride, "{buffer:?}");
        let length = (buffer.end - buffer.start) as u32;
        let flags = match direction {
            Direction::Receive => DESCRIPTOR_WRITE,
            Direction::Transmit => 0,
        };
        for id in 0..layout.size {
            let at = layout.descriptors + usize::from(id) * DESCRIPTOR_BYTES;
            let address = guest + (Self::buffer_of(&layout, id) + buffer.start) as u64;
            memory.word_64(at).store(address, Ordering::Relaxed);
            memory.word_32(at + 8).store(length, Ordering::Relaxed);
            memory.word_16(at + 12).store(flags, Ordering::Relaxed);
        }
        memory.word_16(layout.available).store(NO_INTERRUPT, Ordering::Relaxed);
        let entries = usize::from(layout.size);
        SplitRing {
            layout,
            buffer_offset: buffer.start,
            lengths: vec![length; entries],
            free: (0..layout.size).collect(),
            taken: 0,
            returned: layout.size,
            available: 0,
            published: 0,
            seen: 0,
            filled: 0,
        }
    }

    fn buffer_of(layout: &Layout, id: u16) -> usize {
        layout.buffers + usize::from(id) * layout.stride
    }

    fn entry(&self, index: u16) -> usize {
        usize::from(index & (self.layout.size - 1))
    }

    /// Where the bytes of a descriptor lie in memory.
    #[inline]
    pub fn bytes_of(&self, id: u16) -> usize {
        Self::buffer_of(&self.layout, id) + self.buffer_offset
    }

    /// Where it lies, for the handshake.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Descriptors that we own.
    #[inline]
    pub fn free(&self) -> u16 {
        self.returned.wrapping_sub(self.taken)
    }

    /// Takes a descriptor that we own, to fill its buffer.
    #[inline]
    pub fn take(&mut self) -> Option<u16> {
        if self.free() == 0 {
            return None;
        }
        let id = self.free[self.entry(self.taken)];
        self.taken = self.taken.wrapping_add(1);
        Some(id)
    }

    /// Makes a taken descriptor available with so many bytes; the back end sees it once published.
    #[inline]
    pub fn offer(&mut self, memory: &SharedMemory, id: u16, bytes: u32) {
        let length = &mut self.lengths[usize::from(id)];
        if *length != bytes {
            *length = bytes;
            let at = self.layout.descriptors + usize::from(id) * DESCRIPTOR_BYTES + 8;
            memory.word_32(at).store(bytes, Ordering::Relaxed);
        }
        let at = self.layout.available + RING_HEADER_BYTES + 2 * self.entry(self.available);
        let entry = memory.word_16(at);
        if entry.load(Ordering::Relaxed) != id {
            entry.store(id, Ordering::Relaxed);
        }
        self.available = self.available.wrapping_add(1);
    }

    /// Lets the back end see what was made available. Says whether it asks for a kick.
    #[inline]
    pub fn publish(&mut self, memory: &SharedMemory) -> bool {
        if self.published == self.available {
            return false;
        }
        self.published = self.available;
        memory.word_16(self.layout.available + 2).store(self.available, Ordering::Release);
        // It may be about to sleep: its wish is read after our index can be seen (2.7.13).
        fence(Ordering::SeqCst);
        memory.word_16(self.layout.used).load(Ordering::Relaxed) & NO_NOTIFY == 0
    }

    /// The next buffer that came back, which we own from now on.
    #[inline]
    pub fn used(&mut self, memory: &SharedMemory) -> Option<Used> {
        if self.seen == self.filled {
            self.filled = memory.word_16(self.layout.used + 2).load(Ordering::Acquire);
            if self.seen == self.filled {
                return None;
            }
        }
        let at = self.layout.used + RING_HEADER_BYTES + USED_BYTES * self.entry(self.seen);
        let id = memory.word_32(at).load(Ordering::Relaxed);
        let bytes = memory.word_32(at + 4).load(Ordering::Relaxed);
        let id = u16::try_from(id).ok().filter(|id| *id < self.layout.size);
        let Some(id) = id else { panic!("the back end returned a descriptor that is none") };
        assert!(self.free() < self.layout.size, "the back end returned more than it was given");
        self.seen = self.seen.wrapping_add(1);
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

    fn ring(size: u16) -> (SharedMemory, SplitRing) {
        let memory = SharedMemory::new(1).unwrap();
        let (layout, end) = Layout::at(0, size, 128);
        assert!(end <= memory.bytes());
        let ring = SplitRing::new(&memory, layout, 0x1000_0000, 52..128, Direction::Transmit);
        (memory, ring)
    }

    /// What a back end does with one buffer: in whatever order it likes.
    fn give_back(memory: &SharedMemory, ring: &SplitRing, index: u16, id: u16) {
        let at = ring.layout.used + 4 + 8 * ring.entry(index);
        memory.word_32(at).store(id.into(), Ordering::Relaxed);
        memory.word_16(ring.layout.used + 2).store(index.wrapping_add(1), Ordering::Release);
    }

    #[test]
    fn every_buffer_goes_out_once_before_any_comes_again() {
        let (memory, mut ring) = ring(8);
        let mut taken: Vec<u16> = std::iter::from_fn(|| ring.take()).collect();
        assert_eq!(taken, (0..8).collect::<Vec<_>>());
        for &id in &taken {
            ring.offer(&memory, id, 76);
        }
        assert!(ring.publish(&memory), "nobody said that it polls");
        taken.reverse();
        for (index, &id) in taken.iter().enumerate() {
            give_back(&memory, &ring, index as u16, id);
            assert_eq!(ring.used(&memory).map(|it| it.id), Some(id));
        }
        assert_eq!(ring.used(&memory), None);
        assert_eq!(std::iter::from_fn(|| ring.take()).collect::<Vec<_>>(), taken);
    }

    #[test]
    fn indices_wrap_without_losing_a_buffer() {
        let (memory, mut ring) = ring(4);
        for index in 0..=u16::MAX {
            let id = ring.take().unwrap();
            ring.offer(&memory, id, 76);
            ring.publish(&memory);
            give_back(&memory, &ring, index, id);
            assert_eq!(ring.used(&memory).map(|it| it.id), Some(id));
        }
        assert_eq!(ring.free(), 4);
    }

    #[test]
    fn a_back_end_that_polls_is_not_kicked() {
        let (memory, mut ring) = ring(4);
        memory.word_16(ring.layout.used).store(NO_NOTIFY, Ordering::Relaxed);
        let id = ring.take().unwrap();
        ring.offer(&memory, id, 76);
        assert!(!ring.publish(&memory));
    }

    #[test]
    #[should_panic(expected = "a descriptor that is none")]
    fn a_descriptor_that_does_not_exist_is_refused() {
        let (memory, mut ring) = ring(4);
        let id = ring.take().unwrap();
        ring.offer(&memory, id, 76);
        give_back(&memory, &ring, 0, 4);
        ring.used(&memory);
    }

    #[test]
    #[should_panic(expected = "more than it was given")]
    fn a_buffer_that_was_never_given_is_refused() {
        let (memory, mut ring) = ring(4);
        give_back(&memory, &ring, 0, 1);
        ring.used(&memory);
    }
}
