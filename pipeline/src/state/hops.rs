//! What the packet path asks of a port, by its index: 24 bytes instead of three tables.
//!
//! Derived from Ports, Endpoints and the Node whenever one of them changes.

use std::sync::Arc;

use super::State;
use crate::address::{Mac, PortId, PortKind};
use crate::connection::{Ingress, IngressWords};
use crate::limits::PORTS_MAX;

/// A port as packets under way meet it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hop {
    /// The MAC address of whoever is behind it, in the lower 48 bits.
    pub(crate) mac: u64,
    /// What a key says of packets that come in by it.
    pub(crate) ingress: IngressWords,
    /// Largest IP packet that it takes, in bytes.
    pub(crate) mtu: u16,
    /// What it is; nothing when packets may neither come in nor leave by it.
    pub(crate) kind: Option<PortKind>,
}

/// All ports of a State.
#[derive(Clone, Debug)]
pub(crate) struct Hops {
    ports: Arc<[Hop]>,
    /// The gateway's MAC address.
    pub(crate) gateway_mac: u64,
    /// What fits the tunnel, in bytes.
    pub(crate) tunnel_mtu: u16,
}

/// A MAC address as a number.
pub(crate) const fn mac_word(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Hops {
    pub(super) fn none() -> Hops {
        Hops { ports: Arc::default(), gateway_mac: 0, tunnel_mtu: 0 }
    }

    pub(super) fn of(state: &State) -> Hops {
        let Some(node) = state.node() else { return Hops::none() };
        let last = state.open_ports().map(|port| port.id.index()).max();
        let count = last.map_or(0, |last| last + 1).min(PORTS_MAX);
        let hop =
            |index| PortId::new(index).and_then(|id| Self::hop(state, id)).unwrap_or_default();
        Hops {
            ports: (0..count).map(hop).collect(),
            gateway_mac: state.gateway().map_or(0, |gateway| mac_word(gateway.mac)),
            tunnel_mtu: node.tunnel_mtu,
        }
    }

    fn hop(state: &State, id: PortId) -> Option<Hop> {
        let port = state.port(id)?;
        let (mac, mtu) = match port.kind {
            PortKind::Pod => state.sender(id).map(|endpoint| (endpoint.mac, endpoint.mtu))?,
            PortKind::Gateway | PortKind::Host | PortKind::Uplink => (port.mac, port.mtu),
        };
        let ingress = match port.kind {
            PortKind::Pod => Ingress::Pod(id, port.generation),
            PortKind::Gateway | PortKind::Host => Ingress::Gateway,
            PortKind::Uplink => Ingress::Tunnel,
        };
        let (mac, ingress) = (mac_word(mac), ingress.words());
        Some(Hop { mac, ingress, mtu, kind: Some(port.kind) })
    }

    /// The port with this index, if packets pass it.
    #[inline]
    pub(crate) fn get(&self, id: PortId) -> Option<&Hop> {
        self.ports.get(id.index()).filter(|hop| hop.kind.is_some())
    }
}
