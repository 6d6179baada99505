//! One ring from the driver's side, of whichever kind was agreed on.

use std::ops::Range;

use super::memory::SharedMemory;
use super::packed::PackedRing;
use super::split::{Direction, Layout, SplitRing, Used};

/// A split ring or a packed one.
#[derive(Debug)]
pub enum Ring {
    /// Descriptors, and a ring for each side.
    Split(SplitRing),
    /// One ring that both sides write.
    Packed(PackedRing),
}

/// Calls what both kinds have.
macro_rules! of_either {
    ($ring:expr, $bound:ident => $call:expr) => {
        match $ring {
            Ring::Split($bound) => $call,
            Ring::Packed($bound) => $call,
        }
    };
}

impl Ring {
    /// An empty one, at a place in memory that the back end knows by another address.
    pub fn new(
        packed: bool,
        memory: &SharedMemory,
        (layout, guest): (Layout, u64),
        buffer: Range<usize>,
        direction: Direction,
    ) -> Ring {
        if packed {
            Ring::Packed(PackedRing::new(memory, layout, guest, buffer, direction))
        } else {
            Ring::Split(SplitRing::new(memory, layout, guest, buffer, direction))
        }
    }

    /// Where the bytes of a buffer lie in memory.
    #[inline]
    pub fn bytes_of(&self, id: u16) -> usize {
        of_either!(self, ring => ring.bytes_of(id))
    }

    /// Where it lies, for the handshake.
    pub fn layout(&self) -> &Layout {
        of_either!(self, ring => ring.layout())
    }

    /// Buffers that we own.
    #[inline]
    pub fn free(&self) -> u16 {
        of_either!(self, ring => ring.free())
    }

    /// Takes a buffer that we own, to fill it.
    #[inline]
    pub fn take(&mut self) -> Option<u16> {
        of_either!(self, ring => ring.take())
    }

    /// Makes a taken buffer available with so many bytes; the back end sees it once published.
    #[inline]
    pub fn offer(&mut self, memory: &SharedMemory, id: u16, bytes: u32) {
        of_either!(self, ring => ring.offer(memory, id, bytes));
    }

    /// Lets the back end see what was made available. Says whether it asks for a kick.
    #[inline]
    pub fn publish(&mut self, memory: &SharedMemory) -> bool {
        of_either!(self, ring => ring.publish(memory))
    }

    /// The next buffer that came back, which we own from now on.
    #[inline]
    pub fn used(&mut self, memory: &SharedMemory) -> Option<Used> {
        of_either!(self, ring => ring.used(memory))
    }
}
