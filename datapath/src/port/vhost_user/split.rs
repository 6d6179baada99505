//! A split ring: a table of descriptors, a ring of those available, a ring of those used.

use std::sync::atomic::{Ordering, fence};

use super::fault::GuestFault;
use super::memory::{Area, GuestMemory, Span};
use super::ring::{
    Buffer, CHAIN_MAX, Descriptor, Direction, INDIRECT, NEXT, RingSetup, Spans, passes,
};

/// Offsets of both small rings: flags, index, entries.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// Said by either side: no kick, or no call, please.
const QUIET: u16 = 1;

pub(super) struct SplitRing {
    descriptors: Area,
    available: Area,
    used: Area,
    size: u16,
    direction: Direction,
    event_index: bool,
    /// The next entry of the available ring to take.
    next: u16,
    /// The driver's index at the last look.
    seen: u16,
    /// The next entry of the used ring to write.
    put: u16,
    /// The used index that the driver was last considered for.
    told: u16,
}

impl SplitRing {
    pub fn new(memory: &GuestMemory, setup: RingSetup) -> Result<SplitRing, GuestFault> {
        let size = usize::from(setup.size);
        let places = setup.addresses;
        let used = memory.area(places.device, ENTRIES + 8 * size + 2, 4)?;
        // Buffers are put back in the order they were taken, so what the ring itself says was used
        // is where to go on: it outlives any back end, and front ends that find theirs again after
        // a crash say 0 (DPDK's) or guess.
        let next = used.load(INDEX, Ordering::Acquire);
        let mut ring = SplitRing {
            descriptors: memory.area(places.descriptors, 16 * size, 16)?,
            available: memory.area(places.driver, ENTRIES + 2 * size + 2, 2)?,
            used,
            size: setup.size,
            direction: setup.direction,
            event_index: setup.event_index,
            next,
            seen: next,
            put: next,
            told: next,
        };
        ring.ask_for_kicks(false);
        Ok(ring)
    }

    pub fn look(&mut self) -> Result<(), GuestFault> {
        let to = self.available.load(INDEX, Ordering::Acquire);
        if to.wrapping_sub(self.next) > self.size {
            return Err(GuestFault::IndexJump { from: self.next, to, size: self.size });
        }
        self.seen = to;
        Ok(())
    }

    pub fn has_buffer(&self) -> bool {
        self.seen != self.next
    }

    pub fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<Option<Buffer>, GuestFault> {
        if !self.has_buffer() {
            return Ok(None);
        }
        let id = self.available_at(self.next);
        self.walk(id, memory, spans)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(Buffer { id, slots: 1 }))
    }

    /// Follows a chain in the ring's own table.
    fn walk<'m>(
        &self,
        head: u16,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<(), GuestFault> {
        let mut index = head;
        for step in 0..CHAIN_MAX {
            if index >= self.size {
                return Err(GuestFault::DescriptorIndex { index, size: self.size });
            }
            let descriptor = Descriptor::parse(self.descriptors.descriptor(index.into()));
            let (flags, next) = (descriptor.third, descriptor.fourth);
            if flags & INDIRECT != 0 {
                if step > 0 || flags & NEXT != 0 {
                    return Err(GuestFault::Indirect { bytes: descriptor.bytes });
                }
                return self.walk_table(descriptor, memory, spans);
            }
            descriptor.append(flags, self.direction, memory, spans)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(GuestFault::ChainTooLong { max: CHAIN_MAX })
    }

    /// Follows a chain in a table of its own.
    fn walk_table<'m>(
        &self,
        table: Descriptor,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<(), GuestFault> {
        let span = table.table(memory)?;
        let size = span.len() / 16;
        let mut index = 0;
        for _ in 0..CHAIN_MAX {
            if usize::from(index) >= size {
                let size = u16::try_from(size).unwrap_or(u16::MAX);
                return Err(GuestFault::DescriptorIndex { index, size });
            }
            let descriptor = Descriptor::parse(u128::from_le(span.load(16 * usize::from(index))));
            let (flags, next) = (descriptor.third, descriptor.fourth);
            if flags & INDIRECT != 0 {
                return Err(GuestFault::Indirect { bytes: descriptor.bytes });
            }
            descriptor.append(flags, self.direction, memory, spans)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(GuestFault::ChainTooLong { max: CHAIN_MAX })
    }

    pub fn glimpse<'m>(&self, ahead: u16, memory: &'m GuestMemory) -> Option<Span<'m>> {
        if self.seen.wrapping_sub(self.next) <= ahead {
            return None;
        }
        let id = self.available_at(self.next.wrapping_add(ahead));
        let inside = id < self.size;
        inside.then(|| Descriptor::parse(self.descriptors.descriptor(id.into())).span(memory))?
    }

    #[inline]
    fn available_at(&self, number: u16) -> u16 {
        self.available.load(ENTRIES + 2 * self.entry(number), Ordering::Relaxed)
    }

    /// The entry of both small rings for a buffer: a split ring's size is a power of two.
    #[inline]
    fn entry(&self, number: u16) -> usize {
        usize::from(number & (self.size - 1))
    }

    pub fn position(&self) -> u16 {
        self.next
    }

    pub fn rewind(&mut self, position: u16) {
        self.next = position;
    }

    pub fn put(&mut self, buffer: Buffer, written: u32) {
        let offset = ENTRIES + 8 * self.entry(self.put);
        let entry = u64::from(buffer.id) | u64::from(written) << 32;
        self.used.write(offset, entry.to_le());
        self.put = self.put.wrapping_add(1);
    }

    pub fn publish(&mut self) {
        self.used.store(INDEX, self.put, Ordering::Release);
    }

    pub fn wants_call(&mut self) -> bool {
        let old = std::mem::replace(&mut self.told, self.put);
        if old == self.put {
            return false;
        }
        // The driver writes its wish and then looks at the index: one of us sees the other.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = ENTRIES + 2 * usize::from(self.size);
            return passes(self.available.load(event, Ordering::Relaxed), self.put, old);
        }
        self.available.load(FLAGS, Ordering::Relaxed) & QUIET == 0
    }

    pub fn ask_for_kicks(&mut self, wanted: bool) {
        if !self.event_index {
            self.used.store(FLAGS, if wanted { 0 } else { QUIET }, Ordering::Relaxed);
        } else if wanted {
            // Not wanted any more needs no word: the index is soon behind the driver's.
            let event = ENTRIES + 8 * usize::from(self.size);
            self.used.store(event, self.next, Ordering::Relaxed);
        }
        if wanted {
            // The driver publishes and then looks whether to kick: one of us sees the other.
            fence(Ordering::SeqCst);
        }
    }
}
