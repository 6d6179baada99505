//! One packet: bytes in a buffer with headroom, what the port said about them, and what the stages
//! learnt on the way.

use crate::address::PortId;

/// What stands in a TCP or UDP checksum field, as the ingress port knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// The whole sum, or nothing to sum: the receiver may verify it.
    #[default]
    Complete,
    /// Only the pseudo-header's sum, as virtio and Linux leave it for the device: somebody still
    /// has to sum from `start` to the end of the packet and store the result at `start + offset`.
    Partial {
        /// Bytes from the start of the packet to the TCP or UDP header.
        start: u16,
        /// Bytes from there to the checksum field.
        offset: u16,
    },
}

/// The headroom cannot hold the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoHeadroom;

/// A packet on its way through the pipeline.
///
/// Invariant: `start <= end <= buffer.len()`.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// The port it came in by.
    pub ingress: PortId,
    /// What the L4 checksum field holds.
    pub checksum: Checksum,
}

impl<'a> Packet<'a> {
    /// The packet at `start..end` of `buffer`. `None` when that range is not within the buffer.
    pub fn new(
        buffer: &'a mut [u8],
        start: usize,
        end: usize,
        ingress: PortId,
        checksum: Checksum,
    ) -> Option<Packet<'a>> {
        (start <= end && end <= buffer.len()).then_some(Packet {
            buffer,
            start,
            end,
            ingress,
            checksum,
        })
    }

    /// Where the packet lies in its buffer now.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// Bytes, Ethernet header included.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// From the outermost header to the end of the payload.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// As [`bytes`](Self::bytes), to rewrite.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Makes room for `count` bytes of headers in front; they hold whatever was there.
    pub fn push_front(&mut self, count: usize) -> Result<(), NoHeadroom> {
        self.start = self.start.checked_sub(count).ok_or(NoHeadroom)?;
        Ok(())
    }

    /// Takes `count` bytes off the front; no more than there are.
    pub fn pop_front(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Sets the length. Grows into the tailroom as far as there is any; `false` when that is not
    /// enough, and nothing changes.
    pub fn resize(&mut self, len: usize) -> bool {
        let end = self.start + len;
        if end > self.buffer.len() {
            return false;
        }
        self.end = end;
        true
    }

    /// Finishes a partial checksum in software, for a port that does not take it.
    pub fn complete_checksum(&mut self) {
        let Checksum::Partial { start, offset } = std::mem::take(&mut self.checksum) else {
            return;
        };
        let segment = self.bytes_mut().get_mut(usize::from(start)..).unwrap_or_default();
        let mut sum: u64 = 0;
        for pair in segment.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let offset = usize::from(offset);
        if let Some(field) = segment.get_mut(offset..offset + 2) {
            let sum = !(sum as u16);
            field.copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
        }
    }
}
