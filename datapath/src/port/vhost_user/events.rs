//! Kicks from a guest and calls to it: eventfds that the guest, too, holds.
//!
//! A guest may hand over anything, set or clear O_NONBLOCK on what it handed over, and fill the
//! counter: a plain `write` of ours would then wait for as long as it likes, and a worker with it.
//! So only eventfds are taken; they are read with RWF_NOWAIT, and rung by the kernel itself, as
//! the completion of a no-op on a ring (`eventfd_signal`), which never waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::{IoUring, opcode};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::fault::GuestFault;

/// Refuses what is no eventfd.
pub(super) fn check(file: &File) -> Result<(), GuestFault> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let is_one = facts.is_ok_and(|facts| facts.contains("eventfd-count:"));
    is_one.then_some(()).ok_or(GuestFault::NotEventFd)
}

/// Takes what a guest's eventfd counted. Never waits.
pub(super) fn drain(file: &File) {
    let mut count = 0_u64;
    let mut part = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: 8 };
    // SAFETY: one part, of the eight bytes that an eventfd wants, alive across the call. Nothing
    // there is an answer like any other.
    unsafe { libc::preadv2(file.as_raw_fd(), &raw mut part, 1, -1, libc::RWF_NOWAIT) };
}

/// A guest's eventfd for calls, and a way to ring it that never waits.
pub(super) struct Doorbell {
    // Before the descriptor: the ring refers to it.
    ring: Option<IoUring>,
    file: File,
}

impl Doorbell {
    /// A doorbell on an eventfd.
    pub fn new(file: File) -> Result<Doorbell, GuestFault> {
        check(&file)?;
        let ring = IoUring::new(2).ok();
        let ring = ring.filter(|it| it.submitter().register_eventfd(file.as_raw_fd()).is_ok());
        if ring.is_none() {
            tracing::warn!("no io_uring: a hostile guest may make a call to it wait");
            // SAFETY: F_SETFL takes an integer.
            unsafe {
                libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK)
            };
        }
        Ok(Doorbell { ring, file })
    }

    /// Calls the guest: one system call.
    pub fn ring(&mut self) {
        let Some(ring) = &mut self.ring else {
            // It fails when the counter is full, and then the guest was called already.
            let _ = nix::unistd::write(&self.file, &1_u64.to_ne_bytes());
            return;
        };
        // SAFETY: a no-op refers to no memory.
        let _ = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        let _ = ring.submit();
        ring.completion().for_each(drop);
    }
}

/// What wakes the worker of a queue: one descriptor that lasts, over kicks that come and go.
pub(super) struct WakeSet {
    epoll: Epoll,
    attention: EventFd,
    pending: AtomicBool,
}

impl WakeSet {
    /// One without kicks.
    pub fn new() -> io::Result<WakeSet> {
        let attention = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(attention.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(WakeSet { epoll, attention, pending: AtomicBool::new(false) })
    }

    /// Readable when a kick came, or attention is asked for.
    pub fn descriptor(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// Wakes for these kicks, too.
    pub fn add(&self, kick: &File) -> io::Result<()> {
        Ok(self.epoll.add(kick, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    /// Forgets kicks, before they are closed.
    pub fn remove(&self, kick: &File) {
        // It fails only for one that is not there.
        let _ = self.epoll.delete(kick);
    }

    /// Makes the worker look at all rings.
    pub fn alert(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = self.attention.write(1);
        // Not before: who took it without the count would leave that there for ever, and never
        // rest again.
        self.pending.store(true, Ordering::Release);
    }

    /// Takes a pending alert. What was done before the alert is seen after.
    pub fn take(&self) {
        if self.pending.load(Ordering::Relaxed) && self.pending.swap(false, Ordering::AcqRel) {
            let _ = self.attention.read();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::fd::BorrowedFd;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn whoever_has_taken_all_alerts_can_rest() {
        const ALERTS: usize = 20_000;
        let (wakes, given) = (WakeSet::new().unwrap(), AtomicUsize::new(0));
        // SAFETY: it is the set's own, which outlives this.
        let descriptor = unsafe { BorrowedFd::borrow_raw(wakes.descriptor()) };
        let (together, mut left) = (Barrier::new(2), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ALERTS {
                    together.wait();
                    wakes.alert();
                    given.fetch_add(1, Ordering::Release);
                }
            });
            for number in 0..ALERTS {
                together.wait();
                while given.load(Ordering::Acquire) == number {
                    wakes.take();
                }
                wakes.take();
                let mut event = [PollFd::new(descriptor, PollFlags::POLLIN)];
                left += poll(&mut event, PollTimeout::ZERO).unwrap();
            }
        });
        assert_eq!(left, 0);
    }
}
