//! What a run writes: one record for each thing it saw, as one line of JSON.
//!
//! The raw figures are kept, never only their medians, so that a report can be made again.

mod forward;
mod latency;
mod lent_sockets;
mod pair;
mod peer;
mod restart;

use std::fs;
use std::path::Path;

use seine_e2e::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};

pub use self::forward::{Forward, Part, TableWork};
pub use self::latency::{Latency, LoadOf};
pub use self::lent_sockets::{PodEcho, PodSocket};
pub use self::pair::{GOAL_GHZ, Pair};
pub use self::peer::{Peer, PeerSystem};
pub use self::restart::{Death, Restart, Way};
use crate::first_packets::record::{FirstPacketCost, Install, Join, TableMemory};
use crate::machine::Machine;
use crate::noise::Noise;
use crate::process::Memory;

/// Which system a figure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Ours.
    Seine,
    /// The Linux bridge; VXLAN of the kernel between nodes; Debian's `bridge` plugin.
    Bridge,
}

impl System {
    /// Both; who begins changes from round to round, so that a drift of the machine hits both.
    pub fn turns(round: usize) -> [System; 2] {
        if round.is_multiple_of(2) {
            [System::Seine, System::Bridge]
        } else {
            [System::Bridge, System::Seine]
        }
    }

    /// "seine" or "bridge".
    pub fn name(self) -> &'static str {
        match self {
            System::Seine => "seine",
            System::Bridge => "bridge",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// Begins every run.
    Machine(Machine),
    /// One netperf test.
    Netperf(Netperf),
    /// One call of a CNI plugin.
    PluginCall(PluginCall),
    /// Many calls at once.
    PluginBurst(PluginBurst),
    /// Daemons with nothing to do.
    Idle(Idle),
    /// One round trip after a rest.
    FirstPacket(FirstPacket),
    /// Memory of one process with some Pods attached.
    Memory(ProcessMemory),
    /// First packets with so much installed.
    FirstPacketCost(FirstPacketCost),
    /// Everything comes into force at once.
    Install(Install),
    /// One address joins a group, again and again.
    Join(Join),
    /// Memory of what is installed.
    TableMemory(TableMemory),
    /// Packets through a worker.
    Forward(Box<Forward>),
    /// Two runs of that, with something and without it.
    Pair(Box<Pair>),
    /// Packets through Seine, or a peer of it, beside each other.
    Peer(Box<Peer>),
    /// One system under one load.
    Latency(Box<Latency>),
    /// The first packet after somebody died.
    Restart(Restart),
    /// A Pod's program that answers.
    PodEcho(PodEcho),
    /// One part of a packet's way.
    Part(Part),
}

/// One netperf test between two Pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Netperf {
    /// Counted from 0.
    pub round: usize,
    /// Whose Pods.
    pub system: System,
    /// "same node" or "across".
    pub way: String,
    /// "v4" or "v6".
    pub family: String,
    /// "TCP_STREAM".
    pub test: String,
    /// The figure.
    pub value: f64,
    /// "Mbit/s" or "trans/s".
    pub unit: String,
    /// Median round trip in microseconds, where the test has one.
    pub p50_us: Option<f64>,
    /// The round trip that 99 of 100 do not exceed.
    pub p99_us: Option<f64>,
    /// What the sender of datagrams pushed out, in the unit of `value`.
    pub sent: Option<f64>,
    /// Whether idle fillers kept the cores from halting.
    pub fillers: bool,
    /// How long it ran, start-up of netperf included.
    pub wall_ms: f64,
    /// CPU of all datapaths.
    pub datapath_cpu_ms: u64,
    /// CPU of all agents.
    pub agent_cpu_ms: u64,
    /// The rest of the machine.
    pub noise: Noise,
}

/// One call of a CNI plugin, from fork to exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginCall {
    /// Counted from 0.
    pub round: usize,
    /// Whose plugin.
    pub system: System,
    /// "ADD", "DEL", or "VERSION": the cost of starting the plugin at all.
    pub command: String,
    /// Whether the others of the round ran at the same time.
    pub at_once: bool,
    /// Milliseconds.
    pub ms: f64,
}

/// Calls that all began at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginBurst {
    /// Counted from 0.
    pub round: usize,
    /// Whose plugin.
    pub system: System,
    /// "ADD" or "DEL".
    pub command: String,
    /// How many calls; none failed.
    pub calls: usize,
    /// Milliseconds until the last one had ended.
    pub ms: f64,
    /// The rest of the machine.
    pub noise: Noise,
}

/// Daemons of one node with nothing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Counted from 0.
    pub round: usize,
    /// Attached Pods.
    pub pods: usize,
    /// How long.
    pub seconds: f64,
    /// CPU of the datapath, its parent included.
    pub datapath_cpu_ms: u64,
    /// CPU of the agent.
    pub agent_cpu_ms: u64,
    /// Wake-ups of the datapath's threads.
    pub datapath_wakeups: u64,
    /// Wake-ups of the agent's threads.
    pub agent_wakeups: u64,
    /// The rest of the machine.
    pub noise: Noise,
}

/// One round trip of a datagram after a rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstPacket {
    /// Whose Pods.
    pub system: System,
    /// Silence before it, on these Pods.
    pub rest_ms: f64,
    /// Microseconds.
    pub us: f64,
    /// Whether idle fillers kept the cores from halting.
    pub fillers: bool,
    /// Host's steal while it rested and travelled, milliseconds.
    pub steal_ms: u64,
}

/// Memory of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// Attached Pods.
    pub pods: usize,
    /// "datapath", "datapath parent", "agent"; "bridge" for the same Pods without any.
    pub process: String,
    /// KiB by kind.
    pub memory: Memory,
    /// KiB of packet memory, a part of what is resident. Registered with AF_XDP, so locked; the
    /// kernel counts that by user, and shows it nowhere.
    pub frames_kib: u64,
    /// KiB that the whole kernel holds in ways that Pods cost it: unreclaimable slab, vmalloc,
    /// per-cpu and stacks.
    pub kernel_kib: u64,
}

/// Reads records from files of JSON lines.
pub fn read(paths: &[impl AsRef<Path>]) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
        for (number, line) in text.lines().enumerate() {
            records.push(serde_json::from_str(line).map_err(|error| {
                Failure::Unmet(format!("{}:{}: {error}", path.display(), number + 1))
            })?);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_record_names_its_kind_and_is_read_back() {
        let record = Record::PluginCall(PluginCall {
            round: 1,
            system: System::Bridge,
            command: "ADD".to_owned(),
            at_once: false,
            ms: 12.5,
        });
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.starts_with(r#"{"kind":"plugin_call","#), "{line}");
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }

    #[test]
    fn who_begins_changes_every_round() {
        assert_eq!(System::turns(0)[0], System::Seine);
        assert_eq!(System::turns(1)[0], System::Bridge);
    }
}
