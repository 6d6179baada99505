//! The objects that make up a State, in the words of `datapath.proto`, and how they are named.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{Mac, PortId, PortKind};
use crate::adjacency::AdjacencyId;
use crate::state::permit::Permit;
use crate::state::rule::{Group, GroupDelta, Rule};
use crate::state::service::Service;

/// This node. Exactly one; without it every packet is dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// The Pod ranges of this node: at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// The addresses of the gateway port, one within each Pod range.
    pub gateway_addresses: Vec<IpAddr>,
    /// The address of this node on the underlay, source of tunnelled packets.
    pub tunnel_address: IpAddr,
    /// Largest IP packet of a Pod that gets to a peer, in bytes.
    pub tunnel_mtu: u16,
    /// How Pods of different nodes reach each other.
    pub encap_mode: EncapMode,
    /// By what kind of tunnel, if by one.
    pub tunnel_type: TunnelType,
    /// The node's addresses at which its Pods reach NodePorts.
    pub node_port_addresses: Vec<IpAddr>,
    /// What becomes of connections under way when rules about them change.
    pub existing_connections: ExistingConnections,
}

/// What becomes of connections under way when rules about them change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ExistingConnections {
    /// They go on, as with Antrea.
    #[default]
    Keep,
    /// Each is judged again by its next packet, and ends if it is denied.
    Reevaluate,
}

/// How Pods of different nodes reach each other: Antrea's `trafficEncapMode`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EncapMode {
    /// By a tunnel.
    #[default]
    Encap,
    /// Through the gateway and the routes of the node's kernel.
    NoEncap,
}

/// Antrea's `tunnelType`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TunnelType {
    /// RFC 8926.
    #[default]
    Geneve,
    /// RFC 7348.
    Vxlan,
}

/// Another node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name in the cluster.
    pub name: String,
    /// Its Pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Its gateway addresses, for which this node answers ARP and neighbour solicitations.
    pub gateway_addresses: Vec<IpAddr>,
    /// Its address on the underlay, of the same family as this node's.
    pub tunnel_address: IpAddr,
    /// The next hop towards it, chosen by the datapath.
    pub adjacency: AdjacencyId,
}

/// A Pod's interface on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// "namespace/pod/interface".
    pub name: String,
    /// The name of the port it is attached to, open or not.
    pub port: String,
    /// The MAC address of the Pod's interface.
    pub mac: Mac,
    /// At most one of each family, within the node's Pod ranges.
    pub addresses: Vec<IpAddr>,
    /// MTU of the Pod's interface, in bytes.
    pub mtu: u16,
    /// What it may send beyond its own addresses.
    pub permit: Permit,
    /// The network that its addresses are of. This version has network 0.
    pub network_id: u16,
    /// Which of its Pod's interfaces it is: 0 for the first.
    pub interface_index: u32,
}

/// An open port, announced by the datapath itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its index on the packet path.
    pub id: PortId,
    /// Unique; the name that [`Endpoint::port`] uses.
    pub name: String,
    /// What it is to the pipeline.
    pub kind: PortKind,
    /// The device's own MAC address.
    pub mac: Mac,
    /// The device's MTU, in bytes.
    pub mtu: u16,
    /// Rises each time the index is used for another port.
    pub generation: u32,
}

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// [`Node`].
    Node,
    /// [`Peer`].
    Peer,
    /// [`Endpoint`].
    Endpoint,
    /// [`Port`].
    Port,
    /// [`Group`].
    Group,
    /// [`Rule`].
    Rule,
    /// [`Service`].
    Service,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Node => "node",
            Kind::Peer => "peer",
            Kind::Endpoint => "endpoint",
            Kind::Port => "port",
            Kind::Group => "group",
            Kind::Rule => "rule",
            Kind::Service => "service",
        })
    }
}

/// Names one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique within its kind.
    pub name: String,
}

/// Any object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// This node.
    Node(Node),
    /// Another node.
    Peer(Peer),
    /// A Pod's interface.
    Endpoint(Endpoint),
    /// An open port.
    Port(Port),
    /// A set of addresses.
    Group(Group),
    /// One rule of one policy.
    Rule(Rule),
    /// One port of a Service.
    Service(Service),
}

impl Object {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Peer(_) => Kind::Peer,
            Object::Endpoint(_) => Kind::Endpoint,
            Object::Port(_) => Kind::Port,
            Object::Group(_) => Kind::Group,
            Object::Rule(_) => Kind::Rule,
            Object::Service(_) => Kind::Service,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Object::Node(node) => &node.name,
            Object::Peer(peer) => &peer.name,
            Object::Endpoint(endpoint) => &endpoint.name,
            Object::Port(port) => &port.name,
            Object::Group(group) => &group.name,
            Object::Rule(rule) => &rule.name,
            Object::Service(service) => &service.name,
        }
    }

    /// Its kind and name.
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.kind(), name: self.name().to_owned() }
    }
}

/// One part of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Adds the object, or replaces the one of that kind and name.
    Upsert(Object),
    /// Changes some members of a group that is there.
    Members(GroupDelta),
    /// Deletes it; one that is not there is no error.
    Delete(ObjectId),
}

/// Why a transaction was refused. The State it was meant for is as it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} `{name}` is refused: {field}: {reason}")]
pub struct Refusal {
    /// The kind of the object that is at fault.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The field that is at fault, as in `datapath.proto`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}
