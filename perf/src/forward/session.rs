//! One session with a switch, seen from the far ends of its ports: connections begin, then packets
//! are counted for a while.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use seine_datapath::machine::cycles;
use seine_e2e::failure::{Failure, Outcome};

use super::far_ends::{FarEnd, Generator, Pace, Play, RunError, Watch};
use super::order;
use super::packets::Traffic;
use super::profile::{Kind, Profile};
use crate::noise::{Meter, Noise};

/// Packets under way while connections begin, and for each port: sockets of a veth begin with few
/// frames and ask for more as they are used.
const WARM_UP_WINDOW: usize = 256;
const WARM_UP_PORT_WINDOW: usize = 4;
/// Before the window: caches have settled by then.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a machine with other things to do is waited for.
pub const LATE: Duration = Duration::from_secs(5);
/// A poller that is less busy than this waits for its generator.
pub const BUSY_SHARE_MIN: f64 = 0.95;
/// Packets of a hundred that may be lost while connections begin.
const WARM_UP_LOST_MAX: f64 = 0.1;
/// Buffers in each ring. Queues of a closed loop differ in length: most are far from full.
pub const RING_SIZE: u16 = 512;
/// Packets under way at most, for each port.
const PORT_WINDOW: usize = 64;

/// A switch with one polling thread, as far as it can be watched.
pub trait Poller {
    /// Begins a window.
    fn begin(&mut self) -> Outcome;
    /// What it did since it began.
    fn end(&mut self) -> Outcome<Figures>;
    /// Nanoseconds that the thread was on its core so far.
    fn on_core_ns(&self) -> Outcome<u64>;
}

/// What a poller did in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Packets that it received.
    pub packets: f64,
    /// TSC cycles that it spent on them.
    pub busy_cycles: f64,
    /// TSC cycles that it found nothing in; none where it does not say.
    pub idle_cycles: Option<f64>,
    /// Times that a packet was looked up, on average.
    pub passes_per_packet: Option<f64>,
    /// Share of look-ups that the exact-match cache answered, in percent.
    pub emc_hit_pct: Option<f64>,
    /// Share of look-ups that the signature-match cache answered, in percent.
    pub smc_hit_pct: Option<f64>,
    /// Look-ups that nothing answered, so that the flows were walked.
    pub upcalls: Option<f64>,
    /// Packets sent to one port at once.
    pub packets_per_output_batch: Option<f64>,
}

/// A window as the generator and the machine saw it.
pub struct Window {
    /// What the poller says.
    pub figures: Figures,
    /// Nanoseconds that it had its core.
    pub on_core_ns: f64,
    /// How long the window was.
    pub seconds: f64,
    /// The same in TSC cycles.
    pub cycles: f64,
    /// Packets that went in.
    pub sent: f64,
    /// Packets that came out.
    pub returned: f64,
    /// Packets that were given up.
    pub lost: f64,
    /// TSC cycles of generator and sink.
    pub generator_cycles: f64,
    /// Microseconds that half of the packets took at most, and 99 of a hundred, if it was paced.
    pub delay_us: Option<[f64; 2]>,
    /// What else the machine did.
    pub noise: Noise,
}

impl Window {
    /// Packets that came out, in millions a second.
    pub fn mpps(&self) -> f64 {
        self.returned / self.seconds / 1e6
    }

    /// The share of the window that the poller was busy.
    pub fn busy_share(&self) -> f64 {
        let Figures { busy_cycles, idle_cycles, .. } = self.figures;
        busy_cycles / idle_cycles.map_or(self.cycles, |idle| idle + busy_cycles).max(1.0)
    }

    /// Whether the poller waited for packets.
    pub fn is_generator_bound(&self) -> bool {
        self.busy_share() < BUSY_SHARE_MIN
    }

    /// The share of all cores that the host took, in percent.
    pub fn steal_pct(&self) -> f64 {
        self.noise.steal_ms as f64 / 10.0 / self.seconds / cores_online() as f64
    }

    /// The share of the window that the poller had no core, in percent.
    pub fn away_pct(&self) -> f64 {
        100.0 * (1.0 - self.on_core_ns / 1e9 / self.seconds).max(0.0)
    }

    /// Of a hundred packets, those that did not come out.
    pub fn lost_pct(&self) -> f64 {
        100.0 * self.lost / self.sent.max(1.0)
    }
}

