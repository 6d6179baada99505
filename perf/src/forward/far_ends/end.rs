//! The far end of one port, as the generator uses it.

use crate::virtio::{FrontEnd, HEADER_BYTES, Received};

/// A frame that came out of the switch.
pub trait Arrived {
    /// So many of its first bytes; fewer if it is shorter.
    fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8];
}

/// The far end of one port.
pub trait FarEnd: Send {
    /// Stages a frame of so many bytes that begins so; the switch gets it with
    /// [`FarEnd::flush`]. False when there is no room.
    fn transmit(&mut self, frame_bytes: usize, start: &[u8]) -> bool;
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
}

impl FarEnd for FrontEnd {
    #[inline]
    fn transmit(&mut self, frame_bytes: usize, start: &[u8]) -> bool {
        self.transmit_with([0; HEADER_BYTES], frame_bytes, &[start])
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
