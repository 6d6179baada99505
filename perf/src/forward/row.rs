//! One measurement: opens a switch, lets every connection be answered, then counts for a while.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, RwLock};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use seine_datapath::machine::cycles;
use seine_datapath::memory::Pages;
use seine_datapath::shift::{Poll, Shift};
use seine_datapath::worker::Worker;
use seine_pipeline::connection::Occupancy;

use super::churn::Churn;
use super::generator::{Generator, RunError};
use super::packets::Traffic;
use super::profile::{Kind, Ports, Profile};
use super::switch::{Switch, SwitchError, Watch};
use super::{order, outside};
use crate::noise::{Meter, Noise};
use crate::record::{Forward, TableWork};

/// Packets under way while connections are answered for the first time.
const WARM_UP_WINDOW: usize = 1024;
/// Before the window: caches and predictors have settled by then.
const SETTLE: Duration = Duration::from_millis(300);
/// A worker that is less busy than this waits for its generator.
const BUSY_SHARE_MIN: f64 = 0.95;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// There is nothing to measure.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// Packets went astray.
    #[error("{error}{}", dropped(.drops))]
    Run {
        /// How.
        error: RunError,
        /// What the workers dropped.
        drops: String,
    },
    /// Two ways to decide do not agree.
    #[error("the stages decided otherwise about {0} packets than what was composed")]
    Mismatch(u64),
    /// The machine cannot be read.
    #[error(transparent)]
    Machine(#[from] seine_e2e::failure::Failure),
    /// There are too few cores.
    #[error("{0} cores are wanted and there are {1}; try --in-line")]
    Cores(usize, usize),
    /// A thread panicked.
    #[error("a worker panicked; see above")]
    Panicked,
    /// A change was refused.
    #[error("a change meanwhile was refused: {0}")]
    Churn(#[from] seine_pipeline::state::Refusal),
}

fn dropped(drops: &str) -> String {
    let drops = if drops.is_empty() { "nothing" } else { drops };
    format!("; the workers dropped: {drops}")
}

/// Counters at one moment.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    cycles: u64,
    packets: u64,
    busy_cycles: u64,
    batches: u64,
    sent: u64,
    generator_cycles: u64,
    hits: u64,
    occupancy: Occupancy,
    refused: u64,
    on_core_ns: u64,
}

/// A window, and what the machine did in it.
struct Window {
    first: Moment,
    last: Moment,
    noise: Noise,
}

impl Moment {
    fn now(watch: &Watch, generator: &Generator) -> Moment {
        let (packets, busy_cycles) = watch.work();
        Moment {
            at: Instant::now(),
            cycles: cycles(),
            packets,
            busy_cycles,
            batches: watch.batches(),
            sent: generator.sent,
            generator_cycles: generator.busy_cycles,
            hits: watch.hits(),
            occupancy: watch.occupancy(),
            refused: watch.refused(),
            on_core_ns: watch.on_core_ns(),
        }
    }
}

/// Measures one row.
pub fn measure(profile: &Profile) -> Result<Forward, RowError> {
    if profile.ports != Ports::Memory {
        return outside::measure(profile);
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let in_line = profile.in_line || profile.workers > 1;
    let wanted = if in_line { profile.workers } else { 2 };
    if cores.len() < wanted {
        return Err(RowError::Cores(wanted, cores.len()));
    }
    let mut switch = Switch::open(profile)?;
    let watch = switch.watch.clone();
    let failed = |error| RowError::Run { error, drops: watch.drops() };
    let traffic = Arc::new(RwLock::new(Traffic::new(profile)));
    let mut generators = Vec::new();
    for wires in switch.wires.drain(..) {
        let generator = Generator::new(profile, traffic.clone(), wires, switch.region);
        generators.push(generator.map_err(failed)?);
    }
    let connections = traffic.read().map(|it| it.connections()).unwrap_or_default();
    let churn = Churn::new(profile, switch.writer)?;
    let mut workers = switch.workers;
    if in_line {
        return in_turns(profile, &watch, workers, generators, connections, &cores, churn);
    }
    let (Some(worker), Some(mut generator)) = (workers.pop(), generators.pop()) else {
        unreachable!("there is a worker")
    };
    let shift = Shift::of_one(worker, Poll::Spin, watch.stop.clone());
    let mut shift = shift.map_err(SwitchError::Open)?;
    let (core, watched) = (cores[0], watch.clone());
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
        core_affinity::set_for_current(core);
        watched.enter();
        shift.serve();
    });
    let thread = thread.map_err(SwitchError::Open)?;
    core_affinity::set_for_current(cores[1]);
    let measured = warm_up(profile, connections, &mut generator, || ())
        .and_then(|()| window(profile, &watch, connections, &mut generator, || (), churn, 0));
    watch.stop.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| RowError::Panicked)?;
    finish(profile, &watch, &[measured.map_err(failed)?])
}

