//! A guest's memory as this process sees it: which files are believed, what lies where.
//!
//! Whoever reads or writes guest memory does it through an [`Area`], a checked range that keeps
//! its mapping alive. Nothing here is a reference: the guest may write at the same time, so each
//! access is one volatile or atomic read or write, and what is read is a copy before it is judged.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};

use super::fault::GuestFault;
use super::guard::Mapping;
use crate::machine::{self, CACHE_LINE, Wanted};

/// Bytes of a buffer that are asked for ahead: the processor sees by itself where it goes on.
const FETCHED_MAX: usize = 256;

/// Memory regions of one guest: what a front end may add, one at a time.
pub(super) const REGIONS_MAX: usize = 32;

/// Mappings of one guest: those, and as many that are about to take their place.
pub(super) const MAPPINGS_MAX: usize = 2 * REGIONS_MAX;

/// Bytes of a guest's memory. A file in memory is as long as its owner says, and what is mapped of
/// it takes from the one address space that all guests, and all allocations, share.
const GUEST_BYTES_MAX: u64 = 1 << 40;

/// Where a region lies, by its front end's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionPlace {
    /// Guest-physical address.
    pub guest: u64,
    /// Address in the front end's process.
    pub user: u64,
    /// Length.
    pub bytes: u64,
    /// Where it starts in its file.
    pub offset: u64,
}

/// One region, mapped.
struct Region {
    mapping: Mapping,
    /// Where it starts in the mapping, which is aligned to the file's pages.
    lead: usize,
    place: RegionPlace,
}

impl Region {
    fn map(place: RegionPlace, file: &File) -> Result<Region, GuestFault> {
        let page = check_file(file)?;
        let errno = |error: std::io::Error| GuestFault::MemoryMap {
            errno: error.raw_os_error().unwrap_or(0),
        };
        let length = file.metadata().map_err(errno)?.len();
        let end = place.offset.saturating_add(place.bytes);
        if end > length {
            return Err(GuestFault::MemoryShort { end, bytes: length });
        }
        let lead = place.offset % page;
        let bytes = (lead + place.bytes).next_multiple_of(page) as usize;
        let mapping = Mapping::of_file(file, place.offset - lead, bytes).map_err(errno)?;
        Ok(Region { mapping, lead: lead as usize, place })
    }

    /// The address of `bytes` bytes from `offset` on, if they are in it.
    fn at(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let inside = offset <= self.place.bytes && bytes <= self.place.bytes - offset;
        inside.then(|| {
            let at = self.lead + offset as usize;
            // SAFETY: `at` is at most the region's end, which lies within the mapping.
            unsafe { self.mapping.base().add(at) }
        })
    }
}

/// Which files may be guest memory: those whose pages cannot wait for somebody else's disk or
/// daemon. Returns the size of its pages.
fn check_file(file: &File) -> Result<u64, GuestFault> {
    let kind = fstatfs(file).map_err(|_| GuestFault::MemoryKind)?.filesystem_type();
    // SAFETY: F_GET_SEALS takes no argument; it fails for files that are not in memory.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let metadata = file.metadata().map_err(|_| GuestFault::MemoryKind)?;
    if seals < 0 || !metadata.is_file() {
        return Err(GuestFault::MemoryKind);
    }
    match kind {
        HUGETLBFS_MAGIC => Ok(metadata.blksize().max(4096)),
        // A memfd has no name; a file of a tmpfs that still has one is somebody else's, too.
        TMPFS_MAGIC if metadata.nlink() == 0 => Ok(4096),
        _ => Err(GuestFault::MemoryKind),
    }
}

/// All memory of a guest. It never changes: another one takes its place.
#[derive(Clone, Default)]
pub(super) struct GuestMemory {
    regions: Vec<Arc<Region>>,
}

impl GuestMemory {
    /// The same memory with one region more.
    pub fn with(&self, place: RegionPlace, file: &File) -> Result<GuestMemory, GuestFault> {
        let refused = GuestFault::MemoryLayout { address: place.guest };
        let wraps = |start: u64| start.checked_add(place.bytes).is_none();
        if self.regions.len() == REGIONS_MAX
            || place.bytes == 0
            || wraps(place.guest)
            || wraps(place.user)
        {
            return Err(refused);
        }
        let mapped = self.regions.iter().map(|region| region.place.bytes).sum::<u64>();
        let bytes = mapped.saturating_add(place.bytes);
        if bytes > GUEST_BYTES_MAX {
            return Err(GuestFault::MemoryTooLarge { bytes, max: GUEST_BYTES_MAX });
        }
        let overlaps =
            |a: u64, b: &RegionPlace, start: u64| a < start + b.bytes && start < a + place.bytes;
        if self.regions.iter().map(|region| &region.place).any(|other| {
            overlaps(place.guest, other, other.guest) || overlaps(place.user, other, other.user)
        }) {
            return Err(refused);
        }
        let mut regions = self.regions.clone();
        regions.push(Arc::new(Region::map(place, file)?));
        Ok(GuestMemory { regions })
    }

