//! What a worker asks of processor and kernel beside its ports: cycles, cache lines, and sleep.
//!
//! Sleep is level-triggered on purpose: a frame that arrived before the worker went to sleep makes
//! the wait return at once, so there is no moment in which a wake can be lost.

#![allow(unsafe_code, reason = "the cycle counter, and descriptors that ports own")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::configuration::WORKERS_MAX;

/// The time stamp counter; nanoseconds where there is none.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Has the processor bring the cache line that `value` begins in, to be read and written soon.
#[inline]
pub fn prefetch<T>(value: &T) {
    fetch(NonNull::from_ref(value).cast(), Wanted::ToWrite);
}

/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;

/// What a cache line is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To be read: others may keep it.
    ToRead,
    /// To be written: nobody else keeps it.
    ToWrite,
}

/// Has the processor bring the cache line of an address.
#[inline]
pub fn fetch(address: NonNull<u8>, wanted: Wanted) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        let address = address.as_ptr().cast_const().cast();
        // SAFETY: a prefetch neither faults nor changes memory, whatever the address is.
        unsafe {
            match wanted {
                Wanted::ToRead => _mm_prefetch::<_MM_HINT_T0>(address),
                Wanted::ToWrite => _mm_prefetch::<_MM_HINT_ET0>(address),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, wanted);
}

/// Bytes from which on a processor copies by itself what lies in no near cache faster than
/// instructions do that load and store.
const STRING_BYTES_MIN: usize = 512;

