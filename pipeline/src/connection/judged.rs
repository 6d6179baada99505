//! When an unanswered connection was judged last, so that not every packet of it has to be.
//!
//! Whatever nobody has answered yet is judged again by the tables of now: policy may have changed,
//! and there is no other side that wants it. But a stream that goes one way only, as of a log or of
//! a voice, would pay for a first packet with each. What the same tables have let is let again: a
//! connection remembers, beside its progress, by which State it was let through, and when. The time
//! is part of it for the sake of what is learnt and forgotten between two States: names.

use super::table::ConnectionTable;
use super::{ConnectionId, Progress};
use crate::sync::Ordering;

/// By which State, and when, a connection was let through; for as long as that is the same, it is
/// not judged again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judged(u32);

/// A connection is judged this often, however little changes.
const LASTS_MS: u64 = 2000;
/// Together 1024 s: no connection is silent for as long as that without being forgotten.
const TIME_BITS: u32 = 9;
/// More than the transactions that fit into the time that it lasts.
const REVISION_BITS: u32 = 14;
/// No stamp is all zero, as is that of a connection that was not judged since it progressed.
const SET: u32 = 1 << (TIME_BITS + REVISION_BITS);

/// The stamp lies between the progress and the turn.
const SHIFT: u32 = 8;
const MASK: u64 = 0xff_ffff << SHIFT;
const _: () = assert!((SET as u64) << SHIFT & !MASK == 0);

impl Judged {
    /// By this State, now.
    pub(crate) fn now(revision: u64, now_ms: u64) -> Judged {
        // What is cut off comes round too late to matter.
        let time = (now_ms / LASTS_MS) as u32 & ((1 << TIME_BITS) - 1);
        let revision = revision as u32 & ((1 << REVISION_BITS) - 1);
        Judged(SET | revision << TIME_BITS | time)
    }

    fn bits(self) -> u64 {
        u64::from(self.0) << SHIFT
    }
}

impl Progress {
    /// Whether a word is that of this progress and turn, whenever it was judged.
    pub(super) fn is_in(self, word: u64, turn: u32) -> bool {
        word & !MASK == self.word(turn)
    }
}

impl ConnectionTable {
    /// Whether the connection, which has come so far, was let through just so.
    pub(crate) fn is_judged(&self, id: ConnectionId, at: Progress, judged: Judged) -> bool {
        let word = self.record(id.index).map(|record| record.progress.load(Ordering::Relaxed));
        word == Some(at.word(id.turn) | judged.bits())
    }

    /// Remembers that the connection was let through, if it is still where it was.
    pub(crate) fn judge(&self, id: ConnectionId, at: Progress, judged: Judged) {
        let Some(record) = self.record(id.index) else { return };
        let known = record.progress.load(Ordering::Relaxed);
        if at.is_in(known, id.turn) {
            let stamped = at.word(id.turn) | judged.bits();
            // Who is faster has let it progress, or judged it himself.
            let _ = record.progress.compare_exchange(
                known,
                stamped,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::table_tests::{limits, new};
    use super::super::{ConnectionTable, ConnectionWorker};
    use super::*;

    #[test]
    fn a_judgement_is_that_of_one_state_and_one_moment_and_goes_when_the_connection_goes_on() {
        let table = ConnectionTable::new(limits(1), 5);
        let mut worker = ConnectionWorker::new();
        let at = Progress::SynSent;
        let first = table.insert(&new(1, 1, at), 1, &mut worker).unwrap();
        let now = Judged::now(7, 10_000);
        assert!(!table.is_judged(first, at, now), "nobody has said so");
        table.judge(first, at, now);
        assert!(table.is_judged(first, at, Judged::now(7, 11_999)));
        for other in [Judged::now(8, 10_000), Judged::now(6, 10_000), Judged::now(7, 12_000)] {
            assert!(!table.is_judged(first, at, other));
        }
        assert_eq!(table.get(first).unwrap().progress, at);
        assert!(table.advance(first, at, Progress::SynReceived));
        assert!(!table.is_judged(first, Progress::SynReceived, now));
        table.judge(first, at, now);
        assert_eq!(table.get(first).unwrap().progress, Progress::SynReceived);
        table.remove(first).unwrap();
        let second = table.insert(&new(2, 1, at), 1, &mut worker).unwrap();
        table.judge(first, at, now);
        assert!(!table.is_judged(second, at, now), "that was its predecessor");
    }
}
