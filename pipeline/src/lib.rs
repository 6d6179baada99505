//! Decides: a packet and the installed [`State`](state::State) give an [`Outcome`](verdict::Outcome).
//!
//! Nothing here does I/O, reads a clock, starts a thread or is `unsafe`: the same packets, objects
//! and clock give the same output, on a node as on a laptop. The datapath owns the memory that a
//! [`Packet`](packet::Packet) looks into and moves it between ports; this crate reads and rewrites it.
//!
//! A packet walks the [`STAGES`] in order; each holds tables named as Antrea names them.

#![forbid(unsafe_code)]

pub mod address;
pub mod adjacency;
pub mod describe;
pub mod limits;
pub mod packet;
pub mod run;
pub mod stage;
pub mod state;
pub mod trace;
pub mod verdict;

use stage::Stage;

/// The whole pipeline, in the order in which a packet meets it.
pub const STAGES: &[Stage] = &[];
