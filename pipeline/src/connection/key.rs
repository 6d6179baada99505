//! What a connection is found by.

use std::fmt;
use std::net::IpAddr;

use crate::address::PortId;
use crate::wire::field::{Field, read};
use crate::wire::ip::Ip;
use crate::wire::ipv6::Fragment;
use crate::wire::{icmp, sctp, tcp, u16_at, udp};

/// Source and destination of a packet. An ICMP query has its identifier for a source port, and its
/// type for a destination port; its answer has them the other way round, with the type of query
/// that it answers. So two that ask each other do not get in each other's way, and neither do
/// queries of different types. All other ports of protocols without ports are 0.
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
        read(Field::SourcePort);
        read(Field::DestinationPort);
        let (source_port, destination_port) = match ip.protocol {
            _ if ip.fragment == Fragment::Later => (0, 0),
            tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL => (port(0)?, port(2)?),
            _ => match ip.icmp_type(bytes).map(|kind| (kind, icmp::query_of(ip.is_v6(), kind))) {
                Some((_, Some(query))) => {
                    (QUERIES | u16::from(query), port(icmp::IDENTIFIER_OFFSET)?)
                }
                Some((kind, _)) if icmp::is_query(ip.is_v6(), kind) => {
                    (port(icmp::IDENTIFIER_OFFSET)?, QUERIES | u16::from(kind))
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

    /// The type of ICMP query that it is of, and whether it is of the answer. One whose identifier
    /// looks like a type is taken for a query.
    pub(crate) fn query(&self) -> Option<(u8, bool)> {
        if !matches!(self.protocol, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6) {
            return None;
        }
        let ports = [(self.destination_port, false), (self.source_port, true)];
        let (port, answer) = ports.into_iter().find(|(port, _)| *port & QUERIES == QUERIES)?;
        // The lower half.
        Some((port as u8, answer))
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

/// Above the type of a query, which is kept where others have a port. Few identifiers are as high,
/// and a query that has just that for an identifier is still told from its answer by its signal.
const QUERIES: u16 = 0xff00;

/// "10.10.1.2:40000 > 10.10.1.3:80"; without ports where there are none. Of an ICMP query the
/// identifier stands for the port of who asks: "10.10.1.2:7 > 10.10.1.3", with ", type 13" behind
/// it if it is no echo.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |f: &mut fmt::Formatter<'_>, address: IpAddr, port: u16| match (address, port) {
            (_, 0) => write!(f, "{address}"),
            (IpAddr::V4(_), _) => write!(f, "{address}:{port}"),
            (IpAddr::V6(_), _) => write!(f, "[{address}]:{port}"),
        };
        let query = self.query();
        let shown = |port, is_type| if is_type { 0 } else { port };
        let answer = query.map(|(_, answer)| answer);
        end(f, self.source, shown(self.source_port, answer == Some(true)))?;
        f.write_str(" > ")?;
        end(f, self.destination, shown(self.destination_port, answer == Some(false)))?;
        match query {
            None | Some((icmp::ECHO_REQUEST_V4 | icmp::ECHO_REQUEST_V6, _)) => Ok(()),
            Some((kind, _)) => write!(f, ", type {kind}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_sees_ports_and_identifiers_and_of_other_queries_the_type() {
        let shown = |protocol, source_port, destination_port| {
            let (source, destination) = ([10, 10, 1, 2].into(), [10, 10, 1, 3].into());
            let tuple = Tuple { source, destination, protocol, source_port, destination_port };
            [tuple.to_string(), tuple.reversed().to_string()]
        };
        let ports = ["10.10.1.2:7 > 10.10.1.3:65288", "10.10.1.3:65288 > 10.10.1.2:7"];
        assert_eq!(shown(6, 7, 65288), ports);
        assert_eq!(shown(47, 0, 0), ["10.10.1.2 > 10.10.1.3", "10.10.1.3 > 10.10.1.2"]);
        let echo = ["10.10.1.2:7 > 10.10.1.3", "10.10.1.3 > 10.10.1.2:7"];
        assert_eq!(shown(1, 7, QUERIES | 8), echo);
        assert_eq!(shown(58, 7, QUERIES | 128), echo);
        assert_eq!(shown(1, 7, QUERIES | 13)[1], "10.10.1.3 > 10.10.1.2:7, type 13");
    }
}
