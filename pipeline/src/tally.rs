//! What each rule has decided about, counted by one worker.
//!
//! A worker writes only its own tallies; whoever wants to know sums those of all. A packet that is
//! denied counts at once. One that is let through is its connection's: what a connection has
//! carried, both ways, is added when it ends, and is looked up in it until then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connection::{Connection, Counts, Decision, RuleId};
use crate::limits::RULES_MAX;

/// Words of a rule: its generation and one more (0: never used), sessions, packets, bytes.
const WORDS: usize = 4;

/// What a rule has decided about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleCounts {
    /// Connections that it let open, and packets that it denied.
    pub sessions: u64,
    /// Packets of either direction.
    pub packets: u64,
    /// Bytes of these, without the Ethernet header.
    pub bytes: u64,
}

impl std::ops::AddAssign for RuleCounts {
    fn add_assign(&mut self, other: RuleCounts) {
        self.sessions = self.sessions.wrapping_add(other.sessions);
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

impl RuleCounts {
    /// What a sum says once all is in it. A worker takes from a rule what it has given to another
    /// ([`RuleTallies::hand_over`]); until the connection is added that it is about, a sum may be
    /// less than nothing.
    pub fn settled(self) -> RuleCounts {
        let positive = |count: u64| if count > u64::MAX / 2 { 0 } else { count };
        RuleCounts {
            sessions: self.sessions,
            packets: positive(self.packets),
            bytes: positive(self.bytes),
        }
    }
}

/// The tallies of one worker.
pub struct RuleTallies {
    words: Box<[AtomicU64]>,
}

impl RuleTallies {
    /// All zero. Memory is taken as rules come to be used.
    pub fn new() -> RuleTallies {
        RuleTallies { words: bytemuck::zeroed_slice_box(RULES_MAX * WORDS) }
    }

    /// Adds to what a rule has decided about. For the worker whose tallies these are.
    pub fn add(&self, rule: RuleId, counts: RuleCounts) {
        let Some([tag, words @ ..]) = self.of(rule) else { return };
        let (mine, known) = (tag_of(rule), tag.load(Ordering::Relaxed));
        if known != mine {
            if known != 0 && is_older(mine, known) {
                // The slot is another rule's by now.
                return;
            }
            // Nobody may read the old numbers as the new rule's.
            tag.store(0, Ordering::SeqCst);
            words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
            tag.store(mine, Ordering::SeqCst);
        }
        for (word, more) in words.iter().zip([counts.sessions, counts.packets, counts.bytes]) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
        }
    }

    /// Adds what a connection has carried to the rules that let it: for when it has ended.
    pub fn account(&self, decision: &Decision, counts: &[Counts; 2]) {
        for (rule, counts) in carried(decision, counts) {
            self.add(rule, counts);
        }
    }

    /// A connection under way passes by other rules from now on: what it has carried so far is its
    /// former rules', and is not to be counted again when it ends.
    pub fn hand_over(&self, from: &Decision, to: &Decision, counts: &[Counts; 2]) {
        self.account(from, counts);
        for (rule, RuleCounts { packets, bytes, .. }) in carried(to, counts) {
            let (packets, bytes) = (packets.wrapping_neg(), bytes.wrapping_neg());
            self.add(rule, RuleCounts { sessions: 0, packets, bytes });
        }
    }

    /// What a rule has decided about. For anybody.
    pub fn get(&self, rule: RuleId) -> RuleCounts {
        let Some([tag, sessions, packets, bytes]) = self.of(rule) else {
            return RuleCounts::default();
        };
        let mine = tag_of(rule);
        let is_mine = || tag.load(Ordering::SeqCst) == mine;
        let before = is_mine();
        let counts = RuleCounts {
            sessions: sessions.load(Ordering::Acquire),
            packets: packets.load(Ordering::Acquire),
            bytes: bytes.load(Ordering::Acquire),
        };
        if before && is_mine() { counts } else { RuleCounts::default() }
    }

    fn of(&self, rule: RuleId) -> Option<&[AtomicU64; WORDS]> {
        self.words.get(rule.slot() as usize * WORDS..)?.first_chunk()
    }
}

impl Default for RuleTallies {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RuleTallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleTallies").finish_non_exhaustive()
    }
}

fn tag_of(rule: RuleId) -> u64 {
    u64::from(rule.generation()) + 1
}

