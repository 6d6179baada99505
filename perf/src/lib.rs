//! Measures what Seine does, beside what the kernel does, in one run.
//!
//! A [`command`] brings up a [`topology`] with both systems side by side, takes turns between
//! them, and writes one [`record`] for each thing it saw. The [`report`] makes tables and plots of
//! records, freshly taken or read from a file: a figure in docs/PERFORMANCE.md is never typed.
//!
//! [`forward`] measures the datapath's worker alone, between rings in memory.
//!
//! [`cases`] plays other people's conformance cases; [`naive`] is a second opinion on them, and on
//! what [`generate`] makes up. [`replay`] asks Open vSwitch, by the flows that [`openflow`] writes.
//!
//! Nothing here is linked into what ships.

pub mod cases;
pub mod command;
pub mod first_packets;
pub mod forward;
pub mod generate;
pub mod machine;
pub mod naive;
pub mod noise;
pub mod openflow;
pub mod output;
pub mod peers;
pub mod process;
pub mod record;
pub mod replay;
pub mod report;
pub mod restart;
pub mod statistics;
pub mod topology;
pub mod virtio;
