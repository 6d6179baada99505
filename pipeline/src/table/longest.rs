//! Longest prefix match: a binary trie with its chains compressed, whose paths copies share.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Finds the entry of the longest prefix that holds an address.
#[derive(Clone, Debug)]
pub struct Longest<E> {
    v4: Link<E>,
    v6: Link<E>,
    len: usize,
}

type Link<E> = Option<Arc<Branch<E>>>;

/// All prefixes that start with the first `len` bits of `bits`. It has an entry of its own, or
/// two children, or both.
#[derive(Clone, Debug)]
struct Branch<E> {
    bits: u128,
    len: u8,
    entry: Option<E>,
    zero: Link<E>,
    one: Link<E>,
}

/// An address or prefix as left-aligned bits.
#[derive(Clone, Copy)]
struct Key {
    bits: u128,
    len: u8,
}

impl Key {
    fn of(prefix: IpNet) -> Key {
        Key { bits: left_aligned(prefix.network()), len: prefix.prefix_len() }
    }

    fn of_address(address: IpAddr) -> Key {
        Key { bits: left_aligned(address), len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Leading bits in common with the branch's prefix.
    fn common<E>(self, branch: &Branch<E>) -> u8 {
        let same = (self.bits ^ branch.bits).leading_zeros().min(128);
        // At most 128, so the cast cannot cut.
        (same as u8).min(self.len).min(branch.len)
    }
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The bit at `position` from the left; false behind the last.
fn bit(bits: u128, position: u8) -> bool {
    bits.checked_shl(u32::from(position)).unwrap_or(0) >> 127 == 1
}

impl<E: Clone> Branch<E> {
    fn leaf(key: Key, entry: E) -> Branch<E> {
        Branch { bits: key.bits, len: key.len, entry: Some(entry), zero: None, one: None }
    }

    fn child(&self, bits: u128) -> &Link<E> {
        if bit(bits, self.len) { &self.one } else { &self.zero }
    }

    fn child_mut(&mut self, bits: u128) -> &mut Link<E> {
        if bit(bits, self.len) { &mut self.one } else { &mut self.zero }
    }

    fn first(&self) -> Option<&E> {
        let below = || self.zero.as_ref().or(self.one.as_ref()).and_then(|child| child.first());
        self.entry.as_ref().or_else(below)
    }
}

impl<E: Clone> Longest<E> {
    /// An empty table.
    pub fn new() -> Longest<E> {
        Longest { v4: None, v6: None, len: 0 }
    }

    fn root(&self, v4: bool) -> &Link<E> {
        if v4 { &self.v4 } else { &self.v6 }
    }

    fn root_mut(&mut self, v4: bool) -> &mut Link<E> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }

    /// The entry of the longest prefix that holds the address.
    pub fn get(&self, address: IpAddr) -> Option<&E> {
        let key = Key::of_address(address);
        let mut link = self.root(address.is_ipv4());
        let mut best = None;
        while let Some(branch) = link
            && key.common(branch) == branch.len
        {
            best = branch.entry.as_ref().or(best);
            if branch.len == key.len {
                break;
            }
            link = branch.child(key.bits);
        }
        best
    }

    /// The entry of some prefix that has an address in common with this one.
    pub fn overlapping(&self, prefix: IpNet) -> Option<&E> {
        let key = Key::of(prefix);
        let mut link = self.root(prefix.addr().is_ipv4());
        while let Some(branch) = link {
            let common = key.common(branch);
            if common == key.len {
                return branch.first();
            }
            if common < branch.len {
                return None;
            }
            if branch.entry.is_some() {
                return branch.entry.as_ref();
            }
            link = branch.child(key.bits);
        }
        None
    }

    /// Adds or replaces an entry; gives back the one that was there.
    pub fn insert(&mut self, prefix: IpNet, entry: E) -> Option<E> {
        let old = insert(self.root_mut(prefix.addr().is_ipv4()), Key::of(prefix), entry);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes the entry of exactly this prefix out.
    pub fn remove(&mut self, prefix: IpNet) -> Option<E> {
        let old = remove(self.root_mut(prefix.addr().is_ipv4()), Key::of(prefix));
        self.len -= usize::from(old.is_some());
        old
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<E: Clone> Default for Longest<E> {
    fn default() -> Self {
        Self::new()
    }
}

fn insert<E: Clone>(link: &mut Link<E>, key: Key, entry: E) -> Option<E> {
    let Some(branch) = link else {
        *link = Some(Arc::new(Branch::leaf(key, entry)));
        return None;
    };
    let common = key.common(branch);
    if common == branch.len {
        let branch = Arc::make_mut(branch);
        if common == key.len {
            return branch.entry.replace(entry);
        }
        return insert(branch.child_mut(key.bits), key, entry);
    }
    // The branch ends beyond the common bits: a new one goes in above it.
    let below = link.take();
    let bits_below = below.as_ref().map_or(0, |branch| branch.bits);
    let mut above = Branch { bits: key.bits, len: common, entry: None, zero: None, one: None };
    *above.child_mut(bits_below) = below;
    if common == key.len {
        above.entry = Some(entry);
    } else {
        *above.child_mut(key.bits) = Some(Arc::new(Branch::leaf(key, entry)));
    }
    *link = Some(Arc::new(above));
    None
}

fn remove<E: Clone>(link: &mut Link<E>, key: Key) -> Option<E> {
    let branch = link.as_mut()?;
    if key.common(branch) != branch.len {
        return None;
    }
    let branch = Arc::make_mut(branch);
    let old = if branch.len == key.len {
        branch.entry.take()
    } else {
        remove(branch.child_mut(key.bits), key)
    }?;
    if branch.entry.is_none() {
        let (zero, one) = (branch.zero.take(), branch.one.take());
        if zero.is_some() && one.is_some() {
            (branch.zero, branch.one) = (zero, one);
        } else {
            *link = zero.or(one);
        }
    }
    Some(old)
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

    fn overlap(one: &IpNet, other: &IpNet) -> bool {
        one.contains(other) || other.contains(one)
    }

    proptest! {
        #[test]
        fn it_answers_as_a_walk_over_all_prefixes_does(
            changes in prop::collection::vec((prefix(), prop::option::of(0u32..9)), 0..60),
            asked in prop::collection::vec(prefix(), 20),
        ) {
            let mut fast = Longest::new();
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
                prop_assert_eq!(fast.len(), naive.len());
                prop_assert_eq!(fast.is_empty(), naive.is_empty());
                for prefix in &asked {
                    let address = prefix.addr();
                    let holding = naive.iter().filter(|(known, _)| known.contains(&address));
                    let longest = holding.max_by_key(|(known, _)| known.prefix_len());
                    prop_assert_eq!(fast.get(address), longest.map(|(_, entry)| entry));
                    prop_assert_eq!(
                        fast.overlapping(*prefix).is_some(),
                        naive.keys().any(|known| overlap(known, prefix))
                    );
                }
            }
        }
    }
}
