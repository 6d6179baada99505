//! Audit records: what rules that log have decided, and how Antrea writes it down.
//!
//! A worker notes decisions in a buffer of its own, and the datapath takes them from there; what
//! does not fit is counted as lost. Denials that repeat within a second become one record with a
//! count, as in Antrea's log.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

use crate::connection::{RuleId, Tuple};
use crate::limits::{AUDIT_PENDING_MAX, AUDIT_RECORDS_MAX};
use crate::stage::TableId;
use crate::state::{Action, Rule, RuleDirection, State};
use crate::wire::{icmp, sctp, tcp, udp};

/// How long denials of one kind are gathered.
const GATHERED_MS: u64 = 1000;
/// Pending records among which one of the same kind is looked for.
const WAYS: usize = 8;

/// One decision, or several that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditRecord {
    /// When, or when the first was, on the datapath's clock.
    pub time_ms: u64,
    /// From the first until the record was closed.
    pub elapsed_ms: u64,
    /// How many.
    pub count: u64,
    /// Where it was decided.
    pub table: TableId,
    /// By which rule.
    pub rule: RuleId,
    /// What the rule does.
    pub action: Action,
    /// From whom to whom, destinations translated.
    pub tuple: Tuple,
    /// Bytes of the IP packet.
    pub bytes: u16,
}

impl AuditRecord {
    /// One decision.
    pub fn new(
        time_ms: u64,
        (table, rule, action): (TableId, RuleId, Action),
        tuple: Tuple,
        bytes: u16,
    ) -> AuditRecord {
        AuditRecord { time_ms, elapsed_ms: 0, count: 1, table, rule, action, tuple, bytes }
    }

    /// Whether Antrea would write the same line for both.
    fn is_like(&self, other: &AuditRecord) -> bool {
        (self.rule, self.table, self.action, self.bytes)
            == (other.rule, other.table, other.action, other.bytes)
            && self.tuple == other.tuple
    }

    /// Where to look for its like.
    fn place(&self) -> usize {
        let address = |address: IpAddr| match address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() as u64,
        };
        let ports =
            u64::from(self.tuple.source_port) << 16 | u64::from(self.tuple.destination_port);
        let mixed = address(self.tuple.source)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(address(self.tuple.destination))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(ports ^ u64::from(self.rule.0) << 32)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as usize
    }
}

/// The records of one worker that nobody has taken yet.
#[derive(Debug)]
pub struct AuditBuffer {
    ready: VecDeque<AuditRecord>,
    /// Denials that may repeat yet, in sets of [`WAYS`].
    pending: Box<[Option<AuditRecord>]>,
    /// When the first of them is to be closed; far away when there is none.
    due_ms: u64,
    lost: u64,
}

impl AuditBuffer {
    /// An empty buffer with all the memory it will ever have.
    pub fn new() -> AuditBuffer {
        AuditBuffer {
            ready: VecDeque::with_capacity(AUDIT_RECORDS_MAX),
            pending: vec![None; AUDIT_PENDING_MAX].into_boxed_slice(),
            due_ms: u64::MAX,
            lost: 0,
        }
    }

    /// Notes a decision.
    pub fn record(&mut self, record: AuditRecord) {
        if record.action == Action::Allow {
            return self.push(record);
        }
        let sets = self.pending.len() / WAYS;
        let start = record.place().checked_rem(sets).unwrap_or_default() * WAYS;
        let Some(set) = self.pending.get_mut(start..).and_then(|set| set.first_chunk_mut::<WAYS>())
        else {
            return self.push(record);
        };
        let open = |known: &AuditRecord| record.time_ms < known.time_ms + GATHERED_MS;
        if let Some(known) =
            set.iter_mut().flatten().find(|known| known.is_like(&record) && open(known))
        {
            known.count += 1;
            return;
        }
        // The oldest gives way, early if need be: it is told all the same.
        let oldest = set.iter_mut().min_by_key(|it| it.map_or(0, |known| known.time_ms));
        let displaced = oldest.and_then(|place| place.replace(record));
        self.due_ms = self.due_ms.min(record.time_ms + GATHERED_MS);
        if let Some(displaced) = displaced {
            self.push(closed(displaced, record.time_ms));
        }
    }

    /// Gives the records that are complete, in the order in which they became so.
    pub fn drain(&mut self, now_ms: u64, mut take: impl FnMut(AuditRecord)) {
        self.ready.drain(..).for_each(&mut take);
        if now_ms < self.due_ms {
            return;
        }
        self.due_ms = u64::MAX;
        for place in &mut self.pending {
            let Some(record) = place else { continue };
            let due_ms = record.time_ms + GATHERED_MS;
            if due_ms <= now_ms {
                take(closed(*record, now_ms));
                *place = None;
            } else {
                self.due_ms = self.due_ms.min(due_ms);
            }
        }
    }

    /// Whether there is nothing to drain, now or later.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.due_ms == u64::MAX
    }

    /// Records that there was no room for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn push(&mut self, record: AuditRecord) {
        if self.ready.len() < AUDIT_RECORDS_MAX {
            self.ready.push_back(record);
        } else {
            self.lost += record.count;
        }
    }
}

impl Default for AuditBuffer {
    fn default() -> Self {
        Self::new()
    }
}

fn closed(record: AuditRecord, now_ms: u64) -> AuditRecord {
    AuditRecord { elapsed_ms: now_ms.saturating_sub(record.time_ms), ..record }
}

