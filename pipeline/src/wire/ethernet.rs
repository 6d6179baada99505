//! Ethernet II.

use std::borrow::{Borrow, BorrowMut};

use super::field::{Field, read};
use super::put;
use crate::address::Mac;

/// Bytes of the header.
pub const LEN: usize = 14;
/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// A VLAN tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;
/// A service tag (IEEE 802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;

/// An Ethernet header in place.
pub struct Ethernet<B>(B);

impl<'a> Ethernet<&'a [u8; LEN]> {
    /// The header at the front of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Ethernet)
    }
}

impl<'a> Ethernet<&'a mut [u8; LEN]> {
    /// The header at the front of `bytes`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Option<Self> {
        bytes.first_chunk_mut().map(Ethernet)
    }
}

impl<B: Borrow<[u8; LEN]>> Ethernet<B> {
    /// To whom.
    pub fn destination(&self) -> Mac {
        read(Field::EthernetDestination);
        let [a, b, c, d, e, f, ..] = *self.0.borrow();
        Mac([a, b, c, d, e, f])
    }

    /// From whom.
    pub fn source(&self) -> Mac {
        read(Field::EthernetSource);
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0.borrow();
        Mac([a, b, c, d, e, f])
    }

    /// What follows.
    pub fn ether_type(&self) -> u16 {
        read(Field::EtherType);
        let [.., high, low] = *self.0.borrow();
        u16::from_be_bytes([high, low])
    }
}

impl<B: BorrowMut<[u8; LEN]>> Ethernet<B> {
    /// Rewrites both addresses.
    pub fn set_addresses(&mut self, source: Mac, destination: Mac) {
        let [to @ .., _, _, _, _, _, _, _, _] = self.0.borrow_mut();
        *to = destination.0;
        let [_, _, _, _, _, _, from @ .., _, _] = self.0.borrow_mut();
        *from = source.0;
    }
}

/// An Ethernet header to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What follows.
    pub ether_type: u16,
}

impl Repr {
    /// Writes the header to the front of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..LEN)?;
        put(bytes, 0, &self.destination.0)?;
        put(bytes, 6, &self.source.0)?;
        put(bytes, 12, &self.ether_type.to_be_bytes())
    }
}
