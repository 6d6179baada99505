//! How Pods of different nodes reach each other: by VXLAN, or by the routes of the nodes' kernels.

use super::{Case, Stage, Underlay, manifests, reach};
use crate::cluster::Cluster;
use crate::counters::Counters;
use crate::failure::{Outcome, expect};
use crate::pod::Family;
use crate::underlay::UPLINK;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pods of two nodes reach each other by VXLAN over an IPv4 underlay",
        run: |stage| tunnelled(stage, Underlay::Ipv4),
    },
    Case {
        name: "pods of two nodes reach each other by VXLAN over an IPv6 underlay",
        run: |stage| tunnelled(stage, Underlay::Ipv6),
    },
    Case {
        name: "without a tunnel pods of two nodes reach each other by the routes of the kernels",
        run: routed,
    },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1), ("c", 2)];

/// A cluster whose agents have these lines in their configuration.
pub(super) fn cluster<'s>(
    stage: &'s mut Stage,
    underlay: Underlay,
    modes: &str,
) -> Outcome<&'s Cluster> {
    let manifests = manifests(2, underlay, PODS);
    let cluster = stage.machines(&manifests)?;
    for node in &cluster.nodes {
        node.write("agent.toml", &node.agent_configuration(&cluster.manifests, modes))?;
    }
    cluster.start()?;
    for pod in &manifests.pods {
        cluster.attach(pod)?;
    }
    Ok(cluster)
}

/// Everybody talks to everybody; how many packets left the first node by its uplink's port.
fn talk(cluster: &Cluster, families: &[Family]) -> Outcome<u64> {
    let node = cluster.node("node1")?;
    let before = Counters::read([node])?;
    for (from, to) in [("a", "b"), ("a", "c"), ("c", "a")] {
        for family in families {
            reach::reach(cluster, from, to, *family)?;
        }
    }
    Ok(Counters::read([node])?.since(&before).port("node1", UPLINK).transmit)
}

fn tunnelled(stage: &mut Stage, underlay: Underlay) -> Outcome {
    let cluster = cluster(stage, underlay, "tunnelType = \"vxlan\"\n")?;
    let sent = talk(cluster, &Family::BOTH)?;
    expect(sent > 100, || format!("{sent} packets were tunnelled"))
}

/// The underlay is IPv4, so a node knows its peers by no IPv6 address.
fn routed(stage: &mut Stage) -> Outcome {
    let cluster = cluster(stage, Underlay::Ipv4, "trafficEncapMode = \"noEncap\"\n")?;
    let sent = talk(cluster, &[Family::V4])?;
    expect(sent == 0, || format!("{sent} packets left by the datapath's uplink, not the kernel"))
}
