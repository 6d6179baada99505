//! Builds the packet that an operator describes, so that a trace can explain it.
//!
//! What is not said is what the sender itself would have put there: its own addresses, and the MAC
//! address that ARP or neighbour discovery would have taught it.

use std::net::{IpAddr, Ipv6Addr};

use crate::address::{Mac, PortId, PortKind};
use crate::limits::ENCAPSULATION_MAX;
use crate::packet::{Checksum, Packet, Tunnel};
use crate::state::{Neighbor, Port, State};
use crate::tunnel;
use crate::wire::neighbor::{ADVERTISEMENT_LEN, SolicitationRepr};
use crate::wire::{arp, checksum, ethernet, icmp, ipv4, ipv6, put, sctp, tcp, udp};

/// Room in front of a described packet: for the tunnel it may have come by, and for headers that
/// the pipeline puts on.
const HEADROOM: usize = 2 * ENCAPSULATION_MAX;

/// What the described packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// An echo request, of the family of the addresses.
    Icmp,
    /// A SYN, or what its flags say.
    Tcp,
    /// A datagram.
    Udp,
    /// An association's INIT.
    Sctp,
    /// A request for the destination's MAC address: ARP, or a neighbour solicitation.
    Arp,
}

/// A packet in an operator's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// A port name, an Endpoint name ("default/web-0/eth0"), or "tunnel".
    pub ingress: String,
    /// The source; by default that of the ingress, of the destination's family.
    pub source: Option<IpAddr>,
    /// The destination.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// TCP, UDP and SCTP only.
    pub source_port: u16,
    /// TCP, UDP and SCTP only.
    pub destination_port: u16,
    /// Bytes of payload, all zero.
    pub payload_bytes: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Those of a TCP header, as [`tcp::Tcp::flags`] gives them; by default SYN alone.
    pub tcp_flags: Option<u8>,
    /// By default the Endpoint's own, or the gateway's.
    pub source_mac: Option<Mac>,
    /// By default what the sender would have learnt by ARP or neighbour discovery.
    pub destination_mac: Option<Mac>,
}

/// A packet ready to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The port it comes in by.
    pub ingress: PortId,
    buffer: Vec<u8>,
    start: usize,
}

impl Described {
    /// The packet, with headroom in front of it.
    pub fn packet(&mut self) -> Option<Packet<'_>> {
        let end = self.buffer.len();
        Packet::new(&mut self.buffer, self.start, end, self.ingress, Checksum::Complete)
    }

    /// Its bytes, from the outermost Ethernet header.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// As [`bytes`](Self::bytes), to make of it what no sender would have sent.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }
}

/// Why no such packet can be built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescribeError {
    /// The ingress names nothing.
    #[error("no open port or endpoint is called `{0}`; try `seinectl port list`, or \"tunnel\"")]
    UnknownIngress(String),
    /// The endpoint is known, but where its packets would come in is not open.
    #[error("endpoint `{0}` has no open port yet")]
    NoPort(String),
    /// A packet described as coming in by the uplink itself.
    #[error("what comes in by the uplink comes by the tunnel: name \"tunnel\" as the ingress")]
    Uplink,
    /// Nothing is installed.
    #[error("no node object is installed, or its gateway or uplink is not open yet")]
    NoNode,
    /// There is no source to take by default.
    #[error("the ingress has no address of the destination's family; name a source")]
    NoSource,
    /// The two addresses do not go together.
    #[error("{0} and {1} are of different families")]
    Families(IpAddr, IpAddr),
    /// No peer tunnels packets from there.
    #[error("no peer has {0} in its Pod ranges, so none would tunnel from there")]
    NoPeer(IpAddr),
    /// ARP is a matter of one link.
    #[error("ARP and neighbour solicitations do not come by the tunnel")]
    TunnelledArp,
    /// No packet is so long.
    #[error("{0} bytes of payload do not fit an IP packet")]
    TooLong(usize),
}

/// Builds the described packet.
pub fn describe(description: &Description, state: &State) -> Result<Described, DescribeError> {
    let sender = Sender::of(description, state)?;
    let Addresses { source, destination } = sender.addresses(description, state)?;
    let (source_mac, destination_mac) = sender.macs(description, state)?;
    let message = Message { description, source, destination, source_mac };
    let ip = message.build().ok_or(DescribeError::TooLong(description.payload_bytes))?;
    let ether_type = match (description.protocol, destination) {
        (Protocol::Arp, IpAddr::V4(_)) => ethernet::ARP,
        (_, IpAddr::V4(_)) => ethernet::IPV4,
        (_, IpAddr::V6(_)) => ethernet::IPV6,
    };
    let mut buffer = vec![0; HEADROOM + ethernet::LEN];
    let header = ethernet::Repr { destination: destination_mac, source: source_mac, ether_type };
    // The buffer was made with room for it.
    let _ = header.emit(buffer.get_mut(HEADROOM..).unwrap_or_default());
    buffer.extend(ip);
    let mut described = Described { ingress: sender.port().id, buffer, start: HEADROOM };
    if let Sender::Tunnel(uplink) = sender {
        described.start = tunnelled(&mut described, source, uplink, state)?;
    }
    Ok(described)
}

