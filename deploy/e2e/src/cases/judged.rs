//! Judged by others: tshark reads what is on the underlay, Open vSwitch and the kernel's own VXLAN
//! device speak with our nodes.

use std::net::IpAddr;

use super::reach::{self, reach};
use super::{Case, Stage, Underlay, manifests, node};
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::manifest::{Manifests, NodeManifest};
use crate::measure::{self, pings};
use crate::namespace::Namespace;
use crate::ovs::OvsNode;
use crate::pod::Family;
use crate::underlay::UPLINK;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "tshark finds no fault in tunnels over IPv4, checksums and all",
        run: |stage| captured(stage, Underlay::Ipv4),
    },
    Case {
        name: "tshark finds no fault in tunnels over IPv6, checksums and all",
        run: |stage| captured(stage, Underlay::Ipv6),
    },
    Case { name: "pods speak with a pod behind Open vSwitch's userspace datapath", run: ovs_peer },
    Case {
        name: "pods speak with a node behind the kernel's VXLAN device over IPv4",
        run: |stage| kernel_peer(stage, Underlay::Ipv4),
    },
    Case {
        name: "pods speak with a node behind the kernel's VXLAN device over IPv6",
        run: |stage| kernel_peer(stage, Underlay::Ipv6),
    },
];

fn captured(stage: &mut Stage, underlay: Underlay) -> Outcome {
    let cluster = stage.cluster(&manifests(2, underlay, &[("a", 1), ("b", 2)]))?;
    let file = cluster.journal.directory().join("underlay.pcap");
    let segment = &cluster.underlay.segment;
    let capture = Capture::start(&cluster.journal, segment, "node1", &file)?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        for family in Family::BOTH {
            reach(cluster, from, to, family)?;
        }
    }
    let judgement = capture.judge()?;
    judgement.expect_inner(&["icmp", "icmpv6", "tcp", "udp"])?;
    expect(judgement.tunnelled > 1000, || format!("only {} frames", judgement.tunnelled))
}

fn ovs_peer(stage: &mut Stage) -> Outcome {
    let mut wanted = manifests(1, Underlay::Ipv4, &[("a", 1)]);
    let cluster = stage.cluster(&wanted)?;
    let ours = wanted.nodes[0].clone();
    let theirs = node(9, Underlay::Ipv4);
    wanted.nodes.push(theirs.clone());
    wanted.write(&cluster.manifests)?;
    let peer = OvsNode::start(&cluster.journal, &cluster.underlay, &theirs, &[&ours])?;
    let file = cluster.journal.directory().join("ovs.pcap");
    let capture = Capture::start(&cluster.journal, &cluster.underlay.segment, "node1", &file)?;
    let a = cluster.pod("a")?;
    for (family, theirs) in Family::BOTH.into_iter().zip(peer.addresses.iter().copied()) {
        // The switch resolves the underlay's neighbours by the first packets, which it drops.
        until("the peer answers", 10, || pings(&a.namespace, theirs))?;
        let own = a.address(family)?;
        measure::ping(&a.namespace, theirs, 5)?;
        measure::ping(&peer.pod, own, 5)?;
        reach::tcp(&a.namespace, &peer.pod, theirs)?;
        reach::tcp(&peer.pod, &a.namespace, own)?;
        reach::udp(&a.namespace, &peer.pod, theirs)?;
        reach::udp(&peer.pod, &a.namespace, own)?;
    }
    let judgement = capture.judge()?;
    judgement.expect_inner(&["icmp", "icmpv6", "tcp", "udp"])?;
    drop(peer);
    Ok(())
}

/// What nodes put as the destination inside a tunnel: "the node over there".
const VIRTUAL_MAC: &str = "aa:bb:cc:dd:ee:ff";

/// A node that is the kernel alone, with addresses of its Pod ranges on a VXLAN device.
fn kernel_node(
    cluster: &Cluster,
    own: &NodeManifest,
    peer: &NodeManifest,
) -> Outcome<(Namespace, Vec<IpAddr>)> {
    let host = Namespace::create(&cluster.journal, &own.name)?;
    cluster.underlay.join(&host, &own.name, &own.addresses)?;
    let (local, remote) = (own.addresses[0], peer.addresses[0]);
    host.ip(&format!(
        "link add vxlan0 address {VIRTUAL_MAC} type vxlan id 0 dstport 4789 dev {UPLINK} \
         local {local} remote {remote}"
    ))?;
    // Nobody on a virtual wire completes a checksum or cuts a segment that was left to hardware.
    for device in [UPLINK, "vxlan0"] {
        host.run(&format!("ethtool -K {device} tx off tso off gso off"))?;
    }
    host.set("ipv6/conf/vxlan0/accept_dad", "0")?;
    host.ip("link set vxlan0 up")?;
    let mut addresses = Vec::new();
    for (own, peer) in own.pod_cidrs.iter().zip(&peer.pod_cidrs) {
        let hosts = (own.hosts().nth(2), peer.hosts().next());
        let (Some(address), Some(next_hop)) = hosts else { continue };
        let word = if address.is_ipv6() { " nodad" } else { "" };
        host.ip(&format!("addr add {address} dev vxlan0{word}"))?;
        host.ip(&format!("neigh add {next_hop} lladdr {VIRTUAL_MAC} dev vxlan0 nud permanent"))?;
        host.ip(&format!("route add {peer} via {next_hop} dev vxlan0 onlink src {address}"))?;
        addresses.push(address);
    }
    Ok((host, addresses))
}

fn kernel_peer(stage: &mut Stage, underlay: Underlay) -> Outcome {
    let mut wanted = manifests(1, underlay, &[("a", 1)]);
    let (ours, theirs) = (wanted.nodes[0].clone(), node(9, underlay));
    wanted.nodes.push(theirs.clone());
    let cluster = vxlan_cluster(stage, &wanted)?;
    let (peer, addresses) = kernel_node(cluster, &theirs, &ours)?;
    let a = cluster.pod("a")?;
    for (family, theirs) in Family::BOTH.into_iter().zip(addresses) {
        until("the peer answers", 20, || pings(&a.namespace, theirs))?;
        let own = a.address(family)?;
        measure::ping(&a.namespace, theirs, 5)?;
        measure::ping(&peer, own, 5)?;
        reach::tcp(&a.namespace, &peer, theirs)?;
        reach::tcp(&peer, &a.namespace, own)?;
        reach::udp(&a.namespace, &peer, theirs)?;
        reach::udp(&peer, &a.namespace, own)?;
    }
    peer.remove()
}

/// A cluster whose first node alone is ours, and tunnels by VXLAN.
fn vxlan_cluster<'s>(stage: &'s mut Stage, wanted: &Manifests) -> Outcome<&'s Cluster> {
    let ours = Manifests { nodes: vec![wanted.nodes[0].clone()], pods: wanted.pods.clone() };
    let cluster = stage.machines(&ours)?;
    wanted.write(&cluster.manifests)?;
    for node in &cluster.nodes {
        let modes = "tunnelType = \"vxlan\"\n";
        node.write("agent.toml", &node.agent_configuration(&cluster.manifests, modes))?;
    }
    cluster.start()?;
    for pod in &wanted.pods {
        cluster.attach(pod)?;
    }
    Ok(cluster)
}
