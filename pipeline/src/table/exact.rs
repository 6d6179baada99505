//! Exact match, in chunks that copies share.
//!
//! A chunk is one piece of memory with its entries in it, each at the slot that its hash names or
//! soon behind it. So a look costs two cache lines that depend on each other, that of the list of
//! chunks and that of the slot, and what is installed may be anything but cached when a packet
//! comes.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::quality::FixedState;

/// Entries of a chunk, on average, before there are twice as many chunks: few, for a change copies
/// one chunk.
const CHUNK_ENTRIES: usize = 32;
/// Most chunks: a change also copies the list of them. In a table of a hundred thousand entries
/// both together are kilobytes.
const CHUNKS_MAX: usize = 1024;
/// Slots that an entry may lie behind its own, before its chunk gets twice as many.
const PROBES_MAX: usize = 8;
/// A chunk with fewer entries than a slot in so many gets no more, however its hashes collide.
const SLOTS_PER_ENTRY_MAX: usize = 4;

/// A power of two of them, or none.
type Chunk<K, E> = Arc<[Option<(K, E)>]>;

/// Finds an entry by its whole key.
#[derive(Clone, Debug)]
pub struct Exact<K, E> {
    hasher: FixedState,
    chunks: Arc<[Chunk<K, E>]>,
    len: usize,
}

impl<K: Hash + Eq + Clone, E: Clone> Exact<K, E> {
    /// An empty table; the seed keys its hash.
    pub fn new(seed: u64) -> Exact<K, E> {
        Exact { hasher: FixedState::with_seed(seed), chunks: Arc::default(), len: 0 }
    }

    /// The entry of this key.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&E>
    where
        K: Borrow<Q>,
    {
        if self.len == 0 {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let slots = self.chunks.get(self.chunk_of(hash))?;
        let (_, entry) = slots.get(find(slots, hash, key)?)?.as_ref()?;
        Some(entry)
    }

    /// The entry of this key, to be changed: its chunk is copied if it is shared.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut E>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let slot = find(self.chunks.get(self.chunk_of(hash))?, hash, key)?;
        let slots = Arc::make_mut(self.chunk_mut(hash)?);
        slots.get_mut(slot)?.as_mut().map(|(_, entry)| entry)
    }

    /// Adds or replaces an entry; gives back the one that was there.
    pub fn insert(&mut self, key: K, entry: E) -> Option<E> {
        if let Some(old) = self.get_mut(&key) {
            return Some(std::mem::replace(old, entry));
        }
        if self.len >= self.chunks.len() * CHUNK_ENTRIES && self.chunks.len() < CHUNKS_MAX {
            self.grow();
        }
        let hash = self.hasher.hash_one(&key);
        let hasher = self.hasher.clone();
        put(self.chunk_mut(hash)?, &hasher, key, entry);
        self.len += 1;
        None
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<E>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let slot = find(self.chunks.get(self.chunk_of(hash))?, hash, key)?;
        let hasher = self.hasher.clone();
        let removed = take(Arc::make_mut(self.chunk_mut(hash)?), &hasher, slot);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries of all parts that `other` does not share: those that differ, and few more.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a K, &'a E)> {
        // Where there are more chunks now, every entry may have moved to another.
        let alike = self.chunks.len() == other.chunks.len();
        let shared = move |(index, own): &(usize, &Chunk<K, E>)| {
            alike && other.chunks.get(*index).is_some_and(|others| Arc::ptr_eq(own, others))
        };
        let changed = self.chunks.iter().enumerate().filter(move |chunk| !shared(chunk));
        changed.flat_map(|(_, own)| entries(own))
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &E)> {
        self.chunks.iter().flat_map(entries)
    }

    /// The chunk of a hash: by bits that the chunk itself does not use for its slots. There are a
    /// power of two of them, or none and then no chunk is found.
    fn chunk_of(&self, hash: u64) -> usize {
        (hash >> 40) as usize & self.chunks.len().wrapping_sub(1)
    }

    fn chunk_mut(&mut self, hash: u64) -> Option<&mut Chunk<K, E>> {
        let index = self.chunk_of(hash);
        Arc::make_mut(&mut self.chunks).get_mut(index)
    }

    /// Spreads the entries over twice as many chunks.
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.chunks);
        let count = (2 * old.len()).max(1);
        self.chunks = (0..count).map(|_| Arc::default()).collect();
        let hasher = self.hasher.clone();
        for (key, entry) in old.iter().flat_map(entries) {
            if let Some(chunk) = self.chunk_mut(hasher.hash_one(key)) {
                put(chunk, &hasher, key.clone(), entry.clone());
            }
        }
    }
}

fn entries<K, E>(chunk: &Chunk<K, E>) -> impl Iterator<Item = (&K, &E)> {
    chunk.iter().flatten().map(|(key, entry)| (key, entry))
}