/// A record as a line of Antrea's `np.log`, without the time in front.
pub struct AuditLine<'a> {
    /// What happened.
    pub record: &'a AuditRecord,
    /// The rule that decided.
    pub rule: &'a Rule,
    /// "namespace/pod" of whom the rule applies to, where that is a Pod of this node.
    pub applied_to: Option<&'a str>,
}

impl<'a> AuditLine<'a> {
    /// The line for a record, if its rule is still there.
    pub fn of(record: &'a AuditRecord, state: &'a State) -> Option<AuditLine<'a>> {
        let rule = state.rule(record.rule)?;
        let own = match rule.direction {
            RuleDirection::Egress => record.tuple.source,
            RuleDirection::Ingress => record.tuple.destination,
        };
        let name = state.owner(own).map(|(endpoint, _)| endpoint.name.as_str());
        // An Endpoint is called "namespace/pod/interface".
        let applied_to = name.map(|name| name.rsplit_once('/').map_or(name, |(pod, _)| pod));
        Some(AuditLine { record, rule, applied_to })
    }
}

/// "IngressRule K8sNetworkPolicy:default/allow <nil> Ingress Allow 190 default/web 10.10.1.2 40000
/// 10.10.1.3 80 TCP 60 <nil>", and for several "[3 packets in 1.01s]" behind it.
impl fmt::Display for AuditLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuditLine { record, rule, applied_to } = *self;
        let tuple = &record.tuple;
        let isolates = record.action == Action::Isolate;
        let own = |text| if isolates { NIL } else { named(text) };
        let policy = if isolates { "K8sNetworkPolicy" } else { named(&rule.policy) };
        let action = match record.action {
            Action::Allow => "Allow",
            Action::Drop | Action::Isolate => "Drop",
            Action::Reject => "Reject",
            Action::Pass => "Pass",
        };
        write!(f, "{} {policy} {} ", record.table, own(&rule.rule_name))?;
        write!(f, "{:?} {action} {} ", rule.direction, own(&rule.priority))?;
        write!(f, "{} ", applied_to.unwrap_or(NIL))?;
        if matches!(tuple.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL) {
            write!(f, "{} {} ", tuple.source, tuple.source_port)?;
            write!(f, "{} {} ", tuple.destination, tuple.destination_port)?;
        } else {
            write!(f, "{} {NIL} {} {NIL} ", tuple.source, tuple.destination)?;
        }
        match tuple.protocol {
            tcp::PROTOCOL => f.write_str("TCP")?,
            udp::PROTOCOL => f.write_str("UDP")?,
            sctp::PROTOCOL => f.write_str("SCTP")?,
            icmp::PROTOCOL_V4 => f.write_str("ICMP")?,
            icmp::PROTOCOL_V6 => f.write_str("IPv6-ICMP")?,
            _ => f.write_str("UnknownProtocol")?,
        }
        write!(f, " {} {}", record.bytes, own(&rule.log_label))?;
        if record.count > 1 {
            let seconds = record.elapsed_ms as f64 / 1000.0;
            write!(f, " [{} packets in {seconds}s]", record.count)?;
        }
        Ok(())
    }
}

/// What stands where there is nothing.
const NIL: &str = "<nil>";

fn named(text: &str) -> &str {
    if text.is_empty() { NIL } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn denial(time_ms: u64, source_port: u16) -> AuditRecord {
        let tuple = Tuple {
            source: IpAddr::from([10, 10, 1, 2]),
            destination: IpAddr::from([10, 10, 1, 3]),
            protocol: 6,
            source_port,
            destination_port: 80,
        };
        let decision = (TableId::IngressDefaultRule, RuleId(3), Action::Isolate);
        AuditRecord::new(time_ms, decision, tuple, 60)
    }

    fn drained(buffer: &mut AuditBuffer, now_ms: u64) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        buffer.drain(now_ms, |record| records.push(record));
        records
    }

    #[test]
    fn denials_that_repeat_within_a_second_are_one_record() {
        let mut buffer = AuditBuffer::new();
        buffer.record(denial(5000, 1));
        buffer.record(denial(5400, 1));
        buffer.record(denial(5500, 2));
        buffer.record(denial(5999, 1));
        assert_eq!(drained(&mut buffer, 5999), []);
        let [record] = drained(&mut buffer, 6010)[..] else { panic!("one is due") };
        assert_eq!(record, AuditRecord { count: 3, elapsed_ms: 1010, ..denial(5000, 1) });
        buffer.record(denial(6020, 1));
        let records = drained(&mut buffer, 9000);
        assert_eq!(records.iter().map(|it| it.count).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(drained(&mut buffer, 20_000), []);
    }

    #[test]
    fn what_is_allowed_is_told_one_by_one() {
        let mut buffer = AuditBuffer::new();
        let allowed = AuditRecord { action: Action::Allow, ..denial(5000, 1) };
        buffer.record(allowed);
        buffer.record(allowed);
        assert_eq!(drained(&mut buffer, 5000), [allowed, allowed]);
    }

    #[test]
    fn every_decision_is_told_or_counted_as_lost() {
        let mut buffer = AuditBuffer::new();
        let sent = 4 * (AUDIT_RECORDS_MAX + AUDIT_PENDING_MAX) as u64;
        for number in 0..sent {
            buffer.record(denial(5000, number as u16));
        }
        let told: u64 = drained(&mut buffer, 7000).iter().map(|record| record.count).sum();
        assert!(told >= AUDIT_RECORDS_MAX as u64 && buffer.lost() > 0);
        assert_eq!(told + buffer.lost(), sent);
    }
}
