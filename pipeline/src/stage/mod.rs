//! The stages: what a packet meets on its way, one file each, each with its tables in order.
//!
//! A table is a pure function of packet, state and context. The loop around them, and the trace,
//! are in [`run`](crate::run); the order is [`STAGES`](crate::STAGES).

pub mod arp_responder;
pub mod classifier;
pub mod conntrack_commit;
pub mod conntrack_state;
pub mod egress_security;
pub mod ingress_security;
mod judgement;
pub mod output;
pub mod post_routing;
pub mod pre_routing;
mod reevaluation;
pub mod routing;
pub mod switching;
mod tracking;
pub mod trunk;
pub mod validation;

use std::fmt;

pub(crate) use tracking::ingress as ingress_of;

use crate::adjacency::AdjacencyTable;
use crate::packet::Packet;
use crate::run::Context;
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// A group of tables that belong together.
pub struct Stage {
    /// Antrea's name: "Validation".
    pub name: &'static str,
    /// The tables, in the order in which a packet meets them.
    pub tables: &'static [&'static dyn Table],
}

/// One table: what it does to a packet, and how it shows itself to an operator.
pub trait Table: Sync {
    /// Which one it is.
    fn id(&self) -> TableId;
    /// Decides about one packet.
    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict;
    /// The columns of its entries.
    fn columns(&self) -> &'static [&'static str];
    /// Its entries as text, in no order, under [`columns`](Self::columns).
    fn rows(&self, state: &State, adjacencies: &AdjacencyTable) -> Vec<Vec<String>>;
    /// How many entries it holds.
    fn entries(&self, state: &State) -> usize;
}

/// A table of the pipeline, in the order in which a packet meets them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TableId {
    /// Separates ARP from IP.
    PipelineRootClassifier,
    /// Tells where an IP packet comes from; takes off the tunnel's headers.
    Classifier,
    /// A port may speak ARP only for itself.
    ArpSpoofGuard,
    /// A Pod may send only from its own addresses.
    SpoofGuard,
    /// Neighbour discovery.
    Ipv6,
    /// Forwards tagged frames, within their VLAN.
    VlanTrunk,
    /// Answers ARP requests.
    ArpResponder,
    /// Finds the packet's connection, and translates what is known of it.
    ConntrackZone,
    /// Separates new connections from those under way.
    ConntrackState,
    /// Tells NodePort traffic.
    NodePortMark,
    /// Sends a client to the endpoint it had before.
    SessionAffinity,
    /// Chooses an endpoint for a Service.
    ServiceLb,
    /// Translates the destination into the chosen endpoint.
    EndpointDnat,
    /// Rules of Antrea's tiers for what Pods send.
    AntreaPolicyEgressRule,
    /// What Kubernetes' policies allow Pods to send.
    EgressRule,
    /// What they isolate, and the baseline tiers.
    EgressDefaultRule,
    /// Counts, and drops what was denied.
    EgressMetric,
    /// Decides by destination address.
    L3Forwarding,
    /// Lowers the TTL, and holds packets to the MTU of what they are sent by.
    L3DecTtl,
    /// Decides whose source is to be translated.
    SnatMark,
    /// Translates the source.
    Snat,
    /// Decides by destination MAC.
    L2ForwardingCalc,
    /// Tells what no rule for receivers applies to.
    IngressSecurityClassifier,
    /// Rules of Antrea's tiers for what Pods receive.
    AntreaPolicyIngressRule,
    /// What Kubernetes' policies allow Pods to receive.
    IngressRule,
    /// What they isolate, and the baseline tiers.
    IngressDefaultRule,
    /// Counts, and drops what was denied.
    IngressMetric,
    /// Remembers a new connection.
    ConntrackCommit,
    /// Sends.
    Output,
}

impl TableId {
    /// How many there are.
    pub const COUNT: usize = TableId::Output as usize + 1;

    /// Antrea's name for it, as in the CLI and the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            TableId::PipelineRootClassifier => "PipelineRootClassifier",
            TableId::Classifier => "Classifier",
            TableId::ArpSpoofGuard => "ARPSpoofGuard",
            TableId::SpoofGuard => "SpoofGuard",
            TableId::Ipv6 => "IPv6",
            TableId::VlanTrunk => "VLANTrunk",
            TableId::ArpResponder => "ARPResponder",
            TableId::ConntrackZone => "ConntrackZone",
            TableId::ConntrackState => "ConntrackState",
            TableId::NodePortMark => "NodePortMark",
            TableId::SessionAffinity => "SessionAffinity",
            TableId::ServiceLb => "ServiceLB",
            TableId::EndpointDnat => "EndpointDNAT",
            TableId::AntreaPolicyEgressRule => "AntreaPolicyEgressRule",
            TableId::EgressRule => "EgressRule",
            TableId::EgressDefaultRule => "EgressDefaultRule",
            TableId::EgressMetric => "EgressMetric",
            TableId::L3Forwarding => "L3Forwarding",
            TableId::L3DecTtl => "L3DecTTL",
            TableId::SnatMark => "SNATMark",
            TableId::Snat => "SNAT",
            TableId::L2ForwardingCalc => "L2ForwardingCalc",
            TableId::IngressSecurityClassifier => "IngressSecurityClassifier",
            TableId::AntreaPolicyIngressRule => "AntreaPolicyIngressRule",
            TableId::IngressRule => "IngressRule",
            TableId::IngressDefaultRule => "IngressDefaultRule",
            TableId::IngressMetric => "IngressMetric",
            TableId::ConntrackCommit => "ConntrackCommit",
            TableId::Output => "Output",
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a table decided, where an error is a drop.
fn settle(decided: Result<Verdict, DropReason>) -> Verdict {
    decided.unwrap_or_else(Verdict::Drop)
}

/// One row of a table as shown.
fn row<const N: usize>(cells: [&dyn fmt::Display; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}
