//! Answers that can be long: rules with their counts, connections, audit records.
//!
//! They are sent in parts, each well below the 4 MiB of a message. What is listed is gathered
//! under the lock of the datapath, which holds up changes for a moment, but no packet.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use seine_datapath_api::v1;
use seine_pipeline::audit::{AuditLine, AuditRecord};
use seine_pipeline::connection::{Connection, Listed, RuleId};
use seine_pipeline::packet::PacketSource;
use seine_pipeline::state::{Action, RuleDirection, RuleTable, State};
use seine_pipeline::tally::RuleCounts;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::datapath::Datapath;
use crate::machine::boot_time_ms;

/// Entries in one message: each below 2 KiB, as names of Kubernetes are.
const PART_ENTRIES: usize = 1000;

/// How often audit records are collected. A worker hands denials over a second late anyway.
const AUDIT_INTERVAL: Duration = Duration::from_millis(500);

/// Parts of audit records that a slow caller may leave unread; after that the rings fill.
const AUDIT_PARTS_MAX: usize = 4;

/// Every rule with what it has decided about.
pub fn rules(datapath: &Datapath) -> Vec<v1::ListRulesReply> {
    let current = datapath.writer.current();
    let mut live = std::collections::HashMap::<RuleId, RuleCounts>::new();
    for listed in datapath.learned.connections.iter(boot_time_ms()) {
        let [original, reply] = listed.counts;
        let counts = RuleCounts {
            sessions: 0,
            packets: original.packets + reply.packets,
            bytes: original.bytes + reply.bytes,
        };
        for rule in deciding(&listed.connection) {
            *live.entry(rule).or_default() += counts;
        }
    }
    let entries = current.state.rules().map(|(id, rule)| {
        let mut counts = live.get(&id).copied().unwrap_or_default();
        counts += datapath.ended.get(id);
        datapath.workers.iter().for_each(|worker| counts += worker.tallies.get(id));
        let counts = counts.settled();
        v1::RuleCounts {
            name: rule.name.clone(),
            policy: rule.policy.clone(),
            rule_name: rule.rule_name.clone(),
            direction: match rule.direction {
                RuleDirection::Egress => v1::rule::Direction::Egress,
                RuleDirection::Ingress => v1::rule::Direction::Ingress,
            }
            .into(),
            table: match rule.table {
                RuleTable::AntreaPolicy => v1::rule::Table::AntreaPolicy,
                RuleTable::NetworkPolicy => v1::rule::Table::NetworkPolicy,
                RuleTable::Default => v1::rule::Table::Default,
            }
            .into(),
            rank: rule.rank,
            action: match rule.action {
                Action::Allow => v1::rule::Action::Allow,
                Action::Drop => v1::rule::Action::Drop,
                Action::Reject => v1::rule::Action::Reject,
                Action::Pass => v1::rule::Action::Pass,
                Action::Isolate => v1::rule::Action::Isolate,
            }
            .into(),
            sessions: counts.sessions,
            packets: counts.packets,
            bytes: counts.bytes,
        }
    });
    let entries: Vec<v1::RuleCounts> = entries.collect();
    let part = |rules: &[v1::RuleCounts]| v1::ListRulesReply { rules: rules.to_vec() };
    entries.chunks(PART_ENTRIES).map(part).collect()
}

fn deciding(connection: &Connection) -> impl Iterator<Item = RuleId> {
    let decision = connection.decision;
    [decision.egress_rule, decision.ingress_rule].into_iter().flatten()
}

/// The connections that are asked for; the last part says how many there are.
pub fn connections(
    datapath: &Datapath,
    request: &v1::ListConnectionsRequest,
) -> Result<Vec<v1::ListConnectionsReply>, Status> {
    let filter = Filter::of(request)?;
    let current = datapath.writer.current();
    let (mut parts, mut found) = (Vec::<v1::ListConnectionsReply>::new(), 0);
    for listed in datapath.learned.connections.iter(boot_time_ms()) {
        if !filter.takes(&listed.connection, &current.state) {
            continue;
        }
        found += 1;
        if found > u64::from(request.limit) {
            continue;
        }
        let entry = entry(&listed, &current.state);
        match parts.last_mut() {
            Some(part) if part.connections.len() < PART_ENTRIES => part.connections.push(entry),
            _ => parts.push(v1::ListConnectionsReply { connections: vec![entry], found: 0 }),
        }
    }
    match parts.last_mut() {
        Some(last) => last.found = found,
        None => parts.push(v1::ListConnectionsReply { connections: Vec::new(), found }),
    }
    Ok(parts)
}

/// Which connections are asked for.
struct Filter<'a> {
    addresses: Vec<IpAddr>,
    service: &'a str,
    rule: &'a str,
}

