//! What was composed, while other workers end its connection and begin the next in its record:
//! every interleaving. Run as in [`sync`](crate::sync).
#![allow(clippy::unwrap_used, reason = "tests")]

use loom::sync::Arc;
use loom::thread;

use super::probe::{Hit, decide};
use super::record::{Filling, RECORD_LINES, Record};
use super::*;
use crate::composed::Plain;

/// Every interleaving with two preemptions: with three, filling a record takes minutes.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

type Lines = [Line; RECORD_LINES];

/// What is decided about the first connection, and about its successor.
const FIRST: u32 = 0xaaaa;
const SUCCESSOR: u32 = 0xbbbb;
const EPOCH: u32 = 7;

/// Keys of the first connection and of its successor: as different as need be.
const KEYS: [KeyWords; 2] = [[0, 1, 0, 2, 3, 4], [0, 9, 0, 2, 3, 4]];

/// Takes the record for that connection.
fn begin(lines: &Lines, which: usize) -> ConnectionId {
    let record = Record::of(0, lines);
    let source = PacketSource::Pod;
    let decision = Decision {
        source,
        from_node: false,
        service: None,
        snat: false,
        hairpin: false,
        egress_rule: None,
        ingress_rule: None,
        policy_epoch: PolicyEpoch::default(),
    };
    record.fill(&Filling {
        original: &KEYS[which],
        reply: &KEYS[which],
        decision: &decision,
        progress: Progress::Answered,
        account: 0,
        now_ms: 1,
    });
    record.live()
}

/// Ends the first connection, unless that is done, and gives its record to the successor.
fn hand_over(lines: &Lines, first: ConnectionId) -> Option<ConnectionId> {
    let record = Record::of(0, lines);
    let number = record.living().filter(|number| record.id(*number) == first)?;
    record.end(number).then(|| begin(lines, 1))
}

/// What a packet with this key takes, by a State of this epoch.
fn taken(lines: &Lines, which: usize, epoch: u32) -> Option<u32> {
    let hit = Hit::of(lines, Direction::Original, &KEYS[which], &Plain)?;
    hit.is_of(epoch).then(|| hit.shortcut())
}

fn lines() -> (Arc<Lines>, ConnectionId) {
    let lines = Arc::new(Lines::default());
    let first = begin(&lines, 0);
    (lines, first)
}

/// One worker decides about the first connection while another one ends it, begins the next and
/// decides about that; a third one gets a packet of either.
fn a_packet_of(which: usize, expected: u32) {
    explore(move || {
        let (lines, first) = lines();
        let worker = |work: fn(&Lines, ConnectionId)| {
            let lines = lines.clone();
            thread::spawn(move || work(&lines, first))
        };
        let workers = [
            worker(|lines, first| decide(lines, first, Direction::Original, FIRST, EPOCH)),
            worker(|lines, first| {
                let next = hand_over(lines, first).unwrap();
                decide(lines, next, Direction::Original, SUCCESSOR, EPOCH);
            }),
        ];
        if let Some(taken) = taken(&lines, which, EPOCH) {
            assert_eq!(taken, expected);
        }
        for worker in workers {
            worker.join().unwrap();
        }
        // Whatever came too late.
        assert_eq!(taken(&lines, 0, EPOCH), None);
        assert!(matches!(taken(&lines, 1, EPOCH), None | Some(SUCCESSOR)));
    });
}

#[test]
fn every_interleaving_of_a_hit_and_an_end_takes_what_was_decided_about_its_connection() {
    a_packet_of(0, FIRST);
}

#[test]
fn every_interleaving_of_a_hit_and_a_successor_takes_what_was_decided_about_the_successor() {
    a_packet_of(1, SUCCESSOR);
}

#[test]
fn every_interleaving_of_two_states_takes_what_was_decided_by_the_packets_own() {
    explore(|| {
        let (lines, first) = lines();
        let workers = [(FIRST, EPOCH), (SUCCESSOR, EPOCH + 1)].map(|(shortcut, epoch)| {
            let lines = lines.clone();
            thread::spawn(move || {
                decide(&lines, first, Direction::Original, shortcut, epoch);
                taken(&lines, 0, epoch)
            })
        });
        assert!(matches!(taken(&lines, 0, EPOCH + 1), None | Some(SUCCESSOR)));
        let [older, newer] = workers.map(|worker| worker.join().unwrap());
        assert!(matches!(older, None | Some(FIRST)));
        assert!(matches!(newer, None | Some(SUCCESSOR)));
    });
}

/// Two workers end the same connection: one of them begins the next, and a packet of the first
/// takes nothing of it.
#[test]
fn every_interleaving_of_two_ends_gives_the_record_to_one_successor() {
    explore(|| {
        let (lines, first) = lines();
        decide(&lines, first, Direction::Original, FIRST, EPOCH);
        let workers = [0, 1].map(|_| {
            let lines = lines.clone();
            thread::spawn(move || hand_over(&lines, first).is_some())
        });
        assert!(matches!(taken(&lines, 0, EPOCH), None | Some(FIRST)));
        let ended = workers.map(|worker| worker.join().unwrap());
        assert_eq!(ended.into_iter().filter(|ended| *ended).count(), 1);
        assert_eq!([0, 1].map(|which| taken(&lines, which, EPOCH)), [None, None]);
    });
}
