//! Survives a guest that takes its memory away: the SIGBUS guard.
//!
//! A guest's memory is a file that the guest, too, may cut short or punch holes into at any time;
//! an empty pool of huge pages has the same effect. The next access then raises SIGBUS, which ends
//! the process and with it everybody's network. So every mapping is entered in a table here, and
//! the handler lays private zero pages over the whole mapping, marks it broken and returns: the
//! access goes on with zeros, and the queue that made it looks at the mark before it believes what
//! it read. No seal helps: see decision 0029.
//!
//! A fault elsewhere goes to whoever handled SIGBUS before.

use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use seine_pipeline::limits::PORTS_MAX;

use super::memory::MAPPINGS_MAX;

/// Mappings of guest memory in the process: as many as all ports together may have, so that no
/// guest takes another's. A kernel lets a process have 65,530 of all kinds by default.
const AREAS_MAX: usize = PORTS_MAX * MAPPINGS_MAX;

/// Bytes of all of them: half of the addresses that a process has with four levels of page tables,
/// so that allocations and stacks always find some.
const MAPPED_BYTES_MAX: usize = 1 << 46;

static MAPPED_BYTES: AtomicUsize = AtomicUsize::new(0);

static AREAS: [Area; AREAS_MAX] = [const { Area::free() }; AREAS_MAX];
static PREVIOUS: OnceLock<SigAction> = OnceLock::new();

/// One mapping that the handler knows. `bytes` is written last and cleared first, so that a
/// handler that finds it set sees a whole entry.
struct Area {
    taken: AtomicBool,
    start: AtomicUsize,
    bytes: AtomicUsize,
    broken: AtomicBool,
}

impl Area {
    const fn free() -> Area {
        Area {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn holds(&self, address: usize) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Acquire);
        // Read again: an entry that was used anew in between is not this one.
        bytes != 0
            && address.wrapping_sub(start) < bytes
            && self.bytes.load(Ordering::Acquire) == bytes
    }
}

/// A shared mapping of a guest's file under the guard. Unmapped when it is dropped.
///
/// Invariant: `base` is the start of a mapping of `bytes` bytes that nobody else unmaps; reading
/// and writing it cannot end the process.
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    area: &'static Area,
}

// SAFETY: the mapping is the process's, not a thread's, and `&Mapping` gives out its address only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of a file from `offset`, a multiple of its page size.
    pub fn of_file(file: &std::fs::File, offset: u64, bytes: usize) -> io::Result<Mapping> {
        install()?;
        if !charge(&MAPPED_BYTES, bytes) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let mapping = Mapping::charged(file, offset, bytes);
        if mapping.is_err() {
            MAPPED_BYTES.fetch_sub(bytes, Ordering::AcqRel);
        }
        mapping
    }

    /// As that, of what is counted already.
    fn charged(file: &std::fs::File, offset: u64, bytes: usize) -> io::Result<Mapping> {
        use std::os::fd::AsRawFd;
        let area = AREAS
            .iter()
            .filter(|area| !area.taken.load(Ordering::Relaxed))
            .find(|area| !area.taken.swap(true, Ordering::AcqRel))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that
        // exists; the descriptor is open across the call.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        let base = NonNull::new(address.cast()).filter(|_| address != libc::MAP_FAILED);
        let Some(base) = base else {
            let error = io::Error::last_os_error();
            area.taken.store(false, Ordering::Release);
            return Err(error);
        };
        area.broken.store(false, Ordering::Release);
        area.start.store(base.as_ptr() as usize, Ordering::Release);
        area.bytes.store(bytes, Ordering::Release);
        Ok(Mapping { base, bytes, area })
    }

    /// Where it starts.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether an access found nothing behind it: what was read since then may be zeros.
    pub fn is_broken(&self) -> bool {
        self.area.broken.load(Ordering::Acquire)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.area.bytes.store(0, Ordering::Release);
        // SAFETY: by the invariant the mapping is ours, and who could reach it is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        self.area.taken.store(false, Ordering::Release);
        MAPPED_BYTES.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Counts so many bytes more, if there is room for them.
fn charge(mapped: &AtomicUsize, bytes: usize) -> bool {
    let more =
        |mapped: usize| mapped.checked_add(bytes).filter(|&mapped| mapped <= MAPPED_BYTES_MAX);
    mapped.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}

/// Installs the handler, once.
fn install() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if PREVIOUS.get().is_none() {
        // SAFETY: the handler calls nothing but mmap and sigaction, plain system calls, and
        // touches nothing but atomics and an action that is set before any area exists.
        let previous = unsafe { nix::sys::signal::sigaction(Signal::SIGBUS, &action) }?;
        let _ = PREVIOUS.set(previous);
    }
    Ok(())
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO, and for SIGBUS
    // the address is one of its members.
    let address = unsafe { (*info).si_addr() } as usize;
    match AREAS.iter().find(|area| area.holds(address)) {
        Some(area) if lay_zeros(area) => {}
        _ => pass_on(signal, info, context),
    }
}

/// Replaces what is mapped there by private zero pages.
fn lay_zeros(area: &Area) -> bool {
    area.broken.store(true, Ordering::Release);
    let (start, bytes) = (area.start.load(Ordering::Acquire), area.bytes.load(Ordering::Acquire));
    // SAFETY: errno is the thread's own. It is kept, because the access that faulted may stand
    // between a call of ours and the look at its errno.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the range is exactly one mapping of ours, which its `Mapping` keeps alive while
    // anybody accesses it, and the faulting thread is amid an access.
    let address = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    address != libc::MAP_FAILED
}

/// Not a guest's memory: what would have happened without us happens.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    match PREVIOUS.get().map(SigAction::handler) {
        Some(SigHandler::SigAction(handler)) => handler(signal, info, context),
        Some(SigHandler::Handler(handler)) => handler(signal),
        _ => {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: the default action runs no code of ours. The faulting access is repeated on
            // return, and then ends the process as it should.
            let _ = unsafe { nix::sys::signal::sigaction(Signal::SIGBUS, &default) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::File;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn memory_that_is_cut_short_reads_as_zeros_and_is_marked() {
        let file = File::from(memfd_create(c"guest", MFdFlags::empty()).unwrap());
        file.set_len(8192).unwrap();
        let (first, second) =
            (Mapping::of_file(&file, 0, 8192).unwrap(), Mapping::of_file(&file, 0, 4096).unwrap());
        // SAFETY: within the mapping, and volatile since the file can change.
        let read = |at| unsafe { first.base().add(at).read_volatile() };
        // SAFETY: as above.
        unsafe { first.base().add(5000).write_volatile(7) };
        assert_eq!((read(5000), first.is_broken()), (7, false));
        file.set_len(4096).unwrap();
        assert_eq!((read(5000), first.is_broken()), (0, true));
        assert!(!second.is_broken(), "another mapping is not touched");
        drop((first, second));
        let again = Mapping::of_file(&file, 0, 4096).unwrap();
        assert!(!again.is_broken(), "an entry used again starts whole");
    }

    #[test]
    fn no_more_is_mapped_than_leaves_addresses_for_all_else() {
        let mapped = AtomicUsize::new(MAPPED_BYTES_MAX - 8192);
        assert!(charge(&mapped, 4096) && !charge(&mapped, 8192) && !charge(&mapped, usize::MAX));
        assert!(charge(&mapped, 4096) && !charge(&mapped, 1));
        assert_eq!(mapped.into_inner(), MAPPED_BYTES_MAX);
    }
}
