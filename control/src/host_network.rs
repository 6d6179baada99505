//! The node's own side of the Pod network: `seine-gw0`, routes to the peers, masquerade.
//!
//! Works in the namespace the agent was started in. Everything is reconciled: what is as wanted is
//! left alone, what is missing is added, and what is ours but not wanted any more is removed;
//! routes of ours carry a protocol number of our own, masquerading has a table of its own.
//!
//! Nothing here is removed when the agent ends, for Pods go on talking.

mod masquerade;

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use seine_datapath_api::v1;
use tracing::{info, warn};

use crate::compile::NodeNetwork;
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::{Netlink, NetlinkError, Route};

/// Marks our routes; free in iproute2's rt_protos. "S" of Seine.
pub const ROUTE_PROTOCOL: u8 = 83;

/// What the node's kernel shall look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// The gateway device: "seine-gw0".
    pub gateway: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses with the prefixes of their ranges.
    pub addresses: Vec<IpNet>,
    /// Each peer's range, the peer's gateway, and our own of that family.
    pub routes: Vec<PeerRoute>,
    /// This node's Pod ranges.
    pub own_ranges: Vec<IpNet>,
    /// Those of the whole cluster.
    pub cluster_ranges: Vec<IpNet>,
}

/// The way to one range of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRoute {
    /// Where to.
    pub range: IpNet,
    /// The peer's `seine-gw0` in it.
    pub gateway: IpAddr,
    /// Our `seine-gw0` of the same family: the source of what the node itself sends.
    pub source: IpAddr,
}

