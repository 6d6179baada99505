//! One system under several loads: how long packets are under way.
//!
//! A share of what it forwards at most tells how well it uses what it has; the same packets a
//! second as another system's tell which of both is sooner.

use seine_e2e::failure::{Failure, Outcome};

use super::far_ends::{FarEnd, Generator, Pace};
use super::packets::Traffic;
use super::profile::Profile;
use super::session::{Poller, Window, window};
use crate::record::{Latency, LoadOf, PeerSystem};

/// Shares of what is forwarded at most.
pub const LOADS_PCT: [u8; 3] = [10, 50, 90];

/// Measures what a system forwards at most, then delays under shares of that; and under shares of
/// `common_mpps`, if there is such a rate. Connections have begun before.
pub fn levels<E: FarEnd>(
    system: PeerSystem,
    generator: &mut Generator<E>,
    traffic: &Traffic,
    profile: &Profile,
    poller: &mut dyn Poller,
    common_mpps: Option<f64>,
) -> Outcome<Vec<Latency>> {
    let full = window(generator, traffic, profile, None, poller)?;
    let cycles_per_us = full.cycles / full.seconds / 1e6;
    let mpps_max = full.mpps();
    if mpps_max <= 0.0 {
        return Err(Failure::Unmet(format!("{} forwarded nothing", system.name())));
    }
    let record = |of, load_pct, offered_mpps, window: &Window| Latency {
        round: 0,
        system,
        of,
        load_pct,
        offered_mpps,
        mpps: window.mpps(),
        delay_us: window.delay_us,
        busy_pct: 100.0 * window.busy_share(),
        lost_pct: window.lost_pct(),
        steal_pct: window.steal_pct(),
        away_pct: window.away_pct(),
        profile: profile.clone(),
    };
    let mut records = vec![record(LoadOf::Own, 100, mpps_max, &full)];
    let rates = [(LoadOf::Own, Some(mpps_max)), (LoadOf::OvsAntrea, common_mpps)];
    for (of, mpps) in rates {
        let Some(mpps) = mpps else { continue };
        for load_pct in LOADS_PCT {
            let offered_mpps = mpps * f64::from(load_pct) / 100.0;
            let pace = Pace { cycles: cycles_per_us / offered_mpps };
            let window = window(generator, traffic, profile, Some(pace), poller)?;
            records.push(record(of, load_pct, offered_mpps, &window));
        }
    }
    Ok(records)
}
