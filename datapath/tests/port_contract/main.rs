//! What every kind of port promises: one suite, run over each kind.
//!
//! Kinds that need the kernel run with `cargo test -p seine-datapath -- --include-ignored`.

#![allow(unsafe_code, reason = "raw sockets, as the far end of real devices")]
#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(missing_docs, reason = "the items of a test binary")]

mod af_xdp;
mod device;
mod guest;
mod kinds;
mod loan;
mod refusals;
mod segments;
mod suite;
mod tap;
mod uplink;
mod vhost_user;

use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::port::Queue;
use seine_pipeline::packet::Checksum;

/// A packet and the fact about its checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = &self.bytes[..self.bytes.len().min(64)];
        write!(f, "{} bytes, {:?}: {head:02x?}", self.bytes.len(), self.checksum)
    }
}

impl Sample {
    /// A frame of an experimental protocol that no kernel acts on, of `len` bytes, telling its
    /// number.
    pub fn numbered(number: u32, len: usize) -> Sample {
        let mut bytes = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5];
        bytes.extend(number.to_be_bytes());
        bytes.extend((bytes.len()..len).map(|at| (at as u32 ^ number) as u8));
        Sample { bytes, checksum: Checksum::Complete }
    }

    pub fn number(&self) -> u32 {
        u32::from_be_bytes(self.bytes[14..18].try_into().unwrap())
    }
}

/// The far end of a port's wire.
pub trait Wire {
    /// Sends towards the port; `false` when it cannot now, or never.
    fn send(&mut self, sample: &Sample) -> bool;
    /// What arrived from the port, in order.
    fn collect(&mut self) -> Option<Sample>;
}

/// An open port with one queue, and all around it.
pub struct Bench {
    pub region: &'static Region,
    pub frames: FrameCache,
    pub queue: Box<dyn Queue>,
    pub wire: Box<dyn Wire>,
    /// Keeps namespaces and files until the test ends.
    pub surroundings: Box<dyn std::any::Any>,
}

/// A kind of port.
pub trait Kind {
    /// Opens one, with these packets on their way to it.
    fn open(&self, offered: &[Sample]) -> Bench;
    /// Frames that `transmit` takes at least before the first `flush`, and must not all take if
    /// offered twice that; `None` when it always takes all.
    fn transmit_ring(&self) -> Option<usize>;
    /// Whether packets can be sent to it once it is open.
    fn live(&self) -> bool {
        true
    }
    /// Bytes of a frame that is too long for the device.
    fn oversize(&self) -> usize;
}
