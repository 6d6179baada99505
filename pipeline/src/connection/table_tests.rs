//! The connection table against a plain map, and at its limits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::address::PortId;
use crate::limits::ConnectionLimits;

const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SECOND_MS: u64 = 1000;
/// By so much a connection may outlive its timeout.
pub(super) const LATE_MS: u64 = 10_500;

pub(super) fn limits(connections: u32) -> ConnectionLimits {
    ConnectionLimits { connections, per_port: connections, ..ConnectionLimits::default() }
}

pub(super) fn pod(port: usize) -> Ingress {
    Ingress::Pod(PortId::new(port).unwrap(), 3)
}

fn account(port: usize) -> Account {
    Account::of(pod(port), false)
}

fn tuple(client: u32, port: u16, protocol: u8) -> Tuple {
    let address = |bits: u32| IpAddr::V4(Ipv4Addr::from_bits(bits));
    Tuple {
        source: address(0x0a0a_0000 + client),
        destination: address(0x0a0a_0505),
        protocol,
        source_port: port,
        destination_port: 80,
    }
}

/// From the pod of port 2 + `client` % 8 to the gateway.
pub(super) fn new(client: u32, port: u16, progress: Progress) -> NewConnection {
    let protocol = if progress == Progress::Unanswered { UDP } else { TCP };
    let tuple = tuple(client, port, protocol);
    let ingress = pod(2 + client as usize % 8);
    NewConnection {
        original: FlowKey { network: 0, ingress, tuple },
        reply: FlowKey { network: 0, ingress: Ingress::Gateway, tuple: tuple.reversed() },
        decision: Decision {
            source: PacketSource::Pod,
            from_node: false,
            service: None,
            snat: false,
            hairpin: false,
            egress_rule: Some(RuleId(client)),
            ingress_rule: None,
            policy_epoch: Default::default(),
        },
        progress,
    }
}

pub(super) fn timeout_ms(progress: Progress, protocol: u8) -> u64 {
    u64::from(progress.timeout_s(protocol)) * SECOND_MS
}

/// What the table should hold.
#[derive(Clone)]
struct Model {
    id: ConnectionId,
    new: NewConnection,
    counts: [Counts; 2],
    opened_ms: u64,
    seen_ms: u64,
}

