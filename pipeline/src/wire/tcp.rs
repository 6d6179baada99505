//! TCP (RFC 9293), as far as a switch needs it.

use super::{put, u16_at};

/// Its protocol number.
pub const PROTOCOL: u8 = 6;
/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Bytes from the header to the checksum.
pub const CHECKSUM_OFFSET: usize = 16;

/// The fixed part of a TCP header in place.
pub struct Tcp<'a>(&'a [u8; LEN]);

impl<'a> Tcp<'a> {
    /// The header at the front of `bytes`; `None` when it is not whole, options included.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let view = Tcp(bytes.first_chunk()?);
        (view.header_len() >= LEN && view.header_len() <= bytes.len()).then_some(view)
    }

    /// The sender's port.
    pub fn source_port(&self) -> u16 {
        u16_at(self.0, 0).unwrap_or_default()
    }

    /// The receiver's port.
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0, 2).unwrap_or_default()
    }

    /// Bytes of the header, options included.
    pub fn header_len(&self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }
}

/// A TCP header that opens a connection, to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynRepr {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
}

impl SynRepr {
    /// Writes the header to the front of `bytes`, its checksum zero.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        let header = bytes.first_chunk_mut::<LEN>()?;
        *header = [0; LEN];
        put(header, 0, &self.source_port.to_be_bytes())?;
        put(header, 2, &self.destination_port.to_be_bytes())?;
        put(header, 12, &[0x50, 0x02, 0xff, 0xff])
    }
}
