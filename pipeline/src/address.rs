//! Addresses as types: a MAC address, a port of this node, what a packet came in by.

use std::fmt;

use crate::limits::PORTS_MAX;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The destination of every tunnelled packet, and the answer for a peer's gateway address
    /// (Antrea's global virtual MAC).
    pub const VIRTUAL: Mac = Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    /// All stations.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether the group bit is set: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether it can be the address of one interface: neither a group nor all zero.
    pub fn is_unicast(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The index of a port of this node: below [`PORTS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(u16);

impl PortId {
    /// `None` when the index is not below [`PORTS_MAX`].
    pub const fn new(index: usize) -> Option<PortId> {
        // The cast cannot cut: PORTS_MAX fits 16 bits.
        if index < PORTS_MAX { Some(PortId(index as u16)) } else { None }
    }

    /// For indexing tables of [`PORTS_MAX`] entries.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a VLAN that frames can be tagged with: 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vlan(u16);

impl Vlan {
    /// `None` for 0, which means no VLAN, for 4095, which is reserved, and for what is above.
    pub const fn new(number: u16) -> Option<Vlan> {
        if number >= 1 && number <= 4094 { Some(Vlan(number)) } else { None }
    }

    /// As a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a port is to the pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortKind {
    /// A Pod of this node.
    Pod,
    /// `seine-gw0`, the node's own leg into the Pod network.
    Gateway,
    /// `seine-host0`: what the node itself sends into the Pod network comes in by it, and nothing
    /// that it forwards for others. Like the gateway in all else.
    Host,
    /// The node's NIC; only claimed traffic (the tunnel's) comes in by it.
    Uplink,
}
