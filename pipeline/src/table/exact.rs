//! Exact match, in chunks that copies share.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Parts of the table. A change copies one: kilobytes, in a table of a hundred thousand entries.
const CHUNKS: usize = 256;

type Chunk<K, E> = Arc<HashTable<(K, E)>>;

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
        let empty = Arc::new(HashTable::new());
        let chunks = std::iter::repeat_n(empty, CHUNKS).collect();
        Exact { hasher: FixedState::with_seed(seed), chunks, len: 0 }
    }

    /// The entry of this key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&E>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let chunk = self.chunks.get(chunk_of(hash))?;
        chunk.find(hash, |(known, _)| known.borrow() == key).map(|(_, entry)| entry)
    }

    /// Adds or replaces an entry; gives back the one that was there.
    pub fn insert(&mut self, key: K, entry: E) -> Option<E> {
        let hash = self.hasher.hash_one(&key);
        let chunk = Arc::make_mut(Arc::make_mut(&mut self.chunks).get_mut(chunk_of(hash))?);
        if let Some((_, old)) = chunk.find_mut(hash, |(known, _)| *known == key) {
            return Some(std::mem::replace(old, entry));
        }
        let hasher = self.hasher.clone();
        chunk.insert_unique(hash, (key, entry), |(known, _)| hasher.hash_one(known));
        self.len += 1;
        None
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<E>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let chunk = Arc::make_mut(Arc::make_mut(&mut self.chunks).get_mut(chunk_of(hash))?);
        let found = chunk.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        let ((_, entry), _) = found.remove();
        self.len -= 1;
        Some(entry)
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &E)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, entry)| (key, entry))
    }
}

/// The chunk of a hash: by bits that the chunk itself uses neither for its slots nor its tags.
const fn chunk_of(hash: u64) -> usize {
    (hash >> 40) as usize % CHUNKS
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
    }
}
