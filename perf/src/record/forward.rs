//! What `seine-perf forward` writes for each run of a row.

use serde::{Deserialize, Serialize};

use crate::forward::profile::Profile;

/// One run of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    /// Counted from 0.
    pub round: usize,
    /// "memory", "vhost-user" or "af_xdp".
    pub ports: String,
    /// Bytes of a frame without its check sequence; of the inner one, in a tunnel.
    pub size: usize,
    /// Connections that send; with new ones, how many the table holds.
    pub connections: u32,
    /// "uniform" or "zipf".
    pub order: String,
    /// Policies for each Pod and direction, with counters.
    pub policies_per_side: usize,
    /// Services that connections go through.
    pub services: usize,
    /// "none", "geneve-out" or "geneve-in".
    pub tunnel: String,
    /// Cores that forward.
    pub workers: usize,
    /// Packets forwarded, in millions a second.
    pub mpps: f64,
    /// TSC cycles that the workers spent on one packet.
    pub cycles_per_packet: f64,
    /// The worker waited for packets: its figure is an upper bound.
    pub generator_bound: bool,
    /// Where each packet begins a connection: how many a second.
    pub new_connections_per_s: Option<f64>,
    /// Memory of the connection table, for each that it has room for.
    pub bytes_per_connection: f64,
    /// Share of all cores that the host took meanwhile, in percent.
    pub steal_pct: f64,
    /// Share of the window that workers waited for a core of this machine, in percent: part of
    /// their cycles.
    pub away_pct: f64,
    /// Share of the window that workers were busy, in percent.
    pub busy_pct: f64,
    /// TSC cycles that the generator spent on one packet; they are in no other figure.
    pub generator_cycles_per_packet: f64,
    /// Share of packets that needed no stage, in percent.
    pub hit_pct: f64,
    /// Packets that a worker decided about at once.
    pub packets_per_batch: f64,
    /// TSC cycles in a nanosecond.
    pub tsc_ghz: f64,
    /// "2 MiB, reserved", "2 MiB, transparent" or "4 KiB": pages of the connection table.
    pub pages: String,
    /// Connections that ended, by timeout or to make room, a second.
    pub ended_per_s: f64,
    /// Packets that did not come out, of a hundred; between memory ports there are none.
    #[serde(default)]
    pub lost_pct: f64,
    /// Microseconds that half of the packets were under way at most, and 99 of a hundred, where
    /// they came at a pace.
    #[serde(default)]
    pub delay_us: Option<[f64; 2]>,
    /// Where each packet begins a connection: what became of the table meanwhile.
    #[serde(default)]
    pub table: Option<TableWork>,
    /// All that was asked for.
    pub profile: Profile,
}

/// What connections did to their table in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWork {
    /// Connections in it when the window began.
    pub used_before: u64,
    /// And when it ended.
    pub used_after: u64,
    /// Connections that ended because their time was up.
    pub expired: u64,
    /// Connections that gave way to others.
    pub evicted: u64,
    /// First packets that were dropped for want of a place or a right to one.
    pub refused: u64,
}

impl Forward {
    /// Nanoseconds of a worker for one packet.
    pub fn ns_per_packet(&self) -> f64 {
        self.cycles_per_packet / self.tsc_ghz
    }
}

/// What one part of a packet's way costs, packets lying in the nearest cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Counted from 0.
    pub round: usize,
    /// Of which packets: "under way".
    pub of: String,
    /// Which part: a table by stage and name, or a small thing.
    pub what: String,
    /// TSC cycles for each packet that meets it.
    pub cycles: f64,
    /// Share of packets that do, in percent.
    pub share_pct: f64,
}
