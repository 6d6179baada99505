//! What the stages decided about one direction of a connection, in 32 bits: where its packets
//! leave, and what is rewritten on the way.
//!
//! ```text
//!  0  egress port (10 bits)   10  rewrite of MAC addresses (2)   12  who was addressed (2)
//! 14  the TTL is lowered      15  addresses or ports change      16  next hop of a tunnel (13)
//! 29  always set
//! ```
//!
//! What it refers to by index, MAC addresses, MTU and next hops, is read when it is used.

use crate::address::PortId;
use crate::adjacency::AdjacencyId;
use crate::limits::{ADJACENCIES_MAX, PORTS_MAX};

const _: () = assert!(PORTS_MAX <= 1 << 10 && ADJACENCIES_MAX <= 1 << 13);

const REWRITE_SHIFT: u32 = 10;
const ADDRESSED_SHIFT: u32 = 12;
const LOWER: u32 = 1 << 14;
const TRANSLATE: u32 = 1 << 15;
const ADJACENCY_SHIFT: u32 = 16;
const SET: u32 = 1 << 29;

/// What becomes of a packet's MAC addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rewrite {
    /// Nothing: it is switched.
    None,
    /// From the gateway to whoever is behind the egress port.
    ToStation,
    /// From the virtual address to the gateway.
    ToGateway,
    /// From the gateway to the virtual address, and into the tunnel.
    ToPeer,
}

/// Which MAC address its sender sends it to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Addressed {
    /// That of whoever is behind the egress port.
    Station,
    /// The gateway's.
    Gateway,
    /// The virtual one.
    Virtual,
    /// Whichever of those that the tunnel's end takes: it comes by the tunnel.
    Any,
}

/// What was decided about one direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shortcut {
    /// Where its packets leave.
    pub egress: PortId,
    /// What becomes of their MAC addresses.
    pub rewrite: Rewrite,
    /// Whom their sender sends them to.
    pub addressed: Addressed,
    /// Whether their TTL is lowered.
    pub lower: bool,
    /// Whether their addresses or ports are translated.
    pub translate: bool,
    /// The next hop towards the peer, for those that go into a tunnel or come by one.
    pub adjacency: Option<AdjacencyId>,
}

impl Shortcut {
    /// As one word; never 0.
    pub fn word(self) -> u32 {
        let mut word = SET | self.egress.index() as u32;
        word |= (self.rewrite as u32) << REWRITE_SHIFT;
        word |= (self.addressed as u32) << ADDRESSED_SHIFT;
        word |= if self.lower { LOWER } else { 0 };
        word |= if self.translate { TRANSLATE } else { 0 };
        let adjacency = self.adjacency.map_or(0, AdjacencyId::index);
        word | (adjacency as u32) << ADJACENCY_SHIFT
    }

    /// What [`word`](Self::word) made a word of; `None` of one that was never made.
    #[inline(always)]
    pub fn from_word(word: u32) -> Option<Shortcut> {
        if word & SET == 0 {
            return None;
        }
        let rewrite = match (word >> REWRITE_SHIFT) & 3 {
            0 => Rewrite::None,
            1 => Rewrite::ToStation,
            2 => Rewrite::ToGateway,
            _ => Rewrite::ToPeer,
        };
        let addressed = match (word >> ADDRESSED_SHIFT) & 3 {
            0 => Addressed::Station,
            1 => Addressed::Gateway,
            2 => Addressed::Virtual,
            _ => Addressed::Any,
        };
        let adjacency = (word >> ADJACENCY_SHIFT) as usize & (ADJACENCIES_MAX - 1);
        let tunnelled = rewrite == Rewrite::ToPeer || addressed == Addressed::Any;
        Some(Shortcut {
            egress: PortId::new(word as usize & (PORTS_MAX - 1))?,
            rewrite,
            addressed,
            lower: word & LOWER != 0,
            translate: word & TRANSLATE != 0,
            adjacency: if tunnelled { AdjacencyId::new(adjacency) } else { None },
        })
    }
}
