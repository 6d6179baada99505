//! Numbers for rules: slots that are used again, the one that is free for longest first.
//!
//! Connections and counters remember rules by these numbers longer than the rules are installed,
//! so a slot rests before it is used again, and then with another generation.

use crate::connection::RuleId;
use crate::limits::RULES_MAX;
use crate::table::Exact;

/// Free slots that are kept back while there are unused ones.
const RESTING_MIN: usize = 4096;

/// Which slots are free. A copy shares the list.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// The first slot never used.
    unused: u32,
    /// By the order in which they came free, under the number that each had last.
    resting: Exact<u64, RuleId>,
    oldest: u64,
    newest: u64,
}

impl Slots {
    pub(super) fn new(seed: u64) -> Slots {
        Slots { unused: 0, resting: Exact::new(seed), oldest: 0, newest: 0 }
    }

    /// A number that no installed rule has; none when there are as many rules as there can be.
    pub(super) fn take(&mut self) -> Option<RuleId> {
        let fresh = (self.unused as usize) < RULES_MAX;
        if self.resting.len() < RESTING_MIN && fresh {
            self.unused += 1;
            return Some(RuleId::new(self.unused - 1, 0));
        }
        let rested = self.resting.remove(&self.oldest)?;
        self.oldest += 1;
        Some(RuleId::new(rested.slot(), rested.generation().wrapping_add(1)))
    }

    pub(super) fn free(&mut self, id: RuleId) {
        self.resting.insert(self.newest, id);
        self.newest += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_slot_rests_before_it_is_used_again_and_then_has_another_number() {
        let mut slots = Slots::new(1);
        let first = slots.take().unwrap();
        slots.free(first);
        for _ in 1..RESTING_MIN {
            let id = slots.take().unwrap();
            assert_ne!(id.slot(), first.slot());
            slots.free(id);
        }
        let again = slots.take().unwrap();
        assert_eq!((again.slot(), again.generation()), (first.slot(), 1));
    }

    #[test]
    fn there_are_as_many_numbers_as_there_can_be_rules() {
        let mut slots = Slots::new(1);
        let mut taken: Vec<RuleId> = (0..RULES_MAX).map(|_| slots.take().unwrap()).collect();
        assert_eq!(slots.take(), None);
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), RULES_MAX);
        slots.free(taken[7]);
        assert_eq!(slots.take().map(RuleId::slot), Some(7));
    }
}
