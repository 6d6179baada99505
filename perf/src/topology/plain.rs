//! The peer: Pod-like namespaces on a Linux bridge, and the kernel's VXLAN between nodes.
//!
//! Nothing is tuned down: veths keep every offload of their own, and VXLAN lies on the same
//! underlay segment as Seine's Geneve. A node routes between its bridge and the tunnel, as the
//! common bridge-and-VXLAN plugins do. No policy, no spoof guard, no connection tracking: this is
//! the least work a kernel can do for a Pod, and less than Seine does.

use std::net::IpAddr;

use seine_e2e::failure::Outcome;
use seine_e2e::journal::Journal;
use seine_e2e::namespace::Namespace;
use seine_e2e::pod::Family;
use seine_e2e::underlay::{UPLINK, Underlay};

/// MTU of Pods on both systems: what is left of 1500 bytes within either tunnel.
pub const POD_MTU: u32 = 1450;

/// A node without Seine.
#[derive(Debug)]
pub struct PlainNode {
    /// Its network.
    pub namespace: Namespace,
    number: usize,
    pods: usize,
}

/// A Pod on such a node.
#[derive(Debug)]
pub struct PlainPod {
    /// Its network.
    pub namespace: Namespace,
    addresses: [IpAddr; 2],
}

impl PlainPod {
    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses[usize::from(family == Family::V6)]
    }
}

impl PlainNode {
    /// A node with a bridge, number 1 or 2.
    pub fn create(journal: &Journal, underlay: &Underlay, number: usize) -> Outcome<PlainNode> {
        let name = format!("plain{number}");
        let namespace = Namespace::create(journal, &name)?;
        underlay.join(&namespace, &name, &underlay_addresses(number))?;
        namespace.ip("link add br0 type bridge stp_state 0")?;
        for (address, length) in gateways(number).iter().zip([24, 64]) {
            namespace.ip(&format!("addr add {address}/{length} dev br0{}", nodad(*address)))?;
        }
        namespace.ip(&format!("link set br0 mtu {POD_MTU} up"))?;
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            namespace.set(key, "1")?;
        }
        Ok(PlainNode { namespace, number, pods: 0 })
    }

    /// Joins it to the other node by VXLAN.
    pub fn tunnel_to(&self, other: &PlainNode) -> Outcome {
        let [local, remote] = [self.number, other.number].map(|it| underlay_addresses(it)[0]);
        self.namespace.ip(&format!(
            "link add vxlan0 mtu {POD_MTU} type vxlan id 42 local {local} remote {remote} \
             dstport 4789 dev {UPLINK}"
        ))?;
        for (address, length) in tunnel_ends(self.number).iter().zip([24, 64]) {
            self.namespace
                .ip(&format!("addr add {address}/{length} dev vxlan0{}", nodad(*address)))?;
        }
        self.namespace.ip("link set vxlan0 up")?;
        for (range, via) in ranges(other.number).iter().zip(tunnel_ends(other.number)) {
            self.namespace.ip(&format!("route add {range} via {via}"))?;
        }
        Ok(())
    }

    /// Adds a Pod to its bridge.
    pub fn attach(&mut self, journal: &Journal, name: &str) -> Outcome<PlainPod> {
        self.pods += 1;
        let (number, host) = (self.number, self.pods + 1);
        let namespace = Namespace::create(journal, &format!("plain{number}-{name}"))?;
        let port = format!("pod{host}");
        self.namespace.ip(&format!(
            "link add {port} mtu {POD_MTU} type veth peer name eth0 mtu {POD_MTU} netns {}",
            namespace.name()
        ))?;
        self.namespace.ip(&format!("link set {port} master br0 up"))?;
        let addresses = [
            address(&format!("10.20.{number}.{host}")),
            address(&format!("fd00:20:{number}::{host:x}")),
        ];
        for (address, length) in addresses.iter().zip([24, 64]) {
            namespace.ip(&format!("addr add {address}/{length} dev eth0{}", nodad(*address)))?;
        }
        namespace.ip("link set eth0 up")?;
        for gateway in gateways(number) {
            namespace.ip(&format!("route add default via {gateway}"))?;
        }
        Ok(PlainPod { namespace, addresses })
    }
}

fn underlay_addresses(number: usize) -> [IpAddr; 2] {
    [address(&format!("192.0.2.10{number}")), address(&format!("2001:db8:0:2::10{number}"))]
}

fn gateways(number: usize) -> [IpAddr; 2] {
    [address(&format!("10.20.{number}.1")), address(&format!("fd00:20:{number}::1"))]
}

fn tunnel_ends(number: usize) -> [IpAddr; 2] {
    [address(&format!("10.20.255.{number}")), address(&format!("fd00:20:ff::{number}"))]
}

fn ranges(number: usize) -> [String; 2] {
    [format!("10.20.{number}.0/24"), format!("fd00:20:{number}::/64")]
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address made of small numbers")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use seine_e2e::daemon::until;
    use seine_e2e::journal;
    use seine_e2e::measure::pings;

    #[test]
    fn addresses_of_the_two_nodes_differ_and_parse() {
        for addresses in [underlay_addresses, gateways, tunnel_ends] {
            assert_ne!(addresses(1), addresses(2));
        }
    }

    /// Removes a run also when its test fails.
    struct Remover(String);

    impl Drop for Remover {
        fn drop(&mut self) {
            journal::remove_run(&self.0).unwrap();
        }
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN"]
    fn plain_pods_reach_each_other_on_one_node_and_across() {
        let run = format!("perf-test-{}", std::process::id());
        let journal = Journal::create(&run).unwrap();
        let _remover = Remover(run);
        let underlay = Underlay::create(&journal).unwrap();
        let mut first = PlainNode::create(&journal, &underlay, 1).unwrap();
        let mut second = PlainNode::create(&journal, &underlay, 2).unwrap();
        let client = first.attach(&journal, "a").unwrap();
        let near = first.attach(&journal, "b").unwrap();
        let far = second.attach(&journal, "c").unwrap();
        for family in Family::BOTH {
            assert!(pings(&client.namespace, near.address(family)), "{}", family.name());
            assert!(!pings(&client.namespace, far.address(family)), "there is no tunnel yet");
        }
        first.tunnel_to(&second).unwrap();
        second.tunnel_to(&first).unwrap();
        for family in Family::BOTH {
            // Routes of IPv6 come up a little after their link.
            let across = || pings(&client.namespace, far.address(family));
            until(family.name(), 5, across).unwrap();
        }
    }
}
