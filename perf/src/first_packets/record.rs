//! What a run of `first-packets` writes.

use serde::{Deserialize, Serialize};

use crate::noise::Noise;

/// First packets with so much installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstPacketCost {
    /// What grows: "policies, 40 a Pod".
    pub scenario: String,
    /// How much of it there is.
    pub size: usize,
    /// What was in the caches: "warm", "tables cold", "all cold", "all cold, batch of 32".
    pub caches: String,
    /// Nanoseconds of one cycle of the time stamp counter.
    pub ns_per_cycle: f64,
    /// Cycles of each packet; of a batch, the mean.
    pub cycles: Vec<u64>,
    /// The rest of the machine.
    pub noise: Noise,
}

/// Everything comes into force at once, on a node that had nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Install {
    /// What is timed: "compile", "State::apply", "transaction to acknowledgement".
    pub step: String,
    /// Policies.
    pub policies: usize,
    /// Services.
    pub services: usize,
    /// Objects that they become.
    pub objects: usize,
    /// Milliseconds on the clock.
    pub wall_ms: f64,
    /// Milliseconds of CPU of the whole process; nothing for a step with workers that spin.
    pub cpu_ms: Option<f64>,
    /// The rest of the machine.
    pub noise: Noise,
}

/// One address joins a group, again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// Workers, each with as many packets as it can take.
    pub workers: usize,
    /// Addresses in all groups when it began.
    pub addresses: usize,
    /// Policies beside those groups.
    pub policies: usize,
    /// Services beside them.
    pub services: usize,
    /// Microseconds from the transaction's last message to its acknowledgement by every worker.
    pub acknowledged_us: Vec<u64>,
    /// The same, seen by the caller.
    pub round_trip_us: Vec<u64>,
    /// Packets a second that the workers forwarded meanwhile.
    pub packets_per_s: f64,
    /// The rest of the machine.
    pub noise: Noise,
}

/// Memory of what is installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableMemory {
    /// "policy", "address", "Service".
    pub of: String,
    /// How many there are.
    pub count: usize,
    /// KiB that they take, by the difference of resident memory.
    pub kib: u64,
}
