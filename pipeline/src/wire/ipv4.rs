//! IPv4 (RFC 791).

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv4Addr;

use super::field::{Field, read};
use super::{bytes_at, checksum, put};

/// Bytes of a header without options.
pub const LEN: usize = 20;

/// The fixed part of an IPv4 header in place.
pub struct Ipv4<B>(B);

impl<'a> Ipv4<&'a [u8; LEN]> {
    /// The header at the front of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Ipv4)
    }
}

impl<'a> Ipv4<&'a mut [u8; LEN]> {
    /// The header at the front of `bytes`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Option<Self> {
        bytes.first_chunk_mut().map(Ipv4)
    }
}

impl<B: Borrow<[u8; LEN]>> Ipv4<B> {
    fn word<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(bytes_at(self.0.borrow(), AT).unwrap_or_default())
    }

    /// 4 in a well-formed header.
    pub fn version(&self) -> u8 {
        read(Field::Version);
        self.0.borrow()[0] >> 4
    }

    /// Bytes of the header, options included.
    pub fn header_len(&self) -> usize {
        read(Field::Version);
        usize::from(self.0.borrow()[0] & 0xf) * 4
    }

    /// DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        read(Field::TrafficClass);
        self.0.borrow()[1]
    }

    /// Bytes of header and payload.
    pub fn total_len(&self) -> usize {
        read(Field::Length);
        usize::from(self.word::<2>())
    }

    /// Whether routers may not fragment it.
    pub fn dont_fragment(&self) -> bool {
        read(Field::Fragment);
        self.word::<6>() & 0x4000 != 0
    }

    /// Whether more fragments follow.
    pub fn more_fragments(&self) -> bool {
        read(Field::Fragment);
        self.word::<6>() & 0x2000 != 0
    }

    /// What the fragments of one packet have in common.
    pub fn identification(&self) -> u16 {
        read(Field::Fragment);
        self.word::<4>()
    }

    /// Bytes that this fragment's payload lies behind the start of the whole.
    pub fn fragment_offset(&self) -> usize {
        read(Field::Fragment);
        usize::from(self.word::<6>() & 0x1fff) * 8
    }

    /// Hops left.
    pub fn ttl(&self) -> u8 {
        read(Field::Ttl);
        self.0.borrow()[8]
    }

    /// What follows.
    pub fn protocol(&self) -> u8 {
        read(Field::Protocol);
        self.0.borrow()[9]
    }

    /// From whom.
    pub fn source(&self) -> Ipv4Addr {
        read(Field::Source);
        Ipv4Addr::from(bytes_at::<4>(self.0.borrow(), 12).unwrap_or_default())
    }

    /// To whom.
    pub fn destination(&self) -> Ipv4Addr {
        read(Field::Destination);
        Ipv4Addr::from(bytes_at::<4>(self.0.borrow(), 16).unwrap_or_default())
    }
}

impl<B: BorrowMut<[u8; LEN]>> Ipv4<B> {
    fn replace(&mut self, at: usize, new: [u8; 2]) {
        let bytes = self.0.borrow_mut();
        let old = bytes_at(bytes.as_slice(), at).map_or(0, u16::from_be_bytes);
        let sum = bytes_at(bytes.as_slice(), 10).map_or(0, u16::from_be_bytes);
        let sum = checksum::replace(sum, old, u16::from_be_bytes(new));
        let _ = put(bytes, at, &new);
        let _ = put(bytes, 10, &sum.to_be_bytes());
    }

    /// Sets the hops left, header checksum included.
    pub fn set_ttl(&mut self, ttl: u8) {
        let protocol = self.protocol();
        self.replace(8, [ttl, protocol]);
    }

    /// Sets from whom it is, header checksum included.
    pub fn set_source(&mut self, address: Ipv4Addr) {
        let [a, b, c, d] = address.octets();
        self.replace(12, [a, b]);
        self.replace(14, [c, d]);
    }

    /// Sets to whom it is, header checksum included.
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        let [a, b, c, d] = address.octets();
        self.replace(16, [a, b]);
        self.replace(18, [c, d]);
    }

    /// Sets DSCP and ECN, header checksum included.
    pub fn set_traffic_class(&mut self, class: u8) {
        let first = self.0.borrow()[0];
        self.replace(0, [first, class]);
    }
}

/// An IPv4 header without options to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of header and payload.
    pub total_len: u16,
    /// Whether routers may not fragment it.
    pub dont_fragment: bool,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// From whom.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
}

impl Repr {
    /// Writes the header to the front of `bytes`. Its identification is 0, which RFC 6864 allows
    /// for what is never fragmented.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        let header = bytes.first_chunk_mut::<LEN>()?;
        *header = [0; LEN];
        put(header, 0, &[0x45, self.traffic_class])?;
        put(header, 2, &self.total_len.to_be_bytes())?;
        put(header, 6, &[if self.dont_fragment { 0x40 } else { 0 }, 0])?;
        put(header, 8, &[self.ttl, self.protocol])?;
        put(header, 12, &self.source.octets())?;
        put(header, 16, &self.destination.octets())?;
        let sum = checksum::checksum(header.as_slice());
        put(header, 10, &sum.to_be_bytes())
    }
}
