//! Memory in pieces, as one request to the kernel reads or writes it.

use crate::frame::{Frame, SEGMENTS_MAX};

/// Pieces of one packet.
///
/// Invariant: who passes them to the kernel keeps what they point to until the request is over.
pub(super) struct Pieces(Box<[libc::iovec; SEGMENTS_MAX]>);

// SAFETY: the pointers are numbers here; what they point to goes the same way, see the invariant.
unsafe impl Send for Pieces {}

impl Pieces {
    pub fn new() -> Pieces {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Pieces(Box::new([nothing; SEGMENTS_MAX]))
    }

    /// Memory to be read into: the first part in a frame, what it has no room for in `spill`.
    pub fn reading(&mut self, frame: &mut [u8], spill: &mut [u8]) -> (*const libc::iovec, u32) {
        for (piece, memory) in self.0.iter_mut().zip([frame, spill]) {
            *piece = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        }
        (self.0.as_ptr(), 2)
    }

    /// A range of a frame and all that follows it, to be written.
    pub fn writing(
        &mut self,
        head: &Frame,
        range: std::ops::Range<usize>,
    ) -> (*const libc::iovec, u32) {
        let parts = std::iter::once(&head.buffer()[range]).chain(head.following_bytes());
        let mut count = 0;
        for (piece, memory) in self.0.iter_mut().zip(parts) {
            let iov_base = memory.as_ptr().cast_mut().cast();
            *piece = libc::iovec { iov_base, iov_len: memory.len() };
            count += 1;
        }
        (self.0.as_ptr(), count)
    }
}