    /// The same memory without the region at this place; `None` when there is none.
    pub fn without(&self, guest: u64, user: u64, bytes: u64) -> Option<GuestMemory> {
        let mut regions = self.regions.clone();
        let at = regions.iter().position(|region| {
            (region.place.guest, region.place.user, region.place.bytes) == (guest, user, bytes)
        })?;
        regions.remove(at);
        Some(GuestMemory { regions })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// A span at a guest-physical address, for the packet path.
    pub fn span(&self, address: u64, bytes: u32) -> Result<Span<'_>, GuestFault> {
        for region in &self.regions {
            let offset = address.wrapping_sub(region.place.guest);
            if let Some(at) = region.at(offset, bytes.into()) {
                return Ok(Span { at, bytes: bytes as usize, memory: std::marker::PhantomData });
            }
        }
        Err(GuestFault::OutsideMemory { address, bytes: bytes.into() })
    }

    /// An area at an address of the front end, for a ring.
    pub fn area(&self, user: u64, bytes: usize, align: u64) -> Result<Area, GuestFault> {
        let place = |region: &&Arc<Region>| {
            region.at(user.wrapping_sub(region.place.user), bytes as u64).is_some()
        };
        let region = self
            .regions
            .iter()
            .find(place)
            .filter(|_| user.is_multiple_of(align))
            .ok_or(GuestFault::RingPlace { address: user })?;
        let offset = user - region.place.user;
        let at = region.at(offset, bytes as u64);
        let at = at.filter(|at| (at.as_ptr() as u64).is_multiple_of(align));
        let at = at.ok_or(GuestFault::RingPlace { address: user })?;
        Ok(Area { at, bytes, _region: region.clone() })
    }

    /// Whether any access found nothing behind it.
    pub fn is_broken(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.is_broken())
    }
}

/// What is read and written at once, of any bytes.
pub(super) trait Number: Copy {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for u128 {}

/// At any address. An array of bytes would do as well, but is read and written byte by byte.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// Reads a number once: what is checked is what is used.
///
/// # Safety
/// All its bytes lie within a mapping.
#[inline]
unsafe fn load<T: Number>(at: NonNull<u8>) -> T {
    // SAFETY: as the caller says; a packed value has no alignment, and any bytes are a number.
    unsafe { at.cast::<Unaligned<T>>().read_volatile() }.0
}

/// Writes a number.
///
/// # Safety
/// As of [`load`].
#[inline]
unsafe fn store<T: Number>(at: NonNull<u8>, number: T) {
    // SAFETY: as in `load`.
    unsafe { at.cast::<Unaligned<T>>().write_volatile(Unaligned(number)) };
}

/// Checked bytes of guest memory, while the memory is borrowed.
///
/// Invariant: the bytes lie within one mapping that `'a` keeps alive.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    at: NonNull<u8>,
    bytes: usize,
    memory: std::marker::PhantomData<&'a GuestMemory>,
}

impl<'a> Span<'a> {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The first `bytes` of it, and the rest.
    pub fn split(self, bytes: usize) -> (Span<'a>, Span<'a>) {
        let bytes = bytes.min(self.bytes);
        // SAFETY: at most the end of the span.
        let rest = unsafe { self.at.add(bytes) };
        (Span { bytes, ..self }, Span { at: rest, bytes: self.bytes - bytes, ..self })
    }

    /// Has the processor bring the lines of its first bytes, to be read or written soon.
    #[inline]
    pub fn fetch(&self, bytes: usize, wanted: Wanted) {
        let bytes = self.bytes.min(bytes).min(FETCHED_MAX);
        for offset in (0..bytes).step_by(CACHE_LINE) {
            // SAFETY: within the span.
            machine::fetch(unsafe { self.at.add(offset) }, wanted);
        }
    }

