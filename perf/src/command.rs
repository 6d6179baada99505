//! One file for each thing that can be measured.

pub mod cases;
pub mod cni_add;
pub mod first_packets;
pub mod forward;
pub mod idle;
pub mod instructions;
pub mod latency;
pub mod lent_sockets;
pub mod memory;
pub mod netperf;
pub mod peers;
pub mod replay;
pub mod restart;
pub mod stages;
