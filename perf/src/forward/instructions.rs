//! Instructions that a packet takes: counted by callgrind, so the same on a busy machine as on a
//! quiet one, and on every machine.
//!
//! One thread sends and forwards in turns; only the worker's rounds after warm-up are counted (see
//! [`counted_round`]). Seeds are fixed, and the worker's clock goes by its rounds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use seine_datapath::worker::Worker;

use super::generator::Generator;
use super::order;
use super::packets::Traffic;
use super::profile::{Kind, Profile, Sum, Tunnel, Ways};
use super::row::{RowError, warm_up};
use super::switch::Switch;

/// Packets that are counted of each workload.
pub const PACKETS: u64 = 20_000;
/// The part of [`counted_round`]'s name that callgrind is told.
pub const COUNTED: &str = "counted_round";

/// Rounds of the worker, as its clock counts them.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// About as many as a busy worker has in a millisecond.
const ROUNDS_A_MS: u64 = 32;
/// A machine that has been up for a while.
const BEGIN_MS: u64 = 1_000_000;

/// What is counted: a name, and what differs from the default profile.
pub fn workloads() -> [(&'static str, Profile); 6] {
    let of = |kind| Profile { in_line: true, huge_pages: false, ..Profile::plain(kind) };
    let established = Profile { checksum: Sum::Complete, ..of(Kind::Established) };
    let new = Profile { ways: Ways::One, ..of(Kind::New) };
    let across =
        |tunnel| Profile { tunnel, ways: Ways::One, checksum: Sum::Zero, ..established.clone() };
    [
        ("service", Profile { services: 1000, ..established.clone() }),
        ("geneve-out", across(Tunnel::GeneveOut)),
        ("geneve-in", across(Tunnel::GeneveIn)),
        ("new", new.clone()),
        ("new-service", Profile { services: 1000, ..new }),
        ("established", established),
    ]
}

/// Plays a workload, for whoever counts instructions from outside.
pub fn play(profile: &Profile) -> Result<(), RowError> {
    let mut switch = Switch::open(profile)?;
    let watch = switch.watch.clone();
    let failed = |error| RowError::Run { error, drops: watch.drops() };
    let traffic = Arc::new(RwLock::new(Traffic::new(profile)));
    let (Some(wires), Some(worker)) = (switch.wires.pop(), switch.workers.pop()) else {
        unreachable!("there is a worker")
    };
    let mut worker = worker.by_clock(|| BEGIN_MS + ROUNDS.load(Ordering::Relaxed) / ROUNDS_A_MS);
    let mut generator =
        Generator::new(profile, traffic.clone(), wires, switch.region).map_err(failed)?;
    let connections = traffic.read().map(|it| it.connections()).unwrap_or_default();
    warm_up(profile, connections, &mut generator, || {
        ROUNDS.fetch_add(1, Ordering::Relaxed);
        worker.round();
    })
    .map_err(failed)?;
    let drawn = match profile.kind {
        Kind::New => order::once(connections, 1),
        Kind::Established => order::draw(profile, connections, 1),
    };
    generator.follow(drawn.into());
    let counted = || {
        ROUNDS.fetch_add(1, Ordering::Relaxed);
        counted_round(&mut worker);
    };
    generator.play(PACKETS, profile.in_flight, counted).map_err(failed)
}

/// A round whose instructions count.
#[inline(never)]
fn counted_round(worker: &mut Worker) -> usize {
    // Not the last thing it does, or the call would be a jump, which callgrind does not see.
    std::hint::black_box(worker.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_can_be_played() {
        for (name, profile) in workloads() {
            assert_eq!(profile.check(), Ok(()), "{name}");
        }
    }
}
