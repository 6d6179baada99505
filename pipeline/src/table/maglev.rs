//! Maglev hashing (Eisenbud et al., NSDI 2016): spreads hashes over members, evenly, so that a
//! member that comes or goes moves hardly anybody else.
//!
//! Every member has an order of its own in which it wants the slots; they take turns, each taking
//! the first it wants that is free. The table depends on the members alone, not on their history
//! nor on the node, so nodes that see the same members agree but for the key of their hash.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;

/// Slots for each member at least: the paper's measure for shares that differ by a percent.
const SLOTS_PER_MEMBER: usize = 100;

/// Sizes a table can have: each the largest prime below a power of two. With the size, everybody
/// moves; so it changes only where the number of members about doubles.
const SIZES: [u32; 14] = [
    251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071, 262_139, 524_287, 1_048_573,
    2_097_143,
];

/// Members that the largest table has enough slots for.
pub const MEMBERS_MAX: usize = 1 << 14;

/// A slot that nobody has taken.
const FREE: u16 = u16::MAX;

/// Gives each hash a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev {
    slots: Box<[u16]>,
}

/// The slots in the order in which one member wants them: all of them, the size being prime.
struct Wishes {
    slot: u32,
    step: u32,
}

impl Wishes {
    fn of(member: &impl Hash, size: u32) -> Wishes {
        let hash = FixedState::with_seed(0).hash_one(member);
        // Two halves of one hash; both remainders are below the size, which has 32 bits.
        let slot = (hash >> 32) as u32 % size;
        let step = hash as u32 % (size - 1) + 1;
        Wishes { slot, step }
    }

    fn next(&mut self, size: u32) -> usize {
        let slot = self.slot;
        self.slot += self.step;
        if self.slot >= size {
            self.slot -= size;
        }
        slot as usize
    }
}

impl Maglev {
    /// The table for these members. `None` for fewer than two, who need none, and for more than
    /// [`MEMBERS_MAX`].
    pub fn new<K: Hash>(members: &[K]) -> Option<Maglev> {
        if members.len() < 2 || members.len() > MEMBERS_MAX {
            return None;
        }
        let wanted = members.len() * SLOTS_PER_MEMBER;
        let size = SIZES.into_iter().find(|size| *size as usize >= wanted)?;
        let mut slots = vec![FREE; size as usize].into_boxed_slice();
        let mut wishes: Vec<_> = members.iter().map(|member| Wishes::of(member, size)).collect();
        let mut left = size;
        loop {
            for (member, wishes) in wishes.iter_mut().enumerate() {
                while let Some(slot) = slots.get_mut(wishes.next(size)) {
                    if *slot == FREE {
                        // Below MEMBERS_MAX, which fits.
                        *slot = member as u16;
                        break;
                    }
                }
                left -= 1;
                if left == 0 {
                    return Some(Maglev { slots });
                }
            }
        }
    }

    /// The index of the member for this hash.
    pub fn get(&self, hash: u64) -> usize {
        // The high half of the product is below the number of slots.
        let slot = (u128::from(hash) * self.slots.len() as u128) >> 64;
        self.slots.get(slot as usize).copied().map_or(0, usize::from)
    }

