//! The tunnel's headers, Geneve's or VXLAN's: taken off and held against what is known, or put on.
//!
//! `Classifier` takes them off, `Output` puts them on. Nothing a tunnelled packet says about itself
//! is believed: the peer is known by its underlay address, and may speak for its own Pod ranges
//! only. The underlay is trusted not to forge source addresses (docs/THREATS.md).

mod prefix;

use std::net::IpAddr;

pub(crate) use prefix::{PREFIX_LEN, Prefix};

use crate::address::Mac;
use crate::connection::address_words;
use crate::packet::{Packet, PacketSource, Tunnel};
use crate::state::{EncapMode, Peer, State, TunnelType};
use crate::verdict::DropReason;
use crate::wire::ipv6::Fragment;
use crate::wire::udp::Udp;
use crate::wire::{checksum, ethernet, geneve, ipv4, ipv6, put, udp, vxlan};

/// Hops that a tunnelled packet may take on the underlay.
const OUTER_TTL: u8 = 64;
/// The two bits of the traffic class that are ECN.
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// Bytes of either header without options.
const HEADER_LEN: usize = geneve::LEN;
const _: () = assert!(HEADER_LEN == vxlan::LEN);

impl TunnelType {
    /// Its UDP port.
    pub const fn port(self) -> u16 {
        match self {
            TunnelType::Geneve => geneve::PORT,
            TunnelType::Vxlan => vxlan::PORT,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            TunnelType::Geneve => "Geneve",
            TunnelType::Vxlan => "VXLAN",
        }
    }

    /// Bytes of the header at the front of `bytes`, if this node understands it.
    fn header_len(self, bytes: &[u8]) -> Result<usize, DropReason> {
        let length = match self {
            TunnelType::Geneve => geneve::header_len(bytes).ok(),
            TunnelType::Vxlan => vxlan::header_len(bytes).ok(),
        };
        length.ok_or(DropReason::BadTunnelHeader)
    }

    /// The header as this node writes it.
    pub(crate) fn header(self) -> u64 {
        let mut bytes = [0; HEADER_LEN];
        self.emit(&mut bytes).map_or(0, |()| u64::from_be_bytes(bytes))
    }

    fn emit(self, bytes: &mut [u8]) -> Option<()> {
        match self {
            TunnelType::Geneve => geneve::emit(bytes),
            TunnelType::Vxlan => vxlan::emit(bytes),
        }
    }
}

