//! Validation: a port speaks only for itself.
//!
//! Antrea: stage Validation, tables `ARPSpoofGuard`, `SpoofGuard` and `IPv6`.
//! Reads: ingress port, source MAC, source address; ARP and neighbour messages in whole.
//! Writes: turns a neighbour solicitation into its answer.
//! Hit: ARP to `ARPResponder`; IPv4 to `ConntrackZone`; IPv6 to its own table, and then there too.
//! Miss: drop `SpoofedArp`, `SpoofedSource`, `SpoofedNeighbor`.
//!
//! The gateway may send from any address but a Pod's: traffic from outside the cluster enters there
//! with the client's address, but the node's kernel routes whatever source a host on the underlay
//! makes up, and Pods never send by way of it to each other. Antrea switches neighbour messages
//! between ports; here the node answers for all it knows, so that no Pod ever sees another's.
//!
//! What an Endpoint may send beyond its own addresses is its `Permit`: Antrea has no such thing. A
//! composed decision holds for packets from the Endpoint's own MAC address alone, and until a
//! permit changes.

use std::net::{IpAddr, Ipv6Addr};

use crate::address::{Mac, PortKind};
use crate::adjacency::AdjacencyTable;
use crate::answer;
use crate::packet::Packet;
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{Endpoint, Neighbor as Owner, Permission, Port, State};
use crate::verdict::{DropReason, Verdict};
use crate::wire::arp;
use crate::wire::ip::Ip;
use crate::wire::neighbor::{self, AdvertisementRepr, Neighbor};
use crate::wire::{checksum, icmp, ipv6::Fragment};

/// Who may speak by a port: an Endpoint, or else the gateway with this MAC address.
enum Speaker<'a> {
    Endpoint(&'a Endpoint),
    Gateway(Mac),
}

impl<'a> Speaker<'a> {
    fn at(packet: &Packet<'_>, state: &'a State) -> Result<Speaker<'a>, DropReason> {
        let port = state.port(packet.ingress).ok_or(DropReason::UnknownPort)?;
        if matches!(port.kind, PortKind::Gateway | PortKind::Host) {
            return Ok(Speaker::Gateway(port.mac));
        }
        state.sender(packet.ingress).map(Speaker::Endpoint).ok_or(DropReason::UnknownPort)
    }

    fn mac(&self) -> Mac {
        match self {
            Speaker::Endpoint(endpoint) => endpoint.mac,
            Speaker::Gateway(mac) => *mac,
        }
    }

    fn name(&self) -> &str {
        match self {
            Speaker::Endpoint(endpoint) => &endpoint.name,
            Speaker::Gateway(_) => "the gateway",
        }
    }

    /// Whether it may claim the address: the gateway any, for all of the node's are behind it.
    fn owns(&self, address: IpAddr) -> bool {
        match self {
            Speaker::Endpoint(endpoint) => endpoint.addresses.contains(&address),
            Speaker::Gateway(_) => true,
        }
    }

    /// The same, with what it may claim by a permit, from this MAC address. A router has only its
    /// own addresses on its link.
    fn claims(&self, address: IpAddr, mac: Mac, state: &State) -> bool {
        let permitted = |endpoint| state.permission(endpoint, address, mac);
        match self {
            _ if mac == self.mac() && self.owns(address) => true,
            Speaker::Endpoint(endpoint) => {
                matches!(permitted(endpoint), Some(Permission::Allowed(_)))
            }
            Speaker::Gateway(_) => false,
        }
    }
}

/// A port may speak ARP only for itself.
pub struct ArpSpoofGuard;

impl ArpSpoofGuard {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let arp = arp::Repr::parse(packet.payload()).ok_or(DropReason::Malformed)?;
        let speaker = Speaker::at(packet, state)?;
        let mac = arp.sender_mac;
        // A probe (RFC 5227) claims its target.
        let is_probe = arp.sender.is_unspecified() && arp.operation == arp::Operation::Request;
        let claimed = if is_probe { arp.target } else { arp.sender };
        let claims = speaker.claims(claimed.into(), mac, state);
        if packet.ethernet()?.source() != mac || !claims && mac != speaker.mac() {
            context.note(format_args!("{} has {} only", speaker.name(), speaker.mac()));
            return Err(DropReason::SpoofedArp);
        }
        if is_probe {
            if !claims {
                return Err(DropReason::SpoofedArp);
            }
            context.note(format_args!("{} probes for its own {}", speaker.name(), arp.target));
            return Err(DropReason::NeighborNoAnswer);
        }
        if !claims {
            context.note(format_args!("{} does not own {}", speaker.name(), arp.sender));
            return Err(DropReason::SpoofedArp);
        }
        context.note(format_args!("{} owns {} and {mac}", speaker.name(), arp.sender));
        if arp.sender == arp.target || arp.operation == arp::Operation::Reply {
            announce(packet, context, arp.sender.into());
        }
        Ok(Verdict::Goto(TableId::ArpResponder))
    }
}

