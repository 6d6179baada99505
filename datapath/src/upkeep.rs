//! What a worker has to do beside packets: end connections whose time is up, add what they have
//! carried to the rules that let them open, and hand over audit records.
//!
//! A bounded step of it follows every round with packets, and goes before every rest. Nobody else
//! looks at the connections that a worker has opened, so a worker with connections never rests
//! longer than [`REST_MS_MAX`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use seine_pipeline::audit::AuditRecord;
use seine_pipeline::composed::Sampler;
use seine_pipeline::connection::Ended;
use seine_pipeline::learned::{Learned, WorkerMemory};
use seine_pipeline::tally::RuleTallies;

/// Connections looked at in one step. A worker opens fewer in a round of a few full batches, so
/// what is due does not pile up; a step stays below ten microseconds.
const EXPIRE_MAX: usize = 128;

/// How long a worker rests while something is due some time: connections may outlive their timeout
/// by this, and audit records come late by it.
const REST_MS_MAX: i32 = 1000;

/// Audit records of one worker that wait for the agent: some seconds of a busy log. Each is below
/// 128 bytes.
const AUDIT_RING_RECORDS: usize = 4096;

/// Audit records on their way from a worker to whoever writes them down.
pub struct AuditRing {
    records: ArrayQueue<AuditRecord>,
    refused: AtomicU64,
    lost: AtomicU64,
}

impl AuditRing {
    /// An empty ring.
    pub fn new() -> AuditRing {
        AuditRing {
            records: ArrayQueue::new(AUDIT_RING_RECORDS),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The oldest record.
    pub fn take(&self) -> Option<AuditRecord> {
        self.records.pop()
    }

    /// Decisions that nobody will be told of, for there was no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// For the worker that owns it.
    fn put(&self, record: AuditRecord) {
        if let Err(record) = self.records.push(record) {
            self.refused.fetch_add(record.count, Ordering::Relaxed);
        }
    }
}

impl Default for AuditRing {
    fn default() -> Self {
        Self::new()
    }
}

/// When there is more to do, soonest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Due {
    /// At once.
    Now,
    /// Some time.
    Later,
    /// Not before the next packet.
    Never,
}

impl Due {
    /// How long a worker may rest, in milliseconds; -1 for as long as nothing comes.
    pub fn limit_ms(self) -> i32 {
        match self {
            Due::Now => 0,
            Due::Later => REST_MS_MAX,
            Due::Never => -1,
        }
    }
}

/// What a worker learns from packets, and what is to be done about it.
pub struct Upkeep {
    /// What all workers share.
    pub learned: Arc<Learned>,
    /// What this one keeps to itself.
    pub memory: WorkerMemory,
    /// Its audit records.
    pub audit: Arc<AuditRing>,
}

impl Upkeep {
    /// That of a worker that has seen no packet.
    pub fn new(learned: Arc<Learned>) -> Upkeep {
        Upkeep { learned, memory: WorkerMemory::new(), audit: Arc::default() }
    }

    /// Lets one composed decision in so many be checked against the stages; none when that is 0.
    pub fn sampling(mut self, every: u32) -> Upkeep {
        self.memory.composed.sampler = Sampler::new(every);
        self
    }

