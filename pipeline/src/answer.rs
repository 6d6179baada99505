//! Answers that the node builds itself, in place of the packet that asked for them.
//!
//! One packet in, at most one out, and an error quotes no more than it got: an answer never makes
//! more traffic than its question. It answers the packet as its sender sent it, before it was
//! translated, and goes back at once: no table judges it. Each port has a budget of them.

mod budget;

pub(crate) use budget::ErrorBudget;

use std::net::IpAddr;

use crate::address::Mac;
use crate::packet::{Packet, PacketSource, Tunnel};
use crate::run::Context;
use crate::stage::TableId;
use crate::state::{State, is_host};
use crate::translate;
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp::{self, Error};
use crate::wire::ip::Ip;
use crate::wire::ipv6::{self, Fragment};
use crate::wire::neighbor::{ADVERTISEMENT_LEN, AdvertisementRepr};
use crate::wire::tcp::{self, ResetRepr, Tcp};
use crate::wire::{checksum, ethernet, ipv4, put};

/// RFC 1812 section 4.3.2.3: an ICMP error holds as much as fits 576 bytes.
const QUOTE_MAX_V4: usize = 576 - ipv4::LEN - icmp::LEN;
/// RFC 4443 section 3: an ICMPv6 error holds as much as fits the least MTU.
const QUOTE_MAX_V6: usize = 1280 - ipv6::LEN - icmp::LEN;
/// Hops that an error may take.
const TTL: u8 = 64;

/// Turns the packet into an ICMP error about itself and sends it back, or drops it where none may
/// be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
pub(crate) fn icmp_error(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    error: Error,
    otherwise: DropReason,
) -> Result<Verdict, DropReason> {
    translate::restore(packet)?;
    let ip = packet.ip()?;
    if !may_answer(packet, &ip, error) {
        return Err(otherwise);
    }
    let ip = restored(packet)?;
    let mut back = Back::of(packet, &ip, context.state).ok_or(otherwise)?;
    budget::charge(packet, context, matches!(error, Error::TooBig { .. }))?;
    if matches!(error, Error::Prohibited | Error::PortUnreachable) {
        back.address = ip.destination;
    }
    packet.complete_checksum();
    let (quote_max, headers) = match ip.source {
        IpAddr::V4(_) => (QUOTE_MAX_V4, ipv4::LEN + icmp::LEN),
        IpAddr::V6(_) => (QUOTE_MAX_V6, ipv6::LEN + icmp::LEN),
    };
    packet.resize(ethernet::LEN + ip.len.min(quote_max));
    packet.following = 0;
    packet.push_front(headers).map_err(|_| DropReason::NoHeadroom)?;
    back.emit(packet.bytes_mut(), ip.source, error).ok_or(DropReason::Malformed)?;
    back.send(packet)
}

/// Turns a TCP segment into the reset that answers it and sends that back, or drops it where none
/// may be sent.
pub(crate) fn reset(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    otherwise: DropReason,
) -> Result<Verdict, DropReason> {
    translate::restore(packet)?;
    let ip = packet.ip()?;
    // Of a fragment it is not known how much it is to acknowledge.
    if ip.fragment != Fragment::Whole || !speaks_for_one(&ip) {
        return Err(otherwise);
    }
    let ip = restored(packet)?;
    let segment = packet.payload().get(ip.upper..ip.len).ok_or(DropReason::Malformed)?;
    let view = Tcp::parse(segment).ok_or(DropReason::Malformed)?;
    let repr = ResetRepr::answering(&view, segment.len()).ok_or(otherwise)?;
    let back = Back::of(packet, &ip, context.state).ok_or(otherwise)?;
    budget::charge(packet, context, false)?;
    let network_len = if ip.is_v6() { ipv6::LEN } else { ipv4::LEN };
    packet.renew(ethernet::LEN + network_len + tcp::LEN).map_err(|_| DropReason::NoHeadroom)?;
    let mut emit = || {
        let bytes = back.emit_ethernet(packet.bytes_mut(), ip.is_v6())?;
        let (header, message) = bytes.split_at_mut_checked(network_len)?;
        emit_ip_header(header, ip.destination, ip.source, tcp::PROTOCOL, message.len())?;
        repr.emit(message)?;
        let pseudo =
            checksum::pseudo_header(ip.destination, ip.source, tcp::PROTOCOL, message.len());
        let sum = !checksum::fold(pseudo + checksum::sum(message));
        put(message, tcp::CHECKSUM_OFFSET, &sum.to_be_bytes())
    };
    emit().ok_or(DropReason::Malformed)?;
    back.send(packet)
}

