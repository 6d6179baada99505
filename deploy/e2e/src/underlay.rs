//! What lies between and beyond the nodes: an Ethernet segment, and a host outside.
//!
//! The segment is a bridge in a namespace of its own; every node's `uplink0` is a veth to it, with
//! a queue for each worker at both ends. Outside is a host with an address of its own behind the
//! segment, which has no route to any Pod range: it sees a Pod only when the node masquerades.

use std::net::IpAddr;

use crate::failure::Outcome;
use crate::journal::Journal;
use crate::namespace::Namespace;

/// The uplink's name in every node.
pub const UPLINK: &str = "uplink0";
/// Queues of every veth: one for each worker.
pub const QUEUES: usize = 2;
/// The host outside, by its own addresses, which are behind the segment.
pub const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::1"];
/// The host outside on the segment: the nodes' default gateways.
const ROUTERS: [&str; 2] = ["192.0.2.254", "2001:db8:0:2::fe"];
const PREFIXES: [u8; 2] = [24, 64];

/// The segment and the host outside.
#[derive(Debug)]
pub struct Underlay {
    /// The segment.
    pub segment: Namespace,
    /// The host outside.
    pub outside: Namespace,
}

impl Underlay {
    /// Makes both.
    pub fn create(journal: &Journal) -> Outcome<Underlay> {
        let segment = Namespace::create(journal, "underlay")?;
        segment.set("ipv6/conf/default/disable_ipv6", "1")?;
        segment.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        segment.ip("link set br0 up")?;
        let outside = Namespace::create(journal, "outside")?;
        let underlay = Underlay { segment, outside };
        underlay.join(&underlay.outside, "outside", &ROUTERS.map(address))?;
        for (address, length) in OUTSIDE.iter().zip([32, 128]) {
            underlay.outside.ip(&format!("addr add {address}/{length} dev lo"))?;
        }
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            underlay.outside.set(key, "1")?;
        }
        Ok(underlay)
    }

    /// Gives a host a leg on the segment, called `uplink0` there and `port` here.
    pub fn join(&self, host: &Namespace, port: &str, addresses: &[IpAddr]) -> Outcome {
        let queues = format!("numrxqueues {QUEUES} numtxqueues {QUEUES}");
        self.segment.ip(&format!(
            "link add {port} {queues} type veth peer name {UPLINK} {queues} netns {}",
            host.name()
        ))?;
        self.segment.ip(&format!("link set {port} master br0 up"))?;
        // A node's uplink has long been up: no test shall wait for its address to be usable.
        host.set(&format!("ipv6/conf/{UPLINK}/accept_dad"), "0")?;
        for address in addresses {
            let (family, word) = match address {
                IpAddr::V4(_) => (0, ""),
                IpAddr::V6(_) => (1, " nodad"),
            };
            let length = PREFIXES[family];
            host.ip(&format!("addr add {address}/{length} dev {UPLINK}{word}"))?;
        }
        host.ip(&format!("link set {UPLINK} up"))?;
        Ok(())
    }

    /// Sends what a host has no route for to the host outside.
    pub fn route_outside(host: &Namespace, addresses: &[IpAddr]) -> Outcome {
        for address in addresses {
            let router = ROUTERS[usize::from(address.is_ipv6())];
            host.ip(&format!("route add default via {router}"))?;
        }
        Ok(())
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("a constant of this file")
}
