//! What was composed decides as the stages do: generated conversations, with changes in between.
//!
//! A node in memory takes every packet both ways and holds the two against each other (see
//! `testbed/twin.rs`), bytes, outcomes, checksums and connections, so the tests here only have to
//! say things worth comparing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "audit lines are other tests' business")]
mod policy;
mod service;
mod talk;

use std::cell::{Cell, RefCell};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use seine_pipeline::packet::Checksum;
use seine_pipeline::testbed::{Twin, answered};
use seine_pipeline::wire::field::{Composed, Field};
use talk::{Event, Stage};

fn event() -> impl Strategy<Value = Event> {
    let open = (0u8..8, 0u8..10, 0u8..3, any::<bool>(), any::<bool>());
    prop_oneof![
        4 => open.prop_map(|(from, to, port, v6, segment)| {
            Event::Open { from, to, port, v6, segment }
        }),
        8 => any::<u8>().prop_map(|which| Event::Answer { which }),
        8 => any::<u8>().prop_map(|which| Event::Again { which }),
        3 => (any::<u8>(), 0u8..9).prop_map(|(which, how)| Event::Differently { which, how }),
        1 => (0u8..16).prop_map(|which| Event::Change { which }),
        1 => any::<[u8; 6]>().prop_map(|change| Event::Object { change }),
        1 => prop_oneof![0..100_000u32, any::<u32>()].prop_map(|ms| Event::Wait { ms }),
    ]
}

#[test]
fn composed_decisions_are_those_of_the_stages() {
    let (hits, judged) = (Cell::new(0), Cell::new(0));
    let read = RefCell::new(Vec::new());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(192));
    let conversations = prop::collection::vec(event(), 40..160);
    let outcome = runner.run(&(conversations, 1..3usize, any::<bool>()), |drawn| {
        let (events, workers, reevaluates) = drawn;
        let mut stage = Stage::new();
        if reevaluates {
            stage.reevaluate();
        }
        stage.node.twin = Some(Twin::with_workers(workers));
        for event in &events {
            stage.play(event);
        }
        stage.node.assert_twins();
        hits.set(hits.get() + stage.node.composed().0);
        let (more, outdated) = stage.node.judged();
        assert_eq!(outdated, 0, "nobody else is there");
        judged.set(judged.get() + more);
        read.borrow_mut().extend(stage.node.read_of_composed());
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(hits.get() > 192, "almost nothing was compared: {} hits", hits.get());
    assert!(judged.get() > 96, "rules judged almost nothing: {}", judged.get());
    // Each that is said to be seen to was met.
    for field in Field::ALL {
        let met = read.borrow().contains(&field);
        assert_eq!(met, field.composed() != Composed::Never, "{field:?}");
    }
}

#[test]
fn most_of_what_is_said_twice_is_composed() {
    let mut stage = Stage::new();
    for (port, to) in [1, 4, 5, 6, 7].into_iter().enumerate() {
        for (v6, segment) in [(false, false), (true, false), (false, true), (true, true)] {
            stage.open(0, to, port as u8, v6, segment);
            // The second answer finds what the first has composed; the second question, too.
            for event in [0, 1, 2] {
                let last = stage.left.last().cloned().unwrap();
                stage.send(&last.0, answered(&last.1), Checksum::Complete);
                let (by, frame) = stage.sent[stage.sent.len() - 2].clone();
                let before = stage.node.composed();
                stage.send(&by, frame, Checksum::Complete);
                let (hits, walks) = stage.node.composed();
                let hit = (hits - before.0, walks - before.1);
                assert_eq!(hit, if event == 0 { (0, 1) } else { (1, 0) }, "to {to}, turn {event}");
            }
        }
    }
}

/// Whatever of a packet decides must be seen to, by the key or packet by packet: a packet of a
/// connection under way is sent with each bit of its headers the other way round.
#[test]
fn no_bit_of_a_header_is_overlooked() {
    for (from, to, v6, segment) in [
        (0, 1, false, false),
        (0, 1, false, true),
        (0, 1, true, true),
        (0, 4, false, true),
        (0, 5, true, false),
        (0, 6, false, true),
        (6, 1, false, false),
    ] {
        let mut bit = 0;
        while differs_in(from, to, (v6, segment), bit) {
            bit += 16;
        }
    }
}

/// Flips some bits, each in a conversation of its own; `false` when there are no more.
fn differs_in(from: u8, to: u8, (v6, segment): (bool, bool), first_bit: usize) -> bool {
    let mut stage = Stage::new();
    for bit in first_bit..first_bit + 16 {
        stage.open(from, to, bit as u8, v6, segment);
        let Some((by, sent)) = stage.sent.last().cloned() else { panic!("nothing left") };
        let (answers, answer) =
            stage.left.last().map(|it| (it.0.clone(), answered(&it.1))).unwrap();
        for _ in 0..2 {
            stage.send(&answers, answer.clone(), Checksum::Complete);
            stage.send(&by, sent.clone(), Checksum::Complete);
        }
        for (by, frame) in [(&by, &sent), (&answers, &answer)] {
            let upper = frame.len() - 4 - if segment { 20 } else { 8 };
            let end = frame.len() - 4;
            let (at, before) = (bit / 8, stage.node.composed());
            if at >= end {
                return false;
            }
            stage.send(by, frame.clone(), Checksum::Complete);
            assert_eq!(stage.node.composed().0, before.0 + 1, "the packet itself is a hit");
            let mut frame = frame.clone();
            frame[at] ^= 1 << (bit % 8);
            stage.send(by, frame.clone(), Checksum::Complete);
            // And once more with an IPv4 header whose sum is right.
            let start = upper - 20;
            if !v6 && (start..upper).contains(&at) {
                frame[start + 10..start + 12].fill(0);
                let sum = seine_pipeline::wire::checksum::checksum(&frame[start..upper]);
                frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
                stage.send(by, frame, Checksum::Complete);
            }
        }
        stage.node.wait_ms(1000);
    }
    stage.node.assert_twins();
    true
}

#[test]
fn what_the_fuzzer_begins_with_is_composed_as_by_the_stages() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/conversation");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(files.len() >= 8, "files are missing: {files:?}");
    for file in files {
        let hits = talk::assert_composed(&std::fs::read(&file).unwrap());
        assert!(hits > 0, "nothing of {} is composed", file.display());
    }
}
