//! The timer wheel: which connections a worker looks at next, to see whether they are over.
//!
//! Each worker has its own, and links the records that it brought to life. A record is looked at
//! when its time is up at the earliest and after [`REVISIT_MS_MAX`] at the latest; if it was seen
//! meanwhile it is linked anew, so packets never touch a wheel. That is why a connection can
//! outlive its time by up to that much when its time was cut short (by a FIN, say), and why one
//! turn of the wheel is enough: nothing is ever linked further ahead.
//!
//! A link belongs to the record, not to the connection in it: a record that another worker ended,
//! and filled again, stays where it is linked, and its new connection is looked at there.

use crate::sync::{AtomicU64, Ordering, fence};

use super::record::Record;

/// A connection is looked at this often, whatever its timeout.
pub(super) const REVISIT_MS_MAX: u64 = 10_000;

const TICK_MS: u64 = 250;
/// More than [`REVISIT_MS_MAX`] is ahead.
const SLOTS: usize = 64;

/// Set in the link of a record that is on a wheel; the next one's place is below it.
const LINKED: u64 = 1 << 32;

/// One worker's wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The first record of each slot, plus one.
    slots: [u32; SLOTS],
    /// The tick that is looked at next; all before it are done.
    cursor: u64,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { slots: [0; SLOTS], cursor: 0 }
    }

    /// Links a record whose link is the caller's, to be looked at then or a little later.
    pub(super) fn push(&mut self, record: &Record<'_>, at_ms: u64) {
        // Too far ahead would come round too early, which does no harm; the slot under the cursor
        // would be looked at over and over.
        let tick = (at_ms / TICK_MS + 1).clamp(self.cursor + 1, self.cursor + SLOTS as u64 - 1);
        if let Some(first) = self.slots.get_mut(slot(tick)) {
            record.wheel.store(LINKED | u64::from(*first), Ordering::Relaxed);
            *first = record.index + 1;
        }
    }

    /// Goes on to the present. After a leap of the clock each slot is looked at once.
    pub(super) fn turn_to(&mut self, now_ms: u64) {
        self.cursor = self.cursor.max((now_ms / TICK_MS).saturating_sub(SLOTS as u64 - 1));
    }

    /// The next record that is due. Its link stays the caller's until it pushes or unlinks it.
    pub(super) fn pop<'a>(
        &mut self,
        now_ms: u64,
        link: impl Fn(u32) -> Option<&'a AtomicU64>,
    ) -> Option<u32> {
        while self.cursor <= now_ms / TICK_MS {
            let first = self.slots.get_mut(slot(self.cursor))?;
            if let Some(index) = first.checked_sub(1) {
                *first = link(index).map_or(0, |link| link.load(Ordering::Relaxed) as u32);
                return Some(index);
            }
            self.cursor += 1;
        }
        None
    }
}

fn slot(tick: u64) -> usize {
    tick as usize % SLOTS
}

/// Takes the link of a record that is on no wheel. `false` when it is on one.
pub(super) fn take_link(record: &Record<'_>) -> bool {
    // Who brings a record to life and finds it linked relies on the other to see it alive: one of
    // the two does, for both put this between their store and their load.
    fence(Ordering::SeqCst);
    record.wheel.compare_exchange(0, LINKED, Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

/// Gives the link of a popped record away.
pub(super) fn give_link(record: &Record<'_>) {
    record.wheel.store(0, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}