/// Each worker takes turns with its generator, on one core.
fn in_turns(
    profile: &Profile,
    watch: &Watch,
    workers: Vec<Worker>,
    generators: Vec<Generator>,
    connections: u32,
    cores: &[CoreId],
    churn: Churn,
) -> Result<Forward, RowError> {
    let ready = Barrier::new(workers.len());
    let ready = &ready;
    let mut churns = vec![churn];
    let failed = |error| RowError::Run { error, drops: watch.drops() };
    let measured = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, (mut worker, mut generator)) in workers.into_iter().zip(generators).enumerate()
        {
            let churn = churns.pop().unwrap_or_default();
            let core = cores[index];
            threads.push(scope.spawn(move || {
                core_affinity::set_for_current(core);
                watch.enter();
                let mut drive = || {
                    worker.obey();
                    worker.round();
                };
                let warm = if index == 0 {
                    warm_up(profile, connections, &mut generator, &mut drive)
                } else {
                    generator.learnt();
                    Ok(())
                };
                ready.wait();
                warm?;
                window(profile, watch, connections, &mut generator, drive, churn, index)
            }));
        }
        let joined = threads.into_iter().map(|it| it.join().map_err(|_| RowError::Panicked));
        joined.collect::<Result<Vec<_>, RowError>>()
    })?;
    let measured: Result<Vec<_>, RunError> = measured.into_iter().collect();
    finish(profile, watch, &measured.map_err(failed)?)
}

/// Lets every connection begin, be answered, and speak again; fills the table with new ones.
pub(super) fn warm_up(
    profile: &Profile,
    connections: u32,
    generator: &mut Generator,
    mut drive: impl FnMut(),
) -> Result<(), RunError> {
    let originals: Arc<[u32]> = (0..connections).map(|it| 2 * it).collect();
    let window = WARM_UP_WINDOW.min(profile.in_flight);
    if profile.kind == Kind::New {
        generator.follow(originals);
        let filling = u64::from(profile.connections) * 5 / 4;
        generator.play(filling, window, &mut drive)?;
        generator.learnt();
        return Ok(());
    }
    let replies: Arc<[u32]> = (0..connections).map(|it| 2 * it + 1).collect();
    for phase in [&originals, &replies, &originals, &replies] {
        generator.follow(phase.clone());
        generator.play(u64::from(connections), window, &mut drive)?;
    }
    generator.learnt();
    Ok(())
}

/// Counts for a while.
fn window(
    profile: &Profile,
    watch: &Watch,
    connections: u32,
    generator: &mut Generator,
    mut drive: impl FnMut(),
    mut churn: Churn,
    seed: usize,
) -> Result<Window, RunError> {
    let seed = seed as u64 + 1;
    let drawn = match profile.kind {
        // Each lap over all pairs gives them other ports.
        Kind::New => order::once(connections, seed),
        Kind::Established => order::draw(profile, connections, seed),
    };
    generator.follow(drawn.into());
    let begin = Instant::now();
    let mut first = None;
    loop {
        drive();
        generator.step(u64::MAX, profile.in_flight)?;
        churn.step(begin.elapsed())?;
        if begin.elapsed() < SETTLE {
            continue;
        }
        let (first, meter) =
            first.get_or_insert_with(|| (Moment::now(watch, generator), Meter::start()));
        // A machine with other things to do may give this thread no time at all in between.
        let worked = watch.work().0 > first.packets && generator.sent > first.sent;
        if first.at.elapsed().as_secs_f64() < profile.seconds || !worked {
            continue;
        }
        let last = Moment::now(watch, generator);
        let noise = meter.as_ref().ok().and_then(|meter| meter.stop().ok()).unwrap_or_default();
        let first = *first;
        generator.play(0, 0, drive)?;
        return Ok(Window { first, last, noise });
    }
}