    /// Slots in it.
    pub fn size(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn is_prime(number: u32) -> bool {
        (2..).take_while(|divisor| divisor * divisor <= number).all(|it| !number.is_multiple_of(it))
    }

    /// The member of each slot by name, so that tables of different members can be compared.
    fn owners(members: &[u32]) -> Vec<u32> {
        let table = Maglev::new(members).unwrap();
        table.slots.iter().map(|member| members[usize::from(*member)]).collect()
    }

    /// By the words of the paper (listing 1), with a permutation written out for each member.
    fn naive(members: &[u32], size: u32) -> Vec<u32> {
        let permutation = |member: &u32| -> Vec<usize> {
            let mut wishes = Wishes::of(member, size);
            (0..size).map(|_| wishes.next(size)).collect()
        };
        let permutations: Vec<_> = members.iter().map(permutation).collect();
        let mut next = vec![0; members.len()];
        let mut slots: Vec<Option<u32>> = vec![None; size as usize];
        while slots.iter().any(Option::is_none) {
            for (index, member) in members.iter().enumerate() {
                while next[index] < permutations[index].len() {
                    let slot = permutations[index][next[index]];
                    next[index] += 1;
                    if slots[slot].is_none() {
                        slots[slot] = Some(*member);
                        break;
                    }
                }
            }
        }
        slots.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn sizes_are_primes_and_enough_for_every_number_of_members() {
        assert!(SIZES.is_sorted() && SIZES.into_iter().all(is_prime));
        assert!(SIZES[SIZES.len() - 1] as usize >= MEMBERS_MAX * SLOTS_PER_MEMBER);
        assert!(MEMBERS_MAX < usize::from(FREE));
        let members: Vec<usize> = (0..=MEMBERS_MAX).collect();
        assert!(Maglev::new(&members[..1]).is_none());
        assert!(Maglev::new(&members).is_none());
        assert_eq!(Maglev::new(&members[..81]).unwrap().size(), 8191);
        assert_eq!(Maglev::new(&members[..82]).unwrap().size(), 16381);
    }

    #[test]
    fn every_hash_has_a_member_and_all_slots_are_reached() {
        let table = Maglev::new(&[1, 2, 3]).unwrap();
        let step = u64::MAX / (table.size() as u64 * 4);
        let hit: BTreeSet<_> = (0..table.size() as u64 * 4)
            .map(|count| (u128::from(count * step) * table.size() as u128) >> 64)
            .collect();
        assert_eq!(hit.len(), table.size());
        assert!((0..1000).all(|count| table.get(u64::MAX - count) < 3));
    }

    /// Slots of others that change their owner when one goes, and slots in all. `None` where the
    /// size changes.
    fn moved(members: &[u32], leaves: usize) -> Option<(usize, usize)> {
        let mut fewer = members.to_vec();
        let gone = fewer.remove(leaves);
        let (with, without) = (owners(members), owners(&fewer));
        let pairs = with.iter().zip(&without);
        let moved = pairs.filter(|(before, after)| before != after && **before != gone).count();
        (with.len() == without.len()).then_some((moved, with.len()))
    }

    #[test]
    fn who_comes_or_goes_moves_few_others() {
        let members: Vec<u32> = (1..60_u32).map(|it| it.wrapping_mul(0x9e37_79b1)).collect();
        let sets = (3..members.len()).map(|count| &members[..count]);
        let each = sets.flat_map(|set| (0..set.len()).filter_map(|leaves| moved(set, leaves)));
        let (moved, slots) = each.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        // The paper's figure 12: some percent, more than none as the order of turns shifts.
        assert!(moved * 20 <= slots, "{moved} of {slots}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_the_papers_table(members in prop::collection::btree_set(any::<u32>(), 2..9)) {
            let members: Vec<_> = members.into_iter().collect();
            let owners = owners(&members);
            prop_assert_eq!(&naive(&members, owners.len() as u32), &owners);
        }

        #[test]
        fn shares_differ_by_one_slot_at_most(
            members in prop::collection::btree_set(any::<u32>(), 2..60),
        ) {
            let members: Vec<_> = members.into_iter().collect();
            let owners = owners(&members);
            let shares = members.iter().map(|it| owners.iter().filter(|own| *own == it).count());
            let (least, most) = (shares.clone().min().unwrap(), shares.max().unwrap());
            prop_assert!(most - least <= 1, "{least} to {most}");
        }

        #[test]
        fn who_comes_or_goes_leaves_most_others(
            members in prop::collection::btree_set(any::<u32>(), 3..60),
            leaves: prop::sample::Index,
        ) {
            let members: Vec<_> = members.into_iter().collect();
            let Some((moved, slots)) = moved(&members, leaves.index(members.len())) else {
                return Err(TestCaseError::reject("the size changes, and everybody may move"));
            };
            // Two that begin at one slot with like steps can be in each other's way for long.
            prop_assert!(moved * 2 <= slots, "{moved} of {slots}");
        }
    }
}
