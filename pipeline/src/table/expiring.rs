//! What packets teach for a time: a bounded table that all workers read and write without a lock.
//!
//! Sets of eight entries; a key has its place in one of them. An entry is guarded by a
//! [sequence number](super::sequence), so a reader gets it whole or not at all. Where a set is
//! full of the living, the one that would die first gives way, and the writer is told.
//!
//! Two workers that put the same key at the same moment may leave it twice in its set. That does
//! no harm: the one that lives longer is the one that is found, and the next put or remove of the
//! key takes both. No writer ever waits for another: an entry that somebody else is writing to is
//! passed over.

use std::fmt;

use super::hash::KeyedHash;
use super::sequence;
use crate::sync::{AtomicU64, Ordering, pause};

/// Entries of a set.
const WAYS: usize = 8;
/// Words of an entry in front of its key: sequence number, and when it dies (0: it is empty).
const HEAD: usize = 2;

/// Keys of `K` words, each with a value of `V` words and a time at which it is forgotten.
pub struct Expiring<const K: usize, const V: usize> {
    hash: KeyedHash,
    /// Sets of [`WAYS`] entries of [`HEAD`]` + K + V` words.
    words: Box<[AtomicU64]>,
    displaced: AtomicU64,
}

/// One entry, as it was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpiringEntry<const K: usize, const V: usize> {
    /// What it is found by.
    pub key: [u64; K],
    /// What is found.
    pub value: [u64; V],
    /// From when on it is not found any more.
    pub expires_ms: u64,
}

/// An entry that was read, and the sequence number it had.
type Seen<'a, const K: usize, const V: usize> = (&'a [AtomicU64], u64, ExpiringEntry<K, V>);

impl<const K: usize, const V: usize> Expiring<K, V> {
    const STRIDE: usize = HEAD + K + V;

    /// An empty table for at least so many entries; the seed keys its hash.
    pub fn new(capacity: usize, seed: u64) -> Expiring<K, V> {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        let words = (0..sets * WAYS * Self::STRIDE).map(|_| AtomicU64::new(0)).collect();
        Expiring { hash: KeyedHash::new(seed), words, displaced: AtomicU64::new(0) }
    }

    /// The value of this key, if it has not expired.
    pub fn get(&self, key: &[u64; K], now_ms: u64) -> Option<[u64; V]> {
        self.matches(key, now_ms).max_by_key(|(_, _, seen)| seen.expires_ms).map(|it| it.2.value)
    }

    /// Adds a key, or gives it another value and another time. Says whether another that was still
    /// living had to give way.
    pub fn put(&self, key: &[u64; K], value: &[u64; V], expires_ms: u64, now_ms: u64) -> bool {
        self.put_fairly(key, value, expires_ms, now_ms, |_| 0)
    }

    /// As [`put`](Self::put), where keys have owners: in a set that is full of the living, that
    /// owner gives way who has the most of it, the key's own before another with as many. So nobody
    /// takes what others have by putting a great deal.
    pub fn put_fairly(
        &self,
        key: &[u64; K],
        value: &[u64; V],
        expires_ms: u64,
        now_ms: u64,
        owner: impl Fn(&[u64; K]) -> u64,
    ) -> bool {
        if expires_ms <= now_ms {
            self.remove(key);
            return false;
        }
        let entry = ExpiringEntry { key: *key, value: *value, expires_ms };
        loop {
            // Only what was there before this write is taken away after it: two writers that met
            // do not take away each other's.
            let doubles: [Option<Seen<'_, K, V>>; WAYS] = {
                let mut known = self.matches(key, 0);
                std::array::from_fn(|_| known.next())
            };
            let own = doubles.iter().flatten().max_by_key(|(_, _, seen)| seen.expires_ms);
            let place = own.copied().or_else(|| self.place(key, now_ms, &owner));
            if let Some((words, number, seen)) = place
                && write(words, number, Some(&entry))
            {
                for (double, number, _) in doubles.into_iter().flatten() {
                    if !std::ptr::eq(double, words) {
                        write::<K, V>(double, number, None);
                    }
                }
                let displaced = own.is_none() && seen.expires_ms > now_ms;
                self.displaced.fetch_add(u64::from(displaced), Ordering::Relaxed);
                return displaced;
            }
            pause();
        }
    }

    /// Forgets a key; says whether it was there.
    pub fn remove(&self, key: &[u64; K]) -> bool {
        let mut removed = false;
        for (words, number, _) in self.matches(key, 0) {
            removed |= write::<K, V>(words, number, None);
        }
        removed
    }

    /// All entries that have not expired, in no order.
    pub fn iter(&self, now_ms: u64) -> impl Iterator<Item = ExpiringEntry<K, V>> {
        let entries = self.words.chunks_exact(Self::STRIDE).filter_map(seen);
        entries.map(|(_, _, entry)| entry).filter(move |entry| entry.expires_ms > now_ms)
    }

