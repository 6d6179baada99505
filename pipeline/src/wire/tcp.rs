//! TCP (RFC 9293), as far as a switch needs it.

use super::field::{Field, read};
use super::{bytes_at, put, u16_at};

/// Its protocol number.
pub const PROTOCOL: u8 = 6;
/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Bytes from the header to the flags.
pub const FLAGS_OFFSET: usize = 13;
/// Bytes from the header to the checksum.
pub const CHECKSUM_OFFSET: usize = 16;
/// The flag of a sender's last byte.
pub const FIN: u8 = 0x01;
/// The flag of a sender's first packet.
pub const SYN: u8 = 0x02;
/// The flag that ends a connection at once.
pub const RST: u8 = 0x04;
/// The flag that the acknowledgement number means something.
pub const ACK: u8 = 0x10;

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
        read(Field::SourcePort);
        u16_at(self.0, 0).unwrap_or_default()
    }

    /// The receiver's port.
    pub fn destination_port(&self) -> u16 {
        read(Field::DestinationPort);
        u16_at(self.0, 2).unwrap_or_default()
    }

    /// Bytes of the header, options included.
    pub fn header_len(&self) -> usize {
        read(Field::UpperLength);
        usize::from(self.0[12] >> 4) * 4
    }

    /// FIN, SYN, RST, PSH, ACK, URG, ECE and CWR, from the lowest bit on.
    pub fn flags(&self) -> u8 {
        read(Field::TcpFlags);
        self.0[13]
    }

    /// The number of its first byte.
    pub fn sequence(&self) -> u32 {
        read(Field::TcpNumbers);
        u32::from_be_bytes(bytes_at(self.0, 4).unwrap_or_default())
    }

    /// The number of the byte that its sender waits for.
    pub fn acknowledgement(&self) -> u32 {
        read(Field::TcpNumbers);
        u32::from_be_bytes(bytes_at(self.0, 8).unwrap_or_default())
    }
}

/// A TCP header that answers a segment for which there is no connection, to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetRepr {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// The number that the other end waits for, if it has said so.
    pub sequence: u32,
    /// What is acknowledged, if the other end has acknowledged nothing itself.
    pub acknowledgement: Option<u32>,
}

impl ResetRepr {
    /// The answer to a segment of which `len` bytes, header included, are there; none to a reset
    /// (RFC 9293 section 3.10.7.1).
    pub fn answering(segment: &Tcp<'_>, len: usize) -> Option<ResetRepr> {
        let flags = segment.flags();
        if flags & RST != 0 {
            return None;
        }
        // A segment is at most 64 KiB.
        let payload = len.checked_sub(segment.header_len())? as u32;
        let counted = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let acknowledged = flags & ACK != 0;
        Some(ResetRepr {
            source_port: segment.destination_port(),
            destination_port: segment.source_port(),
            sequence: if acknowledged { segment.acknowledgement() } else { 0 },
            acknowledgement: (!acknowledged).then(|| segment.sequence().wrapping_add(counted)),
        })
    }

    /// Writes the header to the front of `bytes`, its checksum zero.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        let header = bytes.first_chunk_mut::<LEN>()?;
        *header = [0; LEN];
        let flags = if self.acknowledgement.is_some() { RST | ACK } else { RST };
        put(header, 0, &self.source_port.to_be_bytes())?;
        put(header, 2, &self.destination_port.to_be_bytes())?;
        put(header, 4, &self.sequence.to_be_bytes())?;
        put(header, 8, &self.acknowledgement.unwrap_or_default().to_be_bytes())?;
        put(header, 12, &[0x50, flags])
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
