//! A packet in the words of an operator.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use seine_datapath_api::v1::trace_request::Protocol;

pub(super) const TRACE_EXAMPLES: &str = "\
FROM is where the packet comes in:
  default/client        a Pod of this node, by its eth0; default/client/net1 names another interface
  gateway               from the node itself
  tunnel                from another node; the inner packet is described, so --source-address is needed
  seine-gw0             any port of `seinectl port list`

TO is an address, or a Pod of this node (default/server), or `gateway`.
WHAT is icmp (an echo request), tcp/PORT (a SYN), udp/PORT, sctp/PORT (an INIT) or arp (who has TO? A neighbour
solicitation if TO is IPv6).

A packet that meets a connection under way is judged as one of it, as it would be if it were sent: give its
--source-port (`seinectl connection list` tells it) and for TCP --tcp-flags, since a SYN would begin anew.

Examples:
  seinectl trace default/client default/server tcp/80
  seinectl trace default/client default/server -6
  seinectl trace default/client 10.10.1.1 arp
  seinectl trace default/client 10.10.2.7 udp/53 --payload 1400
  seinectl trace default/client default/server tcp/80 --source-port 45678 --tcp-flags ack
  seinectl trace default/client default/server --source-mac 02:00:00:00:00:99    is it spoof-guarded?
  seinectl trace tunnel default/server tcp/80 --source-address 10.10.2.7

Nothing is sent and no counter moves.";

/// A described packet.
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// Where it comes in: namespace/pod[/interface], gateway, tunnel or a port
    pub from: Ingress,
    /// Where to: an address, namespace/pod[/interface] or gateway
    pub to: Target,
    /// icmp, tcp/PORT, udp/PORT, sctp/PORT or arp
    #[arg(default_value = "icmp")]
    pub what: What,
    /// Take the IPv6 addresses of Pods
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Source address, in place of the sender's own
    #[arg(long, alias = "source", value_name = "ADDRESS")]
    pub source_address: Option<IpAddr>,
    /// Source port of TCP, UDP and SCTP
    #[arg(long, value_name = "PORT", default_value_t = 40000)]
    pub source_port: u16,
    /// Flags of TCP, in place of syn: of fin, syn, rst, psh, ack, urg, ece, cwr, separated by commas; or none
    #[arg(long, value_name = "FLAGS")]
    pub tcp_flags: Option<TcpFlags>,
    /// Bytes of payload
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=9000))]
    pub payload: u32,
    /// TTL or hop limit
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..))]
    pub ttl: u8,
    /// Source MAC, in place of the sender's own
    #[arg(long, value_name = "MAC")]
    pub source_mac: Option<Mac>,
    /// Destination MAC, in place of the one that the sender would learn
    #[arg(long, value_name = "MAC")]
    pub destination_mac: Option<Mac>,
}

/// Where a packet comes in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// "namespace/pod/interface".
    Endpoint(String),
    /// The gateway's port, whatever its name.
    Gateway,
    /// Another node, by the tunnel.
    Tunnel,
    /// A port by its name.
    Port(String),
}

impl FromStr for Ingress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Ingress, NameError> {
        Ok(match text {
            "gateway" => Ingress::Gateway,
            "tunnel" => Ingress::Tunnel,
            _ if text.contains('/') => Ingress::Endpoint(endpoint(text)?),
            "" => return Err(NameError),
            _ => Ingress::Port(text.into()),
        })
    }
}

/// Where a packet goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// An address.
    Address(IpAddr),
    /// "namespace/pod/interface".
    Endpoint(String),
    /// The gateway's own address.
    Gateway,
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Target, NameError> {
        match text.parse() {
            Ok(address) => Ok(Target::Address(address)),
            Err(_) if text == "gateway" => Ok(Target::Gateway),
            Err(_) => endpoint(text).map(Target::Endpoint),
        }
    }
}

/// A name that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected namespace/pod, namespace/pod/interface, an address, or a name of a port")]
pub struct NameError;

/// `namespace/pod` means its `eth0`.
fn endpoint(text: &str) -> Result<String, NameError> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        _ if parts.contains(&"") => Err(NameError),
        [_, _] => Ok(format!("{text}/eth0")),
        [_, _, _] => Ok(text.into()),
        _ => Err(NameError),
    }
}

/// What the packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// An echo request.
    Icmp,
    /// A SYN to this port.
    Tcp(u16),
    /// A datagram to this port.
    Udp(u16),
    /// An association with this port.
    Sctp(u16),
    /// A request for the target's address.
    Arp,
}

