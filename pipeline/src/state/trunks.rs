//! VLAN trunks: whose frames may be tagged, and whom a tagged frame can reach.
//!
//! A VLAN is a segment of its own among the Endpoints of this node that may send by it. Who is
//! behind which port is known and not learnt: an Endpoint has its own MAC address, and those that
//! it is permitted.

use std::fmt;
use std::sync::Arc;

use super::{Endpoint, State};
use crate::address::{Mac, PortId, Vlan};

/// VLANs, from one to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanRange {
    /// The first.
    pub first: Vlan,
    /// The last.
    pub last: Vlan,
}

/// "100", "200-203".
impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(f),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The ports of Endpoints that may send tagged frames, in the order of the Endpoints' names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trunks(Arc<[PortId]>);

impl Trunks {
    pub(super) fn of(state: &State) -> Trunks {
        let bound = state.bound().filter(|(endpoint, _)| !endpoint.permit.vlans.is_empty());
        let mut trunks: Vec<_> =
            bound.map(|(endpoint, port)| (endpoint.name.as_str(), port.id)).collect();
        trunks.sort_unstable();
        Trunks(trunks.into_iter().map(|(_, port)| port).collect())
    }
}

impl Endpoint {
    /// Whether its frames may be tagged with this VLAN.
    pub(crate) fn is_in(&self, vlan: Vlan) -> bool {
        self.permit.vlans.iter().any(|range| (range.first..=range.last).contains(&vlan))
    }

    /// Whether tagged frames may come from this MAC address.
    pub(crate) fn has_mac(&self, mac: Mac) -> bool {
        self.mac == mac || self.permit.allowed_addresses.iter().any(|it| it.mac == Some(mac))
    }
}

impl State {
    /// The ports of all Endpoints that may send by a VLAN: at most
    /// [`TRUNKS_MAX`](crate::limits::TRUNKS_MAX).
    pub fn vlan_members(&self, vlan: Vlan) -> impl Iterator<Item = PortId> {
        self.trunks().filter(move |(endpoint, _)| endpoint.is_in(vlan)).map(|(_, port)| port)
    }

    /// The member of a VLAN that has a MAC address; of several that are permitted it, the first by
    /// name.
    pub(crate) fn vlan_station(&self, vlan: Vlan, mac: Mac) -> Option<(&Endpoint, PortId)> {
        let own = self.station(mac).filter(|(endpoint, _)| endpoint.is_in(vlan));
        let permitted = || {
            let mut trunks = self.trunks();
            trunks.find(|(endpoint, _)| endpoint.is_in(vlan) && endpoint.has_mac(mac))
        };
        own.or_else(permitted)
    }

    /// All Endpoints whose frames may be tagged.
    pub(crate) fn trunks(&self) -> impl Iterator<Item = (&Endpoint, PortId)> {
        self.trunks.0.iter().filter_map(|port| Some((self.sender(*port)?, *port)))
    }
}
