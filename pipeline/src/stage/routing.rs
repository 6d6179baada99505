//! Routing: where a packet goes by its destination address, and at what price.
//!
//! Antrea: stage Routing, tables `L3Forwarding` and `L3DecTTL`.
//! Reads: source and destination address, both MACs, TTL, size.  Writes: MACs, TTL, the tunnel;
//! turns a packet that ran out of hops or is too big into an ICMP error.
//! Hit: next table.  Miss: the gateway, for traffic from Pods to the world; else a named drop.
//!
//! A packet between two Pods of this node that is addressed to the other Pod's MAC is switched:
//! nothing of it changes. What is addressed to the gateway's MAC is routed here, not by the node.

use std::net::IpAddr;

use crate::address::Mac;
use crate::adjacency::AdjacencyTable;
use crate::answer;
use crate::connection::{Direction, Ingress};
use crate::packet::{Packet, PacketSource, Tracking, Tunnel};
use crate::run::Context;
use crate::stage::tracking::holder_of;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{EncapMode, Endpoint, Holder, Node, Peer, Port, State};
use crate::verdict::{DropReason, Verdict};
use crate::wire::field::{Field, read};
use crate::wire::icmp::Error;
use crate::wire::ip::Ip;
use crate::wire::ipv6::Fragment;
use crate::wire::{u16_at, udp};

/// Decides by destination address.
pub struct L3Forwarding;

/// What there is to decide about.
struct Way<'s> {
    source: PacketSource,
    destination_mac: Mac,
    gateway: &'s Port,
    node: &'s Node,
    /// It is for a Service, or from one: whoever sent it knows neither the other end's MAC address
    /// nor where that is.
    translated: bool,
}

impl L3Forwarding {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let ip = packet.ip()?;
        // What an endpoint answers is from the Service by now, which may be a virtual address.
        let sender = packet.facts.original.map_or(ip.source, |original| original.source);
        routable(sender, ip.destination)?;
        let way = Way {
            source: packet.facts.source.ok_or(DropReason::UnknownPort)?,
            destination_mac: packet.ethernet()?.destination(),
            gateway: state.gateway().ok_or(DropReason::NoEgressPort)?,
            node: state.node().ok_or(DropReason::NoNode)?,
            translated: is_translated(packet),
        };
        if way.translated && answers_gateway(packet) {
            context.note(format_args!("{} asked by way of the gateway", ip.destination));
            way.back_to_gateway(packet)?;
        } else if let Some((endpoint, port)) = state.owner(ip.destination) {
            if port == packet.ingress && !way.translated {
                context.note(format_args!("{} owns {}", endpoint.name, ip.destination));
                return Err(DropReason::Hairpin);
            }
            way.to_endpoint(packet, endpoint)?;
            context.note(format_args!("{} owns {}", endpoint.name, ip.destination));
        } else if let Some(endpoint) = asked_by_speaker(packet, ip.destination, state) {
            way.to_endpoint(packet, endpoint)?;
            context.note(format_args!("{} asked for {}", endpoint.name, ip.destination));
        } else if let Some(holder) = holder_of(packet, context, ip.destination) {
            if holder.port == packet.ingress {
                context.note(format_args!("{} has {}", holder.endpoint.name, ip.destination));
                return Err(DropReason::Hairpin);
            }
            way.to_holder(packet, holder)?;
            context.note(format_args!("{} has {}", holder.endpoint.name, ip.destination));
        } else if state.is_gateway_address(ip.destination) {
            context.note(format_args!("{} is the gateway's", ip.destination));
            way.to_gateway(packet)?;
        } else if let Some(peer) = state.peer_by_route(ip.destination) {
            context.note(format_args!("{} is on {}", ip.destination, peer.name));
            way.to_peer(packet, peer)?;
        } else if let Some(range) = state.local_range(ip.destination) {
            context.note(format_args!("no endpoint owns {}, of {range}", ip.destination));
            return Err(DropReason::UnknownDestination);
        } else {
            context.note(format_args!("{} is outside the cluster", ip.destination));
            if way.source == PacketSource::Pod && forges_tunnel(packet, &ip, state) {
                context.note(format_args!("{} is a node's tunnel address", ip.destination));
                return Err(DropReason::ForgedTunnel);
            }
            way.to_outside(packet)?;
        }
        Ok(Verdict::Next)
    }
}