/// Lets every connection begin, be answered, and speak again; fills the table with new ones.
pub fn teach<E: FarEnd>(
    generator: &mut Generator<E>,
    traffic: &mut Traffic,
    profile: &Profile,
) -> Outcome {
    let connections = traffic.connections();
    let window = WARM_UP_WINDOW.min(generator.ports() * WARM_UP_PORT_WINDOW);
    let window = window.min(profile.in_flight);
    let mut learn = |order: &[u32], sent: u64, opening: bool| {
        traffic.open_connections(opening);
        let mut play = Play::of(profile, &mut *traffic, order, window);
        let lost = generator.teach(&mut play, sent).map_err(failed)?;
        if lost as f64 * 100.0 > sent as f64 * WARM_UP_LOST_MAX {
            return Err(failed(RunError::Lost { lost, sent }));
        }
        Ok(())
    };
    if profile.kind == Kind::New {
        return learn(&order::once(connections, 1), u64::from(profile.connections) * 5 / 4, false);
    }
    let originals: Vec<u32> = (0..connections).map(|it| 2 * it).collect();
    let replies: Vec<u32> = (0..connections).map(|it| 2 * it + 1).collect();
    for (order, opening) in
        [(&originals, true), (&replies, true), (&originals, false), (&replies, false)]
    {
        learn(order, order.len() as u64, opening)?;
    }
    Ok(())
}

/// A failed run, for those who measure.
pub fn failed(error: RunError) -> Failure {
    Failure::Unmet(error.to_string())
}

/// Sends for a while, and counts once caches have settled.
pub fn window<E: FarEnd>(
    generator: &mut Generator<E>,
    traffic: &Traffic,
    profile: &Profile,
    pace: Option<Pace>,
    poller: &mut dyn Poller,
) -> Outcome<Window> {
    let drawn = match profile.kind {
        // Each lap over all pairs gives them other ports.
        Kind::New => order::once(traffic.connections(), 1),
        Kind::Established => order::draw(profile, traffic.connections(), 1),
    };
    let watch = Watch::default();
    let under_way = profile.in_flight.min(generator.ports() * PORT_WINDOW);
    let play = Play::of(profile, traffic, &drawn, under_way).counted(profile, pace);
    let counted = thread::scope(|scope| {
        let sending = scope.spawn(|| generator.run(&play, &watch));
        let counted = count(profile, &watch, poller);
        watch.stop.store(true, Ordering::Relaxed);
        let sent = sending.join();
        sent.map_err(|_| Failure::Unmet("the generator panicked; see above".to_owned()))?
            .map_err(failed)?;
        counted
    })?;
    let percentiles = [50.0, 99.0].map(|it| generator.delays.percentile(it));
    let us = counted.seconds * 1e6 / counted.cycles;
    let delay_us = match percentiles {
        [Some(middle), Some(late)] => Some([middle * us, late * us]),
        _ => None,
    };
    Ok(Window { delay_us, ..counted })
}

fn count(profile: &Profile, watch: &Watch, poller: &mut dyn Poller) -> Outcome<Window> {
    thread::sleep(SETTLE);
    let (meter, at) = (Meter::start()?, Instant::now());
    let (first, first_cycles) = (watch.counted(), cycles());
    let on_core_ns = poller.on_core_ns()?;
    poller.begin()?;
    watch.counting.store(true, Ordering::Relaxed);
    let window = Duration::from_secs_f64(profile.seconds);
    thread::sleep(window);
    // A machine with other things to do may have given nobody any time.
    while watch.counted().returned == first.returned && at.elapsed() < window + LATE {
        thread::sleep(Duration::from_millis(5));
    }
    watch.counting.store(false, Ordering::Relaxed);
    let figures = poller.end()?;
    let on_core_ns = poller.on_core_ns()?.saturating_sub(on_core_ns) as f64;
    let (seconds, last, last_cycles) = (at.elapsed().as_secs_f64(), watch.counted(), cycles());
    Ok(Window {
        figures,
        on_core_ns,
        seconds,
        cycles: last_cycles.wrapping_sub(first_cycles) as f64,
        sent: (last.sent - first.sent) as f64,
        returned: (last.returned - first.returned) as f64,
        lost: last.lost.saturating_sub(first.lost) as f64,
        generator_cycles: (last.cycles - first.cycles) as f64,
        delay_us: None,
        noise: meter.stop()?,
    })
}

/// Not those that this thread may use: it is pinned.
fn cores_online() -> i64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1)
}
