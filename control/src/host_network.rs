//! The node's own side of the Pod network: its two legs, routes to Pods and Services, masquerade.
//!
//! Works in the namespace the agent was started in. Everything is reconciled: what is as wanted is
//! left alone, what is missing is added, and what is ours but not wanted any more is removed;
//! routes of ours carry a protocol number of our own, masquerading has a table of its own.
//!
//! Nothing here is removed when the agent ends, for Pods go on talking.

mod routing;
mod services;
mod translation;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use seine_datapath_api::v1;
use seine_datapath_api::v1::node::EncapMode;
use tracing::info;

pub use routing::{HOST_RULE_PRIORITY, HOST_TABLE};
pub use services::ServicePlan;

use crate::compile::NodeNetwork;
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::{Netlink, NetlinkError};

/// Marks our routes; free in iproute2's rt_protos. "S" of Seine.
pub const ROUTE_PROTOCOL: u8 = 83;

/// What the node's kernel shall look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// What leads to and from the world behind the node: "seine-gw0".
    pub gateway: String,
    /// What the node itself sends by: "seine-host0". Without it that takes the gateway, too, and
    /// is judged like anybody's.
    pub host: Option<String>,
    /// The MTU of both.
    pub mtu: u32,
    /// The gateway's addresses with the prefixes of their ranges.
    pub addresses: Vec<IpNet>,
    /// How Pods of different nodes reach each other.
    pub encap_mode: EncapMode,
    /// Each peer's range, and through whom.
    pub routes: Vec<PeerRoute>,
    /// Where Services are reached.
    pub services: ServicePlan,
    /// What else leads to Pods of this node, because they may send from it.
    pub held: Vec<IpNet>,
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
    /// The peer's `seine-gw0` in it; without a tunnel, the peer itself on the underlay.
    pub gateway: IpAddr,
}

/// Why the node's network is not as it shall be.
#[derive(Debug, thiserror::Error)]
pub enum HostNetworkError {
    /// The namespace of the node.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// One of the legs is not there.
    #[error("there is no interface `{0}` in the node's namespace; seine-datapath makes it")]
    NoInterface(String),
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
    /// What follows from the cluster and from the devices that the datapath made; `None` while it
    /// has no gateway.
    pub fn new(
        network: &NodeNetwork,
        datapath: &v1::HelloReply,
        services: ServicePlan,
        allowed_addresses: BTreeSet<IpNet>,
    ) -> Option<Self> {
        let local = &network.local;
        let mut plan = Self {
            gateway: datapath.gateway.as_ref()?.interface.clone(),
            host: datapath.host.as_ref().map(|host| host.interface.clone()),
            mtu: local.tunnel_mtu,
            addresses: Vec::new(),
            encap_mode: local.encap_mode,
            routes: Vec::new(),
            services,
            held: allowed_addresses.into_iter().filter(|it| is_free(it, network)).collect(),
            own_ranges: local.pod_cidrs.clone(),
            cluster_ranges: local.pod_cidrs.clone(),
        };
        let own = local.pod_cidrs.iter().zip(&local.gateway_addresses);
        let own = own.filter_map(|(range, it)| IpNet::new(*it, range.prefix_len()).ok());
        plan.addresses.extend(own);
        for peer in &network.peers {
            plan.cluster_ranges.extend(&peer.pod_cidrs);
            for (range, gateway) in peer.pod_cidrs.iter().zip(&peer.gateway_addresses) {
                let like = |it: &&IpAddr| it.is_ipv4() == gateway.is_ipv4();
                let through = match local.encap_mode {
                    EncapMode::Encap => Some(gateway),
                    EncapMode::NoEncap => peer.addresses.iter().find(like),
                };
                // A family that this node has no Pods of is not routed.
                if let Some(gateway) = through.filter(|it| plan.gateway_address(**it).is_some()) {
                    plan.routes.push(PeerRoute { range: *range, gateway: *gateway });
                }
            }
        }
        Some(plan)
    }

    /// The gateway's address of the same family as `like`.
    fn gateway_address(&self, like: IpAddr) -> Option<IpAddr> {
        let own = self.addresses.iter().map(IpNet::addr);
        own.into_iter().find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// Both legs.
    fn legs(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.gateway).chain(&self.host)
    }
}

/// Whether no node and no Pod of a peer has an address of a range: a route would take it away.
fn is_free(range: &IpNet, network: &NodeNetwork) -> bool {
    let NodeNetwork { local, peers, .. } = network;
    let own = local.addresses.iter().chain(&local.gateway_addresses);
    let others = peers.iter().flat_map(|it| it.addresses.iter().chain(&it.gateway_addresses));
    let of_peers = peers.iter().flat_map(|peer| &peer.pod_cidrs);
    !own.chain(others).any(|address| range.contains(address))
        && !of_peers.into_iter().any(|it| it.contains(range) || range.contains(it))
}

/// Brings the node's kernel in line with `plan`. Blocks; the thread that does it is its own.
pub fn reconcile(node: &Namespace, nft: &Path, plan: &HostPlan) -> Result<(), HostNetworkError> {
    node.run_blocking(|| {
        legs(plan)?;
        settings(plan)?;
        routing::reconcile(plan)?;
        translation::replace(nft, plan)
    })?
}

/// Takes away all that [`reconcile`] made but for settings of the whole node (forwarding stays on)
/// and the legs themselves, which are the datapath's. Works twice, and while nothing is there.
pub fn remove(node: &Namespace, nft: &Path) -> Result<(), HostNetworkError> {
    node.run_blocking(|| {
        routing::remove()?;
        translation::remove(nft)
    })?
}

fn legs(plan: &HostPlan) -> Result<(), HostNetworkError> {
    let mut netlink = Netlink::open()?;
    let v6 = plan.addresses.iter().any(|address| address.addr().is_ipv6());
    for name in plan.legs() {
        let missing = || HostNetworkError::NoInterface(name.clone());
        let link = netlink.link(name)?.ok_or_else(missing)?;
        if v6 {
            set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
            set(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
            set(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        if !link.up || link.mtu != plan.mtu {
            netlink.set_up(link.index, Some(plan.mtu))?;
        }
        // The node's addresses are the gateway's: whoever answers the node answers there.
        let wanted = if *name == plan.gateway { plan.addresses.as_slice() } else { &[] };
        let present = netlink.addresses(link.index)?;
        for address in wanted.iter().filter(|address| !present.contains(address)) {
            info!(%address, interface = name, "adding the gateway address");
            netlink.add_address(link.index, *address)?;
        }
        for address in present {
            if !wanted.contains(&address) && !is_link_local(address.addr()) {
                info!(%address, interface = name, "removing a stale gateway address");
                netlink.delete_address(link.index, address)?;
            }
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
        // Answers come in by the gateway, though what they answer left by the other leg; loose
        // asks only that some route leads back.
        for name in plan.legs() {
            set(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
        }
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