/// Whether it is for a Service, or from one.
fn is_translated(packet: &Packet<'_>) -> bool {
    match packet.facts.tracking {
        Tracking::Known { connection, .. } => connection.decision.service.is_some(),
        Tracking::New | Tracking::Untracked => packet.facts.rewrite,
    }
}

/// Whether it answers one who came in by the gateway.
fn answers_gateway(packet: &Packet<'_>) -> bool {
    match packet.facts.tracking {
        Tracking::Known { connection, direction: Direction::Reply, .. } => {
            connection.decision.source == PacketSource::Gateway
        }
        _ => false,
    }
}

/// Who has sent, from an address that it may only speak for, what this answers.
fn asked_by_speaker<'s>(
    packet: &Packet<'_>,
    destination: IpAddr,
    state: &'s State,
) -> Option<&'s Endpoint> {
    match packet.facts.tracking {
        Tracking::Known { connection, direction: Direction::Reply, .. } => {
            let Ingress::Pod(port, generation) = connection.original.ingress else { return None };
            state.port(port).filter(|it| it.generation == generation)?;
            state.speaker_for(port, destination)
        }
        _ => None,
    }
}

impl Way<'_> {
    fn to_endpoint(&self, packet: &mut Packet<'_>, target: &Endpoint) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(target.mtu);
        let addressed = self.destination_mac == target.mac;
        match self.source {
            PacketSource::Pod | PacketSource::Gateway if addressed && !self.translated => Ok(()),
            PacketSource::Pod if !addressed && self.destination_mac != self.gateway.mac => {
                Err(DropReason::UnknownDestinationMac)
            }
            PacketSource::Gateway if !addressed && !self.to_services() => {
                Err(DropReason::UnknownDestinationMac)
            }
            _ => packet.route(self.gateway.mac, target.mac),
        }
    }

    /// Neighbours take the gateway for who has the address, so that none has to hear when it moves;
    /// the node's kernel has a route by the virtual MAC.
    fn to_holder(&self, packet: &mut Packet<'_>, target: Holder<'_>) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(target.endpoint.mtu);
        (packet.facts.holder, packet.facts.contested) = (Some(target.port), target.contested);
        let addressed = match self.source {
            PacketSource::Pod => self.destination_mac == self.gateway.mac,
            PacketSource::Gateway => self.destination_mac == Mac::VIRTUAL || self.to_services(),
            PacketSource::Tunnel => return Err(DropReason::TunnelTransit),
        };
        if !addressed {
            return Err(DropReason::UnknownDestinationMac);
        }
        packet.route(self.gateway.mac, target.mac)
    }

    /// Whether the node sent it to where its kernel believes Services: the virtual MAC or its own.
    fn to_services(&self) -> bool {
        let mac = self.destination_mac;
        self.translated && (mac == Mac::VIRTUAL || mac == self.gateway.mac)
    }

    /// The client of a Service is the node, or behind it.
    fn back_to_gateway(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(self.gateway.mtu);
        let addressed = match self.source {
            PacketSource::Pod => self.destination_mac == self.gateway.mac,
            PacketSource::Gateway => self.to_services(),
            PacketSource::Tunnel => true,
        };
        if !addressed {
            return Err(DropReason::UnknownDestinationMac);
        }
        packet.route(Mac::VIRTUAL, self.gateway.mac)
    }

    fn to_gateway(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(self.gateway.mtu);
        match self.source {
            PacketSource::Gateway if self.to_services() => self.back_to_gateway(packet),
            PacketSource::Gateway => Err(DropReason::Hairpin),
            PacketSource::Pod if self.destination_mac == self.gateway.mac => Ok(()),
            PacketSource::Pod => Err(DropReason::UnknownDestinationMac),
            // To the node's kernel, peers are behind this address.
            PacketSource::Tunnel => packet.route(Mac::VIRTUAL, self.gateway.mac),
        }
    }

    fn to_peer(&self, packet: &mut Packet<'_>, peer: &Peer) -> Result<(), DropReason> {
        if self.node.encap_mode == EncapMode::NoEncap {
            return self.to_peer_by_gateway(packet);
        }
        let addressed = match self.source {
            PacketSource::Pod => {
                self.destination_mac == self.gateway.mac || self.destination_mac == Mac::VIRTUAL
            }
            PacketSource::Gateway => self.destination_mac == Mac::VIRTUAL || self.to_services(),
            PacketSource::Tunnel => return Err(DropReason::TunnelTransit),
        };
        if !addressed {
            return Err(DropReason::UnknownDestinationMac);
        }
        packet.facts.mtu = usize::from(self.node.tunnel_mtu);
        packet.facts.tunnel = Some(Tunnel {
            local: self.node.tunnel_address,
            remote: peer.tunnel_address,
            adjacency: peer.adjacency,
            kind: self.node.tunnel_type,
        });
        packet.route(self.gateway.mac, Mac::VIRTUAL)
    }

    /// The node's kernel has the routes to peers.
    fn to_peer_by_gateway(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(self.gateway.mtu);
        match self.source {
            PacketSource::Pod if self.destination_mac == self.gateway.mac => {
                packet.route(Mac::VIRTUAL, self.gateway.mac)
            }
            PacketSource::Pod => Err(DropReason::UnknownDestinationMac),
            PacketSource::Gateway if self.to_services() => self.back_to_gateway(packet),
            PacketSource::Gateway => Err(DropReason::Hairpin),
            PacketSource::Tunnel => Err(DropReason::TunnelTransit),
        }
    }

    fn to_outside(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        packet.facts.mtu = usize::from(self.gateway.mtu);
        match self.source {
            PacketSource::Pod if self.destination_mac == self.gateway.mac => Ok(()),
            PacketSource::Pod => Err(DropReason::UnknownDestinationMac),
            PacketSource::Gateway if self.to_services() => self.back_to_gateway(packet),
            PacketSource::Gateway => Err(DropReason::Hairpin),
            PacketSource::Tunnel => Err(DropReason::TunnelTransit),
        }
    }
}