/// What the windows of all workers come to.
fn finish(profile: &Profile, watch: &Watch, windows: &[Window]) -> Result<Forward, RowError> {
    let [Window { first, last, noise }, ..] = windows else { unreachable!("there is a worker") };
    if watch.mismatches() > 0 {
        return Err(RowError::Mismatch(watch.mismatches()));
    }
    let seconds = (last.at - first.at).as_secs_f64();
    let elapsed_cycles = (last.cycles - first.cycles) as f64;
    let packets = (last.packets - first.packets) as f64;
    let busy_cycles = (last.busy_cycles - first.busy_cycles) as f64;
    let busy_share = busy_cycles / elapsed_cycles / profile.workers as f64;
    let sum = |of: fn(&Moment) -> u64| {
        windows.iter().map(|it| of(&it.last) - of(&it.first)).sum::<u64>() as f64
    };
    let on_core = (last.on_core_ns - first.on_core_ns) as f64 / 1e9;
    let in_line = profile.in_line || profile.workers > 1;
    let cores = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
    let mpps = packets / seconds / 1e6;
    Ok(Forward {
        round: 0,
        ports: "memory".to_owned(),
        size: profile.size,
        connections: profile.connections,
        order: profile.order.name().to_owned(),
        policies_per_side: profile.policies_per_side,
        services: profile.services,
        tunnel: profile.tunnel.name().to_owned(),
        workers: profile.workers,
        mpps,
        cycles_per_packet: busy_cycles / packets,
        generator_bound: !in_line && busy_share < BUSY_SHARE_MIN,
        new_connections_per_s: (profile.kind == Kind::New).then_some(mpps * 1e6),
        bytes_per_connection: watch.bytes_per_connection,
        steal_pct: noise.steal_ms as f64 / 10.0 / seconds / cores as f64,
        busy_pct: 100.0 * busy_share,
        generator_cycles_per_packet: sum(|it| it.generator_cycles) / sum(|it| it.sent),
        away_pct: 100.0 * (1.0 - on_core / seconds / profile.workers as f64).max(0.0),
        hit_pct: 100.0 * (last.hits - first.hits) as f64 / packets,
        packets_per_batch: packets / (last.batches - first.batches) as f64,
        tsc_ghz: elapsed_cycles / seconds / 1e9,
        pages: pages(watch).to_owned(),
        ended_per_s: (ended(last) - ended(first)) as f64 / seconds,
        table: (profile.kind == Kind::New).then(|| TableWork {
            used_before: first.occupancy.used,
            used_after: last.occupancy.used,
            expired: last.occupancy.expired - first.occupancy.expired,
            evicted: last.occupancy.evicted - first.occupancy.evicted,
            refused: last.refused - first.refused,
        }),
        lost_pct: 0.0,
        delay_us: None,
        profile: profile.clone(),
    })
}

fn ended(at: &Moment) -> u64 {
    at.occupancy.expired + at.occupancy.evicted
}

/// What the connection table really lies in: the kernel need not have found huge pages.
pub(super) fn pages(watch: &Watch) -> &'static str {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let mut lines = rollup.lines().filter_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = lines.next().and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
    match watch.pages {
        Pages::Reserved => "2 MiB, reserved",
        Pages::Ordinary if kib.unwrap_or(0) * 1024 > watch.table_bytes as u64 / 2 => {
            "2 MiB, transparent"
        }
        Pages::Ordinary => "4 KiB",
    }
}
