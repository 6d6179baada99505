//! What `seine-perf forward --pairs` writes for each pair of runs.

use serde::{Deserialize, Serialize};

use crate::forward::profile::Profile;

/// The clock of the cycles that goals are said in, in GHz.
pub const GOAL_GHZ: f64 = 2.3;

/// Two runs, one right after the other; which goes first changes from pair to pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Counted from 0.
    pub round: usize,
    /// What the first has and the second has not: "churn", "Services", a tunnel's name, or another
    /// program's path.
    pub against: String,
    /// TSC cycles of a packet: with it, without it.
    pub cycles: [f64; 2],
    /// Packets forwarded, in millions a second: with it, without it.
    pub mpps: [f64; 2],
    /// Whether the worker waited for its generator in one of the runs.
    pub generator_bound: bool,
    /// Share of all cores that the host took meanwhile, in percent; the worse of the two.
    pub steal_pct: f64,
    /// Share of the window that workers waited for a core, in percent; the worse of the two.
    pub away_pct: f64,
    /// Losses of rate that are held against the interval, in percent.
    pub goals_pct: Vec<f64>,
    /// Cycles more, of [`GOAL_GHZ`], that are held against the interval.
    #[serde(default)]
    pub goals_cycles: Vec<f64>,
    /// What the time stamp counter counts, in billions a second.
    #[serde(default)]
    pub tsc_ghz: f64,
    /// All that was asked for, with it.
    pub profile: Profile,
}
