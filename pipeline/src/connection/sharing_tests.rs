//! The connection table under two workers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::table_tests::{LATE_MS, SECOND_MS, UDP, limits, new, timeout_ms};
use super::*;

#[test]
fn a_connection_that_another_worker_ended_leaves_its_record_on_the_first_ones_wheel() {
    let table = ConnectionTable::new(limits(1), 5);
    let [mut first, mut second] = [ConnectionWorker::new(), ConnectionWorker::new()];
    let mut now_ms = 50_000;
    let id = table.insert(&new(1, 1, Progress::Established), now_ms, &mut first).unwrap();
    table.remove(id).unwrap();
    table.insert(&new(2, 1, Progress::Unanswered), now_ms, &mut second).unwrap();
    now_ms += timeout_ms(Progress::Unanswered, UDP) + LATE_MS;
    assert_eq!(table.expire(&mut second, now_ms, 64, |_| {}), 0, "it is not on this wheel");
    for _ in 0..10 {
        now_ms += SECOND_MS;
        table.expire(&mut first, now_ms, 64, |_| {});
    }
    assert_eq!(table.occupancy().used, 0);
    // Off the first wheel, it goes on the second.
    table.insert(&new(3, 1, Progress::Unanswered), now_ms, &mut second).unwrap();
    for _ in 0..50 {
        now_ms += SECOND_MS;
        table.expire(&mut second, now_ms, 64, |_| {});
    }
    assert_eq!((table.occupancy().used, table.occupancy().expired), (0, 2));
}

/// Two workers insert, note, advance, remove, expire and evict the same few connections, in a
/// table too small for them, while a third thread reads all of them.
#[test]
fn nobody_ever_sees_a_mixed_connection_or_two_of_one_key() {
    const CLIENTS: u32 = 24;
    let table = ConnectionTable::new(limits(16), 5);
    let (done, clock) = (AtomicBool::new(false), AtomicU64::new(1_000_000));
    let belongs_together = |connection: &Connection| {
        let client = connection.decision.egress_rule.expect("a rule").0;
        let port = connection.original.tuple.source_port;
        let expected = new(client, port, Progress::SynSent);
        assert_eq!(connection.original, expected.original);
        assert_eq!(connection.reply, expected.reply);
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut found = 0_u64;
            while !done.load(Ordering::Relaxed) {
                for client in 0..CLIENTS {
                    let key = new(client, 1, Progress::SynSent).reply;
                    if let Some(it) = table.find(&key) {
                        assert_eq!(it.connection.reply, key);
                        belongs_together(&it.connection);
                        found += 1;
                    }
                }
                table.iter(0).for_each(|it| belongs_together(&it.connection));
            }
            found
        });
        let workers: Vec<_> = (0..2_u32)
            .map(|number| {
                let (table, clock) = (&table, &clock);
                scope.spawn(move || {
                    let mut worker = ConnectionWorker::new();
                    let mut random = 77 + u64::from(number);
                    let (mut began, mut ended) = (0_u64, 0_u64);
                    for _ in 0..30_000 {
                        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                        let client = (random >> 33) as u32 % CLIENTS;
                        let now_ms = clock.fetch_add(3, Ordering::Relaxed);
                        let new = new(client, 1, Progress::SynSent);
                        match (table.find(&new.original), (random >> 50) % 4) {
                            (Some(found), 0) => {
                                ended += u64::from(table.remove(found.id).is_some())
                            }
                            (Some(found), 1) => {
                                let to = Progress::Established;
                                table.advance(found.id, Progress::SynSent, to);
                            }
                            (Some(found), _) => {
                                table.note(found.id, Direction::Original, 1, now_ms);
                            }
                            (None, _) => {
                                let inserted = table.insert(&new, now_ms, &mut worker);
                                began += u64::from(inserted.is_ok());
                            }
                        }
                        table.expire(&mut worker, now_ms, 4, |_| ended += 1);
                    }
                    table.expire(&mut worker, 0, 0, |_| ended += 1);
                    (began, ended)
                })
            })
            .collect();
        let (mut began, mut ended) = (0, 0);
        for worker in workers {
            let (more_began, more_ended) = worker.join().unwrap();
            began += more_began;
            ended += more_ended;
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        // Whatever began has ended once, or is still there, once.
        let mut keys: Vec<_> = table.iter(0).map(|it| it.connection.original).collect();
        assert_eq!(began, ended + keys.len() as u64);
        assert_eq!(table.occupancy().used, keys.len() as u64);
        keys.sort();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all);
    });
    // Nothing is left in a bucket that leads nowhere, and no record is lost.
    table.flush(|_| true, |_| {});
    let in_use = table.buckets().0.iter().flat_map(|line| &line.0);
    assert_eq!(in_use.filter(|word| word.load(Ordering::Relaxed) != 0).count(), 0);
    let mut worker = ConnectionWorker::new();
    for client in 0..16 {
        table.insert(&new(client, 9, Progress::Established), 1, &mut worker).unwrap();
    }
}
