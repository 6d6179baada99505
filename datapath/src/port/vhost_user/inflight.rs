//! Where a packed ring stands, in memory that outlives this process: the inflight region of the
//! protocol. A split ring needs none: its used index says the same.
//!
//! Buffers are put back in the order they were taken, within one batch, so all that is worth
//! keeping is one position. The front end keeps the file and hands it to the next back end, and
//! never looks inside, so the layout is our own:
//!
//! ```text
//! 64 bytes a ring, half words:  0 mark   2 descriptors   4 done   6 pending
//! ```
//!
//! `pending` is written before a batch is shown to the driver, `done` after it. Whoever comes next
//! sees in the ring itself which of the two holds.

use std::fs::File;
use std::sync::atomic::{Ordering, compiler_fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::fault::GuestFault;
use super::memory::{Area, GuestMemory, RegionPlace};

/// Bytes of a ring's part.
const RING_BYTES: usize = 64;

/// Says that a part is ours, and was written.
const MARK: u16 = 0x5e01;

const MARKED: usize = 0;
const SIZE: usize = 2;
const DONE: usize = 4;
const PENDING: usize = 6;

/// Bytes of a region for so many rings.
pub(super) fn bytes(rings: u16) -> u64 {
    (usize::from(rings.max(1)) * RING_BYTES) as u64
}

/// Makes the file of a region.
pub(super) fn create(rings: u16) -> std::io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"seine-inflight", flags)?);
    file.set_len(bytes(rings))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// The region, mapped: as guarded and as little believed as the guest's memory.
pub(super) fn map(file: &File, offset: u64, bytes: u64) -> Result<GuestMemory, GuestFault> {
    GuestMemory::default().with(RegionPlace { guest: 0, user: 0, bytes, offset }, file)
}

/// One ring's part of the region.
pub(super) struct Track {
    area: Area,
}

impl Track {
    /// The part of ring `index`; `None` when the region has none.
    pub fn of(region: &GuestMemory, index: usize) -> Option<Track> {
        let area = region.area((index * RING_BYTES) as u64, RING_BYTES, 2).ok()?;
        Some(Track { area })
    }

    /// Where a back end before us came to in a ring of `size`; `None` when there was none.
    /// `is_shown` says whether the descriptor at a position was put back.
    pub fn resume(&self, size: u16, is_shown: impl Fn(u16) -> bool) -> Option<u16> {
        let read = |at| self.area.load(at, Ordering::Acquire);
        if read(MARKED) != MARK || read(SIZE) != size {
            return None;
        }
        let (done, pending) = (read(DONE), read(PENDING));
        Some(if done != pending && is_shown(done) { pending } else { done })
    }

    /// Begins anew at a position.
    pub fn begin(&self, size: u16, position: u16) {
        self.area.store(MARKED, 0, Ordering::Release);
        for (at, value) in [(SIZE, size), (DONE, position), (PENDING, position), (MARKED, MARK)] {
            self.area.store(at, value, Ordering::Release);
        }
    }

    /// Says how far a batch will get, before the driver sees it.
    pub fn announce(&self, position: u16) {
        self.area.store(PENDING, position, Ordering::Release);
        // Against the compiler only: a process that dies takes no stores back.
        compiler_fence(Ordering::SeqCst);
    }

    /// Says that the driver has seen it.
    pub fn confirm(&self, position: u16) {
        compiler_fence(Ordering::SeqCst);
        self.area.store(DONE, position, Ordering::Release);
    }

    /// Forgets: the ring was stopped in good order, and the front end knows where.
    pub fn forget(&self) {
        self.area.store(MARKED, 0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn whenever_a_process_dies_the_next_one_knows_where_the_ring_stands() {
        let file = create(4).unwrap();
        let region = map(&file, 0, bytes(4)).unwrap();
        let track = Track::of(&region, 3).unwrap();
        assert!(Track::of(&region, 4).is_none(), "four rings, from 0");
        assert_eq!(track.resume(256, |_| false), None, "nobody was there");
        track.begin(256, 10);
        assert_eq!(track.resume(256, |_| true), Some(10));
        track.announce(15);
        // Before the driver was shown the batch, and after.
        assert_eq!(track.resume(256, |at| at != 10), Some(10));
        assert_eq!(track.resume(256, |at| at == 10), Some(15));
        track.confirm(15);
        assert_eq!(track.resume(256, |_| false), Some(15));
        assert_eq!(track.resume(512, |_| false), None, "another ring");
        track.forget();
        assert_eq!(track.resume(256, |_| false), None);
    }
}
