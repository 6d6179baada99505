//! What an Endpoint may send beyond its own addresses, because an operator permits it.
//!
//! For network functions: a virtual address that moves between Pods, a range behind a Pod, a router
//! that passes on what others sent. None of it lets an Endpoint speak for somebody whom this node
//! knows: an Endpoint, a gateway, a node, a peer's Pods.

use std::net::IpAddr;

use ipnet::IpNet;

use super::service::{VIRTUAL_NODE_PORT, VIRTUAL_SERVICE};
use super::{Endpoint, State, VlanRange, is_host};
use crate::address::{Mac, PortId};

/// What an Endpoint may send beside what is its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Permit {
    /// Addresses, each with the MAC address that it comes from.
    pub allowed_addresses: Vec<AllowedAddress>,
    /// Whether it may send from any address that is outside of the cluster.
    pub trusted_router: bool,
    /// VLANs that its frames may be tagged with: what they say is none of the Pod network's.
    pub vlans: Vec<VlanRange>,
}

/// Addresses that an Endpoint may send from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllowedAddress {
    /// One, or many.
    pub range: IpNet,
    /// The MAC address that they come from; none: the Endpoint's own.
    pub mac: Option<Mac>,
}

/// By what an Endpoint may send from an address that is not its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permission {
    /// It is in this range.
    Allowed(IpNet),
    /// It is outside of the cluster.
    Router,
}

impl Permit {
    /// Whether it permits nothing.
    pub fn is_empty(&self) -> bool {
        self.allowed_addresses.is_empty() && !self.trusted_router && self.vlans.is_empty()
    }
}

impl State {
    /// By what an Endpoint may send from this address and MAC address, if by anything but that they
    /// are its own.
    pub(crate) fn permission(
        &self,
        endpoint: &Endpoint,
        address: IpAddr,
        mac: Mac,
    ) -> Option<Permission> {
        self.permission_by(endpoint, address, |of_range| of_range.unwrap_or(endpoint.mac) == mac)
            .filter(|by| *by != Permission::Router || mac == endpoint.mac)
    }

    /// The Endpoint behind a port that may speak for an address: answers go back to it.
    pub(crate) fn speaker_for(&self, port: PortId, address: IpAddr) -> Option<&Endpoint> {
        let endpoint = self.sender(port)?;
        self.permission_by(endpoint, address, |_| true).map(|_| endpoint)
    }

    /// Whether an address is in a range that the Endpoint may send from.
    pub(super) fn may_hold(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        matches!(self.permission_by(endpoint, address, |_| true), Some(Permission::Allowed(_)))
    }

    fn permission_by(
        &self,
        endpoint: &Endpoint,
        address: IpAddr,
        has_mac: impl Fn(Option<Mac>) -> bool,
    ) -> Option<Permission> {
        if endpoint.permit.is_empty() || !is_host(address) || self.is_known(endpoint, address) {
            return None;
        }
        let mut allowed = endpoint.permit.allowed_addresses.iter();
        match allowed.find(|it| it.range.contains(&address) && has_mac(it.mac)) {
            Some(allowed) => Some(Permission::Allowed(allowed.range)),
            // An address of this node's range may be the next Pod's.
            None if self.local_range(address).is_some() => None,
            None => endpoint.permit.trusted_router.then_some(Permission::Router),
        }
    }

    /// Whether somebody else is known to have the address.
    fn is_known(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        let owner = self.owners.get(&address);
        owner.is_some_and(|owner| owner.endpoint.name != endpoint.name)
            || self.is_gateway_address(address)
            || self.is_node_address(address)
            || [VIRTUAL_NODE_PORT, VIRTUAL_SERVICE].iter().flatten().any(|it| *it == address)
            || self.peer_by_route(address).is_some()
    }
}
