//! Packets between a guest's buffers and frames: one copy each way.
//!
//! Whatever is judged was copied before. A packet that is to be cut is copied segment by segment,
//! each into a frame of its own behind room for headers: see [`segment`](crate::segment).

use seine_pipeline::address::PortId;
use seine_pipeline::packet::Checksum;

use super::lane::Agreement;
use super::memory::Span;
use super::ring::Spans;
use crate::frame::{Frame, FrameCache, HEADROOM};
use crate::port::virtio_net::{self, Defect, Said};
use crate::segment::{self, Segmentation};

pub(super) const ETHERNET_BYTES: usize = 14;

/// The longest virtio-net header, with the count of buffers: that of every guest of today.
const HEADER_BYTES_MAX: usize = virtio_net::BYTES + 2;

/// Why a packet is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is too long or too short, or its checksum lies outside of it.
    Malformed,
    /// It is to be cut, and cannot be as it says.
    Segmentation,
    /// There are too few frames for its segments.
    NoFrame,
}

impl From<Defect> for Refusal {
    fn from(defect: Defect) -> Refusal {
        match defect {
            Defect::Checksum => Refusal::Malformed,
            Defect::Segmentation => Refusal::Segmentation,
        }
    }
}

impl Agreement {
    /// Copies a packet and its facts out of a buffer; its other segments into more frames.
    pub fn copy_out(
        &self,
        spans: &Spans<'_>,
        frame: &mut Frame,
        frames: &mut FrameCache,
    ) -> Result<(), Refusal> {
        let total: usize = spans.iter().map(|span| span.len()).sum();
        let len = total.checked_sub(self.header_bytes).ok_or(Refusal::Malformed)?;
        let mut from = Cursor::new(spans);
        let said = virtio_net::decode(from.read_number(self.header_bytes), len)?;
        let buffer = frame.buffer_mut();
        let limit = self.packet_bytes_max.min(buffer.len() - HEADROOM);
        let first = if said.segmentation.is_some() { len.min(limit) } else { len };
        if !(ETHERNET_BYTES..=limit).contains(&first) {
            return Err(Refusal::Malformed);
        }
        from.read(&mut buffer[HEADROOM..HEADROOM + first]);
        frame.set_range(HEADROOM, first);
        frame.checksum = said.checksum;
        match said.segmentation {
            None => Ok(()),
            Some(said) => self.copy_segments(spans, len, said, frame, frames),
        }
    }

    /// Copies what follows the first segment of a packet of `len` bytes.
    #[cold]
    fn copy_segments(
        &self,
        spans: &Spans<'_>,
        len: usize,
        said: Segmentation,
        head: &mut Frame,
        frames: &mut FrameCache,
    ) -> Result<(), Refusal> {
        if !self.sends.holds(said) {
            return Err(Refusal::Segmentation);
        }
        let opening = segment::open(head, len, said).map_err(|_| Refusal::Segmentation)?;
        let Some(opening) = opening else { return Ok(()) };
        // Payload that was read beyond the first segment is read again; it is not judged.
        let mut from = Cursor::new(spans);
        from.skip(self.header_bytes + opening.first);
        let bytes = len - opening.first;
        let taken = segment::follow(head, opening, bytes, frames, |payload| from.read(payload));
        taken.then_some(()).ok_or(Refusal::NoFrame)
    }

    /// Copies a packet into buffers of a guest that have room for it and its header. `false` when
    /// its facts contradict it.
    pub fn copy_in(&self, spans: &Spans<'_>, frame: &mut Frame, buffers: usize) -> bool {
        let Some(header) = self.header(frame, buffers) else { return false };
        let mut to = Cursor::new(spans);
        to.write_number(header, self.header_bytes);
        to.write(frame.bytes());
        if frame.is_chained() {
            frame.following_bytes().for_each(|bytes| to.write(bytes));
        }
        true
    }

    /// The header for a packet in so many buffers. Completes a checksum that the guest would not.
    fn header(&self, frame: &mut Frame, buffers: usize) -> Option<u128> {
        if frame.checksum != Checksum::Complete && !self.guest_checksum {
            let mut packet = frame.packet(PortId::new(0)?)?;
            packet.complete_checksum();
            frame.checksum = Checksum::Complete;
        }
        let segmentation = segment::of(frame);
        let headers = if segmentation.is_some() { segment::unite(frame) } else { 0 };
        let said = Said { checksum: frame.checksum, segmentation };
        let header = virtio_net::encode(said, frame.len(), headers)?;
        Some(header | u128::from(buffers as u16) << (8 * virtio_net::BYTES))
    }
}

/// A place in the memory of a buffer.
struct Cursor<'s, 'm> {
    spans: &'s [Span<'m>],
    /// Bytes of the first span that lie behind.
    at: usize,
}

impl<'s, 'm> Cursor<'s, 'm> {
    fn new(spans: &'s [Span<'m>]) -> Cursor<'s, 'm> {
        Cursor { spans, at: 0 }
    }

    /// The next memory in one piece, of at most so many bytes, some of which may lie elsewhere.
    fn piece(&mut self, bytes: usize) -> Option<Span<'m>> {
        let (first, rest) = self.spans.split_first()?;
        let (piece, _) = first.split(self.at).1.split(bytes);
        self.at += piece.len();
        if self.at == first.len() {
            (self.spans, self.at) = (rest, 0);
        }
        Some(piece)
    }

    fn skip(&mut self, mut bytes: usize) {
        while bytes > 0
            && let Some(piece) = self.piece(bytes)
        {
            bytes -= piece.len();
        }
    }

    /// The next so many bytes, if they lie in one piece.
    fn whole(&mut self, bytes: usize) -> Option<Span<'m>> {
        let here = self.spans.first()?.len() - self.at;
        (here >= bytes).then(|| self.piece(bytes))?
    }

    /// Reads so many bytes as one number.
    fn read_number(&mut self, bytes: usize) -> u128 {
        if bytes == HEADER_BYTES_MAX
            && let Some(header) = self.whole(bytes)
        {
            let (low, high) = (header.load::<u64>(0), header.load::<u32>(8));
            return u128::from(u64::from_le(low)) | u128::from(u32::from_le(high)) << 64;
        }
        let mut number = [0; 16];
        self.read(&mut number[..bytes]);
        u128::from_le_bytes(number)
    }

    /// Writes the first so many bytes of a number.
    fn write_number(&mut self, number: u128, bytes: usize) {
        if bytes == HEADER_BYTES_MAX
            && let Some(header) = self.whole(bytes)
        {
            header.store(0, (number as u64).to_le());
            header.store(8, ((number >> 64) as u32).to_le());
            return;
        }
        self.write(&number.to_le_bytes()[..bytes]);
    }

    fn read(&mut self, mut target: &mut [u8]) {
        while !target.is_empty()
            && let Some(piece) = self.piece(target.len())
        {
            let (here, rest) = target.split_at_mut(piece.len());
            piece.read(here);
            target = rest;
        }
    }

    fn write(&mut self, mut source: &[u8]) {
        while !source.is_empty()
            && let Some(piece) = self.piece(source.len())
        {
            let (here, rest) = source.split_at(piece.len());
            piece.write(here);
            source = rest;
        }
    }
}
