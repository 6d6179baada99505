//! A sequence number that guards words beside it: readers take no lock, and writers one at a time.
//!
//! Even: nobody writes. A reader remembers the number, reads the words, and believes them only if
//! the number has not changed; a writer makes it odd, writes, and makes it even again, higher. The
//! words are atomics, read and written relaxed: no read is ever undefined, a torn one is not
//! believed. A number has 63 bits of turns, so none comes back while a reader sleeps.

use crate::sync::{AtomicU64, Ordering, fence, pause};

/// How often a reader looks again while somebody writes. A write takes tens of nanoseconds; a
/// writer that is away for longer has lost its processor, and is not waited for.
const LOOKS: usize = 128;

/// The number as it is while nobody writes; `None` while somebody does.
pub(crate) fn begin(sequence: &AtomicU64) -> Option<u64> {
    let number = sequence.load(Ordering::Acquire);
    number.is_multiple_of(2).then_some(number)
}

/// Whether what was read since [`begin`] gave this number belongs together.
pub(crate) fn unchanged(sequence: &AtomicU64, number: u64) -> bool {
    // Keeps the reads before it; with the writer's fence, whoever has read one new word sees here
    // that the number was odd.
    fence(Ordering::Acquire);
    sequence.load(Ordering::Relaxed) == number
}

/// Becomes the only writer, if nobody has written since the number was read.
pub(crate) fn claim(sequence: &AtomicU64, number: u64) -> bool {
    let claimed =
        sequence.compare_exchange(number, number + 1, Ordering::Acquire, Ordering::Relaxed);
    // Keeps the writes behind it.
    fence(Ordering::Release);
    claimed.is_ok()
}

/// Ends what [`claim`] of the same number began.
pub(crate) fn release(sequence: &AtomicU64, number: u64) {
    sequence.store(number + 2, Ordering::Release);
}

/// What `read` makes of the guarded words, with the number under which they belong together.
/// `None` when a writer does not come to an end.
pub(crate) fn read<T>(sequence: &AtomicU64, read: impl Fn() -> T) -> Option<(u64, T)> {
    for _ in 0..LOOKS {
        if let Some(number) = begin(sequence) {
            let words = read();
            if unchanged(sequence, number) {
                return Some((number, words));
            }
        }
        pause();
    }
    None
}

#[cfg(all(test, loom))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn every_interleaving_of_a_reader_and_two_writers_reads_what_belongs_together() {
        loom::model(|| {
            let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
            let writer = |value: u64| {
                let words = words.clone();
                thread::spawn(move || {
                    let Some(number) = begin(&words[0]) else { return };
                    if claim(&words[0], number) {
                        words[1].store(value, Ordering::Relaxed);
                        words[2].store(value, Ordering::Relaxed);
                        release(&words[0], number);
                    }
                })
            };
            let writers = [writer(1), writer(2)];
            if let Some(number) = begin(&words[0]) {
                let one = words[1].load(Ordering::Relaxed);
                let other = words[2].load(Ordering::Relaxed);
                if unchanged(&words[0], number) {
                    assert_eq!(one, other);
                    assert_eq!(one == 0, number == 0);
                }
            }
            for writer in writers {
                writer.join().unwrap();
            }
            assert_eq!(words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed));
        });
    }
}
