//! Packet memory and who owns it.
//!
//! ```text
//!  Region  one mapping per process, registered with the kernel once, cut into equal frames
//!    | depot: frames nobody holds (lock-free, shared)
//!    v
//!  FrameCache  one a worker: a short stack over the depot
//!    | allocate / free
//!    v
//!  Frame  the right to read and write one frame: not Copy, not Clone
//!    in a Batch, in a port's ring, in the cache: always in exactly one place
//! ```
//!
//! A packet that is larger than a frame is a [`chain`] of them.
//!
//! A [`Frame`] has no destructor: who drops one by accident leaks it, which the port contract tests
//! notice by counting. Facts about a packet lie in the `Frame`, never in the buffer: the kernel
//! writes into an AF_XDP frame's headroom.

#![allow(unsafe_code, reason = "hands out slices of the mapping; Frame is the proof of ownership")]

mod cache;
mod chain;

use std::io;
use std::ptr::NonNull;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use seine_pipeline::address::PortId;
use seine_pipeline::composed::PacketBuffer;
use seine_pipeline::limits::BATCH_MAX;
use seine_pipeline::packet::{Checksum, Packet, Place};

pub use self::cache::FrameCache;
use self::chain::Links;
pub use self::chain::{Layout, SEGMENTS_MAX};
use crate::memory::{self, HugePages};

/// Frames on their way between ports.
pub type Batch = ArrayVec<Frame, BATCH_MAX>;

/// Bytes at the start of a frame that a packet received by AF_XDP leaves free: the kernel's
/// `XDP_PACKET_HEADROOM`. Holds the TX metadata and any tunnel header.
pub const HEADROOM: usize = 256;

/// Why there is no packet memory.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The size of a frame must be one that AF_XDP takes.
    #[error("frame size {0} is not a power of two from 2048 to 4096 bytes")]
    FrameSize(usize),
    /// The kernel gave no memory.
    #[error("cannot map {bytes} bytes for {frames} frames: {source}; lower `frames.count`{}", huge.hint(*bytes))]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// Frames asked for.
        frames: usize,
        /// In which pages.
        huge: HugePages,
        /// What mmap said.
        source: io::Error,
    },
}

/// All packet memory of the process, cut into frames of one size.
pub struct Region {
    base: NonNull<u8>,
    frame_bytes: usize,
    frames: usize,
    depot: ArrayQueue<u32>,
    links: Links,
}

// SAFETY: the mapping lives as long as the process, and each frame of it is reached only through
// the one `Frame` with its index.
unsafe impl Send for Region {}
// SAFETY: as above; the depot is itself shared safely.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `frames` frames of `frame_bytes` bytes. The memory is never given back: sockets and
    /// frames refer to it for the life of the process.
    pub fn map(frames: usize, frame_bytes: usize) -> Result<&'static Region, RegionError> {
        Region::map_in(frames, frame_bytes, HugePages::Auto)
    }

    /// As [`map`](Self::map), in such pages.
    pub fn map_in(
        frames: usize,
        frame_bytes: usize,
        huge: HugePages,
    ) -> Result<&'static Region, RegionError> {
        if !(2048..=4096).contains(&frame_bytes) || !frame_bytes.is_power_of_two() {
            return Err(RegionError::FrameSize(frame_bytes));
        }
        let bytes = frames * frame_bytes;
        let base = memory::map_touched(bytes, huge).map_err(|source| RegionError::Map {
            bytes,
            frames,
            huge,
            source,
        })?;
        let depot = ArrayQueue::new(frames.max(1));
        for index in 0..frames as u32 {
            // The queue holds exactly as many as there are frames.
            let _ = depot.push(index);
        }
        let links = Links::new(frames);
        Ok(Box::leak(Box::new(Region { base, frame_bytes, frames, depot, links })))
    }

    /// The mapping's address and length, for registration with the kernel.
    pub fn mapping(&self) -> (NonNull<u8>, usize) {
        (self.base, self.frames * self.frame_bytes)
    }

    /// Bytes of one frame, headroom included.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Frames in all.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Frames in the depot now.
    pub fn free_frames(&self) -> usize {
        self.depot.len()
    }

    /// # Safety
    /// There must be a frame of this index.
    unsafe fn address(&self, index: u32) -> NonNull<u8> {
        // SAFETY: frames lie within the mapping.
        unsafe { self.base.add(index as usize * self.frame_bytes) }
    }

    /// Claims the frame with this index: the counterpart of [`Frame::release`].
    ///
    /// # Safety
    /// The index must have come from `release`, and no other `Frame` may have been made of it
    /// since: a port calls this once for each frame that its device gives back.
    pub unsafe fn claim(
        &'static self,
        index: u32,
        start: usize,
        len: usize,
        checksum: Checksum,
    ) -> Frame {
        assert!((index as usize) < self.frames && start + len <= self.frame_bytes);
        let (start, len) = (start as u16, len as u16);
        Frame { region: self, index, start, len, checksum, chained: false, rest: 0 }
    }

    /// Claims the head of a chain with all that follows it, or a frame like any other.
    ///
    /// # Safety
    /// As of [`claim`](Self::claim), the index being one that [`Frame::release_chain`] gave;
    /// `chained` is what it said.
    pub(crate) unsafe fn claim_chain(
        &'static self,
        index: u32,
        (start, len): (usize, usize),
        checksum: Checksum,
        chained: bool,
    ) -> Frame {
        // SAFETY: as the caller says.
        Frame { chained, ..unsafe { self.claim(index, start, len, checksum) } }
    }
}

