//! All prefixes that hold an address: a table by whole prefix, asked once for each length in use.
//!
//! Ranges of policies come in a few lengths, however many they are, and the looks do not depend on
//! each other, so their cache misses overlap. In a trie each step would wait for the one before.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Exact;

/// Lengths that a prefix can have, of both families.
const LENGTHS: usize = 129;

/// Finds the entries of all prefixes that hold an address.
#[derive(Clone, Debug)]
pub struct Covering<E> {
    prefixes: Exact<IpNet, E>,
    v4: Lengths,
    v6: Lengths,
}

/// How many prefixes there are of each length.
#[derive(Clone, Debug)]
struct Lengths {
    /// A bit for each length in use below 128; there is no need to ask for longer ones.
    used: u128,
    counts: Box<[u32; LENGTHS]>,
}

impl Lengths {
    fn new() -> Lengths {
        Lengths { used: 0, counts: Box::new([0; LENGTHS]) }
    }

    fn count(&mut self, length: u8, change: impl Fn(u32) -> u32) {
        let Some(count) = self.counts.get_mut(usize::from(length)) else { return };
        *count = change(*count);
        let bit = 1_u128.checked_shl(length.into()).unwrap_or(0);
        self.used = if *count == 0 { self.used & !bit } else { self.used | bit };
    }

    /// Those in use, the shortest first.
    #[inline]
    fn iter(&self) -> impl Iterator<Item = u8> {
        let mut left = self.used;
        std::iter::from_fn(move || {
            // At most 128, so the cast cannot cut.
            let length = left.trailing_zeros() as u8;
            left &= left.wrapping_sub(1);
            (length < 128).then_some(length)
        })
    }
}

impl<E: Clone> Covering<E> {
    /// An empty table; the seed keys its hash.
    pub fn new(seed: u64) -> Covering<E> {
        Covering { prefixes: Exact::new(seed), v4: Lengths::new(), v6: Lengths::new() }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> Option<&E> {
        self.prefixes.get(&prefix.trunc())
    }

    /// The entries of all prefixes that hold the address, the shortest first.
    #[inline]
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = &E> {
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let whole = address.is_ipv6().then(|| self.prefixes.get(&IpNet::from(address))).flatten();
        let shorter = lengths.iter().filter_map(move |length| {
            self.prefixes.get(&IpNet::new(address, length).ok()?.trunc())
        });
        shorter.chain(whole)
    }

    /// Adds or replaces an entry; gives back the one that was there.
    pub fn insert(&mut self, prefix: IpNet, entry: E) -> Option<E> {
        let old = self.prefixes.insert(prefix.trunc(), entry);
        if old.is_none() {
            self.lengths(prefix).count(prefix.prefix_len(), |count| count + 1);
        }
        old
    }

    /// Takes the entry of exactly this prefix out.
    pub fn remove(&mut self, prefix: IpNet) -> Option<E> {
        let old = self.prefixes.remove(&prefix.trunc());
        if old.is_some() {
            self.lengths(prefix).count(prefix.prefix_len(), |count| count - 1);
        }
        old
    }

    fn lengths(&mut self, prefix: IpNet) -> &mut Lengths {
        if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Prefixes from a small space, so that they nest and repeat.
    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 0u8..=32).prop_map(|(bits, len)| {
            IpNet::new(Ipv4Addr::new(10, bits & 0x83, 0, bits & 3).into(), len)
        });
        let v6 = (any::<u8>(), 0u8..=128).prop_map(|(bits, len)| {
            let bits = u16::from(bits);
            IpNet::new(Ipv6Addr::new(0xfd00, bits & 0x83, 0, 0, 0, 0, 0, bits & 3).into(), len)
        });
        prop_oneof![v4, v6].prop_map(|net| net.expect("a legal length").trunc())
    }

    proptest! {
        #[test]
        fn it_answers_as_a_walk_over_all_prefixes_does(
            changes in prop::collection::vec((prefix(), prop::option::of(0u32..9)), 0..60),
            asked in prop::collection::vec(prefix(), 20),
        ) {
            let mut fast = Covering::new(1);
            let mut naive: BTreeMap<IpNet, u32> = BTreeMap::new();
            let mut copies = Vec::new();
            for (prefix, entry) in changes {
                match entry {
                    Some(entry) => {
                        prop_assert_eq!(fast.insert(prefix, entry), naive.insert(prefix, entry));
                    }
                    None => prop_assert_eq!(fast.remove(prefix), naive.remove(&prefix)),
                }
                copies.push((fast.clone(), naive.clone()));
            }
            for (fast, naive) in copies {
                for prefix in &asked {
                    let address = prefix.addr();
                    let holding = naive.iter().filter(|(known, _)| known.contains(&address));
                    let mut holding: Vec<_> =
                        holding.map(|(known, entry)| (known.prefix_len(), *entry)).collect();
                    holding.sort_by_key(|(len, _)| *len);
                    let naively: Vec<_> = holding.into_iter().map(|(_, entry)| entry).collect();
                    let found: Vec<_> = fast.holding(address).copied().collect();
                    prop_assert_eq!(found, naively);
                    prop_assert_eq!(fast.get(*prefix), naive.get(prefix));
                }
            }
        }
    }
}
