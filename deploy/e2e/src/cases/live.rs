//! The manifest folder is watched: what is written there takes effect while all runs.

use super::reach::reach;
use super::{Case, Stage, Underlay, manifests, node, pod};
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::measure::pings;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case { name: "a node that joins is reached without a restart", run: join },
    Case { name: "a node that leaves the manifests is no longer reached", run: leave },
    Case { name: "the address of a deleted pod is given again, and never twice", run: release },
];

fn join(stage: &mut Stage) -> Outcome {
    let mut wanted = manifests(2, Underlay::Ipv4, &[("a", 1), ("b", 2)]);
    let cluster = stage.cluster(&wanted)?;
    wanted.nodes.push(node(3, Underlay::Ipv4));
    wanted.pods.push(pod("c", 3));
    wanted.write(&cluster.manifests)?;
    cluster.join(&node(3, Underlay::Ipv4))?;
    let address = cluster.attach(&pod("c", 3))?.address(Family::V4)?;
    let a = cluster.pod("a")?.namespace.clone();
    until("the first node reaches the third", 5, || pings(&a, address))?;
    for (from, to) in [("a", "c"), ("c", "b")] {
        for family in Family::BOTH {
            reach(cluster, from, to, family)?;
        }
    }
    Ok(())
}

fn leave(stage: &mut Stage) -> Outcome {
    let mut wanted = manifests(2, Underlay::Ipv4, &[("a", 1), ("b", 2)]);
    let cluster = stage.cluster(&wanted)?;
    reach(cluster, "a", "b", Family::V4)?;
    // The second node's agent must not see its own node vanish, so it is ended first; its
    // datapath forwards on.
    cluster.node_mut("node2")?.agent()?.stop()?;
    let node1 = cluster.node("node1")?;
    let address = cluster.pod("b")?.address(Family::V4)?;
    let all = wanted.nodes.clone();
    wanted.nodes.truncate(1);
    wanted.write(&cluster.manifests)?;
    let a = &cluster.pod("a")?.namespace;
    until("the peer is gone from the table", 5, || {
        node1.seinectl(&["table", "show", "L3Forwarding"]).is_ok_and(|it| !it.contains("10.10.2.0"))
    })?;
    expect(!pings(a, address), || "a node outside the manifests is still reached".to_owned())?;
    wanted.nodes = all;
    wanted.write(&cluster.manifests)?;
    until("the peer is reached again", 5, || pings(a, address))?;
    cluster.node_mut("node2")?.start_agent()?;
    reach(cluster, "a", "b", Family::V4)
}

/// In a range so small that it runs out at once if what is deleted is not free again.
fn release(stage: &mut Stage) -> Outcome {
    let mut wanted = manifests(1, Underlay::Ipv4, &[("a", 1)]);
    wanted.nodes[0].pod_cidrs = ["10.10.1.0/28", "fd00:10:1::/124"]
        .map(|range| range.parse().expect("a range of this test"))
        .to_vec();
    let cluster = stage.cluster(&wanted)?;
    let first = cluster.pod("a")?.address(Family::V4)?;
    let mut before = None;
    for index in 0..20 {
        let name = format!("turn{index}");
        let address = cluster.attach(&pod(&name, 1))?.address(Family::V4)?;
        expect(address != first, || format!("{address} was given twice"))?;
        // Who talked to the one before must not find the next one in its place.
        expect(before != Some(address), || format!("{address} went straight to the next pod"))?;
        before = Some(address);
        cluster.detach(&name)?;
    }
    let address = cluster.attach(&pod("last", 1))?.address(Family::V4)?;
    let a = cluster.pod("a")?;
    expect(pings(&a.namespace, address), || format!("{address} is not reached"))
}
