//! Records that nobody uses: a stack of those that were used before, and behind it all that never
//! were.
//!
//! The head carries a tag that changes with every change, so a worker that slept between reading
//! the head and replacing it does not take its old neighbour for the new one (ABA). Records that
//! were never used are handed out in order and not linked first: memory that was never needed is
//! never touched.

use crate::sync::{AtomicU64, Ordering};

/// The place of a record that was used before, plus one; under a tag.
#[derive(Debug)]
pub(super) struct FreeList {
    head: AtomicU64,
    fresh: AtomicU64,
    capacity: u32,
}

impl FreeList {
    pub(super) fn new(capacity: u32) -> FreeList {
        FreeList { head: AtomicU64::new(0), fresh: AtomicU64::new(0), capacity }
    }

    pub(super) fn capacity(&self) -> u64 {
        u64::from(self.capacity)
    }

    /// Records that were used at least once: these, from 0 on.
    pub(super) fn touched(&self) -> u32 {
        self.fresh.load(Ordering::Relaxed).min(u64::from(self.capacity)) as u32
    }

    /// Takes one; `link` gives the word in which a free record names the next.
    pub(super) fn take<'a>(&self, link: impl Fn(u32) -> Option<&'a AtomicU64>) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        while let Some(index) = (head as u32).checked_sub(1) {
            // Whoever takes it in between may write anything there; then the tag has changed.
            let next = link(index)?.load(Ordering::Relaxed);
            let replaced = self.head.compare_exchange_weak(
                head,
                tagged(head, next),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match replaced {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
        // Stays where it is at the end, however often it is asked.
        let more = |fresh: u64| (fresh < u64::from(self.capacity)).then_some(fresh + 1);
        let fresh = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(fresh as u32)
    }

    /// Gives one back.
    pub(super) fn give(&self, index: u32, link: &AtomicU64) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.store(head & u64::from(u32::MAX), Ordering::Relaxed);
            let replaced = self.head.compare_exchange_weak(
                head,
                tagged(head, u64::from(index) + 1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match replaced {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// A head after `head`.
fn tagged(head: u64, place: u64) -> u64 {
    let tag = (head >> 32).wrapping_add(1);
    tag << 32 | (place & u64::from(u32::MAX))
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_record_is_given_to_one_at_a_time() {
        let links: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
        let list = FreeList::new(5);
        let link = |index: u32| links.get(index as usize);
        let taken: BTreeSet<u32> = (0..5).map(|_| list.take(link).unwrap()).collect();
        assert_eq!(taken, (0..5).collect());
        assert_eq!((list.take(link), list.take(link), list.touched()), (None, None, 5));
        list.give(3, &links[3]);
        list.give(1, &links[1]);
        assert_eq!([list.take(link), list.take(link), list.take(link)], [Some(1), Some(3), None]);
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn every_interleaving_of_two_workers_gives_a_record_to_one_at_a_time() {
        loom::model(|| {
            let words = || [AtomicU64::new(0), AtomicU64::new(0)];
            let shared = Arc::new((FreeList::new(2), words(), words()));
            // Both were used before, so both are on the stack.
            let (list, links, _) = &*shared;
            let taken = [0, 1].map(|_| list.take(|index| links.get(index as usize)).unwrap());
            for index in taken {
                list.give(index, &links[index as usize]);
            }
            let work = |shared: &(FreeList, [AtomicU64; 2], [AtomicU64; 2])| {
                let (list, links, owners) = shared;
                for _ in 0..2 {
                    let Some(index) = list.take(|index| links.get(index as usize)) else {
                        continue;
                    };
                    let index = index as usize;
                    assert_eq!(owners[index].fetch_add(1, Ordering::Relaxed), 0);
                    owners[index].fetch_sub(1, Ordering::Relaxed);
                    list.give(index as u32, &links[index]);
                }
            };
            let other = thread::spawn({
                let shared = shared.clone();
                move || work(&shared)
            });
            work(&shared);
            other.join().unwrap();
            let left = [0, 1, 2].map(|_| list.take(|index| links.get(index as usize)));
            assert_eq!(left.iter().flatten().count(), 2, "none is lost, none is there twice");
        });
    }
}
