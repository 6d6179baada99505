//! What workers learn from packets, and share: bounded, and written by all of them.
//!
//! Everything here may be lost without harm to who is allowed what: it is found out again.

use std::sync::Arc;

use crate::affinity::AffinityTable;
use crate::announcement::AnnouncementTable;
use crate::answer::ErrorBudget;
use crate::audit::AuditBuffer;
use crate::composed::ComposedMemory;
use crate::connection::{Budget, ConnectionTable, ConnectionWorker, FragmentTable};
use crate::fqdn::{AnswerBudget, FqdnTable};
use crate::limits::{
    AFFINITIES_MAX, ANNOUNCEMENTS_MAX, ConnectionLimits, FQDN_ADDRESSES_MAX, FRAGMENTS_MAX,
};
use crate::tally::RuleTallies;

/// What all workers of a datapath share beside the State.
#[derive(Debug)]
pub struct Learned {
    /// Who talks to whom.
    pub connections: ConnectionTable,
    /// Fragmented packets under way.
    pub fragments: FragmentTable,
    /// Which endpoint a client of a Service had.
    pub affinities: AffinityTable,
    /// Addresses that Pods were told for names.
    pub fqdns: FqdnTable,
    /// Who announced addresses that several may have.
    pub announcements: AnnouncementTable,
}

impl Learned {
    /// Nothing learnt yet. The seed keys hash tables: one that nobody outside can know keeps others
    /// from making up entries that get in each other's way.
    pub fn new(seed: u64) -> Learned {
        Learned::with_connections(ConnectionTable::new(ConnectionLimits::default(), seed), seed)
    }

    /// As [`new`](Self::new), with this table of connections.
    pub fn with_connections(connections: ConnectionTable, seed: u64) -> Learned {
        Learned {
            connections,
            fragments: FragmentTable::new(FRAGMENTS_MAX, seed),
            affinities: AffinityTable::new(AFFINITIES_MAX, seed),
            fqdns: FqdnTable::new(FQDN_ADDRESSES_MAX, seed),
            announcements: AnnouncementTable::new(ANNOUNCEMENTS_MAX, seed),
        }
    }
}

/// What one worker keeps to itself from packet to packet.
#[derive(Debug)]
pub struct WorkerMemory {
    /// Its share of the work on connections.
    pub connections: ConnectionWorker,
    /// What rules have decided about. Others may read it.
    pub tallies: Arc<RuleTallies>,
    /// What rules that log have decided, until it is taken.
    pub audit: AuditBuffer,
    /// How many more answers about names it reads.
    pub answers: AnswerBudget,
    /// How packets were decided about without the stages.
    pub composed: ComposedMemory,
    /// How many errors and resets it may still build.
    pub(crate) errors: ErrorBudget,
    /// How many more tagged frames it copies.
    pub(crate) floods: Budget,
}

impl WorkerMemory {
    /// That of a worker that has seen no packet.
    pub fn new() -> WorkerMemory {
        WorkerMemory {
            connections: ConnectionWorker::new(),
            tallies: Arc::new(RuleTallies::new()),
            audit: AuditBuffer::new(),
            answers: AnswerBudget::new(),
            composed: ComposedMemory::new(),
            errors: ErrorBudget::new(),
            floods: Budget::new(),
        }
    }
}

impl Default for WorkerMemory {
    fn default() -> Self {
        Self::new()
    }
}
