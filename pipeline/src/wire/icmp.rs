//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the common header, and the errors a router sends.

use super::put;

/// ICMP's protocol number.
pub const PROTOCOL_V4: u8 = 1;
/// ICMPv6's protocol number.
pub const PROTOCOL_V6: u8 = 58;
/// Bytes of the header of an echo or an error.
pub const LEN: usize = 8;
/// Bytes from the header to the checksum.
pub const CHECKSUM_OFFSET: usize = 2;
/// Bytes from the header of a query to its identifier.
pub const IDENTIFIER_OFFSET: usize = 4;
/// An ICMP echo request.
pub const ECHO_REQUEST_V4: u8 = 8;
/// An ICMPv6 echo request.
pub const ECHO_REQUEST_V6: u8 = 128;

/// Whether a message asks: it has an identifier, which its answer repeats (RFC 792: echo,
/// timestamp, information; RFC 950: address mask; RFC 4443: echo).
pub fn is_query(v6: bool, kind: u8) -> bool {
    if v6 { kind == ECHO_REQUEST_V6 } else { matches!(kind, ECHO_REQUEST_V4 | 13 | 15 | 17) }
}

/// The type of query that a message answers; `None` when it is no answer.
pub fn query_of(v6: bool, kind: u8) -> Option<u8> {
    match (v6, kind) {
        (true, 129) => Some(ECHO_REQUEST_V6),
        (false, 0) => Some(ECHO_REQUEST_V4),
        (false, 14 | 16 | 18) => Some(kind - 1),
        _ => None,
    }
}

/// Whether a message is the answer to a query.
pub fn is_answer(v6: bool, kind: u8) -> bool {
    query_of(v6, kind).is_some()
}

/// Whether a message tells a sender what became of a packet, and quotes it. A redirect does, too,
/// but only a router on the sender's own link may send one.
pub fn is_report(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// Whether an ICMP type is an error: no error is ever sent about one (RFC 1122 section 3.2.2).
pub fn is_error_v4(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether an ICMPv6 type is an error or a redirect (RFC 4443 section 2.4 (e)).
pub fn is_error_v6(kind: u8) -> bool {
    kind < 128 || kind == 137
}

/// An error to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// TTL or hop limit ran out on the way.
    TimeExceeded,
    /// Larger than the next link takes.
    TooBig {
        /// What it takes, in bytes.
        mtu: u16,
    },
    /// A policy forbids it.
    Prohibited,
    /// Nobody serves this port.
    PortUnreachable,
}

impl Error {
    /// Writes an ICMP error header, its checksum zero.
    pub fn emit_v4(self, bytes: &mut [u8]) -> Option<()> {
        let (kind, code, mtu) = match self {
            Error::TimeExceeded => (11, 0, 0),
            Error::TooBig { mtu } => (3, 4, mtu),
            Error::Prohibited => (3, 10, 0),
            Error::PortUnreachable => (3, 3, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        put(bytes, 0, &[kind, code, 0, 0, 0, 0, high, low])
    }

    /// Writes an ICMPv6 error header, its checksum zero.
    pub fn emit_v6(self, bytes: &mut [u8]) -> Option<()> {
        let (kind, code, mtu) = match self {
            Error::TimeExceeded => (3, 0, 0),
            Error::TooBig { mtu } => (2, 0, mtu),
            Error::Prohibited => (1, 1, 0),
            Error::PortUnreachable => (1, 4, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        put(bytes, 0, &[kind, code, 0, 0, 0, 0, high, low])
    }
}

/// An echo request to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EchoRepr {
    /// The type of the address family's echo request.
    pub kind: u8,
    /// Tells conversations apart.
    pub identifier: u16,
    /// Counts within one.
    pub sequence: u16,
}

impl EchoRepr {
    /// Writes the header to the front of `bytes`, its checksum zero.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..LEN)?;
        put(bytes, 0, &[self.kind, 0, 0, 0])?;
        put(bytes, 4, &self.identifier.to_be_bytes())?;
        put(bytes, 6, &self.sequence.to_be_bytes())
    }
}
