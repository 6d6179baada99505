//! Protocol headers, one file each: a view to read and rewrite in place, a `Repr` to build.
//!
//! A view stands on a fixed-size array cut off the front of the bytes, so a header that is not
//! whole has no view, and no access can leave it. What the payload holds is not looked at.
#![deny(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unreachable
)]

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod dns;
pub mod ethernet;
pub mod field;
pub mod geneve;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod neighbor;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

/// What is wrong with a packet's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// It ends too early, or a length or version contradicts it.
    Malformed,
    /// The IPv4 header checksum is wrong.
    Checksum,
    /// More extension headers than are followed.
    ExtensionHeaders,
}

/// `N` bytes from `at` on, if there are so many.
#[inline]
pub fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The 16-bit number at `at`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

/// Puts `value` at `at`; `None`, and no change, when it does not fit.
#[inline]
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
    Some(())
}
