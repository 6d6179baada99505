//! Connections: what was decided about the first packet of each, and how far it has come.
//!
//! One connection has two keys, that of its original and that of its reply direction, in place of
//! Antrea's conntrack zones. What is translated follows from the two: a packet that is found by one
//! key leaves with the addresses and ports of the other, turned round.

mod bucket;
mod budget;
mod ending;
mod fragment;
mod free;
mod insertion;
mod judged;
mod key;
mod memory;
mod probe;
mod progress;
mod record;
mod report;
mod revision;
mod signal;
mod table;
mod translation;
mod wheel;
mod words;

pub use budget::Account;
pub(crate) use budget::{Budget, Rate};
pub use fragment::FragmentTable;
pub(crate) use judged::Judged;
pub use key::{Direction, FlowKey, Ingress, Tuple};
pub use memory::{ConnectionMemory, LINE_WORDS, Line};
pub(crate) use probe::{Candidate, Testimony};
pub use progress::{Progress, Step};
pub use report::{Counts, Ended, Found, Listed, NewConnection, NotInserted, Occupancy};
pub use signal::Signal;
pub(crate) use table::Key;
pub use table::{ConnectionTable, ConnectionWorker};
pub(crate) use translation::Translation;
pub(crate) use words::{IngressWords, KeyWords, address, address_words};

use std::fmt;

use crate::limits::RULES_MAX;
use crate::packet::PacketSource;
use crate::state::PolicyEpoch;

/// Identifies a connection in its table: its record, and how often that was used before. No later
/// connection has the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId {
    index: u32,
    turn: u32,
}

/// "17.3": record 17, used three times before.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.turn)
    }
}

/// Identifies an installed rule: its slot and how often that was used before. Stays the same as
/// long as the rule is installed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(pub u32);

impl RuleId {
    /// Bits that say which slot; the others count how often it was used before.
    const SLOT_BITS: u32 = RULES_MAX.ilog2();

    /// How many numbers a slot can have one after the other.
    pub(crate) const GENERATIONS: u64 = 1 << (u32::BITS - Self::SLOT_BITS);

    /// The number of a slot that was used so often before.
    pub const fn new(slot: u32, generation: u32) -> RuleId {
        RuleId(generation << Self::SLOT_BITS | slot & (RULES_MAX as u32 - 1))
    }

    /// Which place for a rule it has: below [`RULES_MAX`].
    pub const fn slot(self) -> u32 {
        self.0 & (RULES_MAX as u32 - 1)
    }

    /// How often the slot was used before; it begins anew when the bits are used up.
    pub const fn generation(self) -> u32 {
        self.0 >> Self::SLOT_BITS
    }
}

/// Identifies an installed Service, as [`RuleId`] does a rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(pub u32);

/// What was decided about a connection when it began (Antrea's CT mark and label).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Where its first packet came from (mark, bits 0-3).
    pub source: PacketSource,
    /// The node itself began it (packet mark, bit 31): rules for receivers do not apply to it.
    pub from_node: bool,
    /// The Service that it was sent to (mark, bit 4).
    pub service: Option<ServiceId>,
    /// Its source is translated (mark, bit 5).
    pub snat: bool,
    /// It goes out by the port by which it came in (mark, bit 6).
    pub hairpin: bool,
    /// The rule that let the sender send it (label, bits 32-63).
    pub egress_rule: Option<RuleId>,
    /// The rule that let the receiver receive it (label, bits 0-31).
    pub ingress_rule: Option<RuleId>,
    /// As of when rules last judged it.
    pub policy_epoch: PolicyEpoch,
}

/// A connection, as it is at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// What its original direction is found by.
    pub original: FlowKey,
    /// What its reply direction is found by.
    pub reply: FlowKey,
    /// What was decided.
    pub decision: Decision,
    /// How far it has come.
    pub progress: Progress,
}

impl Connection {
    /// The addresses and ports with which a packet of this direction leaves.
    pub fn translated(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.reply.tuple.reversed(),
            Direction::Reply => self.original.tuple.reversed(),
        }
    }
}

#[cfg(all(test, loom))]
mod interleaving_tests;
#[cfg(all(test, not(loom)))]
mod sharing_tests;
#[cfg(all(test, not(loom)))]
mod table_tests;
