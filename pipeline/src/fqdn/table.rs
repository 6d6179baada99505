//! Which addresses Pods were told, in which groups they are for it, and until when.

use std::fmt;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::address::PortId;
use crate::limits::FQDN_LIFETIME_MIN_S;
use crate::state::GroupId;
use crate::table::Expiring;

/// Groups that one address can be in by its names, for one Pod.
pub(crate) const GROUPS: usize = 8;

/// Which Pod, as of which generation of its port, was told which address.
pub(super) type Key = [u64; 3];

/// What Pods were told.
pub struct FqdnTable {
    /// Each group with the second at which it ends.
    addresses: Expiring<3, GROUPS>,
}

impl FqdnTable {
    /// An empty table for at least so many addresses; the seed keys its hash.
    pub fn new(capacity: usize, seed: u64) -> FqdnTable {
        FqdnTable { addresses: Expiring::new(capacity, seed) }
    }

    /// The groups that an address is in for a Pod, in order.
    pub(crate) fn groups(
        &self,
        (port, generation): (PortId, u32),
        address: IpAddr,
        now_ms: u64,
    ) -> ArrayVec<GroupId, GROUPS> {
        let found = self.addresses.get(&key(port, generation, address), now_ms);
        let words = found.unwrap_or_default().into_iter();
        let living = words.filter(|word| ends_s(*word) > now_ms / 1000);
        // What is empty ends at 0.
        let mut groups: ArrayVec<GroupId, GROUPS> = living.map(group).collect();
        groups.sort_unstable();
        groups
    }

    /// Addresses that Pods know at this moment.
    pub fn len(&self, now_ms: u64) -> usize {
        self.addresses.iter(now_ms).count()
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.addresses.capacity()
    }

    /// How many had to give way before their time.
    pub fn displaced(&self) -> u64 {
        self.addresses.displaced()
    }

    /// Puts an address into groups for a Pod.
    pub(super) fn learn(&self, key: &Key, groups: &[GroupId], ttl_s: u32, now_ms: u64) {
        let now_s = now_ms / 1000;
        // A day is the longest that any answer is believed.
        let end_s = now_s + u64::from(ttl_s.clamp(FQDN_LIFETIME_MIN_S, 86_400));
        let mut words = self.addresses.get(key, now_ms).unwrap_or_default();
        for id in groups {
            let own = words.iter().position(|word| *word != 0 && group(*word) == *id);
            let place = own.or_else(|| {
                let first = words.iter().enumerate().min_by_key(|(_, word)| ends_s(**word));
                first.map(|(place, _)| place)
            });
            let Some(word) = place.and_then(|place| words.get_mut(place)) else { continue };
            let end_s = if own.is_some() { end_s.max(ends_s(*word)) } else { end_s };
            *word = end_s << 32 | u64::from(id.0);
        }
        let last = words.iter().map(|word| ends_s(*word)).max().unwrap_or_default();
        self.addresses.put_fairly(key, &words, last * 1000, now_ms, |[_, _, port]| port >> 33);
    }
}

impl fmt::Debug for FqdnTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FqdnTable").finish_non_exhaustive()
    }
}

/// What stands for an address as one Pod knows it.
pub(super) fn key(port: PortId, generation: u32, address: IpAddr) -> Key {
    let (bits, v4) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 1),
        IpAddr::V6(address) => (address.to_bits(), 0),
    };
    let port = (port.index() as u64) << 33 | u64::from(generation) << 1 | v4;
    [(bits >> 64) as u64, bits as u64, port]
}

fn group(word: u64) -> GroupId {
    GroupId(word as u32)
}

fn ends_s(word: u64) -> u64 {
    word >> 32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::testbed::ip;

    #[test]
    fn a_pod_that_is_told_a_great_deal_displaces_nothing_but_its_own() {
        let table = FqdnTable::new(256, 1);
        let key =
            |port, address: u32| key(PortId::new(port).unwrap(), 1, IpAddr::V4(address.into()));
        for quiet in 3..7 {
            for address in 0..10 {
                table.learn(&key(quiet, address), &[GroupId(1)], 60, 0);
            }
        }
        assert_eq!((table.len(0), table.displaced()), (40, 0));
        for address in 0..10_000 {
            table.learn(&key(2, address), &[GroupId(1)], 86_400, 0);
        }
        assert_eq!(table.len(0), table.capacity());
        assert_eq!(table.displaced(), 10_000 - (table.capacity() as u64 - 40));
        let known = |quiet, address: u32| {
            let address = IpAddr::V4(address.into());
            !table.groups((PortId::new(quiet).unwrap(), 1), address, 0).is_empty()
        };
        assert!((3..7).all(|quiet| (0..10).all(|address| known(quiet, address))));
        table.learn(&key(7, 1), &[GroupId(1)], 30, 0);
        assert!(known(7, 1), "whoever comes later finds room");
    }

    #[test]
    fn an_address_keeps_the_groups_that_hold_longest() {
        let table = FqdnTable::new(64, 1);
        let (port, address) = (PortId::new(3).unwrap(), ip("203.0.113.9"));
        let key = key(port, 1, address);
        for group in 0..GROUPS as u32 + 2 {
            table.learn(&key, &[GroupId(group)], 100 + group, 5000);
        }
        let groups = table.groups((port, 1), address, 5000);
        assert_eq!(groups.iter().map(|it| it.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(table.groups((port, 2), address, 5000).is_empty(), "another Pod has the port");
        assert_eq!(table.groups((port, 1), address, 5000 + 107_000).len(), 2);
    }
}
