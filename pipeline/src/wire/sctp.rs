//! SCTP (RFC 9260), as far as a switch needs it.

/// Its protocol number.
pub const PROTOCOL: u8 = 132;
/// Bytes of the common header.
pub const LEN: usize = 12;
/// Bytes from the header to the checksum, a CRC32c.
pub const CHECKSUM_OFFSET: usize = 8;
