//! What a connection is found by.

use std::fmt;
use std::net::IpAddr;

use crate::address::PortId;
use crate::wire::ip::Ip;
use crate::wire::ipv6::Fragment;
use crate::wire::{icmp, sctp, tcp, u16_at, udp};

/// Source and destination of a packet. Of an ICMP query the source port is the identifier, of its
/// answer the destination port: so two that ask each other do not get in each other's way. All
/// other ports of protocols without ports are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

impl Tuple {
    /// That of the packet `bytes`, from its IP header on. `None` when the header of its upper layer
    /// is not whole. The ports of a later fragment are not in it: they are given as 0.
    pub fn of(ip: &Ip, bytes: &[u8]) -> Option<Tuple> {
        let port = |offset| u16_at(bytes, ip.upper + offset);
        let (source_port, destination_port) = match ip.protocol {
            _ if ip.fragment == Fragment::Later => (0, 0),
            tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL => (port(0)?, port(2)?),
            _ => match ip.icmp_type(bytes) {
                Some(kind) if icmp::is_query(ip.is_v6(), kind) => {
                    (port(icmp::IDENTIFIER_OFFSET)?, 0)
                }
                Some(kind) if icmp::is_answer(ip.is_v6(), kind) => {
                    (0, port(icmp::IDENTIFIER_OFFSET)?)
                }
                _ => (0, 0),
            },
        };
        let Ip { source, destination, protocol, .. } = *ip;
        Some(Tuple { source, destination, protocol, source_port, destination_port })
    }

    /// Whether its protocol has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL)
    }

    /// That of an answer.
    pub fn reversed(self) -> Tuple {
        Tuple {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// "10.10.1.2:40000 > 10.10.1.3:80"; without ports where there are none.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |f: &mut fmt::Formatter<'_>, address: IpAddr, port: u16| match (address, port) {
            (_, 0) => write!(f, "{address}"),
            (IpAddr::V4(_), _) => write!(f, "{address}:{port}"),
            (IpAddr::V6(_), _) => write!(f, "[{address}]:{port}"),
        };
        end(f, self.source, self.source_port)?;
        f.write_str(" > ")?;
        end(f, self.destination, self.destination_port)
    }
}

/// What a packet came in by, as far as it belongs to its connection: a Pod may take part only by
/// its own port; of the others any port will do, for routes need not be symmetric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ingress {
    /// A Pod's port, and how often its index was used before.
    Pod(PortId, u32),
    /// The node, or the world behind it.
    Gateway,
    /// A peer.
    Tunnel,
}

/// What one direction of a connection is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    /// Which of several networks; 0 is the cluster's.
    pub network: u16,
    /// What it came in by.
    pub ingress: Ingress,
    /// From whom to whom.
    pub tuple: Tuple,
}

/// Of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// As its first packet.
    Original,
    /// The other.
    Reply,
}

impl Direction {
    /// The other one.
    pub fn reversed(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}
