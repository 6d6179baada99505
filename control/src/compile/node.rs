//! This node, its peers, and what follows from both: gateway addresses and the MTU of Pods.
//!
//! What is wrong with another Node costs only that Node: it is left out and named. What is wrong
//! with this one leaves nothing to install.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use seine_datapath_api::v1;

use crate::ipam::gateway_of;
use crate::model::{Cluster, Node};

/// Geneve or VXLAN over IPv4: IPv4 header, UDP, Geneve without options, inner Ethernet header.
const OVERHEAD_IPV4_BYTES: u32 = 20 + 8 + 8 + 14;
/// The same over IPv6.
const OVERHEAD_IPV6_BYTES: u32 = 40 + 8 + 8 + 14;
/// IPv6 does not work below this (RFC 8200, 5).
const MTU_MIN_IPV6_BYTES: u32 = 1280;
/// IPv4 hosts need not take more in one piece (RFC 791).
const MTU_MIN_IPV4_BYTES: u32 = 576;

/// What carries tunnelled packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The MTU of the uplink, when the datapath knows one.
    pub uplink_mtu: Option<u32>,
    /// `defaultMTU` of the configuration; 0 derives it from the uplink.
    pub default_mtu: u32,
    /// `trafficEncapMode`.
    pub encap_mode: v1::node::EncapMode,
    /// `tunnelType`.
    pub tunnel_type: v1::node::TunnelType,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Where its Pods get their addresses from.
    pub pod_cidrs: Vec<IpNet>,
    /// Of `seine-gw0`, one in each range.
    pub gateway_addresses: Vec<IpAddr>,
    /// Its address on the underlay.
    pub tunnel_address: IpAddr,
    /// The MTU of Pods and of `seine-gw0`, bytes.
    pub tunnel_mtu: u32,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Those of them at which NodePorts are reached.
    pub node_port_addresses: Vec<IpAddr>,
    /// How Pods of different nodes reach each other.
    pub encap_mode: v1::node::EncapMode,
    /// By which tunnel, if by one.
    pub tunnel_type: v1::node::TunnelType,
    /// `existingConnections`.
    pub existing_connections: v1::node::ExistingConnections,
}

/// Another node that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerNode {
    /// Its name.
    pub name: String,
    /// Its Pods' ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Of its `seine-gw0`.
    pub gateway_addresses: Vec<IpAddr>,
    /// Its address on the underlay, of the same family as ours.
    pub tunnel_address: IpAddr,
    /// All its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
}

/// All that this node's network follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// This node.
    pub local: LocalNode,
    /// The nodes it can reach, by name.
    pub peers: Vec<PeerNode>,
    /// The nodes it cannot reach, and why, in sentences.
    pub left_out: Vec<String>,
}

/// Why this node's network cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The cluster does not know this node.
    #[error("the cluster has no Node named `{0}`")]
    Unknown(String),
    /// No Pod range.
    #[error("Node `{0}` has no podCIDR")]
    NoPodCidr(String),
    /// No address of its own.
    #[error("Node `{0}` has no address of type InternalIP")]
    NoInternalAddress(String),
    /// Nothing tells the MTU.
    #[error("the datapath has no uplink to derive the MTU from; set defaultMTU")]
    NoMtu,
    /// The MTU of Pods does not fit.
    #[error("the MTU of Pods would be {mtu} bytes, outside {min} to {max}; {advice}")]
    Mtu {
        /// The MTU.
        mtu: u32,
        /// The least that works.
        min: u32,
        /// The most that the uplink carries in a tunnel.
        max: u32,
        /// What to change.
        advice: &'static str,
    },
}

/// Derives this node's network from the cluster.
pub fn node_network(
    cluster: &Cluster,
    name: &str,
    underlay: Underlay,
) -> Result<NodeNetwork, NodeError> {
    let node = cluster.nodes.get(name).ok_or_else(|| NodeError::Unknown(name.into()))?;
    if node.pod_cidrs.is_empty() {
        return Err(NodeError::NoPodCidr(name.into()));
    }
    let tunnel_address = *node
        .internal_addresses
        .first()
        .ok_or_else(|| NodeError::NoInternalAddress(name.into()))?;
    let local = LocalNode {
        name: name.into(),
        pod_cidrs: node.pod_cidrs.clone(),
        gateway_addresses: node.pod_cidrs.iter().map(|range| gateway_of(*range)).collect(),
        tunnel_address,
        tunnel_mtu: tunnel_mtu(underlay, tunnel_address, &node.pod_cidrs)?,
        addresses: node.internal_addresses.clone(),
        node_port_addresses: node.internal_addresses.clone(),
        encap_mode: underlay.encap_mode,
        tunnel_type: underlay.tunnel_type,
        existing_connections: v1::node::ExistingConnections::Keep,
    };
    let mut taken: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    taken.insert(local.name.clone(), local.pod_cidrs.clone());
    let mut peers: Vec<PeerNode> = Vec::new();
    let mut left_out = Vec::new();
    for node in cluster.nodes.values().filter(|node| node.name != name) {
        match peer(node, tunnel_address, &taken) {
            // A Node that was registered again under a new name. The datapath takes an address of
            // one peer only, and would refuse all of them.
            Ok(peer) if let Some(other) = with_address(&peers, peer.tunnel_address) => {
                let (name, address) = (&peer.name, peer.tunnel_address);
                left_out.push(format!(
                    "Node `{name}` is not reached: {address} is the address of `{other}`, too"
                ));
            }
            Ok(peer) => {
                taken.insert(peer.name.clone(), peer.pod_cidrs.clone());
                peers.push(peer);
            }
            Err(reason) => left_out.push(reason),
        }
    }
    Ok(NodeNetwork { local, peers, left_out })
}

