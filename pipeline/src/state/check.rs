//! What an object must satisfy by itself, and beside the Node.
//!
//! What it must satisfy beside its like is found on the way into the indexes: see `transaction`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    AllowedAddress, Endpoint, Kind, Node, Object, Peer, Permit, Refusal, Service, VlanRange,
    policies,
};
use crate::address::Mac;
use crate::limits::{ALLOWED_ADDRESSES_MAX, VLAN_RANGES_MAX};

/// RFC 8200 section 5: every link that carries IPv6 takes packets of this size.
const MTU_MIN_V6: u16 = 1280;
/// RFC 791: every module must forward datagrams of this size.
const MTU_MIN_V4: u16 = 68;

/// Refuses a field.
pub(super) fn refuse<T>(
    kind: Kind,
    name: &str,
    field: &'static str,
    reason: impl Into<String>,
) -> Result<T, Refusal> {
    Err(Refusal { kind, name: name.to_owned(), field, reason: reason.into() })
}

/// What concerns the object alone.
pub(super) fn alone(object: &Object) -> Result<(), Refusal> {
    let (kind, name) = (object.kind(), object.name());
    if name.is_empty() {
        return refuse(kind, name, "name", "is empty");
    }
    match object {
        Object::Node(node) => node_alone(node),
        Object::Peer(peer) => {
            ranges(kind, name, &peer.pod_cidrs)?;
            gateways(kind, name, &peer.pod_cidrs, &peer.gateway_addresses)?;
            tunnel_address(kind, name, peer.tunnel_address)
        }
        Object::Endpoint(endpoint) => endpoint_alone(endpoint),
        Object::Port(port) => station(kind, name, port.mac),
        Object::Group(group) => policies::check_group(group),
        Object::Rule(rule) => policies::check_rule(rule),
        Object::Service(service) => service.check(),
    }
}

fn node_alone(node: &Node) -> Result<(), Refusal> {
    ranges(Kind::Node, &node.name, &node.pod_cidrs)?;
    one_of_each_family(&node.name, "pod_cidrs", node.pod_cidrs.iter().map(IpNet::addr))?;
    gateways(Kind::Node, &node.name, &node.pod_cidrs, &node.gateway_addresses)?;
    for range in &node.pod_cidrs {
        let within = node.gateway_addresses.iter().filter(|address| range.contains(*address));
        if within.count() != 1 {
            let reason = format!("one address within {range} is needed");
            return refuse(Kind::Node, &node.name, "gateway_addresses", reason);
        }
    }
    tunnel_address(Kind::Node, &node.name, node.tunnel_address)?;
    if node.pod_cidrs.iter().any(|range| range.contains(&node.tunnel_address)) {
        let reason = format!("{} is within the node's own Pod range", node.tunnel_address);
        return refuse(Kind::Node, &node.name, "tunnel_address", reason);
    }
    let v6 = node.pod_cidrs.iter().any(|range| range.addr().is_ipv6());
    mtu(Kind::Node, &node.name, "tunnel_mtu", node.tunnel_mtu, v6)
}

fn endpoint_alone(endpoint: &Endpoint) -> Result<(), Refusal> {
    let name = &endpoint.name;
    if endpoint.port.is_empty() {
        return refuse(Kind::Endpoint, name, "port", "is empty");
    }
    station(Kind::Endpoint, name, endpoint.mac)?;
    if endpoint.addresses.is_empty() {
        return refuse(Kind::Endpoint, name, "addresses", "there is none");
    }
    one_of_each_family(name, "addresses", endpoint.addresses.iter().copied())
        .map_err(|refusal| Refusal { kind: Kind::Endpoint, ..refusal })?;
    for address in &endpoint.addresses {
        if !is_host(*address) {
            let reason = format!("{address} is not an address that a Pod can have");
            return refuse(Kind::Endpoint, name, "addresses", reason);
        }
    }
    permit(name, &endpoint.permit)?;
    if endpoint.network_id != 0 {
        let reason = format!("there is no network {} yet, only 0", endpoint.network_id);
        return refuse(Kind::Endpoint, name, "network_id", reason);
    }
    let v6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
    mtu(Kind::Endpoint, name, "mtu", endpoint.mtu, v6)
}

fn permit(name: &str, permit: &Permit) -> Result<(), Refusal> {
    let refuse = |reason| refuse(Kind::Endpoint, name, "allowed_addresses", reason);
    if permit.allowed_addresses.len() > ALLOWED_ADDRESSES_MAX {
        return refuse(format!("there are more than {ALLOWED_ADDRESSES_MAX}"));
    }
    for AllowedAddress { range, mac } in &permit.allowed_addresses {
        if range.trunc() != *range {
            let reason =
                format!("{range} has bits set behind its length: {} is meant?", { range.trunc() });
            return refuse(reason);
        }
        if range.prefix_len() == 0 {
            return refuse(format!("{range} is everything: that is what a trusted router is for"));
        }
        if let Some(mac) = mac {
            station(Kind::Endpoint, name, *mac)?;
        }
    }
    vlans(name, &permit.vlans)
}

fn vlans(name: &str, vlans: &[VlanRange]) -> Result<(), Refusal> {
    if vlans.len() > VLAN_RANGES_MAX {
        let reason = format!("there are more than {VLAN_RANGES_MAX} ranges");
        return refuse(Kind::Endpoint, name, "vlans", reason);
    }
    match vlans.iter().find(|range| range.first > range.last) {
        Some(VlanRange { first, last }) => {
            refuse(Kind::Endpoint, name, "vlans", format!("{first}-{last} ends before it begins"))
        }
        None => Ok(()),
    }
}