/// Takes the tunnel's headers off a packet that came in by the uplink, and says whose it is.
pub(crate) fn decapsulate<'s>(
    packet: &mut Packet<'_>,
    state: &'s State,
) -> Result<&'s Peer, DropReason> {
    let node = state.node().ok_or(DropReason::NoNode)?;
    let uplink = state.uplink().ok_or(DropReason::UnknownPort)?;
    packet.complete_checksum();
    let outer = packet.facts.ip.ok_or(DropReason::NotTunnel)?;
    let for_us = packet.ethernet()?.destination() == uplink.mac
        && outer.destination == node.tunnel_address
        && outer.protocol == udp::PROTOCOL;
    if !for_us || node.encap_mode == EncapMode::NoEncap {
        return Err(DropReason::NotTunnel);
    }
    if outer.fragment != Fragment::Whole {
        return Err(DropReason::FragmentedTunnel);
    }
    let datagram = packet.payload().get(outer.upper..).ok_or(DropReason::Malformed)?;
    let header = Udp::parse(datagram).ok_or(DropReason::Malformed)?;
    if header.destination_port() != node.tunnel_type.port() {
        return Err(DropReason::NotTunnel);
    }
    let peer = state.peer_by_tunnel(outer.source).ok_or(DropReason::UnknownTunnelPeer)?;
    let datagram = datagram.get(..header.len()).ok_or(DropReason::Malformed)?;
    // RFC 8926 section 3.3, RFC 7348 section 5: a sum of zero is none, also over IPv6 (RFC 6935).
    if header.checksum() != 0 {
        let pseudo =
            checksum::pseudo_header(outer.source, outer.destination, udp::PROTOCOL, datagram.len());
        if checksum::fold(pseudo + checksum::sum(datagram)) != 0xffff {
            return Err(DropReason::BadTunnelChecksum);
        }
    }
    let header_len = node.tunnel_type.header_len(datagram.get(udp::LEN..).unwrap_or_default())?;
    let inner_len = datagram.len() - udp::LEN - header_len;
    packet.pop_front(ethernet::LEN + outer.upper + udp::LEN + header_len);
    packet.resize(inner_len);
    packet.facts.ip = None;
    let inner = packet.ethernet()?;
    let to = inner.destination();
    if matches!(inner.ether_type(), ethernet::VLAN | ethernet::SERVICE_VLAN) {
        return Err(DropReason::TaggedFrame);
    }
    if !packet.parse_ip()? {
        return Err(DropReason::UnknownTunnelPayload);
    }
    if to != Mac::VIRTUAL && state.gateway().is_none_or(|gateway| gateway.mac != to) {
        return Err(DropReason::UnknownDestinationMac);
    }
    let ip = packet.ip()?;
    if !peer.pod_cidrs.iter().any(|range| range.contains(&ip.source)) {
        return Err(DropReason::SpoofedTunnelSource);
    }
    if state.local_range(ip.destination).is_none() {
        return Err(DropReason::TunnelTransit);
    }
    let ecn = combine(outer.traffic_class & ECN, ip.traffic_class & ECN)?;
    if ecn != ip.traffic_class & ECN {
        packet.set_traffic_class(ip.traffic_class & !ECN | ecn);
    }
    packet.facts.source = Some(PacketSource::Tunnel);
    Ok(peer)
}

/// The ECN field behind a tunnel, from those of its outer and inner header (RFC 6040 section 4.2).
fn combine(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(DropReason::TunnelCongestion),
        (NOT_ECT, _) => Ok(NOT_ECT),
        (_, CE) => Ok(CE),
        (CE, _) => Ok(CE),
        (_, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}

/// Puts the tunnel's headers on, from the uplink's MAC address to the next hop's.
pub(crate) fn encapsulate(
    packet: &mut Packet<'_>,
    tunnel: Tunnel,
    source: Mac,
    next_hop: Mac,
    hash_seed: u64,
) -> Result<(), DropReason> {
    packet.complete_checksum();
    let traffic_class = packet.ip()?.traffic_class;
    let flow = Flow::of(packet, hash_seed)?;
    let network_len = if tunnel.remote.is_ipv4() { ipv4::LEN } else { ipv6::LEN };
    let datagram_len = u16::try_from(udp::LEN + HEADER_LEN + packet.len())
        .ok()
        .filter(|length| usize::from(*length) + network_len <= 0xffff)
        .ok_or(DropReason::PacketTooBig)?;
    packet
        .push_front(ethernet::LEN + network_len + udp::LEN + HEADER_LEN)
        .map_err(|_| DropReason::NoHeadroom)?;
    let outer = Outer { tunnel, traffic_class, flow, datagram_len };
    outer.emit(packet.bytes_mut(), source, next_hop).ok_or(DropReason::NoHeadroom)
}

/// What the outer headers are made of.
struct Outer {
    tunnel: Tunnel,
    traffic_class: u8,
    flow: Flow,
    datagram_len: u16,
}

impl Outer {
    fn emit(&self, frame: &mut [u8], source: Mac, destination: Mac) -> Option<()> {
        let v4 = self.tunnel.remote.is_ipv4();
        let ether_type = if v4 { ethernet::IPV4 } else { ethernet::IPV6 };
        ethernet::Repr { destination, source, ether_type }.emit(frame)?;
        let network_len = if v4 { ipv4::LEN } else { ipv6::LEN };
        let (network, datagram) =
            frame.get_mut(ethernet::LEN..)?.split_at_mut_checked(network_len)?;
        self.emit_network(network)?;
        let source_port = self.flow.source_port();
        let len = self.datagram_len;
        let kind = self.tunnel.kind;
        udp::Repr { source_port, destination_port: kind.port(), len }.emit(datagram)?;
        kind.emit(datagram.get_mut(udp::LEN..)?)?;
        // IPv4 leaves the sum to the inner packet's own; over IPv6 zero is for those who know
        // that every receiver takes it (RFC 6936), which we do not.
        if !v4 {
            let Tunnel { local, remote, .. } = self.tunnel;
            let pseudo = checksum::pseudo_header(local, remote, udp::PROTOCOL, usize::from(len));
            let sum = !checksum::fold(pseudo + checksum::sum(datagram));
            put(datagram, udp::CHECKSUM_OFFSET, &checksum::for_udp(sum).to_be_bytes())?;
        }
        Some(())
    }

    /// DSCP and ECN are the inner packet's (RFC 6040 section 4.1, normal mode).
    fn emit_network(&self, bytes: &mut [u8]) -> Option<()> {
        match (self.tunnel.local, self.tunnel.remote) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Repr {
                traffic_class: self.traffic_class,
                // `encapsulate` has checked that both fit together.
                total_len: self.datagram_len.checked_add(ipv4::LEN as u16)?,
                dont_fragment: true,
                ttl: OUTER_TTL,
                protocol: udp::PROTOCOL,
                source,
                destination,
            }
            .emit(bytes),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Repr {
                traffic_class: self.traffic_class,
                flow_label: (self.flow.0 >> 32) as u32,
                payload_len: self.datagram_len,
                next_header: udp::PROTOCOL,
                hop_limit: OUTER_TTL,
                source,
                destination,
            }
            .emit(bytes),
            // State refuses a peer of another family than the node's.
            _ => None,
        }
    }
}