fn with_address(peers: &[PeerNode], address: IpAddr) -> Option<&str> {
    peers.iter().find(|peer| peer.tunnel_address == address).map(|peer| peer.name.as_str())
}

fn tunnel_mtu(
    underlay: Underlay,
    tunnel_address: IpAddr,
    pod_cidrs: &[IpNet],
) -> Result<u32, NodeError> {
    let overhead = match underlay.encap_mode {
        v1::node::EncapMode::NoEncap => 0,
        v1::node::EncapMode::Encap if tunnel_address.is_ipv4() => OVERHEAD_IPV4_BYTES,
        v1::node::EncapMode::Encap => OVERHEAD_IPV6_BYTES,
    };
    let room = underlay.uplink_mtu.map(|mtu| mtu.saturating_sub(overhead));
    let (mtu, advice) = match (underlay.default_mtu, room) {
        (0, None) => return Err(NodeError::NoMtu),
        (0, Some(room)) => (room, "raise the MTU of the uplink"),
        (mtu, _) => (mtu, "change defaultMTU"),
    };
    let has_ipv6 = pod_cidrs.iter().any(|range| range.addr().is_ipv6());
    let min = if has_ipv6 { MTU_MIN_IPV6_BYTES } else { MTU_MIN_IPV4_BYTES };
    let max = room.unwrap_or(u32::from(u16::MAX) - overhead);
    if !(min..=max).contains(&mtu) {
        return Err(NodeError::Mtu { mtu, min, max, advice });
    }
    Ok(mtu)
}

