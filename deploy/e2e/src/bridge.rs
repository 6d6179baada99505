//! The plain alternative: Pods on a Linux bridge in each node, the bridges joined by VXLAN.
//!
//! Shows that an attack works where nobody stops it, and is what throughput is compared with.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::failure::Outcome;
use crate::journal::{self, Journal};
use crate::namespace::Namespace;
use crate::underlay::{UPLINK, Underlay};

/// MTU of the Pods, as with Geneve over IPv4: 1500 less 50.
const MTU: u32 = 1450;

/// Two nodes with a bridge each. Dropped, it is removed.
#[derive(Debug)]
pub struct BridgeCluster {
    /// The nodes.
    pub nodes: Vec<Namespace>,
    /// Between them.
    pub underlay: Underlay,
    /// The Pods, in the order they were added.
    pub pods: Vec<BridgePod>,
    journal: Arc<Journal>,
}

/// A Pod on a bridge.
#[derive(Clone, Debug)]
pub struct BridgePod {
    /// Its network; its interface is `eth0`.
    pub namespace: Namespace,
    /// Of its `eth0`.
    pub mac: [u8; 6],
    /// Its address, on one segment with all others.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
}

/// The node's address on its bridge, for Pods of that node.
pub fn gateway_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 255, octet(node + 1))
}

/// The node's address on the underlay.
pub fn node_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, octet(node + 1))
}

/// The MAC of a node's bridge.
pub fn bridge_mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0xff, octet(node + 1)]
}

impl BridgeCluster {
    /// Brings up two nodes with no Pods.
    pub fn create(run: &str) -> Outcome<BridgeCluster> {
        let journal = Arc::new(Journal::create(run)?);
        let result = Self::build(&journal);
        if result.is_err() {
            journal::remove_run(run)?;
        }
        result
    }

    fn build(journal: &Arc<Journal>) -> Outcome<BridgeCluster> {
        let underlay = Underlay::create(journal)?;
        let mut nodes = Vec::new();
        for index in 0..2 {
            let node = Namespace::create(journal, &format!("bridge{}", index + 1))?;
            underlay.join(&node, &format!("bridge{}", index + 1), &[node_v4(index).into()])?;
            node.set("ipv4/ip_forward", "1")?;
            let mac = mac_text(bridge_mac(index));
            node.ip(&format!("link add br0 address {mac} type bridge stp_state 0"))?;
            node.ip(&format!("addr add {}/16 dev br0", gateway_v4(index)))?;
            node.ip(&format!(
                "link add vxlan0 type vxlan id 1 dstport 4789 dev {UPLINK} local {} remote {}",
                node_v4(index),
                node_v4(1 - index)
            ))?;
            node.ip(&format!("link set vxlan0 mtu {MTU} master br0 up"))?;
            node.ip("link set br0 up")?;
            nodes.push(node);
        }
        Ok(BridgeCluster { nodes, underlay, pods: Vec::new(), journal: Arc::clone(journal) })
    }

    /// Adds a Pod to a node.
    pub fn add(&mut self, node: usize, name: &str) -> Outcome<BridgePod> {
        let number = self.pods.len() + 1;
        let namespace = Namespace::create(&self.journal, &format!("bridge-{name}"))?;
        let pod = BridgePod {
            namespace,
            mac: [2, 0, 0, 0, 0, octet(number)],
            v4: Ipv4Addr::new(10, 20, 0, octet(number)),
            v6: Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, u16::from(octet(number))),
        };
        let host = &self.nodes[node];
        let queues = "numrxqueues 2 numtxqueues 2";
        host.ip(&format!(
            "link add pod{number} mtu {MTU} {queues} type veth peer name eth0 mtu {MTU} {queues} \
             address {} netns {}",
            mac_text(pod.mac),
            pod.namespace.name()
        ))?;
        host.ip(&format!("link set pod{number} master br0 up"))?;
        pod.namespace.ip(&format!("addr add {}/16 dev eth0", pod.v4))?;
        pod.namespace.ip(&format!("addr add {}/64 dev eth0 nodad", pod.v6))?;
        pod.namespace.ip("link set eth0 up")?;
        pod.namespace.ip(&format!("route add default via {}", gateway_v4(node)))?;
        self.pods.push(pod.clone());
        Ok(pod)
    }
}

impl Drop for BridgeCluster {
    fn drop(&mut self) {
        if let Err(error) = journal::remove_run(self.journal.run()) {
            eprintln!("what is left of run `{}` was not removed: {error}", self.journal.run());
        }
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("a handful of Pods and nodes")
}
