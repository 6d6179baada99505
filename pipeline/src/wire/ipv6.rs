//! IPv6 (RFC 8200) and its extension headers, followed as far as a limit.

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv6Addr;

use super::field::{Field, read};
use super::{Defect, bytes_at, put, u16_at};
use crate::limits::EXTENSION_HEADERS_MAX;

/// Bytes of the fixed header.
pub const LEN: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// The fixed IPv6 header in place.
pub struct Ipv6<B>(B);

impl<'a> Ipv6<&'a [u8; LEN]> {
    /// The header at the front of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Ipv6)
    }
}

impl<'a> Ipv6<&'a mut [u8; LEN]> {
    /// The header at the front of `bytes`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Option<Self> {
        bytes.first_chunk_mut().map(Ipv6)
    }
}

impl<B: Borrow<[u8; LEN]>> Ipv6<B> {
    /// 6 in a well-formed header.
    pub fn version(&self) -> u8 {
        read(Field::Version);
        self.0.borrow()[0] >> 4
    }

    /// DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        read(Field::TrafficClass);
        self.0.borrow()[0] << 4 | self.0.borrow()[1] >> 4
    }

    /// Bytes behind this header.
    pub fn payload_len(&self) -> usize {
        read(Field::Length);
        usize::from(u16_at(self.0.borrow(), 4).unwrap_or_default())
    }

    /// What follows, be it an extension header.
    pub fn next_header(&self) -> u8 {
        read(Field::Protocol);
        self.0.borrow()[6]
    }

    /// Hops left.
    pub fn hop_limit(&self) -> u8 {
        read(Field::Ttl);
        self.0.borrow()[7]
    }

    /// From whom.
    pub fn source(&self) -> Ipv6Addr {
        read(Field::Source);
        Ipv6Addr::from(bytes_at::<16>(self.0.borrow(), 8).unwrap_or_default())
    }

    /// To whom.
    pub fn destination(&self) -> Ipv6Addr {
        read(Field::Destination);
        Ipv6Addr::from(bytes_at::<16>(self.0.borrow(), 24).unwrap_or_default())
    }
}

impl<B: BorrowMut<[u8; LEN]>> Ipv6<B> {
    /// Sets the hops left.
    pub fn set_hop_limit(&mut self, limit: u8) {
        self.0.borrow_mut()[7] = limit;
    }

    /// Sets from whom it is.
    pub fn set_source(&mut self, address: Ipv6Addr) {
        let _ = put(self.0.borrow_mut(), 8, &address.octets());
    }

    /// Sets to whom it is.
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        let _ = put(self.0.borrow_mut(), 24, &address.octets());
    }

    /// Sets DSCP and ECN.
    pub fn set_traffic_class(&mut self, class: u8) {
        let bytes = self.0.borrow_mut();
        bytes[0] = 0x60 | class >> 4;
        bytes[1] = bytes[1] & 0xf | class << 4;
    }
}

/// Whether a packet is part of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    /// It is whole.
    #[default]
    Whole,
    /// The first part, which holds the upper-layer header.
    First,
    /// A later part, which does not.
    Later,
}

/// Where the extension headers lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Bytes from the start of the IPv6 header to it.
    pub offset: usize,
    /// Whether this is part of another packet.
    pub fragment: Fragment,
    /// What the fragments of one packet have in common; 0 where there is no fragment header.
    pub identification: u32,
}

/// Follows the extension headers of the packet `bytes`, which starts with its fixed header.
pub fn upper_layer(bytes: &[u8]) -> Result<Upper, Defect> {
    let mut protocol = Ipv6::parse(bytes).ok_or(Defect::Malformed)?.next_header();
    let mut offset = LEN;
    let mut fragment = Fragment::Whole;
    let mut identification = 0;
    for count in 0..=EXTENSION_HEADERS_MAX {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(Upper { protocol, offset, fragment, identification });
        }
        if count == EXTENSION_HEADERS_MAX {
            break;
        }
        read(Field::Fragment);
        // RFC 8200 section 4.1: Hop-by-Hop Options stand directly after the IPv6 header.
        if protocol == HOP_BY_HOP && offset != LEN {
            return Err(Defect::Malformed);
        }
        let [next, length] = bytes_at(bytes, offset).ok_or(Defect::Malformed)?;
        let size = match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => usize::from(length) * 4 + 8,
            _ => usize::from(length) * 8 + 8,
        };
        if bytes.len() < offset + size {
            return Err(Defect::Malformed);
        }
        if protocol == FRAGMENT {
            let part = u16_at(bytes, offset + 2).ok_or(Defect::Malformed)?;
            identification =
                bytes_at(bytes, offset + 4).map(u32::from_be_bytes).ok_or(Defect::Malformed)?;
            if part & 0xfff8 != 0 {
                let (fragment, offset) = (Fragment::Later, offset + size);
                return Ok(Upper { protocol: next, offset, fragment, identification });
            }
            // An atomic fragment (RFC 6946) is a whole packet.
            if part & 1 != 0 {
                fragment = Fragment::First;
            }
        }
        protocol = next;
        offset += size;
    }
    Err(Defect::ExtensionHeaders)
}

/// A fixed IPv6 header to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits that spread flows over paths.
    pub flow_label: u32,
    /// Bytes behind the header.
    pub payload_len: u16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// From whom.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
}

impl Repr {
    /// Writes the header to the front of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..LEN)?;
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        put(bytes, 0, &first.to_be_bytes())?;
        put(bytes, 4, &self.payload_len.to_be_bytes())?;
        put(bytes, 6, &[self.next_header, self.hop_limit])?;
        put(bytes, 8, &self.source.octets())?;
        put(bytes, 24, &self.destination.octets())
    }
}
