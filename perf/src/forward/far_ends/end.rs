//! The far end of one port, as the generator uses it.

use crate::forward::packets::{Said, Traffic};
use crate::virtio::{FrontEnd, HEADER_BYTES, Received};

/// Where the header of a frame says how it is in segments (VIRTIO 1.2, 5.1.6).
const GSO_TYPE_AT: usize = 1;
const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP_OVER_IPV4: u8 = 1;
/// Where TCP begins, where its checksum is from there, and where its payload begins.
const TCP_AT: u16 = 34;
const CHECKSUM_AT: u16 = 16;
const TCP_HEADERS: u16 = 54;

/// What all frames of a run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of each.
    pub bytes: usize,
    /// What a guest tells its device of each.
    pub header: [u8; HEADER_BYTES],
}

impl Shape {
    /// Of packets as they are now; with segments or before them the device has sums to do.
    pub fn of(traffic: &Traffic, has_sums_to_do: bool) -> Shape {
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, value: u16| {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        if has_sums_to_do {
            put(6, TCP_AT);
            put(8, CHECKSUM_AT);
        }
        if let Some(bytes) = traffic.segment_bytes() {
            put(2, TCP_HEADERS);
            put(4, bytes as u16);
            header[GSO_TYPE_AT] = GSO_TCP_OVER_IPV4;
        }
        header[0] = if has_sums_to_do { NEEDS_CHECKSUM } else { 0 };
        Shape { bytes: traffic.frame_bytes(), header }
    }
}

/// A frame that came out of the switch.
pub trait Arrived {
    /// So many of its first bytes; fewer if it is shorter.
    fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8];
    /// What is known of it beside that.
    fn said(&self) -> Said;
}

/// The far end of one port.
pub trait FarEnd: Send {
    /// Stages a frame that begins so; the switch gets it with [`FarEnd::flush`]. False when there
    /// is no room.
    fn transmit(&mut self, shape: Shape, start: &[u8]) -> bool;
    /// Takes back what the switch is done with. Says how many frames can be staged.
    fn reclaim(&mut self) -> usize;
    /// Lets the switch have what was staged.
    fn flush(&mut self);
    /// Passes on at most so many frames that came out. Says how many there were.
    fn receive(&mut self, limit: usize, frame: impl FnMut(&dyn Arrived)) -> usize;
    /// Whether the switch is gone.
    fn is_closed(&self) -> bool;
}

impl Arrived for Received<'_> {
    fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        Received::copy_to(self, buffer)
    }

    fn said(&self) -> Said {
        Said { bytes: self.len(), in_segments: self.header()[GSO_TYPE_AT] != 0 }
    }
}

impl FarEnd for FrontEnd {
    #[inline]
    fn transmit(&mut self, shape: Shape, start: &[u8]) -> bool {
        self.transmit_with(shape.header, shape.bytes, &[start])
    }

    #[inline]
    fn reclaim(&mut self) -> usize {
        FrontEnd::reclaim(self)
    }

    #[inline]
    fn flush(&mut self) {
        FrontEnd::flush(self);
    }

    #[inline]
    fn receive(&mut self, limit: usize, mut frame: impl FnMut(&dyn Arrived)) -> usize {
        FrontEnd::receive(self, limit, |received| frame(&received))
    }

    fn is_closed(&self) -> bool {
        FrontEnd::is_closed(self)
    }
}
