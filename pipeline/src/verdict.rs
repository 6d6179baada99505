//! What tables answer, what becomes of a packet, and the name of every way to lose one.

use crate::address::{PortId, Vlan};
use crate::stage::TableId;

/// What a table answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on with the next table.
    Next,
    /// Skip forward to a later table.
    Goto(TableId),
    /// Send it out by this port.
    Output(PortId),
    /// The packet was rewritten into an answer: send it back where it came from.
    Answer,
    /// Send a copy out by each member of the VLAN but the port that it came in by.
    Replicate(Vlan),
    /// Count it under this reason and forget it.
    Drop(DropReason),
}

/// What becomes of a packet in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It leaves by this port.
    Output(PortId),
    /// A copy of it leaves by each member of the VLAN but the port that it came in by.
    Replicate(Vlan),
    /// It is counted under this reason.
    Drop(DropReason),
}

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident,)+) => {
        /// Why a packet was dropped. Each has a counter per ingress port.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $meaning])+ $name,)+ }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];

            /// The name that counters, CLI and documentation use.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => stringify!($name),)+ }
            }

            /// When it counts, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($meaning),+).trim_ascii(),)+ }
            }

            /// For indexing counters.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// The frame ends before its headers do, or a length or version field contradicts it.
    Malformed,
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum,
    /// The port says that a checksum is to be finished, in a place where none can be.
    BadChecksumOffset,
    /// A packet that its sender wants cut into segments as it cannot be: of no bytes or of too
    /// many, more than are cut, of another kind, with lengths or a checksum that are not its own.
    BadSegmentation,
    /// An IPv6 packet has more extension headers than are followed.
    TooManyExtensionHeaders,
    /// Neither ARP, IPv4 nor IPv6.
    UnknownEtherType,
    /// A packet that neither belongs to a connection nor can open one: a TCP segment out of turn,
    /// an answer that nobody asked for, an ICMP error about a packet that nobody sent.
    InvalidConnection,
    /// A new connection, but the table is full of such as have been answered.
    ConnectionTableFull,
    /// A new connection of a port that has as many as it may have.
    ConnectionQuota,
    /// A packet that has to be judged, of a port that sends more of such a second than it may.
    NewConnectionBudget,
    /// A new connection whose answers would look like those of another.
    ConnectionClash,
    /// A later fragment of a packet whose first was not seen, or not let through.
    FragmentUnknown,
    /// A fragment of an SCTP packet whose ports are translated: its checksum cannot follow.
    UntranslatableFragment,
    /// The frame carries a VLAN tag, and its port is no trunk; or more than one tag, or one of
    /// another kind.
    TaggedFrame,
    /// A tagged frame of a VLAN that its port may not send by.
    ForeignVlan,
    /// A tagged frame for a group, of a port that sends more of such a second than are copied.
    FloodBudget,
    /// No node object is installed yet: nothing is forwarded before the first transaction.
    NoNode,
    /// The ingress port has no Endpoint: the agent has not announced the Pod, or it is gone.
    UnknownPort,
    /// The sender fields of an ARP packet are not those of its port.
    SpoofedArp,
    /// Source MAC or source address is not one of the Pod's own.
    SpoofedSource,
    /// A neighbour message claims an address or link-layer address that is not the Pod's own.
    SpoofedNeighbor,
    /// ARP or neighbour solicitation for an address that nobody known here has.
    UnknownNeighbor,
    /// ARP or neighbour message that needs no answer: a reply, an announcement, a duplicate check.
    NeighborNoAnswer,
    /// Broadcast or multicast, which is not forwarded; tagged, where its VLAN has nobody else.
    Multicast,
    /// The destination is in this node's Pod range, but no Endpoint has it.
    UnknownDestination,
    /// The destination MAC is neither the gateway's nor that of the destination's owner; of a
    /// tagged frame, that of no other member of its VLAN.
    UnknownDestinationMac,
    /// A loopback, unspecified or otherwise unroutable source or destination address.
    UnroutableAddress,
    /// Sent to a Service without endpoints, and may not be answered.
    NoEndpoint,
    /// Sent to an address of Services at a port that none of them has, and may not be answered.
    NoService,
    /// Sent to a load balancer's address of a Service by a client that is not in its source ranges.
    ServiceSource,
    /// No source port is left for a translated source.
    SnatPortsExhausted,
    /// A Pod's own tunnel packet to a node: masqueraded, it would pass for this node's.
    ForgedTunnel,
    /// An ICMP error or a reset was due, but its port has had as many a second as it may.
    ErrorBudget,
    /// TTL or hop limit ran out where no ICMP error may be sent.
    TtlExceeded,
    /// Too big for the next link where no ICMP error may be sent.
    PacketTooBig,
    /// Came in by the uplink, but is not a tunnel packet for this node.
    NotTunnel,
    /// A fragment of a tunnelled packet: peers send these whole.
    FragmentedTunnel,
    /// The tunnel header has a version, protocol, VNI or critical option that is not understood.
    BadTunnelHeader,
    /// The outer UDP checksum is wrong.
    BadTunnelChecksum,
    /// Tunnelled, but neither IPv4 nor IPv6.
    UnknownTunnelPayload,
    /// The underlay marked congestion on a tunnelled packet that cannot carry the mark (RFC 6040).
    TunnelCongestion,
    /// Tunnelled by a host that is not a node of the cluster.
    UnknownTunnelPeer,
    /// Tunnelled by a node, but the inner source is not within that node's Pod ranges.
    SpoofedTunnelSource,
    /// Tunnelled to this node, but the inner destination is not one of its own.
    TunnelTransit,
    /// A rule denies the Pod to send it.
    EgressPolicy,
    /// A Kubernetes policy isolates the sender, and none allows it.
    EgressIsolation,
    /// A rule denies the Pod to receive it.
    IngressPolicy,
    /// A Kubernetes policy isolates the receiver, and none allows it.
    IngressIsolation,
    /// An answer of DNS to a Pod that gets more of them a second than are read, about a name that
    /// its rules are about: what is told is in force before it is known, or is not told.
    NameAnswerBudget,
    /// The underlay's next hop for the peer is not resolved yet.
    NoNextHop,
    /// The egress port would be the ingress port.
    Hairpin,
    /// The egress port is closed or not there.
    NoEgressPort,
    /// The frame's headroom cannot hold the tunnel header.
    NoHeadroom,
    /// The egress queue was full.
    EgressFull,
    /// The device had a packet and no free frame to put it in, or its ring was full.
    NoFrame,
    /// The device refused the frame.
    EgressRefused,
}
