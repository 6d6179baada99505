//! Classifier: what kind of packet it is, and where it comes from.
//!
//! Antrea: tables `PipelineRootClassifier` and `Classifier`.
//! Reads: ingress port, EtherType, IP headers; on the uplink also the tunnel's headers and the
//! inner packet's addresses.  Writes: the packet's IP headers and source; takes tunnel headers off.
//! Hit: ARP to `ARPSpoofGuard`; tagged frames of trunks to `VLANTrunk`; IP of Pods and gateway to
//! `SpoofGuard`, of peers to `ConntrackZone`.
//! Miss: drop `UnknownPort`, `UnknownEtherType`, `NotTunnel`, `UnknownTunnelPeer` and others.
//!
//! Antrea trusts the sending node with what it tunnels; here a peer speaks for its own Pod ranges
//! only, and only to this node's.

use crate::address::PortKind;
use crate::adjacency::AdjacencyTable;
use crate::packet::{Packet, PacketSource};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::State;
use crate::tunnel;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet;

/// Separates ARP from IP, and drops what is neither or comes from nobody known.
pub struct PipelineRootClassifier;

impl PipelineRootClassifier {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        state.node().ok_or(DropReason::NoNode)?;
        let port = state.port(packet.ingress).ok_or(DropReason::UnknownPort)?;
        if port.kind == PortKind::Pod && state.sender(packet.ingress).is_none() {
            context.note(format_args!("port {} has no endpoint", port.name));
            return Err(DropReason::UnknownPort);
        }
        match packet.ethernet()?.ether_type() {
            ethernet::ARP if port.kind == PortKind::Uplink => return Err(DropReason::NotTunnel),
            ethernet::ARP => {
                context.note(format_args!("ARP from port {}", port.name));
                return Ok(Verdict::Goto(TableId::ArpSpoofGuard));
            }
            ethernet::VLAN if is_trunk(packet, state) => {
                context.note(format_args!("tagged, from port {}", port.name));
                return Ok(Verdict::Goto(TableId::VlanTrunk));
            }
            ethernet::VLAN | ethernet::SERVICE_VLAN => return Err(DropReason::TaggedFrame),
            _ => {}
        }
        if !packet.parse_ip()? {
            return Err(match port.kind {
                PortKind::Uplink => DropReason::NotTunnel,
                PortKind::Pod | PortKind::Gateway | PortKind::Host => DropReason::UnknownEtherType,
            });
        }
        packet.check_partial_checksum()?;
        let version = if packet.ip()?.is_v6() { "IPv6" } else { "IPv4" };
        context.note(format_args!("{version} from port {}", port.name));
        Ok(Verdict::Next)
    }
}

/// Whether frames of the port may be tagged.
fn is_trunk(packet: &Packet<'_>, state: &State) -> bool {
    state.sender(packet.ingress).is_some_and(|endpoint| !endpoint.permit.vlans.is_empty())
}

impl Table for PipelineRootClassifier {
    fn id(&self) -> TableId {
        TableId::PipelineRootClassifier
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["protocol", "next"]
    }

    fn rows(&self, _: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        vec![
            row([&"ARP", &TableId::ArpSpoofGuard]),
            row([&"tagged, from a trunk", &TableId::VlanTrunk]),
            row([&"IPv4", &TableId::Classifier]),
            row([&"IPv6", &TableId::Classifier]),
        ]
    }

    fn entries(&self, _: &State) -> usize {
        4
    }
}

/// Tells where an IP packet comes from; takes off the tunnel's headers.
pub struct Classifier;

impl Classifier {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let port = state.port(packet.ingress).ok_or(DropReason::UnknownPort)?;
        match port.kind {
            PortKind::Pod => {
                packet.facts.source = Some(PacketSource::Pod);
                packet.recognise_partial_checksum()?;
                if context.trace.is_some() {
                    let endpoint = state.sender(packet.ingress).map(|it| it.name.as_str());
                    let name = endpoint.unwrap_or_default();
                    context.note(format_args!("port {} is that of {name}", port.name));
                }
                Ok(Verdict::Goto(TableId::SpoofGuard))
            }
            PortKind::Gateway | PortKind::Host => {
                packet.facts.source = Some(PacketSource::Gateway);
                packet.facts.from_node = port.kind == PortKind::Host;
                let sender = if packet.facts.from_node { "the node's own" } else { "the gateway" };
                context.note(format_args!("port {} is {sender}", port.name));
                Ok(Verdict::Goto(TableId::SpoofGuard))
            }
            PortKind::Uplink => {
                let outer = packet.ip()?;
                context.note(format_args!("from {} to {}", outer.source, outer.destination));
                let peer = tunnel::decapsulate(packet, state)?;
                let source = packet.ip()?.source;
                let (name, address) = (&peer.name, peer.tunnel_address);
                context.note(format_args!("{name} tunnels from {address} and has {source}"));
                Ok(Verdict::Goto(TableId::ConntrackZone))
            }
        }
    }
}

impl Table for Classifier {
    fn id(&self) -> TableId {
        TableId::Classifier
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["port", "kind", "source"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let pods = state.bound().map(|(endpoint, port)| row([&port.name, &"pod", &endpoint.name]));
        let gateway =
            state.gateway().map(|port| row([&port.name, &"gateway", &"outside the cluster"]));
        let host = state.host().map(|port| row([&port.name, &"host", &"the node"]));
        let peers = state.uplink().into_iter().flat_map(|port| {
            state.known_peers().map(|peer| {
                let source = format!("{} at {}", peer.name, peer.tunnel_address);
                row([&port.name, &"tunnel", &source])
            })
        });
        pods.chain(gateway).chain(host).chain(peers).collect()
    }

    fn entries(&self, state: &State) -> usize {
        let peers = if state.uplink().is_some() { state.known_peers().count() } else { 0 };
        let own = [state.gateway(), state.host()].iter().flatten().count();
        state.bound().count() + own + peers
    }
}