fn peer(
    node: &Node,
    own: IpAddr,
    taken: &BTreeMap<String, Vec<IpNet>>,
) -> Result<PeerNode, String> {
    let name = &node.name;
    if node.pod_cidrs.is_empty() {
        return Err(format!("Node `{name}` is not reached: it has no podCIDR"));
    }
    let tunnel_address =
        node.internal_addresses.iter().find(|a| a.is_ipv4() == own.is_ipv4()).ok_or_else(|| {
            format!("Node `{name}` is not reached: no InternalIP of the family of {own}")
        })?;
    if *tunnel_address == own {
        return Err(format!("Node `{name}` is not reached: {own} is this node's own address"));
    }
    for range in &node.pod_cidrs {
        for (other, ranges) in taken {
            if ranges.iter().any(|r| r.contains(range) || range.contains(r)) {
                return Err(format!(
                    "Node `{name}` is not reached: its podCIDR {range} overlaps one of `{other}`"
                ));
            }
        }
    }
    Ok(PeerNode {
        name: name.clone(),
        pod_cidrs: node.pod_cidrs.clone(),
        gateway_addresses: node.pod_cidrs.iter().map(|range| gateway_of(*range)).collect(),
        tunnel_address: *tunnel_address,
        addresses: node.internal_addresses.clone(),
    })
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

impl NodeNetwork {
    /// Lets NodePorts be reached only at addresses within these ranges; none: at all of them.
    pub fn keep_node_ports_within(&mut self, ranges: &[IpNet]) {
        let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
        self.local.node_port_addresses.retain(|address| ranges.is_empty() || within(address));
    }

    /// The objects of the datapath: the node and its peers.
    pub fn objects(&self) -> Vec<v1::Object> {
        let node = v1::object::Kind::Node(v1::Node {
            name: self.local.name.clone(),
            pod_cidrs: texts(&self.local.pod_cidrs),
            gateway_addresses: texts(&self.local.gateway_addresses),
            tunnel_address: self.local.tunnel_address.to_string(),
            tunnel_mtu: self.local.tunnel_mtu,
            encap_mode: self.local.encap_mode.into(),
            tunnel_type: self.local.tunnel_type.into(),
            node_port_addresses: texts(&self.local.node_port_addresses),
            existing_connections: self.local.existing_connections.into(),
        });
        let peers = self.peers.iter().map(|peer| {
            v1::object::Kind::Peer(v1::Peer {
                name: peer.name.clone(),
                pod_cidrs: texts(&peer.pod_cidrs),
                gateway_addresses: texts(&peer.gateway_addresses),
                tunnel_address: peer.tunnel_address.to_string(),
            })
        });
        std::iter::once(node).chain(peers).map(|kind| v1::Object { kind: Some(kind) }).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const ETHERNET: Underlay = Underlay {
        uplink_mtu: Some(1500),
        default_mtu: 0,
        encap_mode: v1::node::EncapMode::Encap,
        tunnel_type: v1::node::TunnelType::Geneve,
    };

    fn cluster(nodes: &[(&str, &[&str], &[&str])]) -> Cluster {
        let nodes = nodes.iter().map(|(name, cidrs, addresses)| {
            let node = Node {
                name: (*name).into(),
                pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
                labels: BTreeMap::new(),
                internal_addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                external_addresses: Vec::new(),
            };
            ((*name).into(), node)
        });
        Cluster { nodes: nodes.collect(), ..Cluster::default() }
    }

    #[test]
    fn a_node_reaches_its_peers_through_their_first_hosts() {
        let cluster = cluster(&[
            ("a", &["10.10.1.0/24", "fd00:10:1::/64"], &["192.0.2.1"]),
            ("b", &["10.10.2.0/24", "fd00:10:2::/64"], &["192.0.2.2"]),
        ]);
        let network = node_network(&cluster, "a", ETHERNET).unwrap();
        assert_eq!(network.local.tunnel_mtu, 1450);
        assert_eq!(texts(&network.local.gateway_addresses), ["10.10.1.1", "fd00:10:1::1"]);
        assert_eq!(texts(&network.peers[0].gateway_addresses), ["10.10.2.1", "fd00:10:2::1"]);
        assert_eq!(network.peers[0].tunnel_address.to_string(), "192.0.2.2");
        assert_eq!(network.objects().len(), 2);
        assert!(network.left_out.is_empty());
    }

    #[test]
    fn the_mtu_leaves_room_for_an_ipv6_underlay() {
        let cluster = cluster(&[("a", &["10.10.1.0/24"], &["2001:db8::1"])]);
        assert_eq!(node_network(&cluster, "a", ETHERNET).unwrap().local.tunnel_mtu, 1430);
    }

    #[test]
    fn without_a_tunnel_the_mtu_is_the_uplinks() {
        let cluster = cluster(&[("a", &["10.10.1.0/24"], &["192.0.2.1"])]);
        let plain = Underlay { encap_mode: v1::node::EncapMode::NoEncap, ..ETHERNET };
        assert_eq!(node_network(&cluster, "a", plain).unwrap().local.tunnel_mtu, 1500);
    }

    #[test]
    fn an_mtu_that_does_not_fit_the_uplink_is_refused() {
        let cluster = cluster(&[("a", &["10.10.1.0/24", "fd00::/64"], &["192.0.2.1"])]);
        let with = |uplink_mtu, default_mtu| {
            node_network(&cluster, "a", Underlay { uplink_mtu, default_mtu, ..ETHERNET })
                .map(|network| network.local.tunnel_mtu)
        };
        assert_eq!(with(Some(1500), 1400), Ok(1400));
        assert_eq!(with(None, 1400), Ok(1400));
        assert_eq!(with(None, 0), Err(NodeError::NoMtu));
        assert!(matches!(with(Some(1500), 1451), Err(NodeError::Mtu { max: 1450, .. })));
        assert!(matches!(with(Some(1300), 0), Err(NodeError::Mtu { mtu: 1250, .. })));
    }

    #[test]
    fn a_broken_peer_is_left_out_and_named() {
        let cluster = cluster(&[
            ("a", &["10.10.1.0/24"], &["192.0.2.1"]),
            ("b", &["10.10.1.128/25"], &["192.0.2.2"]),
            ("c", &["10.10.3.0/24"], &["2001:db8::3"]),
            ("d", &[], &["192.0.2.4"]),
            ("e", &["10.10.5.0/24"], &["2001:db8::5", "192.0.2.5"]),
            ("f", &["10.10.6.0/24"], &["192.0.2.1"]),
        ]);
        let network = node_network(&cluster, "a", ETHERNET).unwrap();
        let reached: Vec<&str> = network.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(reached, ["e"]);
        assert_eq!(network.left_out.len(), 4);
        assert!(network.left_out[0].contains("overlaps"));
    }

    #[test]
    fn of_two_peers_with_one_address_the_first_is_reached() {
        let cluster = cluster(&[
            ("a", &["10.10.1.0/24"], &["192.0.2.1"]),
            ("b", &["10.10.2.0/24"], &["192.0.2.2"]),
            ("c", &["10.10.3.0/24"], &["192.0.2.2"]),
        ]);
        let network = node_network(&cluster, "a", ETHERNET).unwrap();
        assert_eq!(network.peers.len(), 1);
        assert_eq!(
            network.left_out,
            ["Node `c` is not reached: 192.0.2.2 is the address of `b`, too"]
        );
    }

    #[test]
    fn what_this_node_lacks_is_named() {
        let cluster = cluster(&[("a", &[], &["192.0.2.1"]), ("b", &["10.0.0.0/24"], &[])]);
        let error = |name| node_network(&cluster, name, ETHERNET).unwrap_err();
        assert_eq!(error("a"), NodeError::NoPodCidr("a".into()));
        assert_eq!(error("b"), NodeError::NoInternalAddress("b".into()));
        assert_eq!(error("c"), NodeError::Unknown("c".into()));
    }
}