/// Makes the packet again what its sender sent, if it was translated since: that is what an answer
/// is about. Gives its headers.
fn restored(packet: &mut Packet<'_>) -> Result<Ip, DropReason> {
    if let Some(original) = packet.facts.original {
        translate::both(packet, original)?;
    }
    packet.ip()
}

/// Whether an answer would reach one sender, and no more than one would answer.
fn speaks_for_one(ip: &Ip) -> bool {
    is_host(ip.source) && !ip.destination.is_multicast()
}

fn may_answer(packet: &Packet<'_>, ip: &Ip, error: Error) -> bool {
    if ip.fragment == Fragment::Later || !speaks_for_one(ip) {
        return false;
    }
    match (ip.source, ip.icmp_type(packet.payload())) {
        (IpAddr::V4(_), Some(kind)) if icmp::is_error_v4(kind) => false,
        (IpAddr::V6(_), Some(kind)) if icmp::is_error_v6(kind) => false,
        (IpAddr::V4(_), _) => ip.dont_fragment || !matches!(error, Error::TooBig { .. }),
        (IpAddr::V6(_), _) => true,
    }
}

/// The way back to who sent a packet.
struct Back {
    /// Who answers.
    address: IpAddr,
    source: Mac,
    destination: Mac,
    tunnel: Option<Tunnel>,
}

impl Back {
    fn of(packet: &Packet<'_>, ip: &Ip, state: &State) -> Option<Back> {
        let gateway = state.gateway();
        match packet.facts.source? {
            PacketSource::Pod => Some(Back {
                address: state.gateway_address(ip.source)?,
                source: gateway?.mac,
                destination: state.sender(packet.ingress)?.mac,
                tunnel: None,
            }),
            PacketSource::Tunnel => {
                let (node, peer) = (state.node()?, state.peer_by_route(ip.source)?);
                Some(Back {
                    address: state.gateway_address(ip.source)?,
                    source: gateway?.mac,
                    destination: Mac::VIRTUAL,
                    tunnel: Some(Tunnel {
                        local: node.tunnel_address,
                        remote: peer.tunnel_address,
                        adjacency: peer.adjacency,
                        kind: node.tunnel_type,
                    }),
                })
            }
            // The node's kernel does not believe a packet that comes from its own address: the
            // answer comes from the next hop that its route names, or from the Pod.
            PacketSource::Gateway => {
                let peer = state.peer_by_route(ip.destination);
                let next_hop = peer.and_then(|peer| {
                    let mut list = peer.gateway_addresses.iter().copied();
                    list.find(|address| address.is_ipv4() == ip.source.is_ipv4())
                });
                let pod = state.owner(ip.destination).map(|(endpoint, _)| endpoint.mac);
                Some(Back {
                    address: next_hop.unwrap_or(ip.destination),
                    source: pod.unwrap_or(Mac::VIRTUAL),
                    destination: gateway?.mac,
                    tunnel: None,
                })
            }
        }
    }

    /// Sends the packet, which has become the answer.
    fn send(&self, packet: &mut Packet<'_>) -> Result<Verdict, DropReason> {
        packet.parse_ip()?;
        let Some(tunnel) = self.tunnel else { return Ok(Verdict::Answer) };
        packet.facts.tunnel = Some(tunnel);
        packet.facts.egress = Some(packet.ingress);
        Ok(Verdict::Goto(TableId::Output))
    }

