//! Open vSwitch with DPDK, and DPDK alone, under the traffic that [`forward`](crate::forward) sends
//! through Seine: the same Pods, connections, policies, order and number of packets under way.
//!
//! ```text
//!                 core 1                                        core 0
//!   Generator: 64 front ends, frames out and in  ──rings──▶  a poller of Open vSwitch, or testpmd
//! ```
//! The generator is our own [`virtio`](crate::virtio) driver in this process; everything else of
//! the peer (its database, its main thread) is on the generator's core as well, so that the poller
//! has its core alone. What the poller says of its own cycles is the figure.

pub mod delays;
pub mod figures;
pub mod room;
pub mod rows;
pub mod session;
pub mod testpmd;
pub mod vswitch;