impl Table for ArpSpoofGuard {
    fn id(&self) -> TableId {
        TableId::ArpSpoofGuard
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["port", "sender MAC", "sender address", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        senders(state, |address| address.is_ipv4())
    }

    fn entries(&self, state: &State) -> usize {
        senders(state, |address| address.is_ipv4()).len()
    }
}

/// A Pod may send only from its own addresses, and nobody else from a Pod's.
pub struct SpoofGuard;

impl SpoofGuard {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        let speaker = Speaker::at(packet, context.state)?;
        let (mac, source_mac) = (speaker.mac(), packet.ethernet()?.source());
        let permission = match &speaker {
            Speaker::Endpoint(endpoint) => {
                context.state.permission(endpoint, ip.source, source_mac)
            }
            Speaker::Gateway(_) => None,
        };
        if source_mac != mac && permission.is_none() {
            context.note(format_args!("{} has {mac} only", speaker.name()));
            return Err(DropReason::SpoofedSource);
        }
        match speaker {
            _ if link_scoped(&ip) => {
                context.note(format_args!("{} may be any interface's, on its link", ip.source));
            }
            Speaker::Gateway(_) if context.state.is_elsewhere(ip.source) => {
                context.note(format_args!("{} is a Pod's, who does not send by here", ip.source));
                return Err(DropReason::SpoofedSource);
            }
            Speaker::Gateway(_) => {
                context.note(format_args!("the gateway may send from all but Pods' addresses"));
            }
            Speaker::Endpoint(endpoint) if speaker.owns(ip.source) => {
                context.note(format_args!("{} owns {}", endpoint.name, ip.source));
            }
            Speaker::Endpoint(endpoint) if let Some(permission) = permission => match permission {
                Permission::Allowed(range) => {
                    context.note(format_args!("{} is permitted {range}", endpoint.name));
                }
                Permission::Router => {
                    context.note(format_args!("{} is a trusted router", endpoint.name));
                }
            },
            Speaker::Endpoint(endpoint) => {
                context.note(format_args!("{} does not own {}", endpoint.name, ip.source));
                return Err(DropReason::SpoofedSource);
            }
        }
        Ok(if ip.is_v6() { Verdict::Next } else { Verdict::Goto(TableId::ConntrackZone) })
    }
}

/// Whether a source is one that every interface has for neighbour discovery and the like: a
/// link-local address, or none yet. Table `IPv6` lets nothing of it through.
fn link_scoped(ip: &Ip) -> bool {
    match ip.source {
        IpAddr::V4(_) => false,
        IpAddr::V6(source) => source.is_unspecified() || source.is_unicast_link_local(),
    }
}

impl Table for SpoofGuard {
    fn id(&self) -> TableId {
        TableId::SpoofGuard
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["port", "source MAC", "source address", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        senders(state, |_| true)
    }

    fn entries(&self, state: &State) -> usize {
        senders(state, |_| true).len()
    }
}

fn senders(state: &State, wanted: fn(&IpAddr) -> bool) -> Vec<Vec<String>> {
    let pods = state.bound().flat_map(|(endpoint, port)| {
        let addresses = endpoint.addresses.iter().filter(|address| wanted(address));
        addresses.map(|address| row([&port.name, &endpoint.mac, address, &endpoint.name]))
    });
    let permitted = state.bound().flat_map(|(endpoint, port)| {
        let allowed = endpoint.permit.allowed_addresses.iter();
        let allowed = allowed.filter(|it| wanted(&it.range.addr())).map(|it| {
            let mac = it.mac.unwrap_or(endpoint.mac);
            row([&port.name, &mac, &it.range, &endpoint.name])
        });
        let is_router = endpoint.permit.trusted_router;
        let router = is_router
            .then(|| row([&port.name, &endpoint.mac, &"outside of the cluster", &endpoint.name]));
        allowed.chain(router)
    });
    let any = |port: &Port, owner: &str| row([&port.name, &port.mac, &"all but Pods'", &owner]);
    let gateway = state.gateway().map(|port| any(port, "the gateway"));
    let host = state.host().map(|port| any(port, "the node"));
    pods.chain(permitted).chain(gateway).chain(host).collect()
}

/// Neighbour discovery: held against its sender, and answered. Other packets pass.
pub struct Ipv6;

impl Ipv6 {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let ip = packet.ip()?;
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else {
            return Ok(Verdict::Goto(TableId::ConntrackZone));
        };
        match ip.icmp_type(packet.payload()) {
            Some(neighbor::SOLICITATION | neighbor::ADVERTISEMENT) => {
                Self::neighbor(packet, context, &ip, source)
            }
            // A Pod is no router, and must not tell its neighbours that it were one.
            Some(neighbor::ROUTER_ADVERTISEMENT | neighbor::REDIRECT) => {
                Err(DropReason::SpoofedNeighbor)
            }
            Some(neighbor::ROUTER_SOLICITATION) => Err(DropReason::Multicast),
            _ if destination.is_multicast() => Err(DropReason::Multicast),
            _ if link_scoped(&ip) => Err(DropReason::UnroutableAddress),
            _ => {
                context.note(format_args!("no neighbour message"));
                Ok(Verdict::Goto(TableId::ConntrackZone))
            }
        }
    }

