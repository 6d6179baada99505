//! Rings of descriptors, split and packed, as their device sees them.
//!
//! A ring gives out buffers in the order the driver made them available, and takes them back in
//! the same order. What it reads it reads once. Every index, length and number of steps that the
//! guest chooses is checked or bounded here.

use arrayvec::ArrayVec;

use super::fault::GuestFault;
use super::inflight::Track;
use super::memory::{GuestMemory, Span};
use super::packed::{PackedPosition, PackedRing};
use super::split::SplitRing;

/// Descriptors of one buffer: twice what a driver needs for 64 KiB in pieces.
pub(super) const CHAIN_MAX: usize = 64;

/// The most descriptors of a ring, by the virtio specification.
pub(super) const RING_SIZE_MAX: u32 = 32768;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// The memory of a buffer, in order.
pub(super) type Spans<'m> = ArrayVec<Span<'m>, CHAIN_MAX>;

/// Which way the packets of a ring go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The driver transmits: its buffers are read.
    FromGuest,
    /// The driver receives: its buffers are written.
    ToGuest,
}

/// A buffer that was given out, to be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    /// How the driver knows it.
    pub id: u16,
    /// Descriptors that it takes in the ring itself.
    pub slots: u16,
}

/// Where the front end says a ring lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingAddresses {
    /// The descriptors.
    pub descriptors: u64,
    /// The driver's area: available ring, or event suppression.
    pub driver: u64,
    /// The device's area: used ring, or event suppression.
    pub device: u64,
}

/// What both kinds of ring are told at the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSetup {
    /// Where it lies.
    pub addresses: RingAddresses,
    /// Descriptors.
    pub size: u16,
    /// Where to go on, as the front end says it.
    pub base: u32,
    /// Which way.
    pub direction: Direction,
    /// VIRTIO_F_EVENT_IDX.
    pub event_index: bool,
}

/// A ring in a guest's memory.
pub(super) enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// Where a ring stands, to come back to.
#[derive(Clone, Copy)]
pub(super) enum Position {
    Split(u16),
    Packed(PackedPosition),
}

impl Ring {
    /// A ring within `memory`.
    pub fn new(
        memory: &GuestMemory,
        packed: bool,
        setup: RingSetup,
        track: Option<Track>,
    ) -> Result<Ring, GuestFault> {
        Ok(match packed {
            false => Ring::Split(SplitRing::new(memory, setup)?),
            true => Ring::Packed(PackedRing::new(memory, setup, track)?),
        })
    }

    /// Sees what the driver has made available. To be called before a series of `take`.
    pub fn look(&mut self) -> Result<(), GuestFault> {
        match self {
            Ring::Split(ring) => ring.look(),
            Ring::Packed(_) => Ok(()),
        }
    }

    /// Whether a buffer is there to be taken, by the last look.
    pub fn has_buffer(&self) -> bool {
        match self {
            Ring::Split(ring) => ring.has_buffer(),
            Ring::Packed(ring) => ring.has_buffer(),
        }
    }

    /// Takes the next buffer and appends its memory to `spans`. `None` when there is none.
    pub fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<Option<Buffer>, GuestFault> {
        match self {
            Ring::Split(ring) => ring.take(memory, spans),
            Ring::Packed(ring) => ring.take(memory, spans),
        }
    }

    /// The first memory of the buffer that so many others are before, as it seems: to be asked for
    /// ahead, for no other use. What the guest says there is read again when the buffer is taken.
    #[inline]
    pub fn glimpse<'m>(&self, ahead: u16, memory: &'m GuestMemory) -> Option<Span<'m>> {
        match self {
            Ring::Split(ring) => ring.glimpse(ahead, memory),
            Ring::Packed(ring) => ring.glimpse(ahead, memory),
        }
    }

    /// Where `take` stands.
    pub fn position(&self) -> Position {
        match self {
            Ring::Split(ring) => Position::Split(ring.position()),
            Ring::Packed(ring) => Position::Packed(ring.position()),
        }
    }

    /// Forgets what was taken since.
    pub fn rewind(&mut self, position: Position) {
        match (self, position) {
            (Ring::Split(ring), Position::Split(position)) => ring.rewind(position),
            (Ring::Packed(ring), Position::Packed(position)) => ring.rewind(position),
            _ => unreachable!("a ring does not change its kind"),
        }
    }

    /// Puts a buffer back with `written` bytes in it; the driver sees it after `publish`.
    pub fn put(&mut self, buffer: Buffer, written: u32) {
        match self {
            Ring::Split(ring) => ring.put(buffer, written),
            Ring::Packed(ring) => ring.put(buffer, written),
        }
    }

    /// Shows the driver what was put back.
    pub fn publish(&mut self) {
        match self {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// Whether the driver wants to be called for what was published since this was last asked.
    pub fn wants_call(&mut self) -> bool {
        match self {
            Ring::Split(ring) => ring.wants_call(),
            Ring::Packed(ring) => ring.wants_call(),
        }
    }

    /// Asks the driver for a kick at the next buffer, or to save itself the trouble.
    pub fn ask_for_kicks(&mut self, wanted: bool) {
        match self {
            Ring::Split(ring) => ring.ask_for_kicks(wanted),
            Ring::Packed(ring) => ring.ask_for_kicks(wanted),
        }
    }

    /// Where to go on, as the front end wants it said.
    pub fn base(&self) -> u32 {
        match self {
            Ring::Split(ring) => ring.position().into(),
            Ring::Packed(ring) => ring.base(),
        }
    }
}

/// One descriptor, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub address: u64,
    pub bytes: u32,
    /// The last two half words: flags and next in a split ring, id and flags in a packed one.
    pub third: u16,
    pub fourth: u16,
}

impl Descriptor {
    pub fn parse(raw: u128) -> Descriptor {
        Descriptor {
            address: raw as u64,
            bytes: (raw >> 64) as u32,
            third: (raw >> 96) as u16,
            fourth: (raw >> 112) as u16,
        }
    }

    /// Appends the memory of this descriptor.
    pub fn append<'m>(
        &self,
        flags: u16,
        direction: Direction,
        memory: &'m GuestMemory,
        spans: &mut Spans<'m>,
    ) -> Result<(), GuestFault> {
        if (flags & WRITE != 0) != (direction == Direction::ToGuest) {
            return Err(GuestFault::Direction);
        }
        let span = memory.span(self.address, self.bytes)?;
        spans.try_push(span).map_err(|_| GuestFault::ChainTooLong { max: CHAIN_MAX })
    }

    /// The memory it refers to, if it is the guest's.
    pub fn span<'m>(&self, memory: &'m GuestMemory) -> Option<Span<'m>> {
        memory.span(self.address, self.bytes).ok()
    }

    /// The indirect table that this descriptor refers to.
    pub fn table<'m>(&self, memory: &'m GuestMemory) -> Result<Span<'m>, GuestFault> {
        if self.bytes == 0 || !self.bytes.is_multiple_of(16) {
            return Err(GuestFault::Indirect { bytes: self.bytes });
        }
        memory.span(self.address, self.bytes)
    }
}

/// Whether an event index lies in what was passed since: the specification's `vring_need_event`.
pub(super) fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
