//! Judged by others: tshark reads what is on the underlay, Open vSwitch speaks with our nodes.

use super::reach::{self, reach};
use super::{Case, Stage, Underlay, manifests, node};
use crate::capture::Capture;
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::measure::{self, pings};
use crate::ovs::OvsNode;
use crate::pod::Family;

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
