//! VXLAN (RFC 7348), carrying Ethernet in network 0.

use super::field::{Field, read};
use super::{bytes_at, put};

/// Its UDP port.
pub const PORT: u16 = 4789;
/// Bytes of the header.
pub const LEN: usize = 8;
/// Says that the network's number is valid; the other flags are to be ignored.
const VALID: u8 = 0x08;

/// A VXLAN header is not one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotUnderstood;

/// Bytes of the VXLAN header at the front of `bytes`, if it is of network 0.
pub fn header_len(bytes: &[u8]) -> Result<usize, NotUnderstood> {
    read(Field::Tunnel);
    let [flags, _, _, _, network @ .., _] = bytes_at::<LEN>(bytes, 0).ok_or(NotUnderstood)?;
    (flags & VALID != 0 && network == [0; 3]).then_some(LEN).ok_or(NotUnderstood)
}

/// Writes a header to the front of `bytes`.
pub fn emit(bytes: &mut [u8]) -> Option<()> {
    put(bytes, 0, &[VALID, 0, 0, 0, 0, 0, 0, 0])
}