impl<'a> Filter<'a> {
    fn of(request: &'a v1::ListConnectionsRequest) -> Result<Filter<'a>, Status> {
        let addresses = request.addresses.iter().map(|text| {
            let refused = |_| Status::invalid_argument(format!("addresses: `{text}` is none"));
            text.parse().map_err(refused)
        });
        let addresses = addresses.collect::<Result<_, Status>>()?;
        Ok(Filter { addresses, service: &request.service, rule: &request.rule })
    }

    fn takes(&self, connection: &Connection, state: &State) -> bool {
        let (original, reply) = (connection.original.tuple, connection.reply.tuple);
        let ends = [original.source, original.destination, reply.source, reply.destination];
        let of_address =
            self.addresses.is_empty() || self.addresses.iter().any(|it| ends.contains(it));
        let of_service = self.service.is_empty()
            || connection.decision.service.and_then(|id| state.service_name(id)).is_some_and(
                |name| {
                    let rest = name.strip_prefix(self.service);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
                },
            );
        let named = |id| {
            let rule = state.rule(id);
            rule.is_some_and(|rule| [&rule.name, &rule.policy].iter().any(|it| **it == self.rule))
        };
        of_address && of_service && (self.rule.is_empty() || deciding(connection).any(named))
    }
}

/// A connection as the API shows it, with names as they are installed.
pub fn entry(listed: &Listed, state: &State) -> v1::Connection {
    let Connection { original, reply, decision, progress } = listed.connection;
    let rule = |id: Option<RuleId>| id.and_then(|id| state.rule(id)).map(|rule| rule.name.clone());
    let [there, back] = listed.counts;
    v1::Connection {
        protocol: original.tuple.protocol.into(),
        original: original.tuple.to_string(),
        reply: reply.tuple.to_string(),
        progress: format!("{progress:?}"),
        source: match decision.source {
            PacketSource::Pod => "pod",
            PacketSource::Gateway => "gateway",
            PacketSource::Tunnel => "tunnel",
        }
        .to_owned(),
        service: decision
            .service
            .and_then(|id| state.service_name(id))
            .unwrap_or_default()
            .to_owned(),
        egress_rule: rule(decision.egress_rule).unwrap_or_default(),
        ingress_rule: rule(decision.ingress_rule).unwrap_or_default(),
        original_packets: there.packets,
        original_bytes: there.bytes,
        reply_packets: back.packets,
        reply_bytes: back.bytes,
        age_ms: listed.age_ms,
        idle_ms: listed.idle_ms,
    }
}

/// Sends audit records to the owner of a session until that is over or hangs up.
pub fn follow_audit(
    datapath: Arc<Mutex<Datapath>>,
    session: u64,
) -> ReceiverStream<Result<v1::AuditPart, Status>> {
    let (sender, receiver) = mpsc::channel(AUDIT_PARTS_MAX);
    tokio::spawn(async move {
        let (mut told_lost, mut nameless) = (0, 0);
        // Taken only when there is room for what they become: else they wait in their rings.
        while let Ok(place) = sender.reserve().await {
            let mut part = {
                let datapath = datapath.lock().await;
                if let Err(over) = datapath.writer.check_session(session) {
                    place.send(Err(Status::failed_precondition(over.to_string())));
                    return;
                }
                collect(&datapath, &mut nameless)
            };
            part.lost += nameless;
            if !part.lines.is_empty() || part.lost != told_lost {
                told_lost = part.lost;
                place.send(Ok(part));
            } else {
                drop(place);
            }
            tokio::select! {
                () = tokio::time::sleep(AUDIT_INTERVAL) => {}
                () = sender.closed() => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What has come together, oldest first.
fn collect(datapath: &Datapath, nameless: &mut u64) -> v1::AuditPart {
    let current = datapath.writer.current();
    let mut records: Vec<AuditRecord> = Vec::new();
    for worker in datapath.workers.iter() {
        let taken = std::iter::from_fn(|| worker.audit.take());
        records.extend(taken.take(PART_ENTRIES));
    }
    records.sort_by_key(|record| record.time_ms);
    let (now_ms, now) = (boot_time_ms(), SystemTime::now());
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut lines = Vec::with_capacity(records.len());
    for record in &records {
        let Some(line) = AuditLine::of(record, &current.state) else {
            *nameless += record.count;
            continue;
        };
        let ago = Duration::from_millis(now_ms.saturating_sub(record.time_ms));
        let unix_us = since_epoch.saturating_sub(ago).as_micros() as u64;
        lines.push(v1::AuditLine { unix_us, text: line.to_string() });
    }
    v1::AuditPart { lines, lost: lost(datapath) }
}

/// Decisions that no record tells of, for want of room.
pub fn lost(datapath: &Datapath) -> u64 {
    datapath.workers.iter().map(|worker| worker.audit.lost()).sum()
}