impl What {
    /// In the words of the datapath, with the destination port.
    pub fn protocol(self) -> (Protocol, u16) {
        match self {
            What::Icmp => (Protocol::Icmp, 0),
            What::Tcp(port) => (Protocol::Tcp, port),
            What::Udp(port) => (Protocol::Udp, port),
            What::Sctp(port) => (Protocol::Sctp, port),
            What::Arp => (Protocol::Arp, 0),
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Icmp => f.write_str("icmp"),
            What::Tcp(port) => write!(f, "tcp/{port}"),
            What::Udp(port) => write!(f, "udp/{port}"),
            What::Sctp(port) => write!(f, "sctp/{port}"),
            What::Arp => f.write_str("arp"),
        }
    }
}

/// A protocol that cannot be traced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected icmp, tcp/PORT, udp/PORT, sctp/PORT or arp, with a PORT from 1 to 65535")]
pub struct WhatError;

impl FromStr for What {
    type Err = WhatError;

    fn from_str(text: &str) -> Result<What, WhatError> {
        let port = |port: &str| port.parse().ok().filter(|port| *port > 0).ok_or(WhatError);
        match text.split_once('/') {
            None if text == "icmp" => Ok(What::Icmp),
            None if text == "arp" => Ok(What::Arp),
            Some(("tcp", number)) => Ok(What::Tcp(port(number)?)),
            Some(("udp", number)) => Ok(What::Udp(port(number)?)),
            Some(("sctp", number)) => Ok(What::Sctp(port(number)?)),
            _ => Err(WhatError),
        }
    }
}

/// Flags of a TCP header, as its byte has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpFlags(pub u8);

/// No flags of TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected some of fin, syn, rst, psh, ack, urg, ece, cwr, separated by commas; or none")]
pub struct TcpFlagsError;

impl FromStr for TcpFlags {
    type Err = TcpFlagsError;

    fn from_str(text: &str) -> Result<TcpFlags, TcpFlagsError> {
        if text == "none" {
            return Ok(TcpFlags(0));
        }
        // From the lowest bit on.
        let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
        let flag = |name: &str| {
            let bit = names.iter().position(|known| known.eq_ignore_ascii_case(name));
            bit.map(|bit| 1_u8 << bit).ok_or(TcpFlagsError)
        };
        let mut flags = text.split(',').map(flag);
        flags.try_fold(0, |all, flag| flag.map(|flag| all | flag)).map(TcpFlags)
    }
}

/// Six bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(pub [u8; 6]);

/// No MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected six bytes such as 02:42:0a:0a:01:02")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let byte = |part: &str| match part.as_bytes() {
            // `from_str_radix` alone would take a sign.
            [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                u8::from_str_radix(part, 16).map_err(|_| MacError)
            }
            _ => Err(MacError),
        };
        let bytes = text.split(':').map(byte).collect::<Result<Vec<u8>, _>>()?;
        bytes.try_into().map(Mac).map_err(|_| MacError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_interface_means_its_eth0() {
        assert_eq!("default/a".parse(), Ok(Ingress::Endpoint("default/a/eth0".into())));
        assert_eq!("default/a/net1".parse(), Ok(Target::Endpoint("default/a/net1".into())));
        for bad in ["a", "/a", "a/", "a/b/c/d", ""] {
            assert_eq!(bad.parse::<Target>(), Err(NameError), "{bad}");
        }
    }

    #[test]
    fn protocols_have_ports_where_they_need_them() {
        assert_eq!("tcp/80".parse(), Ok(What::Tcp(80)));
        for bad in ["tcp", "tcp/0", "tcp/65536", "icmp/1", "sctp", "dccp/1", "arp/1", ""] {
            assert_eq!(bad.parse::<What>(), Err(WhatError), "{bad}");
        }
        let shown = ["icmp", "tcp/1", "udp/65535", "sctp/7", "arp"];
        assert!(
            shown
                .iter()
                .all(|text| { text.parse::<What>().is_ok_and(|what| what.to_string() == *text) })
        );
    }

    #[test]
    fn flags_are_given_by_their_names() {
        for (text, flags) in [("none", 0), ("syn", 2), ("SYN,ack", 0x12), ("fin,cwr,fin", 0x81)] {
            assert_eq!(text.parse(), Ok(TcpFlags(flags)), "{text}");
        }
        for bad in ["", "s", "syn,", "syn ack", "none,syn", "0x2"] {
            assert_eq!(bad.parse::<TcpFlags>(), Err(TcpFlagsError), "{bad}");
        }
    }

    #[test]
    fn a_mac_has_six_bytes() {
        assert_eq!("02:42:0a:0A:01:02".parse(), Ok(Mac([2, 0x42, 10, 10, 1, 2])));
        for bad in
            ["", "02:42:0a:0a:01", "02:42:0a:0a:01:02:03", "2:42:0a:0a:01:02", "+2:00:00:00:00:00"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(MacError), "{bad}");
        }
    }
}