    /// Entries that it can hold.
    pub fn capacity(&self) -> usize {
        self.words.len() / Self::STRIDE
    }

    /// How often an entry had to give way before its time.
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }

    /// The entries of the key's set that nobody is writing to.
    fn set(&self, key: &[u64; K]) -> impl Iterator<Item = Seen<'_, K, V>> {
        let sets = self.words.len() / (WAYS * Self::STRIDE);
        let start = self.hash.hash(key) as usize % sets * WAYS * Self::STRIDE;
        let set = self.words.get(start..).unwrap_or_default();
        set.chunks_exact(Self::STRIDE).take(WAYS).filter_map(seen)
    }

    /// Where a key that is not there goes.
    fn place(
        &self,
        key: &[u64; K],
        now_ms: u64,
        owner: &impl Fn(&[u64; K]) -> u64,
    ) -> Option<Seen<'_, K, V>> {
        let newcomer = owner(key);
        let rank = |seen: &ExpiringEntry<K, V>| {
            if seen.expires_ms <= now_ms {
                return (0, 0, 0);
            }
            let whose = owner(&seen.key);
            let living = self.set(key).filter(|(_, _, it)| it.expires_ms > now_ms);
            let has = living.filter(|(_, _, it)| owner(&it.key) == whose).count();
            let own = whose == newcomer;
            (WAYS + 1 - has - usize::from(own), 1 + usize::from(!own), seen.expires_ms)
        };
        self.set(key).min_by_key(|(_, _, seen)| rank(seen))
    }

    /// Those among them that are the key's and living.
    fn matches(&self, key: &[u64; K], now_ms: u64) -> impl Iterator<Item = Seen<'_, K, V>> {
        self.set(key).filter(move |(_, _, it)| it.expires_ms > now_ms && it.key == *key)
    }
}

impl<const K: usize, const V: usize> fmt::Debug for Expiring<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiring").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// Reads one entry; `None` while somebody writes to it.
fn seen<const K: usize, const V: usize>(words: &[AtomicU64]) -> Option<Seen<'_, K, V>> {
    let (head, body) = words.split_at_checked(HEAD)?;
    let [number, expires_ms] = head else { return None };
    let (number, entry) = sequence::read(number, || {
        let mut words = body.iter().map(|word| word.load(Ordering::Relaxed));
        // Structure expressions are evaluated as written: the key's words come first.
        ExpiringEntry {
            key: std::array::from_fn(|_| words.next().unwrap_or(0)),
            value: std::array::from_fn(|_| words.next().unwrap_or(0)),
            expires_ms: expires_ms.load(Ordering::Relaxed),
        }
    })?;
    Some((words, number, entry))
}

