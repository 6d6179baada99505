//! What a Pod's program answers, on sockets lent to it and on a UDP socket of its kernel.

use serde::{Deserialize, Serialize};

use crate::noise::Noise;

/// What the program in the Pod answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSocket {
    /// AF_XDP sockets lent to the Pod.
    Lent,
    /// A UDP socket of its kernel.
    Kernel,
}

impl PodSocket {
    /// Both; who begins changes from round to round.
    pub fn turns(round: usize) -> [PodSocket; 2] {
        let turns = [PodSocket::Lent, PodSocket::Kernel];
        if round.is_multiple_of(2) { turns } else { [turns[1], turns[0]] }
    }

    /// "lent" or "kernel".
    pub fn name(self) -> &'static str {
        match self {
            PodSocket::Lent => "lent",
            PodSocket::Kernel => "kernel",
        }
    }
}

/// One round of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodEcho {
    /// Counted from 0.
    pub round: usize,
    /// Which Pod was asked.
    pub socket: PodSocket,
    /// Bytes of each datagram's payload.
    pub bytes: usize,
    /// Datagrams on their way at any time while the rate was taken.
    pub window: usize,
    /// Thousands of datagrams that came back each second.
    pub kpps: f64,
    /// All that did.
    pub answered: u64,
    /// How many were given up, of all that were sent for the rate.
    pub lost: u64,
    /// Questions asked each second while round trips were timed.
    pub asked_hz: u32,
    /// Median round trip in microseconds.
    pub p50_us: f64,
    /// The round trip that 99 of 100 do not exceed.
    pub p99_us: f64,
    /// Questions without an answer, of those that were timed.
    pub unanswered: u64,
    /// CPU of the datapath while the rate was taken.
    pub datapath_cpu_ms: u64,
    /// The machine while the rate was taken.
    pub noise: Noise,
}