/// The slots in the order in which an entry of this hash may be in them.
#[inline]
fn probes(slots: usize, hash: u64) -> impl Iterator<Item = usize> {
    (0..slots).map(move |offset| (hash as usize).wrapping_add(offset) & (slots - 1))
}

#[inline]
fn find<K: Borrow<Q>, E, Q: Eq + ?Sized>(
    slots: &[Option<(K, E)>],
    hash: u64,
    key: &Q,
) -> Option<usize> {
    for slot in probes(slots.len(), hash) {
        let (known, _) = slots.get(slot)?.as_ref()?;
        if known.borrow() == key {
            return Some(slot);
        }
    }
    None
}

/// Puts in an entry whose key the chunk does not have.
fn put<K: Hash + Eq + Clone, E: Clone>(
    chunk: &mut Chunk<K, E>,
    hasher: &FixedState,
    key: K,
    entry: E,
) {
    let hash = hasher.hash_one(&key);
    loop {
        let slots = chunk.len();
        let is_free = |slot: &usize| chunk.get(*slot).is_some_and(Option::is_none);
        let mut near = probes(slots, hash).take(PROBES_MAX);
        let free = near.find(is_free).or_else(|| {
            let few = entries(chunk).count() * SLOTS_PER_ENTRY_MAX < slots;
            few.then(|| probes(slots, hash).find(is_free)).flatten()
        });
        if let Some(slot) = free.and_then(|slot| Arc::make_mut(chunk).get_mut(slot)) {
            *slot = Some((key, entry));
            return;
        }
        let mut wider: Chunk<K, E> = (0..(2 * slots).max(2)).map(|_| None).collect();
        for (key, entry) in entries(chunk) {
            put(&mut wider, hasher, key.clone(), entry.clone());
        }
        *chunk = wider;
    }
}

/// Takes an entry out, and moves those behind it that would not be found past the gap.
fn take<K: Hash, E>(slots: &mut [Option<(K, E)>], hasher: &FixedState, slot: usize) -> Option<E> {
    let mask = slots.len().wrapping_sub(1);
    let (_, removed) = slots.get_mut(slot)?.take()?;
    let (mut gap, mut next) = (slot, slot.wrapping_add(1) & mask);
    // It ends at the gap itself, if nowhere before.
    while let Some(Some((key, _))) = slots.get(next) {
        let home = hasher.hash_one(key) as usize;
        if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
            slots.swap(gap, next);
            gap = next;
        }
        next = next.wrapping_add(1) & mask;
    }
    Some(removed)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_answers_as_a_plain_map_does_and_copies_do_not_feel_later_changes(
            seed: u64,
            changes in prop::collection::vec((0u16..300, prop::option::of(any::<u32>())), 0..400),
        ) {
            let mut fast = Exact::new(seed);
            let mut naive = HashMap::new();
            let mut copy = (fast.clone(), naive.clone());
            for (count, (key, entry)) in changes.iter().enumerate() {
                match entry {
                    Some(entry) => {
                        prop_assert_eq!(fast.insert(*key, *entry), naive.insert(*key, *entry));
                    }
                    None => prop_assert_eq!(fast.remove(key), naive.remove(key)),
                }
                if count == changes.len() / 2 {
                    copy = (fast.clone(), naive.clone());
                }
            }
            for (fast, naive) in [(&fast, &naive), (&copy.0, &copy.1)] {
                prop_assert_eq!(fast.len(), naive.len());
                prop_assert_eq!(fast.is_empty(), naive.is_empty());
                for key in 0..300 {
                    prop_assert_eq!(fast.get(&key), naive.get(&key));
                }
                let all: HashMap<u16, u32> = fast.iter().map(|(key, it)| (*key, *it)).collect();
                prop_assert_eq!(&all, naive);
            }
        }
    }

    #[test]
    fn a_small_table_is_small_and_a_large_one_has_many_chunks() {
        let mut table = Exact::new(7);
        assert_eq!(table.chunks.len(), 0);
        table.insert(0, ());
        assert_eq!(table.chunks.len(), 1);
        (0..100_000u32).for_each(|key| assert_eq!(table.insert(key, ()), (key == 0).then_some(())));
        assert_eq!(table.chunks.len(), CHUNKS_MAX);
        let most = table.chunks.iter().map(|chunk| entries(chunk).count()).max();
        assert!(most < Some(200), "{most:?} of about 98 each");
    }

    #[test]
    fn a_change_copies_one_chunk_only() {
        let mut table = Exact::new(7);
        for key in 0..10_000u32 {
            table.insert(key, key);
        }
        let before = table.clone();
        table.insert(3, 4);
        let shared = |(old, new): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(old, new);
        let copied = before.chunks.iter().zip(table.chunks.iter()).filter(|pair| !shared(*pair));
        assert_eq!(copied.count(), 1);
        let differing: HashMap<_, _> = table.differing(&before).collect();
        assert!(differing.contains_key(&3) && differing.len() < 100);
        assert_eq!(table.differing(&table.clone()).count(), 0);
    }
}