/// What concerns an Endpoint and the node it is on.
pub(super) fn endpoint_on_node(endpoint: &Endpoint, node: &Node) -> Result<(), Refusal> {
    for address in &endpoint.addresses {
        let range = node.pod_cidrs.iter().find(|range| range.contains(address));
        let reason = match range {
            None => format!("{address} is in no Pod range of node `{}`", node.name),
            Some(_) if node.gateway_addresses.contains(address) => {
                format!("{address} is the gateway's")
            }
            Some(IpNet::V4(range)) if range.prefix_len() < 31 && is_edge(*range, *address) => {
                format!("{address} is the first or last of {range}, which no host can have")
            }
            Some(_) => continue,
        };
        return refuse(Kind::Endpoint, &endpoint.name, "addresses", reason);
    }
    Ok(())
}

fn is_edge(range: ipnet::Ipv4Net, address: IpAddr) -> bool {
    address == range.network() || address == range.broadcast()
}

/// What concerns a Service and the node: the addresses of this node's Pods are not for Services.
pub(super) fn service_on_node(service: &Service, node: &Node) -> Result<(), Refusal> {
    for (field, address) in service.addresses() {
        if let Some(range) = node.pod_cidrs.iter().find(|range| range.contains(&address)) {
            let reason = format!("{address} is in {range}, the Pod range of node `{}`", node.name);
            return refuse(Kind::Service, &service.name, field, reason);
        }
    }
    Ok(())
}

/// What concerns a peer and the node it is a peer of.
pub(super) fn peer_of_node(peer: &Peer, node: &Node) -> Result<(), Refusal> {
    let refuse = |field, reason| refuse(Kind::Peer, &peer.name, field, reason);
    for range in &peer.pod_cidrs {
        let clash = node.pod_cidrs.iter().find(|own| own.contains(range) || range.contains(*own));
        if let Some(own) = clash {
            return refuse("pod_cidrs", format!("{range} overlaps {own} of this node"));
        }
    }
    if peer.tunnel_address.is_ipv4() != node.tunnel_address.is_ipv4() {
        let reason = format!(
            "{} and this node's {} are of different families",
            peer.tunnel_address, node.tunnel_address
        );
        return refuse("tunnel_address", reason);
    }
    if peer.tunnel_address == node.tunnel_address {
        return refuse("tunnel_address", format!("{} is this node's own", peer.tunnel_address));
    }
    Ok(())
}

fn station(kind: Kind, name: &str, mac: Mac) -> Result<(), Refusal> {
    if !mac.is_unicast() {
        return refuse(kind, name, "mac", format!("{mac} is not a unicast address"));
    }
    if mac == Mac::VIRTUAL {
        let reason = format!("{mac} stands for peer nodes and cannot be an interface's");
        return refuse(kind, name, "mac", reason);
    }
    Ok(())
}

fn ranges(kind: Kind, name: &str, ranges: &[IpNet]) -> Result<(), Refusal> {
    if ranges.is_empty() {
        return refuse(kind, name, "pod_cidrs", "there is none");
    }
    for (index, range) in ranges.iter().enumerate() {
        let reason = if range.trunc() != *range {
            format!("{range} has bits set behind its length: {} is meant?", range.trunc())
        } else if !is_host(range.addr()) && !range.addr().is_unspecified()
            || range.prefix_len() == 0
        {
            format!("{range} is not a range that Pods can be in")
        } else if let Some(other) =
            ranges.iter().take(index).find(|other| other.contains(range) || range.contains(*other))
        {
            format!("{range} overlaps {other}")
        } else {
            continue;
        };
        return refuse(kind, name, "pod_cidrs", reason);
    }
    Ok(())
}

fn gateways(kind: Kind, name: &str, ranges: &[IpNet], list: &[IpAddr]) -> Result<(), Refusal> {
    for (index, address) in list.iter().enumerate() {
        let reason = if !ranges.iter().any(|range| range.contains(address)) {
            format!("{address} is in none of its Pod ranges")
        } else if list.iter().take(index).any(|other| other == address) {
            format!("{address} is there twice")
        } else if !is_host(*address) {
            format!("{address} is not an address that an interface can have")
        } else {
            continue;
        };
        return refuse(kind, name, "gateway_addresses", reason);
    }
    Ok(())
}

fn tunnel_address(kind: Kind, name: &str, address: IpAddr) -> Result<(), Refusal> {
    if !is_host(address) {
        let reason = format!("{address} is not an address that a node can have");
        return refuse(kind, name, "tunnel_address", reason);
    }
    Ok(())
}

fn one_of_each_family(
    name: &str,
    field: &'static str,
    addresses: impl Iterator<Item = IpAddr> + Clone,
) -> Result<(), Refusal> {
    let v4 = addresses.clone().filter(IpAddr::is_ipv4).count();
    let v6 = addresses.filter(IpAddr::is_ipv6).count();
    if v4 > 1 || v6 > 1 {
        return refuse(Kind::Node, name, field, "there is more than one of a family");
    }
    Ok(())
}

fn mtu(kind: Kind, name: &str, field: &'static str, mtu: u16, v6: bool) -> Result<(), Refusal> {
    let least = if v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    if mtu < least {
        let family = if v6 { "IPv6" } else { "IPv4" };
        return refuse(
            kind,
            name,
            field,
            format!("{mtu} is below {least}, the least for {family}"),
        );
    }
    Ok(())
}

/// Whether one interface can have the address and packets for it be routed.
pub(crate) fn is_host(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(address) => !address.is_link_local() && address.octets()[0] < 240,
        IpAddr::V6(address) => {
            !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
        }
    }
}
