//! What `seine-perf restart` writes for each way of packets and each death.

use serde::{Deserialize, Serialize};

use crate::noise::Noise;

/// Who dies and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// The datapath's worker process; its parent starts another.
    Worker,
    /// The whole datapath; it is started again from outside, as a kubelet does.
    Datapath,
    /// A guest; its next one connects.
    Guest,
}

/// Which packets are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From guest to guest over vhost-user; where a guest dies, from it.
    Guests,
    /// Where a guest dies, to it.
    ToGuest,
    /// From Pod to Pod over veths.
    Veths,
}

/// The first packet after a death.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// Counted from 0.
    pub round: usize,
    /// Who died.
    pub death: Death,
    /// Which packets.
    pub way: Way,
    /// Milliseconds from SIGKILL until the first packet came out; of a guest none, since how long
    /// it stays away is up to it.
    pub from_death_ms: Option<f64>,
    /// Milliseconds from when the next one began, to start or to connect; none where nobody
    /// outside sees that.
    pub from_start_ms: Option<f64>,
    /// The rest of the machine.
    pub noise: Noise,
}
