//! A session beside a peer: on the generator's core, and as a row.

use std::thread;

use seine_e2e::failure::{Failure, Outcome};

use super::room::{GENERATOR_CORE, pin};
use crate::forward::profile::{Kind, Profile};
use crate::forward::session::Window;
use crate::record::{Peer, PeerSystem};

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
        delay_us: None,
        pages: pages.to_owned(),
        profile: profile.clone(),
    }
}

/// A row with the figures of its window.
pub(super) fn peer(window: &Window, blank: Peer) -> Peer {
    let is_new = blank.profile.kind == Kind::New;
    Peer {
        mpps: window.mpps(),
        new_connections_per_s: is_new.then_some(window.mpps() * 1e6),
        cycles_per_packet: window.figures.busy_cycles / window.figures.packets.max(1.0),
        generator_bound: window.is_generator_bound(),
        steal_pct: window.steal_pct(),
        away_pct: window.away_pct(),
        busy_pct: 100.0 * window.busy_share(),
        generator_cycles_per_packet: window.generator_cycles / window.returned.max(1.0),
        lost_pct: window.lost_pct(),
        passes_per_packet: window.figures.passes_per_packet,
        emc_hit_pct: window.figures.emc_hit_pct,
        smc_hit_pct: window.figures.smc_hit_pct,
        upcalls: window.figures.upcalls,
        packets_per_batch: window.figures.packets_per_output_batch,
        tsc_ghz: window.cycles / window.seconds / 1e9,
        delay_us: window.delay_us,
        ..blank
    }
}
