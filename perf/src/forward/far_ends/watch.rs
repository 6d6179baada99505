//! What the generator counts, for whoever looks from another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters, for whoever looks from another thread.
#[derive(Debug, Default)]
pub struct Watch {
    /// Ends the run.
    pub stop: AtomicBool,
    /// Whether delays count.
    pub counting: AtomicBool,
    sent: AtomicU64,
    returned: AtomicU64,
    lost: AtomicU64,
    cycles: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came back.
    pub returned: u64,
    /// Packets that were given up.
    pub lost: u64,
    /// TSC cycles of rounds that moved packets.
    pub cycles: u64,
}

impl Watch {
    /// The counters as they were published last.
    pub fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            sent: read(&self.sent),
            returned: read(&self.returned),
            lost: read(&self.lost),
            cycles: read(&self.cycles),
        }
    }

    pub(super) fn publish(&self, counted: Counted) {
        self.sent.store(counted.sent, Ordering::Relaxed);
        self.returned.store(counted.returned, Ordering::Relaxed);
        self.lost.store(counted.lost, Ordering::Relaxed);
        self.cycles.store(counted.cycles, Ordering::Relaxed);
    }
}
