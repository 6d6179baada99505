//! A row whose packets come from guests, or from the Pods' ends of veths: our worker on one core,
//! they on another, in one process.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seine_datapath::shift::{Poll, Shift};
use seine_e2e::failure::{Failure, Outcome};

use super::far_ends::{FarEnd, Generator, Pace, Wiring};
use super::levels::levels;
use super::packets::Traffic;
use super::profile::{Kind, Profile};
use super::row::{RowError, pages};
use super::session::{Figures, LATE, Poller, Window, teach, window};
use super::switch::{Outside, Switch, SwitchError, Watch};
use crate::record::{Forward, Latency, PeerSystem};

/// What the workers did so far.
#[derive(Clone, Copy, Default)]
struct Work {
    packets: u64,
    busy_cycles: u64,
    batches: u64,
    hits: u64,
    ended: u64,
}

/// Our worker, as a poller to be watched.
struct OwnPoller {
    watch: Watch,
    first: Work,
    last: Work,
}

impl OwnPoller {
    fn new(watch: &Watch) -> OwnPoller {
        OwnPoller { watch: watch.clone(), first: Work::default(), last: Work::default() }
    }

    fn work(&self) -> Work {
        let (packets, busy_cycles) = self.watch.work();
        let (batches, hits) = (self.watch.batches(), self.watch.hits());
        Work {
            packets,
            busy_cycles,
            batches,
            hits,
            ended: self.watch.occupancy().expired + self.watch.occupancy().evicted,
        }
    }

    /// How much of something there was in the window.
    fn did(&self, of: fn(&Work) -> u64) -> f64 {
        (of(&self.last) - of(&self.first)) as f64
    }
}

impl Poller for OwnPoller {
    fn begin(&mut self) -> Outcome {
        self.first = self.work();
        Ok(())
    }

    fn end(&mut self) -> Outcome<Figures> {
        let begin = Instant::now();
        self.last = self.work();
        // A machine with other things to do may have given it no time.
        while self.last.packets == self.first.packets && begin.elapsed() < LATE {
            std::thread::sleep(Duration::from_millis(5));
            self.last = self.work();
        }
        let (packets, busy_cycles) = (self.did(|it| it.packets), self.did(|it| it.busy_cycles));
        Ok(Figures { packets, busy_cycles, ..Figures::default() })
    }

    fn on_core_ns(&self) -> Outcome<u64> {
        Ok(self.watch.on_core_ns())
    }
}

/// A worker that runs; it ends when this is dropped.
struct Running {
    watch: Watch,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("seine-perf: the worker panicked; see above");
        }
    }
}

/// Measures one row, on a thread of its own: it stays on a core.
pub fn measure(profile: &Profile) -> Result<Forward, RowError> {
    serve(profile, |watch, outside| match outside {
        Outside::Nothing => Err(Failure::Unmet(SwitchError::NoQueue(0).to_string())),
        Outside::Guests(guests) => through(profile, watch, guests.connect(profile)?),
        Outside::Veths(veths) => through(profile, watch, veths.connect()?),
    })
}

/// Measures how long packets of guests are under way at several loads.
pub fn delays(profile: &Profile, common_mpps: Option<f64>) -> Result<Vec<Latency>, RowError> {
    serve(profile, |watch, outside| {
        let Outside::Guests(guests) = outside else {
            return Err(Failure::Unmet("delays are measured over vhost-user".to_owned()));
        };
        let (mut generator, traffic) = taught(profile, guests.connect(profile)?)?;
        let mut poller = OwnPoller::new(watch);
        let (system, generator) = (PeerSystem::Seine, &mut generator);
        let levels = levels(system, generator, &traffic, profile, &mut poller, common_mpps)?;
        agreed(watch).map(|()| levels)
    })
}

/// Runs a session while our worker serves, on a thread of its own: it stays on a core.
fn serve<T: Send>(
    profile: &Profile,
    session: impl FnOnce(&Watch, &mut Outside) -> Outcome<T> + Send,
) -> Result<T, RowError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| serve_here(profile, session));
        thread.join().unwrap_or(Err(RowError::Panicked))
    })
}

