//! Memory for tables and frames, which live as long as the process: mapped once, all zero, in huge
//! pages where the node has any to spare.
//!
//! A random look at a table of 200 MiB misses the processor's cache of page translations nearly
//! every time with pages of 4 KiB; with pages of 2 MiB hardly ever. They are taken from the node's
//! reserve (`vm.nr_hugepages`); where that is empty, the kernel is asked to find some as memory is
//! first touched, and may not.

#![allow(unsafe_code, reason = "maps memory, and hands it out as words")]

use std::io;
use std::ptr::NonNull;

use seine_pipeline::connection::Line;

/// The size of a huge page, of which mappings are a multiple.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The kernel gave no memory.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes for connections; lower `connections.max`")]
pub struct MapError {
    bytes: usize,
    source: io::Error,
}

/// What a mapping is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Huge ones, from the node's reserve.
    Reserved,
    /// Ordinary ones, or huge ones where the kernel finds some.
    Ordinary,
}

/// What a mapping should be made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Huge pages, if they can be had.
    Huge,
    /// Pages of 4 KiB, whatever there is.
    Small,
}

/// Maps so many cache lines of zeros, for the life of the process.
pub fn map(lines: usize) -> Result<(&'static [Line], Pages), MapError> {
    map_in(lines, Wanted::Huge)
}

/// As [`map`], in such pages: for measurements.
pub fn map_in(lines: usize, wanted: Wanted) -> Result<(&'static [Line], Pages), MapError> {
    let bytes = (lines.max(1) * size_of::<Line>()).next_multiple_of(HUGE_PAGE_BYTES);
    let refused = |source| MapError { bytes, source };
    let reserved = match wanted {
        Wanted::Huge => anonymous(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok(),
        Wanted::Small => None,
    };
    let (base, pages) = match reserved {
        Some(base) => (base, Pages::Reserved),
        None => (anonymous(bytes, 0).map_err(refused)?, Pages::Ordinary),
    };
    if pages == Pages::Ordinary {
        let advice = match wanted {
            Wanted::Huge => libc::MADV_HUGEPAGE,
            Wanted::Small => libc::MADV_NOHUGEPAGE,
        };
        // SAFETY: the range is the mapping made above. It changes how pages are found, not what is
        // in them; a kernel without huge pages refuses, and then they stay as they are.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, advice) };
    }
    // SAFETY: the mapping is page-aligned, at least `lines` lines long, readable and writable,
    // never unmapped, and known to nobody else; zero is a valid value of every atomic word.
    Ok((unsafe { std::slice::from_raw_parts(base.as_ptr(), lines) }, pages))
}

/// Maps so many bytes for the life of the process, all of them there at once: what touches them
/// later never waits for the kernel. In huge pages as far as it finds some.
pub fn map_touched(bytes: usize) -> io::Result<NonNull<u8>> {
    // Kernels before 6.7 start a mapping at any page, and a huge one starts at a multiple of itself.
    let whole = anonymous(bytes + HUGE_PAGE_BYTES, 0)?.cast::<u8>();
    // SAFETY: less than a huge page further than its start, the mapping still has `bytes` bytes.
    let base = unsafe { whole.add(whole.as_ptr().align_offset(HUGE_PAGE_BYTES)) };
    // SAFETY: both ranges are the mapping made above, of which nobody knows; what is in it stays.
    let touched = unsafe {
        libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE)
    };
    if touched == 0 { Ok(base) } else { Err(io::Error::last_os_error()) }
}

fn anonymous(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<Line>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that
    // exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    let mapped = NonNull::new(address.cast()).filter(|_| address != libc::MAP_FAILED);
    mapped.ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::Ordering;

    use seine_pipeline::connection::{ConnectionMemory, ConnectionTable};
    use seine_pipeline::limits::ConnectionLimits;

    use super::*;

    #[test]
    fn mapped_lines_are_zero_aligned_and_apart() {
        let (lines, _) = map(100_000).unwrap();
        assert_eq!(lines.len(), 100_000);
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(std::ptr::from_ref(line) as usize % 64, 0);
            for word in &line.0 {
                assert_eq!(word.swap(index as u64, Ordering::Relaxed), 0);
            }
        }
        let kept =
            |(index, line): (usize, &Line)| line.0[7].load(Ordering::Relaxed) == index as u64;
        assert!(lines.iter().enumerate().all(kept));
    }

    #[test]
    fn a_table_in_mapped_memory_has_all_its_room() {
        let limits = ConnectionLimits { connections: 5000, ..ConnectionLimits::default() };
        let (lines, _) = map(ConnectionTable::lines(&limits)).unwrap();
        let table = ConnectionTable::in_memory(limits, 1, ConnectionMemory::Lent(lines));
        assert_eq!(table.occupancy().capacity, 5000);
    }

    #[test]
    fn more_than_there_can_be_is_refused_with_what_to_change() {
        let error = map(1 << 50).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("lower `connections.max`"), "{error}");
    }
}
