//! A packed ring: one ring of descriptors that both sides write, and a word each about events.
//!
//! Two bits of a descriptor say whose it is: it is available when the first equals the driver's
//! wrap counter and the second does not, and used when both equal the device's.

use std::sync::atomic::{Ordering, fence};

use super::fault::GuestFault;
use super::inflight::Track;
use super::memory::{Area, GuestMemory, Span};
use super::ring::{
    Buffer, CHAIN_MAX, Descriptor, Direction, INDIRECT, NEXT, RingSetup, Spans, WRITE, passes,
};

const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Offsets in a descriptor.
const BYTES: usize = 8;
const ID: usize = 12;
const FLAGS: usize = 14;

/// The event word: where, and what.
const EVENT_PLACE: usize = 0;
const EVENT_FLAGS: usize = 2;
const EVENT_ALWAYS: u16 = 0;
const EVENT_NEVER: u16 = 1;
const EVENT_AT_PLACE: u16 = 2;

/// A slot, and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedPosition {
    slot: u16,
    wrap: bool,
}

impl PackedPosition {
    fn parse(word: u16) -> PackedPosition {
        PackedPosition { slot: word & 0x7fff, wrap: word & 0x8000 != 0 }
    }

    fn word(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }

    fn advance(&mut self, slots: u16, size: u16) {
        self.slot += slots;
        if self.slot >= size {
            self.slot -= size;
            self.wrap = !self.wrap;
        }
    }
}

pub(super) struct PackedRing {
    descriptors: Area,
    driver: Area,
    device: Area,
    size: u16,
    direction: Direction,
    event_index: bool,
    /// The next descriptor to take.
    next: PackedPosition,
    /// The next descriptor to write a used buffer to.
    put: PackedPosition,
    /// The first that was put since the last `publish`, and its flags: written last, so that the
    /// driver, which goes in order, sees all of them or none.
    first: Option<(u16, u16)>,
    /// Where `put` stood when the driver was last considered.
    told: PackedPosition,
    track: Option<Track>,
}

impl PackedRing {
    pub fn new(
        memory: &GuestMemory,
        setup: RingSetup,
        track: Option<Track>,
    ) -> Result<PackedRing, GuestFault> {
        let places = setup.addresses;
        // The upper half would tell of buffers under way; there are none when a ring stops.
        let mut next = PackedPosition::parse(setup.base as u16);
        next.slot %= setup.size;
        let mut ring = PackedRing {
            descriptors: memory.area(places.descriptors, 16 * usize::from(setup.size), 16)?,
            driver: memory.area(places.driver, 4, 4)?,
            device: memory.area(places.device, 4, 4)?,
            size: setup.size,
            direction: setup.direction,
            event_index: setup.event_index,
            next,
            put: next,
            first: None,
            told: next,
            track,
        };
        ring.resume();
        ring.ask_for_kicks(false);
        Ok(ring)
    }

    /// Goes on where a back end before us came to, if it left word.
    fn resume(&mut self) {
        let Some(track) = &self.track else { return };
        let is_shown = |word| {
            let at = PackedPosition::parse(word);
            let flags = self.flags(at.slot % self.size, Ordering::Acquire);
            (flags & AVAILABLE != 0) == at.wrap && (flags & USED != 0) == at.wrap
        };
        if let Some(word) = track.resume(self.size, is_shown) {
            let mut at = PackedPosition::parse(word);
            at.slot %= self.size;
            (self.next, self.put, self.told) = (at, at, at);
        }
        track.begin(self.size, self.put.word());
    }

    fn flags(&self, slot: u16, order: Ordering) -> u16 {
        self.descriptors.load(usize::from(slot) * 16 + FLAGS, order)
    }

    pub fn has_buffer(&self) -> bool {
        let flags = self.flags(self.next.slot, Ordering::Acquire);
        (flags & AVAILABLE != 0) == self.next.wrap && (flags & USED != 0) != self.next.wrap
    }

