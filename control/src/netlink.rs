//! A plain, blocking rtnetlink socket and the few requests that Seine makes with it.
//!
//! Attaching a Pod is a fixed sequence of about ten requests that must be answered one after the
//! other, on a thread that lives only for it; a socket without an event loop does that with the
//! least machinery. The messages are those of the rtnetlink crates. A socket acts in the namespace
//! it was opened in, whichever thread uses it later.

mod features;
mod neighbor;
mod rule;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use features::disable_features;
pub use neighbor::StaticNeighbor;
pub use rule::OriginRule;

use crate::model::Mac;
use crate::namespace::Namespace;

/// The routing table that is asked when no rule says otherwise.
pub const TABLE_MAIN: u8 = RouteHeader::RT_TABLE_MAIN;

/// An rtnetlink socket in one namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or failed.
    #[error("the netlink socket failed")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refused to {request}")]
    Refused {
        /// What was asked: "add the address 10.0.0.2/24".
        request: String,
        /// Its errno.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer to `{request}` cannot be read: {reason}")]
    Answer {
        /// What was asked.
        request: String,
        /// What was wrong with the answer.
        reason: String,
    },
}

impl NetlinkError {
    /// The whole in one line: what failed, and what the kernel said.
    pub fn with_reason(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// The errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address, when it has an Ethernet one.
    pub mac: Option<Mac>,
    /// Bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

/// A pair of veth ends in two namespaces.
pub struct VethPair<'a> {
    /// The near end, in the socket's namespace.
    pub name: &'a str,
    /// The far end, in `peer_namespace`.
    pub peer_name: &'a str,
    /// Where the far end is born.
    pub peer_namespace: &'a Namespace,
    /// Of the far end.
    pub peer_mac: Mac,
    /// Of both ends, bytes.
    pub mtu: u32,
    /// Receive and transmit queues of both ends.
    pub queues: u32,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// Out of which link, by index; 0 leaves it to the kernel, by the gateway.
    pub interface: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The gateway is taken to be on the link, whatever the addresses say.
    pub on_link: bool,
    /// Who made it: a number of `/etc/iproute2/rt_protos`.
    pub protocol: u8,
    /// The table it is in.
    pub table: u8,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Socket)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a socket in `namespace`, whichever namespace the caller is in.
    pub fn open_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        namespace
            .run_blocking(Self::open)
            .map_err(|error| NetlinkError::Socket(io::Error::other(error)))?
    }

    /// The link of that name, or `None`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let request = format!("look up the link `{name}`");
        match self.exchange(&request, RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(link_of)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.exchange("list links", message, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// Makes a pair of veth ends; both are down.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let ends = |name: &str| {
            let mut message = LinkMessage::default();
            message.attributes.extend([
                LinkAttribute::IfName(name.into()),
                LinkAttribute::Mtu(pair.mtu),
                LinkAttribute::NumTxQueues(pair.queues),
                LinkAttribute::NumRxQueues(pair.queues),
            ]);
            message
        };
        let mut peer = ends(pair.peer_name);
        peer.attributes.extend([
            LinkAttribute::Address(pair.peer_mac.bytes().to_vec()),
            LinkAttribute::NetNsFd(pair.peer_namespace.descriptor().as_raw_fd()),
        ]);
        let mut near = ends(pair.name);
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let request = format!("make the veth pair `{}` and `{}`", pair.name, pair.peer_name);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.exchange(&request, RouteNetlinkMessage::NewLink(near), flags).map(|_| ())
    }

    /// Deletes a link. Returns whether there was one.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let request = format!("delete the link `{name}`");
        match self.exchange(&request, RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets a link up; with `mtu`, sets that as well.
    pub fn set_up(&mut self, index: u32, mtu: Option<u32>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let request = format!("set link {index} up");
        self.exchange(&request, RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(|_| ())
    }

    /// Gives a link an address, without duplicate address detection: Seine's own records already
    /// say that it is unique, and a tentative address delays the Pod. An address that is there
    /// already is a success.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = address_message(index, address);
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let request = format!("add the address {address}");
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(&request, RouteNetlinkMessage::NewAddress(message), flags).map(|_| ())
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        let request = format!("delete the address {address}");
        self.exchange(&request, message, NLM_F_ACK).map(|_| ())
    }

    /// The addresses of a link, link-local ones included.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.exchange("list addresses", message, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                    address_of(&message)
                }
                _ => None,
            })
            .collect())
    }

    /// Adds a route, or replaces the one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        let request = format!("add the route to {}", route.destination);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(&request, message, flags).map(|_| ())
    }

    /// Deletes a route. One that is not there is a success.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        let request = format!("delete the route to {}", route.destination);
        match self.exchange(&request, message, NLM_F_ACK) {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// The unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.routes_in(TABLE_MAIN)
    }

    /// The unicast routes of a table, both families.
    pub fn routes_in(&mut self, table: u8) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let message = RouteNetlinkMessage::GetRoute(message);
            let answers = self.exchange("list routes", message, NLM_F_DUMP)?;
            routes.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => {
                    route_of(&message).filter(|route| route.table == table)
                }
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Sends one request and collects what comes back until it is acknowledged or the list ends.
    fn exchange(
        &mut self,
        request: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Socket)?;

        let unreadable = |reason: String| NetlinkError::Answer { request: request.into(), reason };
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| unreadable(error.to_string()))?;
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // A late answer to an earlier request that ended with an error.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        let source = error.to_io();
                        return Err(NetlinkError::Refused { request: request.into(), source });
                    }
                    NetlinkPayload::Overrun(_) => {
                        return Err(unreadable("the kernel lost part of it".into()));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(link)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(address.addr()));
    if let IpNet::V4(net) = address {
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // The local address of IPv4; for IPv6, Address is the only one.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = route.table;
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if route.gateway.is_none() {
        message.header.scope = RouteScope::Link;
    }
    if route.on_link {
        message.header.flags = RouteFlags::Onlink;
    }
    if route.destination.prefix_len() > 0 {
        let destination = RouteAddress::from(route.destination.network());
        message.attributes.push(RouteAttribute::Destination(destination));
    }
    if route.interface != 0 {
        message.attributes.push(RouteAttribute::Oif(route.interface));
    }
    message.attributes.extend(route.gateway.map(|to| RouteAttribute::Gateway(to.into())));
    message.attributes.extend(route.source.map(|from| RouteAttribute::PrefSource(from.into())));
    message
}

fn address_in(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let everything: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        destination: IpNet::new(everything, header.destination_prefix_length).ok()?,
        gateway: None,
        interface: 0,
        source: None,
        on_link: header.flags.contains(RouteFlags::Onlink),
        protocol: header.protocol.into(),
        table: header.table,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.destination =
                    IpNet::new(address_in(to)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(to) => route.gateway = address_in(to),
            RouteAttribute::PrefSource(from) => route.source = address_in(from),
            RouteAttribute::Oif(index) => route.interface = *index,
            _ => {}
        }
    }
    Some(route)
}
