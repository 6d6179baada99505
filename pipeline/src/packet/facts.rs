//! What the stages learnt about a packet: Antrea's registers and marks, as typed fields.

use std::net::IpAddr;

use crate::address::PortId;
use crate::adjacency::AdjacencyId;
use crate::affinity::Affinity;
use crate::connection::{Connection, ConnectionId, Direction, Key, RuleId, ServiceId, Tuple};
use crate::state::{Action, EndpointAddress, TunnelType};
use crate::wire::ip::Ip;

/// Where a packet comes from (Antrea's register 0, bits 0-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketSource {
    /// A Pod of this node.
    Pod,
    /// The node, or the world behind it.
    Gateway,
    /// A peer.
    Tunnel,
}

/// Both ends of a tunnel, and the next hop towards the far one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// This node's address on the underlay.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// The next hop.
    pub adjacency: AdjacencyId,
    /// What stands between the underlay's headers and the packet.
    pub kind: TunnelType,
}

/// What a packet is to the connection table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tracking {
    /// It was not looked for.
    #[default]
    Untracked,
    /// No connection is known: it opens one, if it is let to.
    New,
    /// It belongs to a connection.
    Known {
        /// Which.
        id: ConnectionId,
        /// In which direction.
        direction: Direction,
        /// It is an error message about the connection, not a packet of it.
        related: bool,
        /// The connection when it was found.
        connection: Connection,
    },
}

/// A rule's answer to a packet that may not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied {
    /// The rule.
    pub rule: RuleId,
    /// Whether it drops, refuses or isolates.
    pub action: Action,
}

/// What the stages learnt about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Where it comes from; set by `Classifier`.
    pub source: Option<PacketSource>,
    /// Its innermost IP headers; set by `PipelineRootClassifier`, and again behind a tunnel header.
    pub ip: Option<Ip>,
    /// What it is to the connection table; set by `ConntrackZone`.
    pub tracking: Tracking,
    /// It asks to open a connection that is there already, and was answered: a SYN, or an SCTP
    /// INIT; set by `ConntrackZone`.
    pub opens_again: bool,
    /// These very tables have let its connection, unanswered as it is, a moment ago; set by
    /// `ConntrackZone`.
    pub judged: bool,
    /// Rules have changed since they judged its connection, which is under way: they judge it again
    /// by this packet, of whichever direction; set by `ConntrackZone`.
    pub stale: bool,
    /// From whom to whom it was when it came; set by `ConntrackZone`.
    pub original: Option<Tuple>,
    /// What it was looked for by; set by `ConntrackZone`.
    pub(crate) key: Option<Key>,
    /// What its answers will be looked for by, if it opens a connection; set by `L2ForwardingCalc`.
    pub(crate) answers: Option<Key>,
    /// From whom to whom it is now: every translation changes it together with the bytes.
    pub tuple: Option<Tuple>,
    /// The node itself sends it, like the kubelet its probes; set by `Classifier`.
    pub from_node: bool,
    /// It was sent to a NodePort; set by `NodePortMark`.
    pub node_port: bool,
    /// It was sent to an external address or a NodePort of a Service; set by `ServiceLB`.
    pub external: bool,
    /// The Service that it was sent to; set by `ServiceLB`.
    pub service: Option<ServiceId>,
    /// The endpoint chosen for it; set by `SessionAffinity` or `ServiceLB` (register 3).
    pub endpoint: Option<EndpointAddress>,
    /// Whose endpoint that is from now on, if it is let through; set by `ServiceLB`.
    pub affinity: Option<Affinity>,
    /// Its source is translated; set by `SNATMark`.
    pub snat: bool,
    /// It leaves by the port it came in by; set by `SNATMark`, or by its connection.
    pub hairpin: bool,
    /// Its MAC addresses are rewritten although sender and receiver share a node: it was sent to a
    /// Service (Antrea's register 0, bit 9).
    pub rewrite: bool,
    /// The rule that let the sender send it.
    pub egress_rule: Option<RuleId>,
    /// The rule that let the receiver receive it.
    pub ingress_rule: Option<RuleId>,
    /// The rule that denied it (Antrea's register 0, bit 10, and register 3).
    pub denied: Option<Denied>,
    /// Whether it was routed here, so that its MAC addresses were rewritten.
    pub routed: bool,
    /// Largest IP packet that what it is sent by takes, in bytes; set by `L3Forwarding`.
    pub mtu: usize,
    /// The port of who has the allowed address that it is sent to; set by `L3Forwarding`.
    pub holder: Option<PortId>,
    /// Another may have that address the next moment: nothing is composed of this.
    pub contested: bool,
    /// The tunnel it is to be sent by; set by `L3Forwarding`.
    pub tunnel: Option<Tunnel>,
    /// The port it is to be sent by; set by `L2ForwardingCalc`.
    pub egress: Option<PortId>,
}