    /// Writes the Ethernet header; gives what follows it.
    fn emit_ethernet<'b>(&self, frame: &'b mut [u8], v6: bool) -> Option<&'b mut [u8]> {
        let ether_type = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
        let (destination, source) = (self.destination, self.source);
        ethernet::Repr { destination, source, ether_type }.emit(frame)?;
        frame.get_mut(ethernet::LEN..)
    }

    /// Writes the headers of the error in front of what it quotes.
    fn emit(&self, frame: &mut [u8], to: IpAddr, error: Error) -> Option<()> {
        let bytes = self.emit_ethernet(frame, to.is_ipv6())?;
        match (self.address, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let (header, message) = bytes.split_at_mut_checked(ipv4::LEN)?;
                emit_ip_header(header, self.address, to, icmp::PROTOCOL_V4, message.len())?;
                error.emit_v4(message)?;
                let sum = checksum::checksum(message);
                put(message, icmp::CHECKSUM_OFFSET, &sum.to_be_bytes())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (header, message) = bytes.split_at_mut_checked(ipv6::LEN)?;
                emit_icmpv6_header(header, source, destination, TTL, message.len())?;
                error.emit_v6(message)?;
                sum_icmpv6(message, source, destination)
            }
            _ => None,
        }
    }
}

fn emit_ip_header(
    header: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    message_len: usize,
) -> Option<()> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Repr {
            traffic_class: 0,
            total_len: u16::try_from(ipv4::LEN + message_len).ok()?,
            dont_fragment: false,
            ttl: TTL,
            protocol,
            source,
            destination,
        }
        .emit(header),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Repr {
            traffic_class: 0,
            flow_label: 0,
            payload_len: u16::try_from(message_len).ok()?,
            next_header: protocol,
            hop_limit: TTL,
            source,
            destination,
        }
        .emit(header),
        _ => None,
    }
}

fn emit_icmpv6_header(
    header: &mut [u8],
    source: std::net::Ipv6Addr,
    destination: std::net::Ipv6Addr,
    hop_limit: u8,
    message_len: usize,
) -> Option<()> {
    ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        payload_len: u16::try_from(message_len).ok()?,
        next_header: icmp::PROTOCOL_V6,
        hop_limit,
        source,
        destination,
    }
    .emit(header)
}

/// Fills in the checksum of an ICMPv6 message whose checksum field is zero.
fn sum_icmpv6(
    message: &mut [u8],
    source: std::net::Ipv6Addr,
    destination: std::net::Ipv6Addr,
) -> Option<()> {
    let length = message.len();
    let pseudo =
        checksum::pseudo_header(source.into(), destination.into(), icmp::PROTOCOL_V6, length);
    let sum = !checksum::fold(pseudo + checksum::sum(message));
    put(message, icmp::CHECKSUM_OFFSET, &sum.to_be_bytes())
}

/// Turns a neighbour solicitation into its answer.
pub(crate) fn advertise(
    packet: &mut Packet<'_>,
    asker: (std::net::Ipv6Addr, Mac),
    advertisement: AdvertisementRepr,
) -> Result<(), DropReason> {
    let (destination, destination_mac) = asker;
    let len = ethernet::LEN + ipv6::LEN + ADVERTISEMENT_LEN;
    packet.renew(len).map_err(|_| DropReason::NoHeadroom)?;
    let mut emit = || {
        let frame = packet.bytes_mut();
        let (source, ether_type) = (advertisement.mac, ethernet::IPV6);
        ethernet::Repr { destination: destination_mac, source, ether_type }.emit(frame)?;
        let (header, message) = frame.get_mut(ethernet::LEN..)?.split_at_mut_checked(ipv6::LEN)?;
        // RFC 4861 section 7.1: the hop limit proves that it was never routed.
        emit_icmpv6_header(header, advertisement.target, destination, 255, message.len())?;
        advertisement.emit(message)?;
        sum_icmpv6(message, advertisement.target, destination)
    };
    emit().ok_or(DropReason::Malformed)
}
