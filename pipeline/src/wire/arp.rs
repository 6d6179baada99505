//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::put;
use crate::address::Mac;

/// Bytes of the packet.
pub const LEN: usize = 28;
/// Ethernet, IPv4, and the lengths of their addresses.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// I have.
    Reply,
}

/// An ARP packet in whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// Request or reply.
    pub operation: Operation,
    /// Who speaks.
    pub sender_mac: Mac,
    /// Its address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Who is meant; without meaning in a request.
    pub target_mac: Mac,
    /// Whose MAC address is wanted.
    pub target: Ipv4Addr,
}

impl Repr {
    /// Reads the packet at the front of `bytes`; `None` when it is not whole, or not about IPv4
    /// over Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<Repr> {
        let (fixed, rest) = bytes.first_chunk::<LEN>()?.split_first_chunk::<6>()?;
        if *fixed != FIXED {
            return None;
        }
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let operation = match u16::from_be_bytes(*operation) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return None,
        };
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target, _) = rest.split_first_chunk::<4>()?;
        Some(Repr {
            operation,
            sender_mac: Mac(*sender_mac),
            sender: Ipv4Addr::from(*sender),
            target_mac: Mac(*target_mac),
            target: Ipv4Addr::from(*target),
        })
    }

    /// Writes the packet to the front of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..LEN)?;
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        put(bytes, 0, &FIXED)?;
        put(bytes, 6, &operation.to_be_bytes())?;
        put(bytes, 8, &self.sender_mac.0)?;
        put(bytes, 14, &self.sender.octets())?;
        put(bytes, 18, &self.target_mac.0)?;
        put(bytes, 24, &self.target.octets())
    }
}
