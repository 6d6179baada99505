//! Memory that a front end shares with its back end: a memfd, mapped once, addressed by offset.
//!
//! Nothing here ever hands out a plain reference to the bytes: the other process may write them
//! whenever it likes. Words are atomics; bytes are copied in and out.

#![allow(unsafe_code, reason = "memory that another process maps as well")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The size of a huge page, of which memory is a multiple.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Huge ones of 2 MiB, from the machine's reserve.
    Huge,
    /// Ordinary ones.
    Ordinary,
}

/// A sealed memfd and its mapping. Every access is checked against its length.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
    pages: Pages,
}

// SAFETY: the mapping belongs to this value alone, wherever it moves; it is unmapped only when
// this is dropped.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Memory of at least so many bytes, all zero; in huge pages where there are any to spare.
    pub fn new(bytes: usize) -> io::Result<SharedMemory> {
        let bytes = bytes.max(1).next_multiple_of(HUGE_PAGE_BYTES);
        let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        SharedMemory::of(bytes, huge, Pages::Huge)
            .or_else(|_| SharedMemory::of(bytes, MFdFlags::empty(), Pages::Ordinary))
    }

    fn of(bytes: usize, flags: MFdFlags, pages: Pages) -> io::Result<SharedMemory> {
        let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"seine-front-end", flags)?;
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        nix::unistd::ftruncate(&file, length)?;
        // A back end that cuts it short would kill this process at the next access.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        SharedMemory::map(file, bytes, pages)
    }

    fn map(file: OwnedFd, bytes: usize, pages: Pages) -> io::Result<SharedMemory> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        let mapped = NonNull::new(address.cast()).filter(|_| address != libc::MAP_FAILED);
        let base = mapped.ok_or_else(io::Error::last_os_error)?;
        Ok(SharedMemory { base, bytes, file, pages })
    }

    /// What another front end shares: a second mapping of it, for a back end in a test.
    #[cfg(test)]
    pub fn adopt(file: OwnedFd, bytes: usize) -> io::Result<SharedMemory> {
        SharedMemory::map(file, bytes, Pages::Ordinary)
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Where it is mapped in this process: what the protocol calls a user address.
    pub fn user_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The file to pass to a back end.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_fd().as_raw_fd()
    }

    /// The place of `bytes` bytes that begin at `at`.
    #[inline]
    fn place(&self, at: usize, bytes: usize) -> NonNull<u8> {
        assert!(
            at <= self.bytes && bytes <= self.bytes - at,
            "{bytes} bytes at {at} end after the {} bytes of shared memory",
            self.bytes
        );
        // SAFETY: the offset was just found to be within the mapping.
        unsafe { self.base.add(at) }
    }

    /// The 16 bits at an offset.
    #[inline]
    pub fn word_16(&self, at: usize) -> &AtomicU16 {
        assert!(at.is_multiple_of(2), "offset {at} of 16 bits is odd");
        // SAFETY: the two bytes are mapped as long as `self` lives and aligned, the mapping being
        // so; whoever else looks at them in this process does so by an atomic too or by a copy of
        // buffers, which rings keep apart from words.
        unsafe { AtomicU16::from_ptr(self.place(at, 2).cast().as_ptr()) }
    }

    /// The 32 bits at an offset.
    #[inline]
    pub fn word_32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "offset {at} of 32 bits is not a multiple of 4");
        // SAFETY: as for 16 bits.
        unsafe { AtomicU32::from_ptr(self.place(at, 4).cast().as_ptr()) }
    }

    /// The 64 bits at an offset.
    #[inline]
    pub fn word_64(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "offset {at} of 64 bits is not a multiple of 8");
        // SAFETY: as for 16 bits.
        unsafe { AtomicU64::from_ptr(self.place(at, 8).cast().as_ptr()) }
    }

    /// Copies bytes in.
    #[inline]
    pub fn write(&mut self, at: usize, from: &[u8]) {
        let place = self.place(at, from.len());
        // SAFETY: the target is mapped and, being reached through `&mut self` and copied to, not
        // borrowed; the source is a slice of private memory, so they do not overlap. The other
        // process may read the bytes meanwhile: then it reads a mixture, and that is its affair.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place.as_ptr(), from.len()) };
    }

    /// Copies bytes out.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) {
        let place = self.place(at, to.len());
        // SAFETY: the source is mapped; the target is a slice of private memory. What the other
        // process writes meanwhile may give a mixture of bytes, and any byte is a valid one.
        unsafe { std::ptr::copy_nonoverlapping(place.as_ptr(), to.as_mut_ptr(), to.len()) };
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `of`, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_bytes_and_as_words() {
        let mut memory = SharedMemory::new(1).unwrap();
        assert_eq!(memory.bytes(), HUGE_PAGE_BYTES);
        memory.write(4096, &0x0102_0304_u32.to_ne_bytes());
        assert_eq!(memory.word_32(4096).load(Ordering::Relaxed), 0x0102_0304);
        memory.word_64(8).store(7, Ordering::Relaxed);
        memory.word_16(2).store(9, Ordering::Relaxed);
        let mut bytes = [0; 8];
        memory.read(8, &mut bytes);
        assert_eq!(u64::from_ne_bytes(bytes), 7);
    }

    #[test]
    fn a_back_end_cannot_cut_it_short() {
        let memory = SharedMemory::new(1).unwrap();
        assert!(nix::unistd::ftruncate(memory.file.as_fd(), 0).is_err());
    }

    #[test]
    #[should_panic(expected = "end after")]
    fn what_lies_outside_is_refused() {
        let memory = SharedMemory::new(1).unwrap();
        memory.read(HUGE_PAGE_BYTES - 1, &mut [0; 2]);
    }

    #[test]
    #[should_panic(expected = "is odd")]
    fn a_word_across_words_is_refused() {
        SharedMemory::new(1).unwrap().word_16(3);
    }
}
