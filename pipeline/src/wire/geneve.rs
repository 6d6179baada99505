//! Geneve (RFC 8926), carrying Ethernet in network 0.

use super::field::{Field, read};
use super::{bytes_at, put};

/// Its UDP port.
pub const PORT: u16 = 6081;
/// Bytes of a header without options.
pub const LEN: usize = 8;
/// Transparent Ethernet bridging: the only payload spoken here.
const ETHERNET: [u8; 2] = [0x65, 0x58];
/// Marks an option that a receiver must understand.
const CRITICAL: u8 = 0x80;

/// A Geneve header is not one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotUnderstood;

/// Bytes of the Geneve header at the front of `bytes`, options included, if this node understands
/// it: version 0, no control message, Ethernet inside, network 0, and no critical option, none
/// being known. Other options are skipped, as section 2.2.1 asks.
pub fn header_len(bytes: &[u8]) -> Result<usize, NotUnderstood> {
    read(Field::Tunnel);
    let [first, flags, protocol @ .., a, b, c, _] =
        bytes_at::<LEN>(bytes, 0).ok_or(NotUnderstood)?;
    let (version, options) = (first >> 6, usize::from(first & 0x3f) * 4);
    // Bit 7 marks a control packet; bit 6 says that a critical option is there.
    if version != 0 || flags & 0xc0 != 0 || protocol != ETHERNET || [a, b, c] != [0; 3] {
        return Err(NotUnderstood);
    }
    let mut rest = bytes.get(LEN..LEN + options).ok_or(NotUnderstood)?;
    while !rest.is_empty() {
        let [_, _, kind, length] = bytes_at(rest, 0).ok_or(NotUnderstood)?;
        if kind & CRITICAL != 0 {
            return Err(NotUnderstood);
        }
        rest = rest.get(4 + usize::from(length & 0x1f) * 4..).ok_or(NotUnderstood)?;
    }
    Ok(LEN + options)
}

/// Writes a header without options to the front of `bytes`.
pub fn emit(bytes: &mut [u8]) -> Option<()> {
    let [high, low] = ETHERNET;
    put(bytes, 0, &[0, 0, high, low, 0, 0, 0, 0])
}