/// Puts the peer's tunnel headers on; gives the packet's new start.
fn tunnelled(
    described: &mut Described,
    source: IpAddr,
    uplink: &Port,
    state: &State,
) -> Result<usize, DescribeError> {
    let node = state.node().ok_or(DescribeError::NoNode)?;
    let peer = state.peer_by_route(source).ok_or(DescribeError::NoPeer(source))?;
    let (local, remote) = (peer.tunnel_address, node.tunnel_address);
    let tunnel = Tunnel { local, remote, adjacency: peer.adjacency, kind: node.tunnel_type };
    let too_long = DescribeError::TooLong(described.bytes().len());
    let mut packet = described.packet().ok_or(DescribeError::NoNode)?;
    packet
        .parse_ip()
        .and_then(|_| {
            tunnel::encapsulate(&mut packet, tunnel, Mac::VIRTUAL, uplink.mac, state.hash_seed())
        })
        .map_err(|_| too_long)?;
    Ok(packet.range().start)
}

/// Who sends the described packet.
enum Sender<'s> {
    Pod(&'s Port),
    Gateway(&'s Port),
    Tunnel(&'s Port),
}

/// Both ends of the described packet.
struct Addresses {
    source: IpAddr,
    destination: IpAddr,
}

impl<'s> Sender<'s> {
    fn of(description: &Description, state: &'s State) -> Result<Sender<'s>, DescribeError> {
        let name = description.ingress.as_str();
        if name == "tunnel" {
            return state.uplink().map(Sender::Tunnel).ok_or(DescribeError::NoNode);
        }
        if let Some(port) = state.port_by_name(name).and_then(|id| state.port(id)) {
            return match port.kind {
                PortKind::Pod => Ok(Sender::Pod(port)),
                PortKind::Gateway | PortKind::Host => Ok(Sender::Gateway(port)),
                PortKind::Uplink => Err(DescribeError::Uplink),
            };
        }
        let attached = state
            .endpoint_by_name(name)
            .ok_or_else(|| DescribeError::UnknownIngress(name.to_owned()))?;
        let port = attached.port.and_then(|id| state.port(id));
        port.map(Sender::Pod).ok_or_else(|| DescribeError::NoPort(name.to_owned()))
    }

    fn port(&self) -> &'s Port {
        match self {
            Sender::Pod(port) | Sender::Gateway(port) | Sender::Tunnel(port) => port,
        }
    }

    fn addresses(
        &self,
        description: &Description,
        state: &State,
    ) -> Result<Addresses, DescribeError> {
        let destination = description.destination;
        let own = || match self {
            Sender::Pod(port) => {
                let endpoint = state.sender(port.id)?;
                let mut list = endpoint.addresses.iter().copied();
                list.find(|address| address.is_ipv4() == destination.is_ipv4())
            }
            Sender::Gateway(_) => state.gateway_address(destination),
            Sender::Tunnel(_) => None,
        };
        let source = description.source.or_else(own).ok_or(DescribeError::NoSource)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(DescribeError::Families(source, destination));
        }
        Ok(Addresses { source, destination })
    }

    fn macs(&self, description: &Description, state: &State) -> Result<(Mac, Mac), DescribeError> {
        let gateway = state.gateway().ok_or(DescribeError::NoNode)?.mac;
        let destination = description.destination;
        let own = match self {
            Sender::Pod(port) => state.sender(port.id).map_or(port.mac, |endpoint| endpoint.mac),
            Sender::Gateway(port) => port.mac,
            Sender::Tunnel(_) => Mac::VIRTUAL,
        };
        let learnt = match (description.protocol, destination, self) {
            (Protocol::Arp, _, Sender::Tunnel(_)) => return Err(DescribeError::TunnelledArp),
            (Protocol::Arp, IpAddr::V4(_), _) => Mac::BROADCAST,
            (Protocol::Arp, IpAddr::V6(target), _) => SolicitationRepr::group_mac(target),
            (_, _, Sender::Tunnel(_)) => Mac::VIRTUAL,
            (_, _, Sender::Pod(_)) => match state.neighbor(destination) {
                Some(Neighbor::Endpoint(endpoint, _)) => endpoint.mac,
                _ => gateway,
            },
            (_, _, Sender::Gateway(_)) => match state.neighbor(destination) {
                Some(Neighbor::Endpoint(endpoint, _)) => endpoint.mac,
                _ => Mac::VIRTUAL,
            },
        };
        Ok((description.source_mac.unwrap_or(own), description.destination_mac.unwrap_or(learnt)))
    }
}

/// What follows the Ethernet header.
struct Message<'a> {
    description: &'a Description,
    source: IpAddr,
    destination: IpAddr,
    source_mac: Mac,
}