/// Whether a Pod speaks as tunnels do to a node, this one or a peer. The node masquerades what
/// leaves by the gateway, so the peer would take it for tunnelled by this node, past the spoof
/// guard. A first fragment counts too: the kernel puts fragments together before it masquerades
/// them.
fn forges_tunnel(packet: &Packet<'_>, ip: &Ip, state: &State) -> bool {
    let Some(node) = state.node().filter(|node| node.encap_mode == EncapMode::Encap) else {
        return false;
    };
    read(Field::DestinationPort);
    let to_node = state.peer_by_tunnel(ip.destination).is_some();
    (to_node || node.tunnel_address == ip.destination)
        && ip.protocol == udp::PROTOCOL
        && ip.fragment != Fragment::Later
        && u16_at(packet.payload(), ip.upper + 2) == Some(node.tunnel_type.port())
}

/// Drops what no router forwards.
fn routable(source: IpAddr, destination: IpAddr) -> Result<(), DropReason> {
    let link_local = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let nowhere = |address: IpAddr| match address {
        // RFC 6890: 0.0.0.0/8 and, but for the broadcast, 240.0.0.0/4.
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first == 0 || first >= 240 || address.is_loopback()
        }
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some()
        }
    };
    let broadcast = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if destination.is_multicast() || destination == broadcast {
        return Err(DropReason::Multicast);
    }
    // An IPv4 link-local source is let in: node-local services of many clusters answer from one.
    let bad_source = source.is_multicast() || source.is_ipv6() && link_local(source);
    if bad_source || nowhere(source) || nowhere(destination) || link_local(destination) {
        return Err(DropReason::UnroutableAddress);
    }
    Ok(())
}