fn serve_here<T>(
    profile: &Profile,
    session: impl FnOnce(&Watch, &mut Outside) -> Outcome<T>,
) -> Result<T, RowError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [worker_core, generator_core, ..] = cores[..] else {
        return Err(RowError::Cores(2, cores.len()));
    };
    let mut switch = Switch::open(profile)?;
    let watch = switch.watch.clone();
    let mut outside = std::mem::replace(&mut switch.outside, Outside::Nothing);
    let Some(worker) = switch.workers.pop() else { unreachable!("there is a worker") };
    let shift = Shift::of_one(worker, Poll::Spin, watch.stop.clone());
    let mut shift = shift.map_err(SwitchError::Open)?;
    let watched = watch.clone();
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
        core_affinity::set_for_current(worker_core);
        watched.enter();
        shift.serve();
    });
    let thread = Some(thread.map_err(SwitchError::Open)?);
    // Ends before the ports do.
    let running = Running { watch: watch.clone(), thread };
    core_affinity::set_for_current(generator_core);
    let measured = session(&watch, &mut outside);
    drop(running);
    measured.map_err(|error| dropped(error, &watch))
}

/// Says with a failure what the worker dropped.
fn dropped(error: Failure, watch: &Watch) -> RowError {
    let drops = watch.drops();
    let drops = if drops.is_empty() { "nothing" } else { &drops };
    RowError::Machine(Failure::Unmet(format!("{error}; the workers dropped: {drops}")))
}

/// A generator that every connection has begun with, and the packets.
fn taught<E: FarEnd>(profile: &Profile, far_ends: Vec<E>) -> Outcome<(Generator<E>, Traffic)> {
    let mut generator = Generator::new(far_ends, Wiring::Switched);
    let mut traffic = Traffic::new(profile);
    teach(&mut generator, &mut traffic, profile)?;
    Ok((generator, traffic))
}

/// Nothing that was composed was other than what the stages say.
fn agreed(watch: &Watch) -> Outcome {
    if watch.mismatches() > 0 {
        return Err(Failure::Unmet(RowError::Mismatch(watch.mismatches()).to_string()));
    }
    Ok(())
}

fn through<E: FarEnd>(profile: &Profile, watch: &Watch, far_ends: Vec<E>) -> Outcome<Forward> {
    let (mut generator, traffic) = taught(profile, far_ends)?;
    let mut poller = OwnPoller::new(watch);
    let mut measured = window(&mut generator, &traffic, profile, None, &mut poller)?;
    if let Some(load_pct) = profile.load_pct {
        let full = measured.returned / measured.cycles;
        let pace = Pace { cycles: 100.0 / f64::from(load_pct) / full };
        measured = window(&mut generator, &traffic, profile, Some(pace), &mut poller)?;
    }
    agreed(watch)?;
    Ok(row(profile, watch, &poller, &measured))
}

fn row(profile: &Profile, watch: &Watch, poller: &OwnPoller, window: &Window) -> Forward {
    let Figures { packets, busy_cycles, .. } = window.figures;
    let packets = packets.max(1.0);
    let is_new = profile.kind == Kind::New;
    Forward {
        round: 0,
        ports: profile.ports.name().to_owned(),
        size: profile.size,
        connections: profile.connections,
        order: profile.order.name().to_owned(),
        policies_per_side: profile.policies_per_side,
        services: profile.services,
        tunnel: profile.tunnel.name().to_owned(),
        workers: profile.workers,
        mpps: window.mpps(),
        cycles_per_packet: busy_cycles / packets,
        generator_bound: window.is_generator_bound(),
        new_connections_per_s: is_new.then_some(window.mpps() * 1e6),
        bytes_per_connection: watch.bytes_per_connection,
        steal_pct: window.steal_pct(),
        busy_pct: 100.0 * window.busy_share(),
        generator_cycles_per_packet: window.generator_cycles / window.returned.max(1.0),
        away_pct: window.away_pct(),
        hit_pct: 100.0 * poller.did(|it| it.hits) / packets,
        packets_per_batch: packets / poller.did(|it| it.batches).max(1.0),
        tsc_ghz: window.cycles / window.seconds / 1e9,
        pages: pages(watch).to_owned(),
        table: None,
        ended_per_s: poller.did(|it| it.ended) / window.seconds,
        lost_pct: window.lost_pct(),
        delay_us: window.delay_us,
        profile: profile.clone(),
    }
}
