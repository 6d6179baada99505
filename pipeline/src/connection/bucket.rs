//! Buckets: one cache line of eight places, each with the fingerprint, direction and index of a
//! record and whether it is translated, or empty.
//!
//! A key has two candidate buckets. The primary is taken while it has fewer than
//! [`PRIMARY_USED_MAX`] places in use, else the emptier of the two: one find in twenty looks at a
//! second line when the table is full, and no key is without a place (a simulation of a full table
//! of 262,144 connections left none out; with the primary filled to the last place it was one in
//! 4,000).

use super::Direction;
use super::memory::{LINE_WORDS, Line};
use crate::composed::Machine;
use crate::sync::{AtomicU64, Ordering};

/// From how many places in use on the secondary bucket is considered.
const PRIMARY_USED_MAX: usize = 6;
/// How often another worker may take the place that was about to be taken.
const TRIES: usize = 16;

const INDEX: u64 = BOTH - 1;
const BOTH: u64 = 1 << 31;
const DIRECTION: u64 = 1 << 32;
const FINGERPRINT_SHIFT: u32 = 33;

/// What a place holds; 0 when it is empty, for an index is stored plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(u64);

impl Place {
    pub(super) fn new(hash: u64, direction: Direction, both: bool, index: u32) -> Place {
        let reply = if direction == Direction::Reply { DIRECTION } else { 0 };
        let both = if both { BOTH } else { 0 };
        let facts = fingerprint(hash) << FINGERPRINT_SHIFT | reply | both;
        Place(facts | (u64::from(index) + 1))
    }

    /// The record, unless the place is empty.
    pub(super) fn index(self) -> Option<u32> {
        ((self.0 & INDEX) as u32).checked_sub(1)
    }

    /// Whether packets need the key of the other direction, too.
    pub(super) fn needs_both(self) -> bool {
        self.0 & BOTH != 0
    }

    pub(super) fn direction(self) -> Direction {
        if self.0 & DIRECTION == 0 { Direction::Original } else { Direction::Reply }
    }
}

/// From bits of the hash that the primary bucket is not chosen by.
fn fingerprint(hash: u64) -> u64 {
    hash & 0x7fff_ffff
}

/// All buckets of a table.
#[derive(Clone, Copy)]
pub(super) struct Buckets<'a>(pub &'a [Line]);

impl<'a> Buckets<'a> {
    /// The line of the one that is looked at first.
    #[inline]
    pub(super) fn primary(self, hash: u64) -> Option<&'a Line> {
        self.0.get((((hash >> 32) * self.0.len() as u64) >> 32) as usize)
    }

    /// The two that a key can be in, primary first.
    #[inline]
    pub(super) fn candidates(self, hash: u64) -> [&'a [AtomicU64]; 2] {
        let at = |part: u64| {
            let index = ((part * self.0.len() as u64) >> 32) as usize;
            self.0.get(index).map_or(&[][..], |line| &line.0)
        };
        // An odd factor brings every lower bit into the upper half.
        [at(hash >> 32), at(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)]
    }

    /// What is made of the first place with the fingerprint of this hash of which anything is.
    #[inline]
    pub(super) fn find_map<T>(
        self,
        hash: u64,
        mut made: impl FnMut(Place) -> Option<T>,
    ) -> Option<T> {
        let wanted = fingerprint(hash);
        for bucket in self.candidates(hash) {
            let Some(line) = bucket.first_chunk::<LINE_WORDS>() else { continue };
            // All are looked at, and hardly ever one is meant: without a branch for each.
            let mut meant = 0_u32;
            for (at, word) in line.iter().enumerate() {
                let same = word.load(Ordering::Relaxed) >> FINGERPRINT_SHIFT == wanted;
                meant |= u32::from(same) << at;
            }
            while let Some(word) = line.get(meant.trailing_zeros() as usize) {
                let place = Place(word.load(Ordering::Acquire));
                if let Some(made) = made(place) {
                    return Some(made);
                }
                meant &= meant - 1;
            }
        }
        None
    }

    /// The first place of the primary bucket that may be that of a key.
    #[inline(always)]
    pub(super) fn primary_match(self, hash: u64, machine: &impl Machine) -> Option<Place> {
        let line = self.primary(hash)?;
        let wanted = fingerprint(hash) << FINGERPRINT_SHIFT;
        let first = machine.first_alike(line, wanted, u64::MAX << FINGERPRINT_SHIFT);
        let word = line.0.get(first)?;
        // With the release that made the place findable.
        Some(Place(word.load(Ordering::Acquire))).filter(|place| place.0 != 0)
    }

    /// All places in use of both candidates.
    #[inline]
    pub(super) fn places(self, hash: u64) -> impl Iterator<Item = Place> {
        let words = self.candidates(hash).into_iter().flatten();
        words.map(|word| Place(word.load(Ordering::Acquire))).filter(|place| place.0 != 0)
    }

    /// Makes a record findable. `false` when both buckets are full.
    pub(super) fn publish(self, hash: u64, place: Place) -> bool {
        let used = |bucket: &[AtomicU64]| {
            bucket.iter().filter(|word| word.load(Ordering::Relaxed) != 0).count()
        };
        let [primary, secondary] = self.candidates(hash);
        for _ in 0..TRIES {
            let in_primary = used(primary);
            let bucket = if in_primary < PRIMARY_USED_MAX || in_primary <= used(secondary) {
                primary
            } else {
                secondary
            };
            let empty = bucket.iter().find(|word| word.load(Ordering::Relaxed) == 0);
            let Some(empty) = empty else {
                if in_primary == LINE_WORDS {
                    return false;
                }
                continue;
            };
            let taken = empty.compare_exchange(0, place.0, Ordering::SeqCst, Ordering::Relaxed);
            if taken.is_ok() {
                return true;
            }
        }
        false
    }

    /// Makes it not findable any more. Only who published a place may withdraw it, or who ended
    /// its record.
    pub(super) fn withdraw(self, hash: u64, place: Place) {
        for word in self.candidates(hash).into_iter().flatten() {
            if word.load(Ordering::Relaxed) == place.0 {
                word.store(0, Ordering::Release);
                return;
            }
        }
    }
}