impl Model {
    fn connection(&self) -> Connection {
        let NewConnection { original, reply, decision, progress } = self.new;
        Connection { original, reply, decision, progress }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Insert(Progress),
    Note(Direction, u16),
    Advance(Progress),
    Remove,
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Act> {
    let progress = prop::sample::select(Progress::ALL);
    prop_oneof![
        4 => progress.clone().prop_map(Act::Insert),
        3 => (any::<bool>(), any::<u16>()).prop_map(|(reply, bytes)| {
            Act::Note(if reply { Direction::Reply } else { Direction::Original }, bytes)
        }),
        2 => progress.prop_map(Act::Advance),
        1 => Just(Act::Remove),
        3 => prop_oneof![0_u64..3000, 0_u64..200_000].prop_map(Act::Pass),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_plain_map_with_a_clock_does(
        seed: u64,
        steps in prop::collection::vec((0_u32..24, acts()), 0..200),
        start_ms in prop_oneof![Just(0_u64), 0_u64..1 << 40],
    ) {
        let table = ConnectionTable::new(limits(64), seed);
        let mut worker = ConnectionWorker::new();
        let mut naive: HashMap<u32, Model> = HashMap::new();
        let mut now_ms = start_ms;
        for (client, act) in steps {
            let known = naive.get(&client).cloned();
            match (act, known) {
                (Act::Insert(progress), known) => {
                    let new = new(client, 1, progress);
                    // The protocol is part of the key.
                    let same = known.filter(|it| it.new.original == new.original);
                    match table.insert(&new, now_ms, &mut worker) {
                        Ok(id) => {
                            prop_assert!(same.is_none());
                            if naive.contains_key(&client) {
                                table.remove(id).unwrap();
                                continue;
                            }
                            let counts = [Counts::default(); 2];
                            let model =
                                Model { id, new, counts, opened_ms: now_ms, seen_ms: now_ms };
                            naive.insert(client, model);
                        }
                        Err(reason) => {
                            prop_assert_eq!(reason, NotInserted::Exists);
                            prop_assert!(same.is_some());
                        }
                    }
                }
                (Act::Note(direction, bytes), Some(mut model)) => {
                    prop_assert!(table.note(model.id, direction, u64::from(bytes), now_ms));
                    let counts = &mut model.counts[direction as usize];
                    counts.packets += 1;
                    counts.bytes += u64::from(bytes);
                    model.seen_ms = now_ms;
                    naive.insert(client, model);
                }
                (Act::Advance(progress), Some(mut model)) => {
                    let from = model.new.progress;
                    prop_assert!(table.advance(model.id, from, progress));
                    prop_assert_eq!(table.advance(model.id, from, progress), from == progress);
                    model.new.progress = progress;
                    naive.insert(client, model);
                }
                (Act::Remove, Some(model)) => {
                    let ended = table.remove(model.id).unwrap();
                    prop_assert_eq!(ended.connection().unwrap(), model.connection());
                    prop_assert_eq!(ended.counts, model.counts);
                    prop_assert_eq!(ended.opened_ms, model.opened_ms);
                    prop_assert!(table.remove(model.id).is_none());
                    naive.remove(&client);
                }
                (Act::Pass(ms), _) => {
                    now_ms += ms;
                    let mut ended = Vec::new();
                    table.expire(&mut worker, now_ms, usize::MAX, |it| ended.push(*it));
                    for ended in ended {
                        let client = ended.decision.egress_rule.unwrap().0;
                        let model = naive.remove(&client).unwrap();
                        prop_assert_eq!(ended.connection().unwrap(), model.connection());
                        prop_assert_eq!(ended.counts, model.counts);
                        let protocol = model.new.original.tuple.protocol;
                        let over_ms = model.seen_ms + timeout_ms(model.new.progress, protocol);
                        // To the quarter of a second in which it was seen.
                        prop_assert!(now_ms + 250 > over_ms);
                    }
                }
                _ => {}
            }
            for model in naive.values() {
                let connection = model.connection();
                for (key, direction) in [
                    (&model.new.original, Direction::Original),
                    (&model.new.reply, Direction::Reply),
                ] {
                    let found = Found { id: model.id, direction, connection };
                    prop_assert_eq!(table.find(key), Some(found));
                }
            }
            prop_assert_eq!(table.occupancy().used, naive.len() as u64);
            for port in 0..8 {
                let of_port = naive.keys().filter(|client| *client % 8 == port).count();
                prop_assert_eq!(table.used_by(account(2 + port as usize)), of_port as u64);
            }
        }
        let mut listed: Vec<_> = table.iter(now_ms).map(|it| (it.id, it.counts)).collect();
        let mut expected: Vec<_> = naive.values().map(|it| (it.id, it.counts)).collect();
        listed.sort_by_key(|(id, _)| *id);
        expected.sort_by_key(|(id, _)| *id);
        prop_assert_eq!(listed, expected);
        // Whatever there was, silence ends it, in time. The slowest is first seen to be done
        // after as many looks as the wheel allows itself.
        let mut waited_ms = 0;
        let longest_ms = 432_000 * SECOND_MS + LATE_MS;
        while table.occupancy().used > 0 {
            prop_assert!(waited_ms <= longest_ms + LATE_MS);
            now_ms += 8 * SECOND_MS * 600;
            waited_ms += 8 * SECOND_MS * 600;
            table.expire(&mut worker, now_ms, usize::MAX, |_| {});
        }
        prop_assert_eq!(table.iter(now_ms).count(), 0);
    }
}

#[test]
fn a_connection_is_224_bytes_with_its_share_of_the_buckets() {
    for connections in [1 << 10, 1 << 18, 1_000_000] {
        let bytes = ConnectionTable::lines(&limits(connections)) * size_of::<Line>();
        assert!(bytes <= 224 * connections as usize, "{connections}: {bytes}");
    }
}

#[test]
fn it_can_be_filled_to_the_last_record() {
    let table = ConnectionTable::new(limits(4096), 5);
    let mut worker = ConnectionWorker::new();
    for client in 0..4096 {
        table.insert(&new(client, 1, Progress::Established), 1, &mut worker).unwrap();
    }
    let full = table.insert(&new(5000, 1, Progress::SynSent), 1, &mut worker);
    assert_eq!(full, Err(NotInserted::Full), "the answered do not give way");
    assert_eq!(table.occupancy().used, 4096);
    for client in 0..4096 {
        assert!(table.find(&new(client, 1, Progress::Established).original).is_some());
    }
    let over = table.flush(|it| it.original.tuple.source_port == 1, |_| {});
    assert_eq!((over, table.occupancy().used), (4096, 0));
    table.insert(&new(5000, 1, Progress::SynSent), 1, &mut worker).unwrap();
}

#[test]
fn the_unanswered_give_way_when_it_is_full_and_are_reported() {
    let table = ConnectionTable::new(limits(64), 5);
    let mut worker = ConnectionWorker::new();
    for client in 0..32 {
        table.insert(&new(client, 1, Progress::Established), 1, &mut worker).unwrap();
        table.insert(&new(client, 2, Progress::SynSent), 1, &mut worker).unwrap();
    }
    for client in 100..132 {
        table.insert(&new(client, 1, Progress::Established), 2, &mut worker).unwrap();
    }
    let mut ended = Vec::new();
    table.expire(&mut worker, 3, 0, |it| ended.push(it.connection().unwrap().progress));
    assert_eq!(ended, [Progress::SynSent; 32]);
    let occupancy = table.occupancy();
    assert_eq!((occupancy.used, occupancy.capacity, occupancy.evicted), (64, 64, 32));
    let full = table.insert(&new(200, 1, Progress::SynSent), 2, &mut worker);
    assert_eq!(full, Err(NotInserted::Full));
}

#[test]
fn a_port_over_its_quota_gives_up_its_own_and_takes_nothing_from_others() {
    let limits = ConnectionLimits { per_port: 16, ..limits(256) };
    let table = ConnectionTable::new(limits, 5);
    let mut worker = ConnectionWorker::new();
    let of = |client: u32, port| new(client * 8, port, Progress::SynSent);
    // Clients that are multiples of eight share one port.
    let bystander = table.insert(&new(1, 1, Progress::SynSent), 1, &mut worker).unwrap();
    for client in 0..64 {
        table.insert(&of(client, 1), u64::from(client) * 300, &mut worker).unwrap();
    }
    assert_eq!((table.used_by(account(2)), table.used_by(account(3))), (16, 1));
    assert_eq!(table.occupancy().evicted, 48);
    assert!(table.get(bystander).is_some());
    for listed in table.iter(0).filter(|it| it.connection.original.ingress == pod(2)) {
        assert!(table.advance(listed.id, Progress::SynSent, Progress::Established));
    }
    let over = table.insert(&of(99, 1), 1, &mut worker);
    assert_eq!(over, Err(NotInserted::Quota));
    assert_eq!((table.used_by(account(2)), table.occupancy().used), (16, 17));
}

#[test]
fn evictions_that_nobody_asks_about_come_to_an_end() {
    let table = ConnectionTable::new(limits(16), 5);
    let mut worker = ConnectionWorker::new();
    let mut insert = |client| table.insert(&new(client, 1, Progress::SynSent), 1, &mut worker);
    let refused = (0..1000).position(|client| insert(client) == Err(NotInserted::Full)).unwrap();
    assert_eq!(refused, 16 + 64, "room for one report a packet of a batch");
}

#[test]
fn budgets_are_asked_before_anything_is_done() {
    let table = ConnectionTable::new(ConnectionLimits { first_packets_burst: 3, ..limits(16) }, 5);
    let mut worker = ConnectionWorker::new();
    let admitted = (0..5).filter(|_| table.admit(account(2), 1, &mut worker).is_ok()).count();
    assert_eq!(admitted, 3);
    assert_eq!(table.admit(account(2), 1, &mut worker), Err(NotInserted::Budget));
    assert_eq!(table.admit(account(3), 1, &mut worker), Ok(()));
}

#[test]
fn a_reply_key_that_is_taken_is_refused_and_nothing_is_left_behind() {
    let table = ConnectionTable::new(limits(16), 5);
    let mut worker = ConnectionWorker::new();
    let first = new(1, 1, Progress::SynSent);
    table.insert(&first, 1, &mut worker).unwrap();
    let clash = NewConnection { reply: first.reply, ..new(2, 1, Progress::SynSent) };
    assert_eq!(table.insert(&clash, 1, &mut worker), Err(NotInserted::Exists));
    let itself = NewConnection { reply: first.original, original: first.original, ..first };
    assert_eq!(table.insert(&itself, 1, &mut worker), Err(NotInserted::Exists));
    let mirror = NewConnection { reply: clash.original, ..clash };
    assert_eq!(table.insert(&mirror, 1, &mut worker), Err(NotInserted::Exists));
    assert_eq!(table.find(&clash.original), None);
    assert_eq!((table.occupancy().used, table.used_by(account(4))), (1, 0));
}

#[test]
fn what_is_gone_is_not_mistaken_for_its_successor() {
    let table = ConnectionTable::new(limits(1), 5);
    let mut worker = ConnectionWorker::new();
    let first = table.insert(&new(1, 1, Progress::SynSent), 1, &mut worker).unwrap();
    table.remove(first).unwrap();
    let second = table.insert(&new(2, 1, Progress::SynSent), 1, &mut worker).unwrap();
    assert!(!table.note(first, Direction::Original, 100, 1));
    assert!(!table.advance(first, Progress::SynSent, Progress::Established));
    assert!(table.get(first).is_none() && table.remove(first).is_none());
    let listed = table.iter(5001).next().unwrap();
    assert_eq!((listed.id, listed.counts, listed.age_ms), (second, [Counts::default(); 2], 5000));
    assert_eq!(listed.connection.progress, Progress::SynSent);
}

#[test]
fn expiry_does_no_more_than_it_may_at_once_and_catches_up() {
    let table = ConnectionTable::new(limits(1000), 5);
    let mut worker = ConnectionWorker::new();
    for client in 0..1000 {
        table.insert(&new(client, 1, Progress::Unanswered), 1, &mut worker).unwrap();
    }
    // A leap of a year.
    let now_ms = 365 * 86_400 * SECOND_MS;
    let mut calls = 0;
    while table.occupancy().used > 0 {
        let before = table.occupancy().expired;
        assert!(table.expire(&mut worker, now_ms, 64, |_| {}) <= 64);
        assert!(table.occupancy().expired - before <= 64);
        calls += 1;
        assert!(calls <= 16, "nothing is looked at twice");
    }
    assert_eq!(table.occupancy().expired, 1000);
    // A clock that stood still or went back ends nothing.
    table.insert(&new(1, 1, Progress::Unanswered), now_ms, &mut worker).unwrap();
    table.expire(&mut worker, now_ms - 60 * SECOND_MS, 64, |_| {});
    table.expire(&mut worker, now_ms, 64, |_| {});
    assert_eq!(table.occupancy().used, 1);
}