    pub fn glimpse<'m>(&self, ahead: u16, memory: &'m GuestMemory) -> Option<Span<'m>> {
        let slot = self.next.slot + ahead;
        let slot = slot.checked_sub(self.size).unwrap_or(slot);
        let inside = slot < self.size;
        inside.then(|| Descriptor::parse(self.descriptors.descriptor(slot.into())).span(memory))?
    }

    pub fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<Option<Buffer>, GuestFault> {
        if !self.has_buffer() {
            return Ok(None);
        }
        let mut at = self.next;
        for slots in 1..=self.size.min(CHAIN_MAX as u16) {
            let descriptor = Descriptor::parse(self.descriptors.descriptor(at.slot.into()));
            let (id, flags) = (descriptor.third, descriptor.fourth);
            at.advance(1, self.size);
            if flags & INDIRECT != 0 {
                if slots > 1 || flags & NEXT != 0 {
                    return Err(GuestFault::Indirect { bytes: descriptor.bytes });
                }
                self.walk_table(descriptor, memory, spans)?;
            } else {
                descriptor.append(flags, self.direction, memory, spans)?;
            }
            if flags & NEXT == 0 {
                if id >= self.size {
                    return Err(GuestFault::DescriptorIndex { index: id, size: self.size });
                }
                self.next = at;
                return Ok(Some(Buffer { id, slots }));
            }
        }
        Err(GuestFault::ChainTooLong { max: CHAIN_MAX.min(self.size.into()) })
    }

    /// A table's descriptors are a buffer in their order; they say nothing of a next one.
    fn walk_table<'m>(
        &self,
        table: Descriptor,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<(), GuestFault> {
        let span = table.table(memory)?;
        let size = span.len() / 16;
        if size > CHAIN_MAX {
            return Err(GuestFault::ChainTooLong { max: CHAIN_MAX });
        }
        for index in 0..size {
            let descriptor = Descriptor::parse(u128::from_le(span.load(16 * index)));
            if descriptor.fourth & INDIRECT != 0 {
                return Err(GuestFault::Indirect { bytes: descriptor.bytes });
            }
            descriptor.append(descriptor.fourth, self.direction, memory, spans)?;
        }
        Ok(())
    }

    pub fn position(&self) -> PackedPosition {
        self.next
    }

    pub fn rewind(&mut self, position: PackedPosition) {
        self.next = position;
    }

    pub fn put(&mut self, buffer: Buffer, written: u32) {
        let offset = usize::from(self.put.slot) * 16;
        self.descriptors.write(offset + BYTES, written.to_le());
        self.descriptors.store(offset + ID, buffer.id, Ordering::Relaxed);
        let mut flags = if self.put.wrap { AVAILABLE | USED } else { 0 };
        if written > 0 {
            flags |= WRITE;
        }
        match self.first {
            None => self.first = Some((self.put.slot, flags)),
            Some(_) => self.descriptors.store(offset + FLAGS, flags, Ordering::Release),
        }
        self.put.advance(buffer.slots, self.size);
    }

    pub fn publish(&mut self) {
        let Some((slot, flags)) = self.first.take() else { return };
        let put = self.put.word();
        if let Some(track) = &self.track {
            track.announce(put);
        }
        self.descriptors.store(usize::from(slot) * 16 + FLAGS, flags, Ordering::Release);
        if let Some(track) = &self.track {
            track.confirm(put);
        }
    }

    pub fn wants_call(&mut self) -> bool {
        let old = std::mem::replace(&mut self.told, self.put);
        if old == self.put {
            return false;
        }
        // The driver writes its wish and then looks at the ring: one of us sees the other.
        fence(Ordering::SeqCst);
        match self.driver.load(EVENT_FLAGS, Ordering::Relaxed) & 3 {
            EVENT_NEVER => false,
            EVENT_AT_PLACE if self.event_index => {
                let place = PackedPosition::parse(self.driver.load(EVENT_PLACE, Ordering::Relaxed));
                // Both are counted from the start of the round that `put` is in.
                let before = |at: PackedPosition| match at.wrap == self.put.wrap {
                    true => at.slot,
                    false => at.slot.wrapping_sub(self.size),
                };
                passes(before(place), self.put.slot, before(old))
            }
            _ => true,
        }
    }

    pub fn ask_for_kicks(&mut self, wanted: bool) {
        let flags = if wanted { EVENT_ALWAYS } else { EVENT_NEVER };
        self.device.store(EVENT_FLAGS, flags, Ordering::Relaxed);
        if wanted {
            // The driver publishes and then looks whether to kick: one of us sees the other.
            fence(Ordering::SeqCst);
        }
    }

    /// In both halves: nothing is under way.
    pub fn base(&self) -> u32 {
        u32::from(self.next.word()) | u32::from(self.put.word()) << 16
    }
}