impl Table for L3Forwarding {
    fn id(&self) -> TableId {
        TableId::L3Forwarding
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["destination", "to", "by"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let local = state.bound().flat_map(|(endpoint, port)| {
            endpoint.addresses.iter().map(|address| row([address, &endpoint.name, &port.name]))
        });
        let held = state.held().map(|(range, endpoint, port, contested)| {
            let port = state.port(port).map_or("", |port| port.name.as_str());
            let by = if contested { format!("{port}, or who announces it") } else { port.into() };
            row([&range, &endpoint.name, &by])
        });
        let peers = state.known_peers().flat_map(|peer| {
            let by = format!("tunnel to {}", peer.tunnel_address);
            peer.pod_cidrs.iter().map(move |range| row([range, &peer.name, &by]))
        });
        let gateway = state.gateway().zip(state.node()).into_iter().flat_map(|(port, node)| {
            let own = node.gateway_addresses.iter();
            let own = own.map(|address| row([address, &"the gateway", &port.name]));
            own.chain([row([&"default", &"outside the cluster", &port.name])])
        });
        local.chain(held).chain(peers).chain(gateway).collect()
    }

    fn entries(&self, state: &State) -> usize {
        let local = state.bound().map(|(endpoint, _)| endpoint.addresses.len()).sum::<usize>();
        let local = local + state.held().count();
        let peers = state.known_peers().map(|peer| peer.pod_cidrs.len()).sum::<usize>();
        let own = state.gateway().zip(state.node());
        local + peers + own.map_or(0, |(_, node)| node.gateway_addresses.len() + 1)
    }
}

/// Lowers the TTL, and holds packets to the MTU of what they are sent by.
pub struct L3DecTtl;

impl L3DecTtl {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        // The node's kernel has already lowered what it routed.
        let lower = packet.facts.routed && packet.facts.source != Some(PacketSource::Gateway);
        if lower && ip.ttl <= 1 {
            context.note(format_args!("no hops left"));
            let otherwise = DropReason::TtlExceeded;
            return answer::icmp_error(packet, context, Error::TimeExceeded, otherwise);
        }
        let mtu = packet.facts.mtu;
        if ip.len > mtu {
            context.note(format_args!("{} bytes are more than the MTU, {mtu}", ip.len));
            // An MTU comes from a 16-bit field.
            let error = Error::TooBig { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) };
            return answer::icmp_error(packet, context, error, DropReason::PacketTooBig);
        }
        if lower {
            let ttl = ip.ttl - 1;
            context.note(format_args!("{ttl} hops left"));
            packet.set_ttl(ttl);
        } else if packet.facts.routed {
            context.note(format_args!("the node has counted the hop"));
        } else {
            context.note(format_args!("switched, not routed: no hop"));
        }
        Ok(Verdict::Next)
    }
}

impl Table for L3DecTtl {
    fn id(&self) -> TableId {
        TableId::L3DecTtl
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["to", "MTU", "TTL"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let routed = "-1 if routed";
        let pods = state.bound().map(|(endpoint, _)| row([&endpoint.name, &endpoint.mtu, &routed]));
        let gateway = state.gateway().map(|port| row([&port.name, &port.mtu, &routed]));
        let tunnel = state
            .node()
            .map(|node| row([&"peers", &node.tunnel_mtu, &"-1, but not from the gateway"]));
        pods.chain(gateway).chain(tunnel).collect()
    }

    fn entries(&self, state: &State) -> usize {
        let own = usize::from(state.gateway().is_some()) + usize::from(state.node().is_some());
        state.bound().count() + own
    }
}