/// Why the node's network is not as it shall be.
#[derive(Debug, thiserror::Error)]
pub enum HostNetworkError {
    /// The namespace of the node.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The gateway is not there.
    #[error("there is no interface `{0}` in the node's namespace; seine-datapath makes it")]
    NoGateway(String),
    /// The kernel refused.
    #[error("{}", .0.with_reason())]
    Kernel(#[from] NetlinkError),
    /// A setting could not be written.
    #[error("cannot write `{value}` to {path}: {source}")]
    Setting {
        /// Which one.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// nft could not be run.
    #[error("cannot run nft: {0}")]
    Nft(#[source] std::io::Error),
    /// nft refused.
    #[error("nft refused the table `inet seine`: {0}")]
    NftRefused(String),
}

impl HostPlan {
    /// What follows from the cluster and from the gateway device that the datapath made.
    pub fn new(network: &NodeNetwork, gateway: &v1::Device) -> Self {
        let local = &network.local;
        let source = |of: &IpNet| {
            let same = |address: &&IpAddr| address.is_ipv4() == of.addr().is_ipv4();
            local.gateway_addresses.iter().find(same).copied()
        };
        let mut routes = Vec::new();
        let mut cluster_ranges = local.pod_cidrs.clone();
        for peer in &network.peers {
            cluster_ranges.extend(&peer.pod_cidrs);
            for (range, gateway) in peer.pod_cidrs.iter().zip(&peer.gateway_addresses) {
                // A family that this node has no Pods of is not routed.
                if let Some(source) = source(range) {
                    routes.push(PeerRoute { range: *range, gateway: *gateway, source });
                }
            }
        }
        let addresses = local
            .pod_cidrs
            .iter()
            .zip(&local.gateway_addresses)
            .filter_map(|(range, address)| IpNet::new(*address, range.prefix_len()).ok());
        Self {
            gateway: gateway.interface.clone(),
            mtu: local.tunnel_mtu,
            addresses: addresses.collect(),
            routes,
            own_ranges: local.pod_cidrs.clone(),
            cluster_ranges,
        }
    }
}

/// Brings the node's kernel in line with `plan`. Blocks; the thread that does it is its own.
pub fn reconcile(node: &Namespace, nft: &Path, plan: &HostPlan) -> Result<(), HostNetworkError> {
    node.run_blocking(|| {
        gateway(plan)?;
        settings(plan)?;
        routes(plan)?;
        masquerade::replace(nft, plan)
    })?
}

fn gateway(plan: &HostPlan) -> Result<(), HostNetworkError> {
    let mut netlink = Netlink::open()?;
    let missing = || HostNetworkError::NoGateway(plan.gateway.clone());
    let link = netlink.link(&plan.gateway)?.ok_or_else(missing)?;
    if plan.addresses.iter().any(|address| address.addr().is_ipv6()) {
        set(&format!("net/ipv6/conf/{}/disable_ipv6", plan.gateway), "0")?;
        set(&format!("net/ipv6/conf/{}/accept_dad", plan.gateway), "0")?;
        set(&format!("net/ipv6/conf/{}/accept_ra", plan.gateway), "0")?;
    }
    if !link.up || link.mtu != plan.mtu {
        netlink.set_up(link.index, Some(plan.mtu))?;
    }
    let present = netlink.addresses(link.index)?;
    for address in &plan.addresses {
        if !present.contains(address) {
            info!(%address, interface = plan.gateway, "adding the gateway address");
            netlink.add_address(link.index, *address)?;
        }
    }
    for address in present {
        if !plan.addresses.contains(&address) && !is_link_local(address.addr()) {
            info!(%address, interface = plan.gateway, "removing a stale gateway address");
            netlink.delete_address(link.index, address)?;
        }
    }
    Ok(())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn settings(plan: &HostPlan) -> Result<(), HostNetworkError> {
    // Pods reach the outside, and outsiders' answers reach Pods, through the node.
    if plan.own_ranges.iter().any(|range| range.addr().is_ipv4()) {
        set("net/ipv4/ip_forward", "1")?;
        // Answers from Pods of peers come in by the gateway though the tunnel's underlay is the
        // uplink; loose asks only that some route leads back.
        set(&format!("net/ipv4/conf/{}/rp_filter", plan.gateway), "2")?;
    }
    if plan.own_ranges.iter().any(|range| range.addr().is_ipv6()) {
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Writes a setting unless it has that value: some of them act on every write.
fn set(setting: &str, value: &'static str) -> Result<(), HostNetworkError> {
    let path = format!("/proc/sys/{setting}");
    if std::fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| HostNetworkError::Setting { path, value, source })
}

fn routes(plan: &HostPlan) -> Result<(), HostNetworkError> {
    let mut netlink = Netlink::open()?;
    let missing = || HostNetworkError::NoGateway(plan.gateway.clone());
    let interface = netlink.link(&plan.gateway)?.ok_or_else(missing)?.index;
    let wanted: Vec<Route> = plan
        .routes
        .iter()
        .map(|route| Route {
            destination: route.range,
            gateway: Some(route.gateway),
            interface,
            source: Some(route.source),
            // The peer's gateway is in the peer's range, not in one of ours.
            on_link: true,
            protocol: ROUTE_PROTOCOL,
        })
        .collect();
    let present = netlink.routes()?;
    // Stale ones first: a range may have moved from one peer to another.
    for route in present.iter().filter(|route| route.protocol == ROUTE_PROTOCOL) {
        if !wanted.iter().any(|other| same(other, route)) {
            info!(destination = %route.destination, "removing a stale route to a peer");
            netlink.delete_route(route)?;
        }
    }
    for route in &wanted {
        if present.iter().any(|other| same(other, route)) {
            continue;
        }
        let taken = present.iter().find(|other| {
            other.destination == route.destination && other.protocol != ROUTE_PROTOCOL
        });
        if let Some(other) = taken {
            warn!(destination = %route.destination, protocol = other.protocol,
                "replacing a route that somebody else has made to a peer's Pods");
        }
        info!(destination = %route.destination, "adding the route to a peer");
        netlink.replace_route(route)?;
    }
    Ok(())
}

/// Whether two routes are one; the kernel shows `onlink` of IPv6 routes otherwise than it takes it.
fn same(one: &Route, other: &Route) -> bool {
    (one.destination, one.gateway, one.interface, one.source, one.protocol)
        == (other.destination, other.gateway, other.interface, other.source, other.protocol)
}