/// Copies bytes that are likely in nobody's near cache.
///
/// # Safety
/// As of [`std::ptr::copy_nonoverlapping`].
#[inline]
pub unsafe fn copy_cold(source: *const u8, target: *mut u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    if bytes >= STRING_BYTES_MIN && is_x86_feature_detected!("ermsb") {
        // SAFETY: it reads and writes what the caller says, upwards, since the direction flag is
        // clear by the calling convention.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") bytes => _,
                inout("rsi") source => _,
                inout("rdi") target => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    // SAFETY: as the caller says.
    unsafe { std::ptr::copy_nonoverlapping(source, target, bytes) };
}

/// Milliseconds since the machine started, time asleep included.
pub fn boot_time_ms() -> u64 {
    // It fails only for clocks that the kernel does not know, and it has this one since 2.6.39.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(TimeSpec::new(0, 0));
    Duration::from(time).as_millis() as u64
}

/// Wakes one worker from other threads.
pub struct Wake {
    event: OwnedFd,
    /// A wake that the worker has not taken yet; spares a system call for each further one.
    pending: AtomicBool,
}

impl Wake {
    /// A wake that is not pending.
    pub fn new() -> io::Result<Wake> {
        // SAFETY: eventfd takes no pointer.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel returned this descriptor just now and no other copy of it exists.
        let event = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Wake { event, pending: AtomicBool::new(false) })
    }

    /// Ends the worker's sleep, or keeps the next one from beginning.
    pub fn wake(&self) {
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes, as an eventfd wants. It fails only when the counter
        // is full, and then it is readable, which is all that is asked.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes a wake, if there is one. Whatever was stored before it was woken is seen after.
    ///
    /// Without asking whether one is pending: one that was taken before it was written is readable
    /// ever after.
    pub fn take(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is eight bytes, as an eventfd wants; it does not block.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        // Cleared after the read: a wake in between writes again, and costs one empty round.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// What an event of a bed says: which of the two kinds of descriptor is readable.
const BY_DEVICE: u64 = 0;
const BY_WAKE: u64 = 1;

/// What a sleeping worker waits for: its [`Wake`] and the wake sources of its queues.
pub struct Bed {
    epoll: OwnedFd,
}

impl Bed {
    /// A bed in which only `wake` wakes.
    pub fn new(wake: &Wake) -> io::Result<Bed> {
        // SAFETY: epoll_create1 takes no pointer.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel returned this descriptor just now and no other copy of it exists.
        let bed = Bed { epoll: unsafe { OwnedFd::from_raw_fd(descriptor) } };
        bed.control(libc::EPOLL_CTL_ADD, wake.event.as_raw_fd(), BY_WAKE)?;
        Ok(bed)
    }

    /// Wakes when `descriptor` is readable, too.
    pub fn watch(&self, descriptor: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, descriptor, BY_DEVICE)
    }

    /// Forgets a descriptor, before it is closed.
    pub fn unwatch(&self, descriptor: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, descriptor, BY_DEVICE)
    }

    /// Sleeps until something is readable, or for `limit_ms` milliseconds (-1: without limit).
    pub fn sleep(&self, wake: &Wake, limit_ms: i32) {
        let mut event = libc::epoll_event { events: 0, u64: BY_DEVICE };
        // SAFETY: there is room for the one event that is asked for. It fails only by a signal,
        // which is a wake like any other.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, limit_ms) };
        // Otherwise the wake stays readable and ends the next sleep at once.
        if { event.u64 } == BY_WAKE {
            wake.take();
        }
    }

    fn control(&self, operation: libc::c_int, descriptor: RawFd, by: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: by };
        // SAFETY: the event outlives the call; a stale descriptor is an error, not a hazard.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, descriptor, &mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Sleeps until something is readable in one of several beds, as [`Bed::sleep`] does in one. What
/// woke is not taken.
pub fn sleep_in_any<'a>(beds: impl Iterator<Item = &'a Bed>, limit_ms: i32) {
    let beds = beds.map(|bed| PollFd::new(bed.epoll.as_fd(), PollFlags::POLLIN));
    let mut beds: ArrayVec<PollFd<'_>, WORKERS_MAX> = beds.collect();
    // It fails only by a signal, which is a wake like any other.
    let _ = poll(&mut beds, PollTimeout::try_from(limit_ms).unwrap_or(PollTimeout::ZERO));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Arc, Barrier};
    use std::time::{Duration, Instant};

    #[test]
    fn a_wake_before_sleep_is_not_lost() {
        let wake = Wake::new().unwrap();
        let bed = Bed::new(&wake).unwrap();
        wake.wake();
        wake.wake();
        bed.sleep(&wake, -1);
        let before = Instant::now();
        bed.sleep(&wake, 20);
        assert!(before.elapsed() >= Duration::from_millis(15), "one wake, one round");
    }

    #[test]
    fn every_wake_from_another_thread_ends_a_sleep() {
        let wake = Arc::new(Wake::new().unwrap());
        let bed = Bed::new(&wake).unwrap();
        let (sender, receiver) = crossbeam::channel::bounded(1);
        let waker = std::thread::spawn({
            let wake = wake.clone();
            move || {
                for number in 0..2000_u32 {
                    sender.send(number).unwrap();
                    wake.wake();
                }
            }
        });
        let mut seen = 0;
        while seen < 2000 {
            // A lost wake would leave this sleep without end.
            bed.sleep(&wake, -1);
            while receiver.try_recv().is_ok() {
                seen += 1;
            }
        }
        waker.join().unwrap();
    }

    #[test]
    fn whoever_has_taken_all_wakes_of_several_beds_can_rest() {
        const WAKES: usize = 3000;
        let (wake, given) = (Wake::new().unwrap(), AtomicUsize::new(0));
        let (bed, together, mut left) = (Bed::new(&wake).unwrap(), Barrier::new(2), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..WAKES {
                    together.wait();
                    wake.wake();
                    given.fetch_add(1, Ordering::Release);
                }
            });
            for number in 0..WAKES {
                together.wait();
                while given.load(Ordering::Acquire) == number {
                    wake.take();
                }
                wake.take();
                let mut event = [PollFd::new(bed.epoll.as_fd(), PollFlags::POLLIN)];
                left += poll(&mut event, PollTimeout::ZERO).unwrap();
            }
        });
        assert_eq!(left, 0);
    }

    #[test]
    fn cycles_rise() {
        let before = cycles();
        std::thread::sleep(Duration::from_millis(1));
        assert!(cycles() > before);
    }
}