/// The right to one frame: whoever has it may read and write its buffer.
///
/// Invariant: `start + len <= region.frame_bytes`.
#[must_use = "a frame that is dropped is lost: give it back to a FrameCache"]
pub struct Frame {
    region: &'static Region,
    index: u32,
    /// At most 4096, as `len`. With them a frame is 24 bytes: it is copied in two pieces, and what
    /// is read right after lies within one, so that the read need not wait for both.
    start: u16,
    len: u16,
    /// What the L4 checksum field holds.
    pub checksum: Checksum,
    /// Whether other frames follow it.
    chained: bool,
    /// The byte that is left, so that no piece of a frame is copied that was not written whole.
    #[expect(dead_code, reason = "it is written, and that is its use")]
    rest: u8,
}

impl Frame {
    /// The whole buffer, headroom included.
    pub fn buffer(&self) -> &[u8] {
        // SAFETY: the frame lies within the mapping, and `self` is the only way to it.
        unsafe { std::slice::from_raw_parts(self.address().as_ptr(), self.region.frame_bytes) }
    }

    /// As [`buffer`](Self::buffer), to write.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `buffer`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address().as_ptr(), self.region.frame_bytes) }
    }

    /// The packet in it.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `buffer`; by the invariant the packet lies within it.
        unsafe { std::slice::from_raw_parts(self.address().add(self.start()).as_ptr(), self.len()) }
    }

    /// As [`bytes`](Self::bytes), to write.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe {
            std::slice::from_raw_parts_mut(self.address().add(self.start()).as_ptr(), self.len())
        }
    }

    /// Puts a copy of `packet` into the frame, after the headroom. `false` when it does not fit.
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.buffer_mut().get_mut(HEADROOM..HEADROOM + packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        self.set_range(HEADROOM, packet.len());
        true
    }

    /// Where the packet starts in the buffer.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no packet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says where in the buffer the packet lies.
    pub fn set_range(&mut self, start: usize, len: usize) {
        assert!(start + len <= self.region.frame_bytes);
        (self.start, self.len) = (start as u16, len as u16);
    }

    /// The packet as the pipeline sees it; `None` for a frame that holds none.
    pub fn packet(&mut self, ingress: PortId) -> Option<Packet<'_>> {
        let (start, end, checksum) = (self.start(), self.start() + self.len(), self.checksum);
        let following = self.following();
        let mut packet = Packet::new(self.buffer_mut(), start, end, ingress, checksum)?;
        packet.following = following;
        Some(packet)
    }

    /// Gives the frame to a device, which knows it by index. [`Region::claim`] takes it back. It
    /// must not be followed by others: a device that takes those takes them one by one.
    pub fn release(self) -> u32 {
        assert!(!self.chained, "frames that follow would be lost");
        self.index
    }

    /// As [`release`](Self::release), with all that follows; says whether anything does.
    pub(crate) fn release_chain(self) -> (u32, bool) {
        (self.index, self.chained)
    }

    /// Byte offset of the buffer from the start of the mapping: how AF_XDP addresses a frame.
    pub fn offset(&self) -> u64 {
        self.index as u64 * self.region.frame_bytes as u64
    }

    #[inline]
    fn address(&self) -> NonNull<u8> {
        // SAFETY: `claim` checked that there is a frame of this index.
        unsafe { self.region.address(self.index) }
    }
}

impl PacketBuffer for Frame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        Frame::bytes(self)
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        Frame::bytes_mut(self)
    }

    #[inline]
    fn checksum(&self) -> Checksum {
        self.checksum
    }

    #[inline]
    fn following(&self) -> usize {
        Frame::following(self)
    }

    fn settle(&mut self, place: Place) {
        self.set_range(place.range.start, place.range.len());
        self.checksum = place.checksum;
        if self.chained && place.following == 0 {
            self.stand_alone();
        }
    }

    #[inline]
    fn push_front(&mut self, len: usize) -> Option<()> {
        let len = u16::try_from(len).ok()?;
        self.start = self.start.checked_sub(len)?;
        self.len += len;
        Some(())
    }

    #[inline]
    fn pop_front(&mut self, len: usize) {
        let len = self.len.min(u16::try_from(len).unwrap_or(u16::MAX));
        self.start += len;
        self.len -= len;
    }

    #[inline]
    fn truncate(&mut self, len: usize, checksum: Checksum) {
        self.len = self.len.min(u16::try_from(len).unwrap_or(u16::MAX));
        self.checksum = checksum;
    }

    fn packet(&mut self, ingress: PortId) -> Option<Packet<'_>> {
        Frame::packet(self, ingress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_can_be_had_once_and_comes_back() {
        let region = Region::map(600, 2048).expect("memory");
        let mut cache = FrameCache::new(region);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| cache.allocate()).collect();
        assert_eq!(frames.len(), 600);
        for (number, frame) in frames.iter_mut().enumerate() {
            assert!(frame.fill(&(number as u32).to_le_bytes()));
        }
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(frame.bytes(), (number as u32).to_le_bytes());
        }
        for frame in frames {
            cache.free(frame);
        }
        cache.drain();
        assert_eq!(region.free_frames(), 600);
    }

    #[test]
    fn a_frame_size_that_af_xdp_refuses_is_refused() {
        assert!(matches!(Region::map(1, 3000), Err(RegionError::FrameSize(3000))));
    }
}