    fn neighbor(
        packet: &mut Packet<'_>,
        context: &mut Context<'_>,
        ip: &Ip,
        source: Ipv6Addr,
    ) -> Result<Verdict, DropReason> {
        let state = context.state;
        let message = packet.payload().get(ip.upper..ip.len).unwrap_or_default();
        let pseudo =
            checksum::pseudo_header(ip.source, ip.destination, icmp::PROTOCOL_V6, message.len());
        let intact = checksum::fold(pseudo + checksum::sum(message)) == 0xffff;
        // RFC 4861 section 7.1: never routed. RFC 6980: never fragmented.
        if ip.ttl != 255 || ip.fragment != Fragment::Whole || !intact {
            return Err(DropReason::Malformed);
        }
        let message = Neighbor::parse(message).ok_or(DropReason::Malformed)?;
        let speaker = Speaker::at(packet, state)?;
        let (mac, target) = (speaker.mac(), message.target);
        let owns_target =
            target.is_unicast_link_local() || speaker.claims(target.into(), mac, state);
        if message.link_layer.is_some_and(|claimed| claimed != mac) {
            context.note(format_args!("{} has {mac} only", speaker.name()));
            return Err(DropReason::SpoofedNeighbor);
        }
        if !message.solicitation || source.is_unspecified() {
            // An advertisement, or a duplicate check (RFC 4862), claims its target.
            if !owns_target {
                context.note(format_args!("{} does not own {target}", speaker.name()));
                return Err(DropReason::SpoofedNeighbor);
            }
            if message.solicitation && message.link_layer.is_some() {
                return Err(DropReason::Malformed);
            }
            if !message.solicitation {
                announce(packet, context, target.into());
            }
            context.note(format_args!("{} announces {target}", speaker.name()));
            return Err(DropReason::NeighborNoAnswer);
        }
        context.note(format_args!("{source} asks for {target}"));
        let owner = answerer(packet, context, target.into())?;
        context.note(format_args!("{owner} has {target} at {}", owner.mac()));
        let router = !matches!(owner, Owner::Endpoint(..));
        let advertisement = AdvertisementRepr { router, target, mac: owner.mac() };
        answer::advertise(packet, (source, mac), advertisement)?;
        Ok(Verdict::Answer)
    }
}

/// A Pod has told its neighbours that it has an address.
fn announce(packet: &Packet<'_>, context: &Context<'_>, address: IpAddr) {
    if !context.dry {
        let announcements = &context.learned.announcements;
        context.state.announce(announcements, packet.ingress, address, context.now_ms);
    }
}

/// Who has the address that a port asks for, if the asker may reach it and is not itself asked
/// for.
pub(super) fn answerer<'s>(
    packet: &Packet<'_>,
    context: &Context<'s>,
    target: IpAddr,
) -> Result<Owner<'s>, DropReason> {
    let state = context.state;
    let Some(owner) = state.neighbor(target) else {
        // The gateway stands for who has an allowed address: nobody has to learn when it moves.
        let holder = state.holder(target, &context.learned.announcements);
        let asks_for_itself = holder.is_some_and(|holder| holder.port == packet.ingress);
        let gateway = state.gateway().filter(|_| holder.is_some() && from_pod(packet, state));
        return match gateway {
            Some(_) if asks_for_itself => Err(DropReason::NeighborNoAnswer),
            Some(gateway) => Ok(Owner::Gateway(gateway.mac)),
            None => Err(DropReason::UnknownNeighbor),
        };
    };
    let itself = match owner {
        Owner::Endpoint(_, port) => port == packet.ingress,
        Owner::Gateway(_) => {
            [state.gateway(), state.host()].iter().flatten().any(|port| port.id == packet.ingress)
        }
        Owner::PeerGateway(_) => false,
    };
    if itself { Err(DropReason::NeighborNoAnswer) } else { Ok(owner) }
}

fn from_pod(packet: &Packet<'_>, state: &State) -> bool {
    state.port(packet.ingress).is_some_and(|port| port.kind == PortKind::Pod)
}

/// The rows of a table that answers for addresses of one family.
pub(super) fn answers(state: &State, v4: bool) -> Vec<Vec<String>> {
    let answer = |(address, owner): (IpAddr, Owner<'_>)| row([&address, &owner.mac(), &owner]);
    state.neighbors(v4).map(answer).collect()
}

impl Table for Ipv6 {
    fn id(&self) -> TableId {
        TableId::Ipv6
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["address", "MAC", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        answers(state, false)
    }

    fn entries(&self, state: &State) -> usize {
        state.neighbors(false).count()
    }
}
