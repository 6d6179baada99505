//! UDP (RFC 768).

use super::field::{Field, read};
use super::{put, u16_at};

/// Its protocol number.
pub const PROTOCOL: u8 = 17;
/// Bytes of the header.
pub const LEN: usize = 8;
/// Bytes from the header to the checksum.
pub const CHECKSUM_OFFSET: usize = 6;

/// A UDP header in place.
pub struct Udp<'a>(&'a [u8; LEN]);

impl<'a> Udp<'a> {
    /// The header at the front of `bytes`; `None` when it is not whole, or its length cannot be.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let view = Udp(bytes.first_chunk()?);
        (view.len() >= LEN && view.len() <= bytes.len()).then_some(view)
    }

    /// The sender's port.
    pub fn source_port(&self) -> u16 {
        read(Field::SourcePort);
        u16_at(self.0, 0).unwrap_or_default()
    }

    /// The receiver's port.
    pub fn destination_port(&self) -> u16 {
        read(Field::DestinationPort);
        u16_at(self.0, 2).unwrap_or_default()
    }

    /// Bytes of header and payload.
    #[allow(clippy::len_without_is_empty, reason = "never empty: it counts the header")]
    pub fn len(&self) -> usize {
        read(Field::UpperLength);
        usize::from(u16_at(self.0, 4).unwrap_or_default())
    }

    /// 0 when the sender did not sum.
    pub fn checksum(&self) -> u16 {
        read(Field::UpperChecksum);
        u16_at(self.0, CHECKSUM_OFFSET).unwrap_or_default()
    }
}

/// A UDP header to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// Bytes of header and payload.
    pub len: u16,
}

impl Repr {
    /// Writes the header to the front of `bytes`, its checksum zero.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..LEN)?;
        put(bytes, 0, &self.source_port.to_be_bytes())?;
        put(bytes, 2, &self.destination_port.to_be_bytes())?;
        put(bytes, 4, &self.len.to_be_bytes())?;
        put(bytes, CHECKSUM_OFFSET, &[0, 0])
    }
}
