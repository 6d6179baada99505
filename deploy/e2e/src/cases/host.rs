//! What the node itself sends has a way into the Pod network that nobody else has.

use std::net::IpAddr;

use super::{Case, Stage, Underlay, manifests, reach};
use seine_datapath_api::v1::port::Kind;

use crate::cluster::Cluster;
use crate::counters::{self, Counters};
use crate::failure::{Outcome, expect};
use crate::measure;
use crate::pod::Family;
use crate::underlay::OUTSIDE;

pub(super) const CASES: &[Case] = &[Case {
    name: "only the node's own packets come in by the port for them, checks of the way back strict",
    run: own_leg,
}];

/// What came in by each of the node's two legs while `work` was done.
fn legs(cluster: &Cluster, work: impl FnOnce() -> Outcome) -> Outcome<(u64, u64)> {
    let node = cluster.node("node1")?;
    let named = |kind| -> Outcome<String> {
        let ports = counters::ports(node)?;
        let found = ports.into_iter().find(|port| port.kind() == kind);
        Ok(found.map(|port| port.name).unwrap_or_default())
    };
    let (gateway, host) = (named(Kind::Gateway)?, named(Kind::Host)?);
    let before = Counters::read([node])?;
    work()?;
    let moved = Counters::read([node])?.since(&before);
    Ok((moved.port("node1", &gateway).receive, moved.port("node1", &host).receive))
}

/// The kernel checks sources strictly everywhere it is not told otherwise, as many systems do.
fn own_leg(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, &[("a", 1), ("c", 2)]))?;
    let (node, outside) = (cluster.node("node1")?, &cluster.underlay.outside);
    node.namespace.set("ipv4/conf/all/rp_filter", "1")?;
    for family in Family::BOTH {
        for pod in ["a", "c"] {
            let (address, namespace) = (cluster.pod(pod)?.address(family)?, &node.namespace);
            let moved = legs(cluster, || {
                measure::ping(namespace, address, 3)?;
                reach::tcp(namespace, &cluster.pod(pod)?.namespace, address)?;
                reach::udp(namespace, &cluster.pod(pod)?.namespace, address)
            })?;
            expect(moved.1 > 10, || format!("{} packets by the node's own leg", moved.1))?;
        }
        // An outsider whom the node forwards with its own address, and one with the outsider's.
        let pod = cluster.pod("a")?.address(family)?;
        let router = node.address_like(pod);
        let Some(router) = router else { continue };
        outside.ip(&format!("route replace {pod} via {router}"))?;
        let source: IpAddr = OUTSIDE[usize::from(pod.is_ipv6())].parse().expect("a constant");
        for rules in ["", &masquerade(source)] {
            if !rules.is_empty() {
                node.write("outsiders.nft", rules)?;
                node.namespace.run(&format!("nft -f {}", node.file("outsiders.nft").display()))?;
            }
            let target = &cluster.pod("a")?.namespace;
            let moved = legs(cluster, || reach::tcp(outside, target, pod))?;
            expect(moved.0 > 10, || format!("{} packets by the gateway", moved.0))?;
            expect(moved.1 < 5, || format!("outsiders came by the node's own leg: {}", moved.1))?;
        }
    }
    Ok(())
}

/// Somebody's rule on the node that hides outsiders behind the node's address.
pub(super) fn masquerade(source: IpAddr) -> String {
    let family = if source.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table {family} outsiders {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat;\n    \
         oifname seine-gw0 masquerade\n  }}\n}}\n"
    )
}