impl Message<'_> {
    /// The bytes; `None` when they are more than a length field can say.
    fn build(&self) -> Option<Vec<u8>> {
        match (self.description.protocol, self.source, self.destination) {
            (Protocol::Arp, IpAddr::V4(sender), IpAddr::V4(target)) => {
                let mut bytes = vec![0; arp::LEN];
                let operation = arp::Operation::Request;
                let (sender_mac, target_mac) = (self.source_mac, Mac([0; 6]));
                arp::Repr { operation, sender_mac, sender, target_mac, target }.emit(&mut bytes)?;
                Some(bytes)
            }
            (Protocol::Arp, _, IpAddr::V6(target)) => {
                let mut bytes = vec![0; ADVERTISEMENT_LEN];
                SolicitationRepr { target, mac: self.source_mac }.emit(&mut bytes)?;
                let group = SolicitationRepr::group(target);
                let offset = Some(icmp::CHECKSUM_OFFSET);
                self.within_ip(bytes, icmp::PROTOCOL_V6, offset, group.into(), 255)
            }
            (protocol, ..) => self.with_payload(protocol),
        }
    }

    fn with_payload(&self, protocol: Protocol) -> Option<Vec<u8>> {
        let Description { source_port, destination_port, payload_bytes, ttl, .. } =
            *self.description;
        let header_len = match protocol {
            Protocol::Tcp => tcp::LEN,
            Protocol::Sctp => sctp::LEN + sctp::INIT_LEN,
            Protocol::Udp | Protocol::Icmp | Protocol::Arp => udp::LEN,
        };
        let len = u16::try_from(header_len.checked_add(payload_bytes)?).ok()?;
        let mut bytes = vec![0; usize::from(len)];
        let (number, offset) = match protocol {
            Protocol::Tcp => {
                tcp::SynRepr { source_port, destination_port }.emit(&mut bytes)?;
                if let Some(flags) = self.description.tcp_flags {
                    put(&mut bytes, tcp::FLAGS_OFFSET, &[flags])?;
                }
                (tcp::PROTOCOL, tcp::CHECKSUM_OFFSET)
            }
            Protocol::Udp => {
                udp::Repr { source_port, destination_port, len }.emit(&mut bytes)?;
                (udp::PROTOCOL, udp::CHECKSUM_OFFSET)
            }
            Protocol::Sctp => {
                sctp::InitRepr { source_port, destination_port }.emit(&mut bytes)?;
                return self.within_ip(bytes, sctp::PROTOCOL, None, self.destination, ttl);
            }
            Protocol::Icmp | Protocol::Arp => {
                let (kind, number) = match self.destination {
                    IpAddr::V4(_) => (icmp::ECHO_REQUEST_V4, icmp::PROTOCOL_V4),
                    IpAddr::V6(_) => (icmp::ECHO_REQUEST_V6, icmp::PROTOCOL_V6),
                };
                icmp::EchoRepr { kind, identifier: 1, sequence: 1 }.emit(&mut bytes)?;
                (number, icmp::CHECKSUM_OFFSET)
            }
        };
        self.within_ip(bytes, number, Some(offset), self.destination, ttl)
    }

    /// Sums the message, if its sum is still to be put somewhere, and puts an IP header in front.
    fn within_ip(
        &self,
        mut message: Vec<u8>,
        protocol: u8,
        checksum_offset: Option<usize>,
        destination: IpAddr,
        ttl: u8,
    ) -> Option<Vec<u8>> {
        let pseudo = match protocol {
            icmp::PROTOCOL_V4 => 0,
            _ => checksum::pseudo_header(self.source, destination, protocol, message.len()),
        };
        let sum = !checksum::fold(pseudo + checksum::sum(&message));
        let sum = if protocol == udp::PROTOCOL { checksum::for_udp(sum) } else { sum };
        if let Some(offset) = checksum_offset {
            put(&mut message, offset, &sum.to_be_bytes())?;
        }
        let header_len = if destination.is_ipv4() { ipv4::LEN } else { ipv6::LEN };
        let mut bytes = vec![0; header_len];
        match (self.source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Repr {
                traffic_class: 0,
                total_len: u16::try_from(header_len + message.len()).ok()?,
                dont_fragment: true,
                ttl,
                protocol,
                source,
                destination,
            }
            .emit(&mut bytes)?,
            (source, destination) => {
                let v6 = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                let (source, destination): (Ipv6Addr, Ipv6Addr) = (v6(source), v6(destination));
                ipv6::Repr {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: u16::try_from(message.len()).ok()?,
                    next_header: protocol,
                    hop_limit: ttl,
                    source,
                    destination,
                }
                .emit(&mut bytes)?;
            }
        }
        bytes.extend(message);
        Some(bytes)
    }
}
