//! One session beside a peer: connections begin, then packets are counted for a while.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use seine_datapath::machine::cycles;
use seine_e2e::failure::{Failure, Outcome};

use super::figures::{Figures, Poller};
use super::generator::{Generator, Play, RunError, Watch};
use super::room::{GENERATOR_CORE, pin};
use crate::forward::order;
use crate::forward::packets::Traffic;
use crate::forward::profile::Profile;
use crate::noise::{Meter, Noise};
use crate::record::{Peer, PeerSystem};

/// Packets under way while connections begin.
const WARM_UP_WINDOW: usize = 256;
/// Before the window: caches have settled by then.
const SETTLE: Duration = Duration::from_millis(500);
/// A poller that is less busy than this waits for its generator.
const BUSY_SHARE_MIN: f64 = 0.95;
/// Packets of a hundred that may be lost while connections begin.
const WARM_UP_LOST_MAX: f64 = 0.1;
/// Buffers in each ring. Queues of a closed loop differ in length: most are far from full.
pub(super) const RING_SIZE: u16 = 512;
/// Packets under way at most, for each port.
const PORT_WINDOW: usize = 64;

/// A window as the generator and the machine saw it.
pub(super) struct Window {
    figures: Figures,
    on_core_ns: f64,
    seconds: f64,
    cycles: f64,
    sent: f64,
    returned: f64,
    lost: f64,
    generator_cycles: f64,
    noise: Noise,
}

/// Runs `session` on the core of the generator, and what it starts as well.
pub fn beside<T: Send>(session: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(GENERATOR_CORE)?;
            session()
        });
        let panicked = |_| Failure::Unmet("the generator panicked; see above".to_owned());
        thread.join().map_err(panicked)?
    })
}

/// Lets every connection begin, be answered, and speak again.
pub(super) fn teach(
    generator: &mut Generator,
    traffic: &mut Traffic,
    profile: &Profile,
) -> Outcome {
    let connections = traffic.connections();
    let originals: Vec<u32> = (0..connections).map(|it| 2 * it).collect();
    let replies: Vec<u32> = (0..connections).map(|it| 2 * it + 1).collect();
    for order in [&originals, &replies, &originals, &replies] {
        let traffic = &mut *traffic;
        let mut play = Play { traffic, order, window: WARM_UP_WINDOW, size: profile.size };
        let lost = generator.teach(&mut play).map_err(failed)?;
        let sent = order.len() as u64;
        if lost as f64 * 100.0 > sent as f64 * WARM_UP_LOST_MAX {
            return Err(failed(RunError::Lost { lost, sent }));
        }
    }
    Ok(())
}

pub(super) fn failed(error: RunError) -> Failure {
    Failure::Unmet(error.to_string())
}

/// Sends for a while, and counts once caches have settled.
pub(super) fn window(
    generator: &mut Generator,
    traffic: &Traffic,
    profile: &Profile,
    poller: &mut dyn Poller,
) -> Outcome<Window> {
    let drawn = order::draw(profile, traffic.connections(), 1);
    let watch = Watch::default();
    let room = generator.ports() * PORT_WINDOW;
    let play =
        Play { traffic, order: &drawn, window: profile.in_flight.min(room), size: profile.size };
    thread::scope(|scope| {
        let sending = scope.spawn(|| generator.run(&play, &watch));
        let counted = (|| {
            thread::sleep(SETTLE);
            let (meter, at, first, first_cycles) =
                (Meter::start()?, Instant::now(), watch.counted(), cycles());
            let on_core_ns = poller.on_core_ns()?;
            poller.begin()?;
            thread::sleep(Duration::from_secs_f64(profile.seconds));
            let figures = poller.end()?;
            let on_core_ns = poller.on_core_ns()?.saturating_sub(on_core_ns) as f64;
            let (seconds, last, last_cycles) =
                (at.elapsed().as_secs_f64(), watch.counted(), cycles());
            Ok(Window {
                figures,
                on_core_ns,
                seconds,
                cycles: last_cycles.wrapping_sub(first_cycles) as f64,
                sent: (last.sent - first.sent) as f64,
                returned: (last.returned - first.returned) as f64,
                lost: (last.lost - first.lost) as f64,
                generator_cycles: (last.cycles - first.cycles) as f64,
                noise: meter.stop()?,
            })
        })();
        watch.stop.store(true, Ordering::Relaxed);
        let sent = sending.join();
        sent.map_err(|_| Failure::Unmet("the generator panicked; see above".to_owned()))?
            .map_err(failed)?;
        counted
    })
}

/// A row before its figures.
pub(super) fn blank(system: PeerSystem, profile: &Profile, pages: &str) -> Peer {
    Peer {
        round: 0,
        system,
        caches: String::new(),
        unavailable: None,
        ports: "vhost-user".to_owned(),
        size: profile.size,
        connections: profile.connections,
        order: profile.order.name().to_owned(),
        policies_per_side: profile.policies_per_side,
        services: profile.services,
        tunnel: profile.tunnel.name().to_owned(),
        workers: 1,
        mpps: 0.0,
        cycles_per_packet: 0.0,
        generator_bound: false,
        new_connections_per_s: None,
        bytes_per_connection: None,
        steal_pct: 0.0,
        away_pct: 0.0,
        busy_pct: 0.0,
        generator_cycles_per_packet: 0.0,
        lost_pct: 0.0,
        passes_per_packet: None,
        ct_actions_first: None,
        ct_actions_later: None,
        emc_hit_pct: None,
        smc_hit_pct: None,
        upcalls: None,
        flows: None,
        packets_per_batch: None,
        tsc_ghz: 0.0,
        pages: pages.to_owned(),
        profile: profile.clone(),
    }
}

impl Window {
    pub(super) fn peer(self, blank: Peer) -> Peer {
        let Figures { packets, busy_cycles, idle_cycles, .. } = self.figures;
        let all_cycles = idle_cycles.map_or(self.cycles, |idle| idle + busy_cycles);
        let busy_share = busy_cycles / all_cycles.max(1.0);
        let cores = cores_online() as f64;
        Peer {
            mpps: self.returned / self.seconds / 1e6,
            cycles_per_packet: busy_cycles / packets.max(1.0),
            generator_bound: busy_share < BUSY_SHARE_MIN,
            steal_pct: self.noise.steal_ms as f64 / 10.0 / self.seconds / cores,
            away_pct: 100.0 * (1.0 - self.on_core_ns / 1e9 / self.seconds).max(0.0),
            busy_pct: 100.0 * busy_share,
            generator_cycles_per_packet: self.generator_cycles / self.returned.max(1.0),
            lost_pct: 100.0 * self.lost / self.sent.max(1.0),
            passes_per_packet: self.figures.passes_per_packet,
            emc_hit_pct: self.figures.emc_hit_pct,
            smc_hit_pct: self.figures.smc_hit_pct,
            upcalls: self.figures.upcalls,
            packets_per_batch: self.figures.packets_per_output_batch,
            tsc_ghz: self.cycles / self.seconds / 1e9,
            ..blank
        }
    }
}

/// Not those that this thread may use: it is pinned.
fn cores_online() -> i64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1)
}