/// Whether a slot had one tag before it had the other; generations begin anew some time.
fn is_older(one: u64, other: u64) -> bool {
    other.wrapping_sub(one) % RuleId::GENERATIONS < RuleId::GENERATIONS / 2
}

/// What connections under way have carried so far, by the rules that let them: what is to be added
/// to the tallies of all workers for a whole account.
pub fn of_live(
    connections: impl Iterator<Item = (Connection, [Counts; 2])>,
) -> BTreeMap<RuleId, RuleCounts> {
    let mut rules: BTreeMap<RuleId, RuleCounts> = BTreeMap::new();
    for (connection, counts) in connections {
        for (rule, counts) in carried(&connection.decision, &counts) {
            *rules.entry(rule).or_default() += counts;
        }
    }
    rules
}

/// The rules that let a connection, each with all that went either way.
fn carried(
    decision: &Decision,
    counts: &[Counts; 2],
) -> impl Iterator<Item = (RuleId, RuleCounts)> {
    let packets = counts.iter().map(|it| it.packets).sum();
    let bytes = counts.iter().map(|it| it.bytes).sum();
    let Decision { egress_rule, ingress_rule, .. } = *decision;
    let rules = egress_rule.into_iter().chain(ingress_rule);
    rules.map(move |rule| (rule, RuleCounts { sessions: 0, packets, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{FlowKey, Ingress, Progress, Tuple};
    use crate::packet::PacketSource;

    fn counts(sessions: u64, packets: u64, bytes: u64) -> RuleCounts {
        RuleCounts { sessions, packets, bytes }
    }

    #[test]
    fn a_rule_that_takes_the_slot_of_another_starts_from_zero_and_the_late_one_does_not_count() {
        let tallies = RuleTallies::new();
        let (old, new) = (RuleId::new(7, 3), RuleId::new(7, 4));
        tallies.add(old, counts(1, 2, 3));
        tallies.add(old, counts(0, 10, 100));
        assert_eq!(tallies.get(old), counts(1, 12, 103));
        assert_eq!(tallies.get(new), RuleCounts::default());
        tallies.add(new, counts(1, 1, 60));
        tallies.add(old, counts(0, 1, 60));
        assert_eq!(tallies.get(new), counts(1, 1, 60));
        assert_eq!(tallies.get(old), RuleCounts::default());
        assert_eq!(tallies.get(RuleId::new(8, 4)), RuleCounts::default());
    }

    #[test]
    fn a_slot_is_used_again_after_its_last_generation() {
        let tallies = RuleTallies::new();
        let last = RuleId::GENERATIONS as u32 - 1;
        tallies.add(RuleId::new(1, last), counts(1, 1, 1));
        tallies.add(RuleId::new(1, 0), counts(1, 0, 0));
        tallies.add(RuleId::new(1, last), counts(1, 1, 1));
        assert_eq!(tallies.get(RuleId::new(1, 0)), counts(1, 0, 0));
    }

    #[test]
    fn a_connection_counts_both_ways_for_the_rules_of_both_ends() {
        let tuple = Tuple {
            source: [10, 10, 1, 2].into(),
            destination: [10, 10, 1, 3].into(),
            protocol: 17,
            source_port: 40000,
            destination_port: 53,
        };
        let (egress, ingress) = (RuleId::new(1, 0), RuleId::new(2, 0));
        let connection = Connection {
            original: FlowKey { network: 0, ingress: Ingress::Gateway, tuple },
            reply: FlowKey { network: 0, ingress: Ingress::Gateway, tuple: tuple.reversed() },
            decision: Decision {
                from_node: false,
                source: PacketSource::Pod,
                service: None,
                snat: false,
                hairpin: false,
                egress_rule: Some(egress),
                ingress_rule: Some(ingress),
                policy_epoch: Default::default(),
            },
            progress: Progress::Answered,
        };
        let went = [Counts { packets: 2, bytes: 100 }, Counts { packets: 1, bytes: 900 }];
        let tallies = RuleTallies::new();
        tallies.add(egress, counts(1, 0, 0));
        tallies.account(&connection.decision, &went);
        assert_eq!(tallies.get(egress), counts(1, 3, 1000));
        assert_eq!(tallies.get(ingress), counts(0, 3, 1000));
        let live = of_live([(connection, went); 2].into_iter());
        assert_eq!(live.get(&egress), Some(&counts(0, 6, 2000)));
    }
}
