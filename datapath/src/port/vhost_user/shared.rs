//! What the control thread of a port and its workers share: the lanes, and why they stopped.
//!
//! A lane is behind a lock that is taken once a batch and never waited for by a worker that
//! receives: while the control thread wants a lane, it is simply not there. Several workers may
//! transmit to the one ring of a guest that has fewer rings than there are workers; each waits for
//! another's batch of copies at most, and then leaves its frames to be dropped and counted.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::events::WakeSet;
use super::fault::GuestFault;
use super::features::SegmentSet;
use super::lane::Lane;
use crate::port::QueueFault;

/// Pairs of rings that a guest may have.
pub const QUEUE_PAIRS_MAX: usize = 16;

/// Tries to get a lane that another worker transmits to: longer than a batch of copies takes.
const TRANSMIT_TRIES: u32 = 20_000;

/// A lane, and who may have it now.
#[derive(Default)]
struct Cell {
    lane: Mutex<Option<Box<Lane>>>,
    /// Whether there is one: to be asked before the lock.
    present: AtomicBool,
    /// Whether the control thread waits for it: workers then stay away.
    wanted: AtomicBool,
}

/// A lane in a worker's hands.
pub(super) type LaneGuard<'a> = MutexGuard<'a, Option<Box<Lane>>>;

/// What a port's threads share.
pub(super) struct Shared {
    /// The socket, by which messages name the port.
    pub socket: String,
    /// Whether workers poll, and guests need not kick.
    pub polled: bool,
    /// Bytes of the longest packet, Ethernet header included.
    pub packet_bytes_max: usize,
    /// What wakes each worker.
    pub wakes: Vec<WakeSet>,
    /// Wakes the control thread: the port is to close, or broke.
    pub control: EventFd,
    /// Whether the port is to close.
    pub closing: AtomicBool,
    /// Whether a front end is connected.
    pub connected: AtomicBool,
    /// The connection to it, while it is listened to.
    connection: Mutex<Option<UnixStream>>,
    cells: Vec<Cell>,
    /// Packets in segments that the guest takes.
    takes: AtomicU8,
    /// Pairs whose ring to the guest is at work, as bits.
    receivers: AtomicU64,
    /// Pairs whose ring from the guest is at work, as bits.
    senders: AtomicU64,
    broken: AtomicBool,
    fault: OnceLock<QueueFault>,
}

impl Shared {
    /// What a port for so many workers shares.
    pub fn new(
        socket: String,
        workers: usize,
        polled: bool,
        packet_bytes_max: usize,
    ) -> io::Result<Shared> {
        Ok(Shared {
            socket,
            polled,
            packet_bytes_max,
            wakes: (0..workers.max(1)).map(|_| WakeSet::new()).collect::<Result<_, _>>()?,
            control: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            closing: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            connection: Mutex::default(),
            cells: std::iter::repeat_with(Cell::default).take(2 * QUEUE_PAIRS_MAX).collect(),
            takes: AtomicU8::new(0),
            receivers: AtomicU64::new(0),
            senders: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            fault: OnceLock::new(),
        })
    }

    /// The worker that serves a ring's pair.
    pub fn wake_of(&self, ring: usize) -> &WakeSet {
        &self.wakes[ring / 2 % self.wakes.len()]
    }

    /// A lane for its worker, if there is one and nobody else has it.
    pub fn try_lane(&self, ring: usize) -> Option<LaneGuard<'_>> {
        let cell = &self.cells[ring];
        if !cell.present.load(Ordering::Relaxed) || cell.wanted.load(Ordering::Relaxed) {
            return None;
        }
        match cell.lane.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Packets in segments that the guest takes.
    pub fn takes(&self) -> SegmentSet {
        SegmentSet::from_bits(self.takes.load(Ordering::Relaxed))
    }

    /// Says which it takes.
    pub fn set_takes(&self, takes: SegmentSet) {
        self.takes.store(takes.bits(), Ordering::Relaxed);
    }

    /// Pairs that a worker may receive from, as bits.
    pub fn senders(&self) -> u64 {
        self.senders.load(Ordering::Relaxed)
    }

    /// The lane that a worker transmits to.
    pub fn transmit_lane(&self, worker: usize) -> Option<LaneGuard<'_>> {
        let ready = self.receivers.load(Ordering::Relaxed);
        if ready == 0 {
            return None;
        }
        // The worker's own, or one that it shares with others: always the same, so that packets
        // of a connection stay in order.
        let pair = nth_bit(ready, worker as u32 % ready.count_ones());
        let ring = 2 * pair as usize;
        for _ in 0..TRANSMIT_TRIES {
            if let Some(lane) = self.try_lane(ring) {
                return Some(lane);
            }
            if !self.cells[ring].present.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Puts a lane into its place, or takes it away: for the control thread, which waits for the
    /// worker's batch to end.
    pub fn exchange(&self, ring: usize, lane: Option<Box<Lane>>) -> Option<Box<Lane>> {
        let cell = &self.cells[ring];
        cell.wanted.store(true, Ordering::Relaxed);
        let mut guard = cell.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let present = lane.is_some();
        let before = std::mem::replace(&mut *guard, lane);
        cell.present.store(present, Ordering::Relaxed);
        let pairs = if ring.is_multiple_of(2) { &self.receivers } else { &self.senders };
        let bit = 1 << (ring / 2);
        match present {
            true => pairs.fetch_or(bit, Ordering::Relaxed),
            false => pairs.fetch_and(!bit, Ordering::Relaxed),
        };
        drop(guard);
        cell.wanted.store(false, Ordering::Relaxed);
        before
    }

    /// The port is down from now on: the first reason counts.
    pub fn fail(&self, fault: GuestFault) {
        let _ = self.fault.set(QueueFault::Guest { socket: self.socket.clone(), fault });
        self.broken.store(true, Ordering::Release);
        let _ = self.control.write(1);
        self.wakes.iter().for_each(WakeSet::alert);
    }

    /// Says which connection the control thread listens to.
    pub fn talk_to(&self, connection: Option<UnixStream>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// Ends the connection, and with it whatever the control thread waits for there.
    pub fn hang_up(&self) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = connection.as_ref() {
            // It fails only for one that is over.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Whether it is down.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Why it is down.
    pub fn fault(&self) -> Option<&QueueFault> {
        self.fault.get()
    }
}

/// The place of the bit that is set with so many set bits below it; `number` is less than there
/// are.
fn nth_bit(mut bits: u64, number: u32) -> u32 {
    for _ in 0..number {
        bits &= bits - 1;
    }
    bits.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_rings_that_there_are() {
        let to = |ready: u64, worker: u32| nth_bit(ready, worker % ready.count_ones());
        assert_eq!((0..4).map(|worker| to(0b1, worker)).collect::<Vec<_>>(), [0, 0, 0, 0]);
        assert_eq!((0..4).map(|worker| to(0b1011, worker)).collect::<Vec<_>>(), [0, 1, 3, 0]);
    }
}