    /// Does some of what is due.
    pub fn step(&mut self, now_ms: u64) -> Due {
        let (memory, connections) = (&mut self.memory, &self.learned.connections);
        let tallies = &memory.tallies;
        let looked_at = connections.expire(&mut memory.connections, now_ms, EXPIRE_MAX, |ended| {
            account(tallies, ended);
        });
        let audit = &self.audit;
        memory.audit.drain(now_ms, |record| audit.put(record));
        let refused = audit.refused.load(Ordering::Relaxed);
        audit.lost.store(memory.audit.lost() + refused, Ordering::Relaxed);
        if looked_at == EXPIRE_MAX {
            Due::Now
        } else if memory.audit.is_empty() && connections.occupancy().used == 0 {
            Due::Never
        } else {
            Due::Later
        }
    }
}

/// Adds what a connection has carried to the rules that let it open.
pub fn account(tallies: &RuleTallies, ended: &Ended) {
    tallies.account(&ended.decision, &ended.counts);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::net::IpAddr;

    use seine_pipeline::address::PortId;
    use seine_pipeline::connection::{
        Decision, Direction, FlowKey, Ingress, NewConnection, Progress, RuleId, Tuple,
    };
    use seine_pipeline::packet::PacketSource;
    use seine_pipeline::stage::TableId;
    use seine_pipeline::state::Action;
    use seine_pipeline::tally::RuleCounts;

    use super::*;

    const RULE: RuleId = RuleId(5);

    fn tuple(source_port: u16) -> Tuple {
        Tuple {
            source: IpAddr::from([10, 10, 1, 2]),
            destination: IpAddr::from([10, 10, 1, 3]),
            protocol: 17,
            source_port,
            destination_port: 53,
        }
    }

    fn open(upkeep: &mut Upkeep, source_port: u16, now_ms: u64) {
        let key = |port: usize, tuple| FlowKey {
            network: 0,
            ingress: Ingress::Pod(PortId::new(port).unwrap(), 1),
            tuple,
        };
        let tuple = tuple(source_port);
        let new = NewConnection {
            original: key(2, tuple),
            reply: key(3, tuple.reversed()),
            decision: Decision {
                from_node: false,
                source: PacketSource::Pod,
                service: None,
                snat: false,
                hairpin: false,
                egress_rule: Some(RULE),
                ingress_rule: None,
                policy_epoch: Default::default(),
            },
            progress: Progress::Unanswered,
        };
        let worker = &mut upkeep.memory.connections;
        let id = upkeep.learned.connections.insert(&new, now_ms, worker).unwrap();
        assert!(upkeep.learned.connections.note(id, Direction::Original, 100, now_ms));
    }

    #[test]
    fn what_an_ended_connection_has_carried_is_its_rules() {
        let mut upkeep = Upkeep::new(Arc::new(Learned::new(7)));
        let start_ms = 1_000_000;
        assert_eq!(upkeep.step(start_ms), Due::Never);
        open(&mut upkeep, 1, start_ms);
        assert_eq!(upkeep.step(start_ms), Due::Later);
        assert_eq!(upkeep.memory.tallies.get(RULE), RuleCounts::default());
        // Long enough for any timeout of an unanswered datagram.
        assert_eq!(upkeep.step(start_ms + 600_000), Due::Never);
        assert_eq!(upkeep.learned.connections.occupancy().used, 0);
        let counts = RuleCounts { sessions: 0, packets: 1, bytes: 100 };
        assert_eq!(upkeep.memory.tallies.get(RULE), counts);
    }

    #[test]
    fn a_step_is_bounded_and_the_rest_follows() {
        let mut upkeep = Upkeep::new(Arc::new(Learned::new(7)));
        let connections = 3 * EXPIRE_MAX as u16;
        (0..connections).for_each(|port| open(&mut upkeep, port, 1_000_000));
        let mut steps = 1;
        while upkeep.step(1_600_000) == Due::Now {
            steps += 1;
        }
        assert_eq!(upkeep.learned.connections.occupancy().used, 0);
        assert_eq!(steps, 4);
    }

    #[test]
    fn every_decision_that_logs_is_handed_over_or_counted_as_lost() {
        let mut upkeep = Upkeep::new(Arc::new(Learned::new(7)));
        let told = |audit: &AuditRing| std::iter::from_fn(|| audit.take()).count() as u64;
        let (mut sent, mut received) = (0, 0);
        for round in 0..64 {
            for port in 0..256 {
                let decision = (TableId::EgressRule, RULE, Action::Allow);
                upkeep.memory.audit.record(AuditRecord::new(round, decision, tuple(port), 60));
                sent += 1;
            }
            upkeep.step(round);
            if round == 2 {
                received += told(&upkeep.audit);
            }
        }
        received += told(&upkeep.audit);
        assert!(upkeep.audit.lost() > 0, "the ring is bounded");
        assert_eq!(received + upkeep.audit.lost(), sent);
    }
}