    /// Copies it out; `target` must be as long.
    pub fn read(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.bytes);
        // SAFETY: the source is within a live mapping by the invariant, the target is ours alone,
        // and the two are apart. The guest may write meanwhile: any bytes are valid, and they are
        // judged only after they were copied.
        unsafe { machine::copy_cold(self.at.as_ptr(), target.as_mut_ptr(), self.bytes) };
    }

    /// Copies into it; `source` must be as long.
    pub fn write(&self, source: &[u8]) {
        assert_eq!(source.len(), self.bytes);
        // SAFETY: as in `read`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), self.at.as_ptr(), self.bytes) };
    }

    /// The number at an offset, as it lies there.
    #[inline]
    pub fn load<T: Number>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.bytes);
        // SAFETY: within the span by the check.
        unsafe { load(self.at.add(offset)) }
    }

    /// Writes a number at an offset, as it is to lie there.
    #[inline]
    pub fn store<T: Number>(&self, offset: usize, number: T) {
        assert!(offset + size_of::<T>() <= self.bytes);
        // SAFETY: within the span by the check.
        unsafe { store(self.at.add(offset), number) };
    }
}

/// Checked memory of a ring. Keeps its mapping.
///
/// Invariant: the bytes lie within the mapping of `_region`, and `at` is aligned to 2 at least.
pub(super) struct Area {
    at: NonNull<u8>,
    bytes: usize,
    _region: Arc<Region>,
}

// SAFETY: the mapping is the process's, and every access is atomic or volatile.
unsafe impl Send for Area {}

impl Area {
    /// The half word at an even offset.
    fn half(&self, offset: usize) -> &AtomicU16 {
        assert!(offset + 2 <= self.bytes && offset.is_multiple_of(2));
        // SAFETY: within the mapping by the check and aligned by the invariant; the guest, too,
        // reaches it by single loads and stores.
        unsafe { self.at.add(offset).cast::<AtomicU16>().as_ref() }
    }

    /// Loads a half word.
    pub fn load(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.half(offset).load(order))
    }

    /// Stores a half word.
    pub fn store(&self, offset: usize, value: u16, order: Ordering) {
        self.half(offset).store(value.to_le(), order);
    }

    /// The descriptor with this number, read once.
    #[inline]
    pub fn descriptor(&self, index: usize) -> u128 {
        assert!((index + 1) * size_of::<u128>() <= self.bytes);
        // SAFETY: within the mapping by the check.
        u128::from_le(unsafe { load(self.at.add(index * size_of::<u128>())) })
    }

    /// Writes a number at an offset, as it is to lie there.
    #[inline]
    pub fn write<T: Number>(&self, offset: usize, number: T) {
        assert!(offset + size_of::<T>() <= self.bytes);
        // SAFETY: within the mapping by the check.
        unsafe { store(self.at.add(offset), number) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn a_span_lies_within_one_region_whatever_is_asked_for() {
        let file = File::from(memfd_create(c"guest", MFdFlags::empty()).unwrap());
        file.set_len(0x4000).unwrap();
        let place = |guest, offset| RegionPlace { guest, user: guest, bytes: 0x1000, offset };
        let memory = GuestMemory::default();
        let memory = memory.with(place(0x1000, 0x800), &file).unwrap();
        let memory = memory.with(place(0x2000, 0x2000), &file).unwrap();
        for (address, bytes, fits) in [
            (0x1000, 0x1000, true),
            (0x1fff, 1, true),
            (0x2000, 0, true),
            (0x1fff, 2, false),
            (0xfff, 1, false),
            (0x3001, 0, false),
            // What is left of the region's start wraps to the top of all numbers.
            (0, 1, false),
            (u64::MAX, 1, false),
            (0x1000, u32::MAX, false),
        ] {
            assert_eq!(memory.span(address, bytes).is_ok(), fits, "{bytes} at {address:#x}");
        }
        assert!(memory.with(place(u64::MAX - 0xfff, 0), &file).is_err(), "it ends past the end");
        assert!(memory.with(place(0x1800, 0x2000), &file).is_err(), "it overlaps");
    }

    #[test]
    fn no_guest_takes_the_address_space_that_others_need() {
        let file = File::from(memfd_create(c"guest", MFdFlags::empty()).unwrap());
        file.set_len(1 << 46).unwrap();
        let place = |guest, bytes| RegionPlace { guest, user: guest, bytes, offset: 0 };
        let memory = GuestMemory::default();
        assert!(memory.with(place(0, 1 << 46), &file).is_err(), "half of it");
        let memory = memory.with(place(0, GUEST_BYTES_MAX - 0x1000), &file).unwrap();
        let memory = memory.with(place(1 << 41, 0x1000), &file).unwrap();
        let (bytes, max) = (GUEST_BYTES_MAX + 0x1000, GUEST_BYTES_MAX);
        let refused = memory.with(place(1 << 42, 0x1000), &file).err();
        assert_eq!(refused, Some(GuestFault::MemoryTooLarge { bytes, max }));
    }
}
