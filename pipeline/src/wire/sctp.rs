//! SCTP (RFC 9260), as far as a switch needs it.

use super::{bytes_at, crc32c, put};

/// Its protocol number.
pub const PROTOCOL: u8 = 132;
/// Bytes of the common header.
pub const LEN: usize = 12;
/// Bytes from the header to the checksum, a CRC32c.
pub const CHECKSUM_OFFSET: usize = 8;
/// The type of a chunk that asks for an association.
pub const INIT: u8 = 1;
/// The type of its answer.
pub const INIT_ACK: u8 = 2;
/// The type of a chunk that ends an association at once.
pub const ABORT: u8 = 6;
/// The type of the last chunk of one that is shut down.
pub const SHUTDOWN_COMPLETE: u8 = 14;
/// Sums a packet whose checksum is zero, as nobody has summed it yet.
pub fn fill_in(packet: &mut [u8]) {
    if bytes_at(packet, CHECKSUM_OFFSET) == Some([0; 4]) {
        let sum = crc32c::checksum(&[packet]);
        let _ = put(packet, CHECKSUM_OFFSET, &sum.to_le_bytes());
    }
}

/// Bytes of an INIT chunk without parameters.
pub const INIT_LEN: usize = 20;

/// A packet with an INIT, to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitRepr {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
}

impl InitRepr {
    /// Makes `bytes` such a packet, with its checksum; what lies behind the chunk's fixed part is
    /// summed as it is.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        put(bytes, 0, &[0; LEN + INIT_LEN])?;
        put(bytes, 0, &self.source_port.to_be_bytes())?;
        put(bytes, 2, &self.destination_port.to_be_bytes())?;
        put(bytes, LEN, &[INIT, 0, 0, INIT_LEN as u8])?;
        // Tag, window, one stream each way, first sequence number.
        put(bytes, LEN + 4, &[0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1])?;
        fill_in(bytes);
        Some(())
    }
}
