//! What `seine-perf latency` writes for each load.

use serde::{Deserialize, Serialize};

use super::PeerSystem;
use crate::forward::profile::Profile;

/// What a load is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadOf {
    /// What this system forwards at most.
    Own,
    /// What Open vSwitch forwards at most with the flows that Antrea would give it.
    OvsAntrea,
}

/// One system under one load, in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Counted from 0.
    pub round: usize,
    /// What forwarded.
    pub system: PeerSystem,
    /// What the load is a share of.
    pub of: LoadOf,
    /// The share; 100 of its own is as fast as it goes, and there no delay is measured.
    pub load_pct: u8,
    /// Packets that were to be sent, in millions a second.
    pub offered_mpps: f64,
    /// Packets that came out, in millions a second.
    pub mpps: f64,
    /// Microseconds that half of the packets were under way at most, and 99 of a hundred.
    pub delay_us: Option<[f64; 2]>,
    /// Share of the window that the poller was busy, in percent.
    pub busy_pct: f64,
    /// Packets that did not come out, of a hundred.
    pub lost_pct: f64,
    /// Share of all cores that the host took meanwhile, in percent.
    pub steal_pct: f64,
    /// Share of the window that the poller had no core, in percent.
    pub away_pct: f64,
    /// All that was asked for.
    pub profile: Profile,
}
