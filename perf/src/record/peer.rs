//! What `seine-perf peers` writes for each run of a row.

use serde::{Deserialize, Serialize};

use crate::forward::profile::Profile;

/// What forwarded the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerSystem {
    /// testpmd: carries packets between two ports, and looks at none.
    TestpmdIo,
    /// Open vSwitch as a plain switch.
    OvsL2,
    /// Open vSwitch with the flows that Antrea would give it.
    OvsAntrea,
    /// Ours.
    Seine,
}

impl PeerSystem {
    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            PeerSystem::TestpmdIo => "testpmd io",
            PeerSystem::OvsL2 => "OVS, L2 only",
            PeerSystem::OvsAntrea => "OVS, Antrea's flows",
            PeerSystem::Seine => "Seine",
        }
    }
}

/// One run of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Counted from 0.
    pub round: usize,
    /// What forwarded.
    pub system: PeerSystem,
    /// How its caches were set; empty where it has none.
    pub caches: String,
    /// Why there is no figure, where there is none: all figures are 0 then.
    pub unavailable: Option<String>,
    /// "vhost-user" or "memory".
    pub ports: String,
    /// Bytes of a frame without its check sequence.
    pub size: usize,
    /// Connections that send.
    pub connections: u32,
    /// "uniform" or "zipf".
    pub order: String,
    /// Policies for each Pod and direction, where there are any.
    pub policies_per_side: usize,
    /// Services that connections go through.
    pub services: usize,
    /// "none".
    pub tunnel: String,
    /// Cores that forward.
    pub workers: usize,
    /// Packets forwarded, in millions a second.
    pub mpps: f64,
    /// TSC cycles that the poller spent on one packet.
    pub cycles_per_packet: f64,
    /// The poller waited for packets: its figure is an upper bound.
    pub generator_bound: bool,
    /// Where each packet begins a connection: how many a second.
    pub new_connections_per_s: Option<f64>,
    /// Memory of the connection table, for each that it has room for; only ours says.
    pub bytes_per_connection: Option<f64>,
    /// Share of all cores that the host took meanwhile, in percent.
    pub steal_pct: f64,
    /// Share of the window that the poller waited for its core, in percent: part of its cycles.
    pub away_pct: f64,
    /// Share of the window that the poller was busy, in percent.
    pub busy_pct: f64,
    /// TSC cycles that the generator spent on one packet; they are in no other figure.
    pub generator_cycles_per_packet: f64,
    /// Packets that did not come out, of a hundred.
    pub lost_pct: f64,
    /// Times that a packet was looked up.
    pub passes_per_packet: Option<f64>,
    /// Actions of connection tracking that the first packet of a connection met.
    pub ct_actions_first: Option<usize>,
    /// Those that every later one meets.
    pub ct_actions_later: Option<usize>,
    /// Share of look-ups that the exact-match cache answered, in percent.
    pub emc_hit_pct: Option<f64>,
    /// Share of look-ups that the signature-match cache answered, in percent.
    pub smc_hit_pct: Option<f64>,
    /// Look-ups in the window that nothing answered.
    pub upcalls: Option<f64>,
    /// OpenFlow flows that were installed.
    pub flows: Option<usize>,
    /// Packets sent to one port, or received by a worker, at once.
    pub packets_per_batch: Option<f64>,
    /// Microseconds that half of the packets were under way at most, and 99 of a hundred, where
    /// they came at a pace.
    #[serde(default)]
    pub delay_us: Option<[f64; 2]>,
    /// TSC cycles in a nanosecond.
    pub tsc_ghz: f64,
    /// "2 MiB" or "4 KiB": pages of the memory that is shared with the poller.
    pub pages: String,
    /// All that was asked for.
    pub profile: Profile,
}
