//! A guest without the guest: the driver's side of vhost-user ports, as traffic generator and sink.
//!
//! A [`FrontEnd`] shares its memory with a back end (our datapath, Open vSwitch, testpmd), offers
//! it buffers in rings, and polls them. One process drives as many as it likes, which DPDK's own
//! driver cannot (32 ports).
//!
//! ```text
//!   FrontEnd: what to send and what came    handshake: rings and memory, over the unix socket
//!   SplitRing, PackedRing: whose buffer     SharedMemory: the bytes, the only `unsafe` here
//! ```
//! It trusts its back end as far as a guest must: what a back end writes is checked before it is
//! used, and a broken one is an error or a panic here, never wild memory.

#[cfg(test)]
mod echo;
mod front_end;
mod handshake;
mod memory;
mod packed;
mod ring;
mod split;

pub use front_end::{FrontEnd, FrontEndOptions, HEADER_BYTES, Listener, Received};
pub use handshake::{HandshakeError, feature};
pub use memory::{Pages, SharedMemory};
