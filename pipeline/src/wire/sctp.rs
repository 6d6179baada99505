//! SCTP (RFC 9260), as far as a switch needs it.

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
