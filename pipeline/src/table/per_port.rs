//! What is known of ports, by their index, in chunks that copies share.
//!
//! A packet asks for its ports a dozen times. An index needs no hash, and finds no other key.

use std::sync::Arc;

use crate::address::PortId;
use crate::limits::PORTS_MAX;

/// Entries of a chunk: a change copies one of them, and the list of all.
const CHUNK_ENTRIES: usize = 32;
const CHUNKS: usize = PORTS_MAX.div_ceil(CHUNK_ENTRIES);

type Chunk<E> = Arc<[Option<E>]>;

/// Finds the entry of a port.
#[derive(Clone, Debug)]
pub struct PerPort<E> {
    /// Of [`CHUNK_ENTRIES`] each, or empty.
    chunks: Arc<[Chunk<E>; CHUNKS]>,
}

impl<E: Clone> PerPort<E> {
    /// An empty table.
    pub fn new() -> PerPort<E> {
        PerPort { chunks: Arc::new(std::array::from_fn(|_| Arc::default())) }
    }

    /// The entry of this port.
    #[inline]
    pub fn get(&self, port: PortId) -> Option<&E> {
        let (chunk, place) = place(port);
        self.chunks.get(chunk)?.get(place)?.as_ref()
    }

    /// Adds or replaces an entry; gives back the one that was there.
    pub fn insert(&mut self, port: PortId, entry: E) -> Option<E> {
        let (chunk, place) = place(port);
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?;
        if chunk.is_empty() {
            *chunk = (0..CHUNK_ENTRIES).map(|_| None).collect();
        }
        Arc::make_mut(chunk).get_mut(place)?.replace(entry)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, port: PortId) -> Option<E> {
        self.get(port)?;
        let (chunk, place) = place(port);
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?;
        Arc::make_mut(chunk).get_mut(place)?.take()
    }

    /// The entries of all parts that `other` does not share: those that differ, and few more.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (PortId, &'a E)> {
        let pairs = self.chunks.iter().zip(other.chunks.iter()).enumerate();
        let changed = pairs.filter(|(_, (own, others))| !Arc::ptr_eq(own, others));
        changed.flat_map(|(number, (own, _))| entries(number, own))
    }

    /// All entries, by port.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &E)> {
        self.chunks.iter().enumerate().flat_map(|(number, chunk)| entries(number, chunk))
    }
}

impl<E: Clone> Default for PerPort<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// In which chunk a port's entry is, and where in it.
#[inline]
fn place(port: PortId) -> (usize, usize) {
    (port.index() / CHUNK_ENTRIES, port.index() % CHUNK_ENTRIES)
}

fn entries<E>(number: usize, chunk: &Chunk<E>) -> impl Iterator<Item = (PortId, &E)> {
    let numbered = chunk.iter().enumerate();
    numbered.filter_map(move |(place, entry)| {
        Some((PortId::new(number * CHUNK_ENTRIES + place)?, entry.as_ref()?))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_answers_as_a_plain_map_does_and_copies_do_not_feel_later_changes(
            changes in prop::collection::vec((0..PORTS_MAX, prop::option::of(any::<u32>())), 0..99),
        ) {
            let mut fast = PerPort::new();
            let mut naive = BTreeMap::new();
            for (port, entry) in changes {
                let port = PortId::new(port).unwrap();
                let (before, known) = (fast.clone(), naive.clone());
                match entry {
                    Some(entry) => {
                        prop_assert_eq!(fast.insert(port, entry), naive.insert(port, entry));
                    }
                    None => prop_assert_eq!(fast.remove(port), naive.remove(&port)),
                }
                for (fast, naive) in [(&fast, &naive), (&before, &known)] {
                    let all: BTreeMap<_, _> = fast.iter().map(|(id, it)| (id, *it)).collect();
                    prop_assert_eq!(&all, naive);
                    prop_assert_eq!(fast.get(port), naive.get(&port));
                }
                let differing: Vec<_> = fast.differing(&before).collect();
                prop_assert!(differing.len() <= CHUNK_ENTRIES);
                if let Some(entry) = entry {
                    prop_assert!(differing.contains(&(port, &entry)));
                }
                prop_assert_eq!(fast.differing(&fast.clone()).count(), 0);
            }
        }
    }
}
