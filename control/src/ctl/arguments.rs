//! The command line: nouns, then verbs.

mod decided;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use seine_datapath_api::v1::trace_request::Protocol;

pub use decided::{ConnectionFilter, ConnectionVerb, PolicyVerb, RuleVerb};

const EXAMPLES: &str = "\
Examples:
  seinectl status
  seinectl port list --watch 2              packets and bits a second, every 2 s
  seinectl drop list                        why packets are lost, and what that means
  seinectl table show SpoofGuard
  seinectl connection list --pod default/client --service default/web
  seinectl connection count --rule K8sNetworkPolicy:default/allow-dns
  seinectl rule stats                       sessions, packets and bytes of each rule
  seinectl trace default/client default/server tcp/80
  seinectl trace default/client 10.10.2.7 udp/53 -o json | jq .verdict

Exit status: 0 done, 1 failed, 2 wrong command line. `-o json` has stable names.";

const TRACE_EXAMPLES: &str = "\
FROM is where the packet comes in:
  default/client        a Pod of this node, by its eth0; default/client/net1 names another interface
  gateway               from the node itself
  tunnel                from another node; the inner packet is described, so --source-address is needed
  seine-gw0             any port of `seinectl port list`

TO is an address, or a Pod of this node (default/server), or `gateway`.
WHAT is icmp (an echo request), tcp/PORT (a SYN), udp/PORT or arp (who has TO? A neighbour solicitation if TO is IPv6).

Examples:
  seinectl trace default/client default/server tcp/80
  seinectl trace default/client default/server -6
  seinectl trace default/client 10.10.1.1 arp
  seinectl trace default/client 10.10.2.7 udp/53 --payload 1400
  seinectl trace default/client default/server --source-mac 02:00:00:00:00:99    is it spoof-guarded?
  seinectl trace tunnel default/server tcp/80 --source-address 10.10.2.7

Nothing is sent and no counter moves.";

/// Looks into a node's datapath.
#[derive(Parser, Debug)]
#[command(name = "seinectl", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Arguments {
    /// Where seine-datapath listens
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SEINE_DATAPATH_SOCKET",
        default_value = "/run/seine/datapath.sock"
    )]
    pub socket: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// The noun.
    #[command(subcommand)]
    pub noun: Noun,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Text,
    /// One JSON object; with --watch one a line
    Json,
}

/// What it is about.
#[derive(Subcommand, Debug)]
pub enum Noun {
    /// Versions, the revision in force, workers and ports at a glance
    Status,
    /// Ports: of Pods, the gateway, the uplink
    #[command(subcommand)]
    Port(PortVerb),
    /// Dropped packets
    #[command(subcommand)]
    Drop(DropVerb),
    /// Workers: their cores, their load
    #[command(subcommand)]
    Worker(WorkerVerb),
    /// Stages of the pipeline: what they cost
    #[command(subcommand)]
    Stage(StageVerb),
    /// Tables of the pipeline
    #[command(subcommand)]
    Table(TableVerb),
    /// Connections that are known
    #[command(subcommand)]
    Connection(ConnectionVerb),
    /// Policies that apply to Pods of this node
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Rules of policies
    #[command(subcommand)]
    Rule(RuleVerb),
    /// What the pipeline would do to one described packet, table by table
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(TraceArguments),
}

/// What to do with ports.
#[derive(Subcommand, Debug)]
pub enum PortVerb {
    /// All ports with their traffic
    List(Watch),
}

/// What to do with drops.
#[derive(Subcommand, Debug)]
pub enum DropVerb {
    /// Drops by reason and port since the datapath started, most first
    List(DropArguments),
}

/// Which drops.
#[derive(Args, Debug)]
pub struct DropArguments {
    /// Only those of this port
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// The interval.
    #[command(flatten)]
    pub watch: Watch,
}

/// What to do with workers.
#[derive(Subcommand, Debug)]
pub enum WorkerVerb {
    /// All workers
    List(Watch),
}

/// What to do with stages.
#[derive(Subcommand, Debug)]
pub enum StageVerb {
    /// TSC cycles of each stage, for packets that take the stages (`worker list` says how many do)
    List,
}

/// What to do with tables.
#[derive(Subcommand, Debug)]
pub enum TableVerb {
    /// All tables, in the order in which a packet meets them
    List,
    /// The rows of one table
    Show {
        /// A name from `seinectl table list`
        name: String,
    },
}

/// Again and again.
#[derive(Args, Debug)]
pub struct Watch {
    /// Print again every so many seconds, with rates in place of totals
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

/// A described packet.
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// Where it comes in: namespace/pod[/interface], gateway, tunnel or a port
    pub from: Ingress,
    /// Where to: an address, namespace/pod[/interface] or gateway
    pub to: Target,
    /// icmp, tcp/PORT, udp/PORT or arp
    #[arg(default_value = "icmp")]
    pub what: What,
    /// Take the IPv6 addresses of Pods
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Source address, in place of the sender's own
    #[arg(long, alias = "source", value_name = "ADDRESS")]
    pub source_address: Option<IpAddr>,
    /// Source port of TCP and UDP
    #[arg(long, value_name = "PORT", default_value_t = 40000)]
    pub source_port: u16,
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
            What::Arp => f.write_str("arp"),
        }
    }
}

/// A protocol that cannot be traced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected icmp, tcp/PORT, udp/PORT or arp, with a PORT from 1 to 65535")]
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
            _ => Err(WhatError),
        }
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
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

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
        for bad in ["tcp", "tcp/0", "tcp/65536", "icmp/1", "sctp/1", "arp/1", ""] {
            assert_eq!(bad.parse::<What>(), Err(WhatError), "{bad}");
        }
        let shown = ["icmp", "tcp/1", "udp/65535", "arp"];
        assert!(
            shown
                .iter()
                .all(|text| { text.parse::<What>().is_ok_and(|what| what.to_string() == *text) })
        );
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
