//! Next hops on the underlay, by index: edited in place while workers read them.
//!
//! An entry is one atomic word, so a neighbour that moves is one store and no reader ever sees half
//! a MAC address. The datapath fills it from the kernel's routes and neighbours.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::Mac;
use crate::limits::ADJACENCIES_MAX;

/// Index of a next hop: below [`ADJACENCIES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AdjacencyId(u16);

impl AdjacencyId {
    /// `None` when the index is not below [`ADJACENCIES_MAX`].
    pub const fn new(index: usize) -> Option<AdjacencyId> {
        if index < ADJACENCIES_MAX { Some(AdjacencyId(index as u16)) } else { None }
    }

    /// For indexing.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bit 48 marks a resolved entry; below it stands the MAC address.
const RESOLVED: u64 = 1 << 48;

/// All next hops.
pub struct AdjacencyTable {
    words: Box<[AtomicU64]>,
}

impl AdjacencyTable {
    /// A table of unresolved entries.
    pub fn new() -> AdjacencyTable {
        AdjacencyTable { words: (0..ADJACENCIES_MAX).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The next hop's address, if the underlay has resolved it.
    pub fn mac(&self, id: AdjacencyId) -> Option<Mac> {
        let word = self.words.get(id.index())?.load(Ordering::Relaxed);
        let [_, _, mac @ ..] = word.to_be_bytes();
        (word & RESOLVED != 0).then_some(Mac(mac))
    }

    /// Sets or clears the next hop's address.
    pub fn set(&self, id: AdjacencyId, mac: Option<Mac>) {
        let word = mac.map_or(0, |Mac([a, b, c, d, e, f])| {
            RESOLVED | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
        });
        if let Some(entry) = self.words.get(id.index()) {
            entry.store(word, Ordering::Relaxed);
        }
    }
}

impl Default for AdjacencyTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_unresolved_until_set_and_again_when_cleared() {
        let table = AdjacencyTable::new();
        let id = AdjacencyId::new(7).expect("below the limit");
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        assert_eq!(table.mac(id), None);
        table.set(id, Some(mac));
        assert_eq!(table.mac(id), Some(mac));
        assert_eq!(table.mac(AdjacencyId::new(8).expect("below the limit")), None);
        table.set(id, None);
        assert_eq!(table.mac(id), None);
    }

    #[test]
    fn the_all_zero_mac_is_not_taken_for_unresolved() {
        let table = AdjacencyTable::new();
        let id = AdjacencyId::new(0).expect("below the limit");
        table.set(id, Some(Mac([0; 6])));
        assert_eq!(table.mac(id), Some(Mac([0; 6])));
    }
}
