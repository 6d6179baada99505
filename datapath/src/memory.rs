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
use serde::Deserialize;

/// The size of a huge page, of which mappings are a multiple.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The kernel gave no memory.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes for connections: {source}; lower `connections.max`{}", self.hint())]
pub struct MapError {
    bytes: usize,
    huge: HugePages,
    source: io::Error,
}

impl MapError {
    fn hint(&self) -> String {
        self.huge.hint(self.bytes)
    }
}

/// What a mapping is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Huge ones, from the node's reserve.
    Reserved,
    /// Ordinary ones, or huge ones where the kernel finds some.
    Ordinary,
}

/// What mappings should be made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// Huge pages from the node's reserve, else those that the kernel finds, else ordinary ones.
    #[default]
    Auto,
    /// Huge pages from the node's reserve, or nothing.
    Reserved,
    /// Pages of 4 KiB, whatever there is.
    Off,
}

impl HugePages {
    /// What else to do where so many bytes were not to be had.
    pub fn hint(self, bytes: usize) -> String {
        let pages = bytes.div_ceil(HUGE_PAGE_BYTES);
        match self {
            HugePages::Auto | HugePages::Off => String::new(),
            HugePages::Reserved => {
                format!(", or reserve {pages} more huge pages by `sysctl vm.nr_hugepages`")
            }
        }
    }
}

/// Maps so many cache lines of zeros, for the life of the process.
pub fn map(lines: usize, huge: HugePages) -> Result<(&'static [Line], Pages), MapError> {
    let bytes = lines.max(1) * size_of::<Line>();
    let (base, pages) = mapping(bytes, huge).map_err(|source| MapError { bytes, huge, source })?;
    // SAFETY: the mapping is page-aligned, at least `lines` lines long, readable and writable,
    // never unmapped, and known to nobody else; zero is a valid value of every atomic word.
    Ok((unsafe { std::slice::from_raw_parts(base.as_ptr(), lines) }, pages))
}

/// Maps so many bytes for the life of the process, all of them there at once: what touches them
/// later never waits for the kernel.
pub fn map_touched(bytes: usize, huge: HugePages) -> io::Result<NonNull<u8>> {
    let (base, _) = mapping(bytes, huge)?;
    // SAFETY: the range is the mapping made above, of which nobody knows; what is in it stays.
    let touched = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
    if touched == 0 { Ok(base.cast()) } else { Err(io::Error::last_os_error()) }
}

fn mapping(bytes: usize, huge: HugePages) -> io::Result<(NonNull<Line>, Pages)> {
    let bytes =
        bytes.checked_next_multiple_of(HUGE_PAGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    if huge != HugePages::Off {
        match anonymous(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
            Ok(base) => return Ok((base, Pages::Reserved)),
            Err(refused) if huge == HugePages::Reserved => return Err(refused),
            Err(_) => {}
        }
    }
    // A kernel before 6.7 starts a mapping at any page; a huge page starts at a multiple of itself.
    let whole = anonymous(bytes + HUGE_PAGE_BYTES, 0)?.cast::<u8>();
    let advice = if huge == HugePages::Off { libc::MADV_NOHUGEPAGE } else { libc::MADV_HUGEPAGE };
    // SAFETY: less than a huge page behind its start the mapping has `bytes` bytes, and nobody
    // knows it. Advice changes how pages are found, not what is in them; a kernel without huge
    // pages refuses, and then they stay as they are.
    let base = unsafe {
        let base = whole.add(whole.as_ptr().align_offset(HUGE_PAGE_BYTES));
        libc::madvise(base.as_ptr().cast(), bytes, advice);
        base
    };
    Ok((base.cast(), Pages::Ordinary))
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
        let (lines, _) = map(100_000, HugePages::Auto).unwrap();
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
        let (lines, _) = map(ConnectionTable::lines(&limits), HugePages::Off).unwrap();
        let table = ConnectionTable::in_memory(limits, 1, ConnectionMemory::Lent(lines));
        assert_eq!(table.occupancy().capacity, 5000);
    }

    #[test]
    fn where_only_reserved_pages_will_do_it_is_said_how_many_to_reserve() {
        let error = map(1 << 50, HugePages::Reserved).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("reserve 34359738368 more huge pages"), "{error}");
        assert!(map_touched(1 << 56, HugePages::Reserved).is_err());
    }

    #[test]
    fn more_than_there_can_be_is_refused_with_what_to_change() {
        let error = map(1 << 50, HugePages::Auto).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("lower `connections.max`"), "{error}");
    }
}
