//! What becomes of a connection under way that rules have judged again.
//!
//! One that they forbid stays for a while, for the sake of what is still sent on it: whatever
//! belongs to no connection may open one, in whichever direction, so an answer would open the way
//! again that the rules have just closed.

use super::table::ConnectionTable;
use super::{ConnectionId, Counts, Decision, Progress};
use crate::sync::Ordering;
use crate::wire::tcp;

/// How often a worker looks again where another one has let the same connection progress.
const LOOKS: usize = 4;

impl Progress {
    /// Where a connection goes on that rules allow again.
    pub(crate) const fn allowed_again(protocol: u8) -> Progress {
        match protocol {
            tcp::PROTOCOL => Progress::Established,
            _ => Progress::Answered,
        }
    }
}

impl ConnectionTable {
    /// Remembers what was decided about a connection under way in place of what is known of it.
    /// Gives what it has carried so far, in either direction, if it passes by other rules now: of
    /// several workers that do this at the same time, one is told.
    pub(crate) fn revise(
        &self,
        id: ConnectionId,
        known: &Decision,
        now: &Decision,
    ) -> Option<[Counts; 2]> {
        let record = self.living(id)?;
        // A successor that took the record at this moment, and was decided just so, would be judged
        // once more for that, and nothing else.
        record.decide(known, now).then(|| record.counts())
    }

    /// Rules forbid a connection that was under way.
    pub(crate) fn revoke(&self, id: ConnectionId) {
        for _ in 0..LOOKS {
            let Some(connection) = self.get(id) else { return };
            let at = connection.progress;
            if at == Progress::Revoked {
                return;
            }
            if self.advance(id, at, Progress::Revoked) {
                self.revoked.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::table_tests::{limits, new};
    use super::super::{ConnectionWorker, Direction, RuleId, Signal, Step};
    use super::*;

    #[test]
    fn a_connection_that_rules_forbid_makes_room_only_for_one_that_is_opened() {
        for direction in [Direction::Original, Direction::Reply] {
            assert_eq!(Progress::Revoked.step(Signal::Syn, direction), Step::Anew);
            for signal in [Signal::Ack, Signal::Fin, Signal::Rst, Signal::Data, Signal::Answer] {
                let step = Progress::Revoked.step(signal, direction);
                assert_eq!(step, Step::To(Progress::Revoked));
            }
        }
        assert!(!Progress::Revoked.is_unanswered() && Progress::Revoked.may_give_way());
    }

    #[test]
    fn what_was_carried_is_given_to_one_of_those_who_revise_a_connection() {
        let table = ConnectionTable::new(limits(1), 5);
        let mut worker = ConnectionWorker::new();
        let first = new(1, 1, Progress::Established);
        let id = table.insert(&first, 1, &mut worker).unwrap();
        table.note(id, Direction::Reply, 100, 1);
        let rules = Decision { egress_rule: Some(RuleId::new(7, 3)), ..first.decision };
        let counts = table.revise(id, &first.decision, &rules).unwrap();
        assert_eq!(counts.map(|it| it.bytes), [0, 100]);
        assert_eq!(table.revise(id, &first.decision, &rules), None, "somebody was faster");
        assert_eq!(table.get(id).unwrap().decision, rules);
        let later = Decision { policy_epoch: crate::state::PolicyEpoch::new(9), ..rules };
        assert_eq!(table.revise(id, &rules, &later), None, "the same rules as before");
        assert_eq!(table.get(id).unwrap().decision, later);
        table.revoke(id);
        table.revoke(id);
        assert_eq!(table.get(id).unwrap().progress, Progress::Revoked);
        assert_eq!(table.occupancy().revoked, 1);
        table.remove(id).unwrap();
        assert_eq!(table.revise(id, &later, &rules), None, "it is over");
    }
}