/// A hash of the inner flow, which spreads flows over the underlay's paths: of addresses, protocol
/// and ports; of addresses and protocol for fragments, which have to take the same path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow(u64);

impl Flow {
    /// That of a packet between these addresses, in words; the source port in the upper half of
    /// `ports`.
    #[inline]
    pub(crate) fn new(
        seed: u64,
        source: [u64; 2],
        destination: [u64; 2],
        ports: u32,
        protocol: u8,
    ) -> Flow {
        let folded = |one: u64, other: u64| {
            let product = u128::from(one) * u128::from(other);
            (product >> 64) as u64 ^ product as u64
        };
        let word = |[high, low]: [u64; 2]| high.rotate_left(32) ^ low;
        let ends = folded(seed ^ word(source), 0x9e37_79b9_7f4a_7c15 ^ word(destination));
        let upper = u64::from(ports) << 32 | u64::from(protocol);
        Flow(folded(ends ^ upper, seed.rotate_left(32) | 1))
    }

    fn of(packet: &Packet<'_>, seed: u64) -> Result<Flow, DropReason> {
        let ip = packet.ip()?;
        let (source, destination) = ip.ports(packet.payload()).unwrap_or_default();
        let ports = u32::from(source) << 16 | u32::from(destination);
        let [from, to] = [ip.source, ip.destination].map(address_words);
        Ok(Flow::new(seed, from, to, ports, ip.protocol))
    }

    /// RFC 8926 section 3.3, RFC 7348 section 5: of the dynamic ports.
    #[inline]
    fn source_port(self) -> u16 {
        0xc000 | (self.0 as u16 & 0x3fff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_marks_combine_as_rfc_6040_figure_4_says() {
        const ECT_0: u8 = 0b10;
        let drop = Err(DropReason::TunnelCongestion);
        let figure = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), drop]),
            (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
            (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(combine(outer, inner), expected, "inner {inner:02b} outer {outer:02b}");
            }
        }
    }
}