/// Writes one entry, or empties it. `false` when somebody wrote to it since it was read.
fn write<const K: usize, const V: usize>(
    words: &[AtomicU64],
    number: u64,
    entry: Option<&ExpiringEntry<K, V>>,
) -> bool {
    let Some(([sequence, expires_ms], body)) = words.split_first_chunk::<HEAD>() else {
        return false;
    };
    if !sequence::claim(sequence, number) {
        return false;
    }
    expires_ms.store(entry.map_or(0, |entry| entry.expires_ms), Ordering::Relaxed);
    let source = entry.into_iter().flat_map(|entry| entry.key.iter().chain(&entry.value));
    for (word, value) in body.iter().zip(source) {
        word.store(*value, Ordering::Relaxed);
    }
    sequence::release(sequence, number);
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// With room for all, a plain map with times does the same.
        #[test]
        fn it_answers_as_a_plain_map_does_while_there_is_room(
            seed: u64,
            steps in prop::collection::vec(
                (0_u64..40, prop::option::of(0_u64..50), 0_u64..5),
                0..300,
            ),
        ) {
            let table = Expiring::<2, 1>::new(1024, seed);
            let mut naive: HashMap<u64, (u64, u64)> = HashMap::new();
            let mut now_ms = 0;
            for (number, (key, lives_ms, passes_ms)) in steps.into_iter().enumerate() {
                now_ms += passes_ms;
                let words = [key, !key];
                match lives_ms {
                    Some(lives_ms) => {
                        let value = number as u64;
                        let displaced = table.put(&words, &[value], now_ms + lives_ms, now_ms);
                        prop_assert!(!displaced);
                        naive.insert(key, (value, now_ms + lives_ms));
                    }
                    None => {
                        table.remove(&words);
                        naive.remove(&key);
                    }
                }
                for key in 0..40 {
                    let living = naive.get(&key).filter(|(_, expires)| *expires > now_ms);
                    let found = table.get(&[key, !key], now_ms).map(|[value]| value);
                    prop_assert_eq!(found, living.map(|(value, _)| *value));
                }
            }
            let living = naive.values().filter(|(_, expires)| *expires > now_ms).count();
            prop_assert_eq!(table.iter(now_ms).count(), living);
        }

        /// Without room, what is found is still what was put last, and nobody gives way for
        /// nothing.
        #[test]
        fn a_full_set_gives_up_the_one_that_would_die_first(
            lives in prop::collection::vec(1_u64..1000, 9..40),
        ) {
            let table = Expiring::<1, 1>::new(WAYS, 1);
            let mut naive: Vec<(u64, u64)> = Vec::new();
            let given_way = lives.len() - WAYS;
            for (key, lives_ms) in lives.into_iter().enumerate() {
                let key = key as u64;
                let displaced = table.put(&[key], &[key], lives_ms, 0);
                prop_assert_eq!(displaced, naive.len() == WAYS);
                if displaced {
                    let soonest = naive.iter().map(|(_, lives)| *lives).min().unwrap();
                    let gone = naive.iter().position(|(key, lives)| {
                        *lives == soonest && table.get(&[*key], 0).is_none()
                    });
                    naive.remove(gone.unwrap());
                }
                naive.push((key, lives_ms));
                for (key, _) in &naive {
                    prop_assert_eq!(table.get(&[*key], 0), Some([*key]));
                }
            }
            prop_assert_eq!(table.displaced(), given_way as u64);
        }
    }

    #[test]
    fn the_expired_give_way_before_the_living() {
        let table = Expiring::<1, 1>::new(1, 1);
        assert_eq!(table.capacity(), 8);
        for key in 0..8 {
            assert!(!table.put(&[key], &[key], if key == 3 { 10 } else { 1000 + key }, 0));
        }
        assert_eq!(table.get(&[3], 9), Some([3]));
        assert_eq!(table.get(&[3], 10), None, "it lives until, not through");
        assert!(!table.put(&[8], &[8], 500, 10), "nobody living gave way");
        assert!(table.put(&[9], &[9], 600, 10), "the ninth living one takes a place");
        assert_eq!((table.get(&[8], 10), table.displaced()), (None, 1));
        assert!(!table.put(&[9], &[1], 10, 10), "what is over before it begins is a removal");
        assert_eq!(table.get(&[9], 10), None);
        assert!(!table.remove(&[9]));
    }

    #[test]
    fn who_has_the_most_of_a_full_set_gives_way() {
        let table = Expiring::<1, 1>::new(1, 1);
        let owner = |key: &[u64; 1]| key[0] / 100;
        let put = |key: u64, lives_ms| table.put_fairly(&[key], &[key], lives_ms, 0, owner);
        let has = |owner: u64| table.iter(0).filter(|it| it.key[0] / 100 == owner).count();
        for key in 100..108 {
            assert!(!put(key, 1000), "what nobody else wants is anybody's");
        }
        assert!(put(200, 10) && put(300, 20));
        assert_eq!((has(1), has(2), has(3)), (6, 1, 1));
        for key in 110..190 {
            assert!(put(key, 5000));
        }
        assert_eq!((has(1), has(2), has(3)), (6, 1, 1), "the flood washes itself away");
        for key in 201..290 {
            put(key, 5000);
        }
        assert_eq!((has(1), has(2), has(3)), (4, 3, 1));
        for owner in 400..409 {
            put(owner * 100, 30);
        }
        assert_eq!(table.iter(0).count(), WAYS);
        assert!((1..400).all(|owner| has(owner) <= 1), "with eight owners each has one");
    }

    #[test]
    fn no_reader_sees_a_mixed_entry_while_two_write() {
        let table = Expiring::<2, 3>::new(64, 7);
        let done = AtomicBool::new(false);
        let check = |key: u64, value: [u64; 3]| {
            assert!(value[0] == value[1] && value[1] == value[2] && value[0] % 16 == key);
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut found = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    for key in 0..16 {
                        if let Some(value) = table.get(&[key, key], 5) {
                            check(key, value);
                            found += 1;
                        }
                    }
                    for entry in table.iter(5) {
                        assert_eq!(entry.key[0], entry.key[1]);
                        check(entry.key[0], entry.value);
                    }
                }
                found
            });
            let writers: Vec<_> = (0..2_u64)
                .map(|writer| {
                    let table = &table;
                    scope.spawn(move || {
                        for turn in 0..10_000_u64 {
                            let key = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
                            let value = (turn * 2 + writer) * 16 + key;
                            table.put(&[key, key], &[value; 3], 10 + turn % 3, 5);
                            if turn % 64 == 0 {
                                table.remove(&[key, key]);
                            }
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            // However they met, one more put makes the key single again.
            for key in 0..16 {
                table.put(&[key, key], &[key; 3], 20, 5);
                assert_eq!(table.matches(&[key, key], 0).count(), 1);
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }
}
