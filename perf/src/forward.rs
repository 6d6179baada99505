//! What a packet costs: the datapath's own worker loop between memory ports, on one core, and a
//! generator that is also the sink on the other.
//!
//! ```text
//!   generator ──▶ ring of the sender's port ──▶ worker: receive, run, transmit
//!       ▲                                                     │
//!       └──── sink: the right port? the right bytes? ◀── ring of the receiver's port
//! ```
//! The loop is closed: a packet is sent when one has come back, so that none is lost but by a
//! mistake, and a lost or wrong one ends the run. What the worker counts of itself, cycles of
//! rounds with packets, is the figure; the generator's cycles are not in it.
//!
//! Over vhost-user the same worker serves guests, whose side is played by our own driver, and over
//! veths AF_XDP sockets at the Pods' ends: see [`far_ends`] and [`session`], which also play
//! opposite Open vSwitch and testpmd.
//!
//! Each measurement is a process of its own (see [`row`]): memory is laid out anew each time, and
//! tables that live as long as their process go with it.

mod churn;
mod delay;
pub mod far_ends;
mod generator;
pub mod guests;
pub mod instructions;
pub mod levels;
pub(crate) mod objects;
pub(crate) mod order;
pub mod outside;
pub(crate) mod packets;
pub mod profile;
pub mod row;
pub mod session;
pub mod stages;
pub mod suite;
mod switch;
pub mod veths;
