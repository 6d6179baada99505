//! Network functions: Pods that an operator lets send beyond their own addresses.

use std::net::IpAddr;

use super::reach::tcp;
use super::service::install;
use super::{Case, Stage, Underlay, manifests, pod};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::manifest::PodManifest;
use crate::measure::pings;
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a pod speaks by the addresses that an operator permits it, and by no other",
        run: allowed_addresses,
    },
    Case {
        name: "a trusted router passes on what is from outside of the cluster, and nothing else",
        run: trusted_router,
    },
];

/// What the operator of every node permits, and to whom.
const PERMITS: &str = "\
[[senderPermits]]
namespace = \"default\"
allowedAddresses = [\"10.99.0.0/16\", \"fd00:99::/64\"]
trustedRouter = true
";

/// A Pod of node 1 that asks for this.
pub(super) fn asking(namespace: &str, name: &str, annotation: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {namespace}\n  name: {name}\n  \
         labels: {{app: {name}}}\n  annotations:\n    port.seine.io/{annotation}: \"{value}\"\n\
         spec:\n  nodeName: node1\n  containers:\n    - {{name: main, image: none}}\n"
    )
}

/// A cluster of one node with these Pods, whose operator permits this.
pub(super) fn permitting<'s>(
    stage: &'s mut Stage,
    permits: &str,
    pods: &[(&str, u8)],
) -> Outcome<&'s mut Cluster> {
    let manifests = manifests(1, Underlay::Ipv4, pods);
    let cluster = stage.machines(&manifests)?;
    for node in &cluster.nodes {
        node.write("agent.toml", &node.agent_configuration(&cluster.manifests, permits))?;
    }
    cluster.start()?;
    for pod in &manifests.pods {
        cluster.attach(pod)?;
    }
    Ok(cluster)
}

/// Whether a ping from this address of the sender's is answered.
fn pings_from(from: &Namespace, source: &str, to: IpAddr) -> bool {
    from.run(&format!("ping -n -q -W 1 -c 1 -I {source} {to}")).is_ok()
}

/// What the spoof guard has dropped: packets, and questions for the receiver's MAC address.
fn spoofed(cluster: &Cluster) -> Outcome<u64> {
    let counters = cluster.counters()?;
    let reasons = ["SpoofedSource", "SpoofedArp", "SpoofedNeighbor"];
    Ok(reasons.map(|reason| counters.dropped(reason)).iter().sum())
}

/// Nothing is heard of who speaks by this address, and it is counted.
fn is_spoofed(cluster: &Cluster, from: &Namespace, source: &str, to: IpAddr) -> Outcome {
    let before = spoofed(cluster)?;
    expect(!pings_from(from, source, to), || format!("it has spoken by {source}"))?;
    let counted = spoofed(cluster)? - before;
    expect(counted > 0, || format!("the spoof guard has not counted what {source} sent"))
}

fn allowed_addresses(stage: &mut Stage) -> Outcome {
    let cluster = permitting(stage, PERMITS, &[("a", 1), ("b", 1)])?;
    let asked = "10.99.0.5, fd00:99::/64";
    install(cluster, "nf.yaml", &asking("default", "nf", "allowed-addresses", asked))?;
    cluster.attach(&pod("nf", 1))?;
    let (nf, a, b) = (cluster.pod("nf")?, cluster.pod("a")?, cluster.pod("b")?);
    for holder in [nf, b] {
        for address in ["10.99.0.5/32", "10.99.0.6/32"] {
            holder.namespace.ip(&format!("addr add {address} dev eth0"))?;
        }
        holder.namespace.ip("addr add fd00:99::5/128 dev eth0 nodad")?;
    }
    for (family, source) in [(Family::V4, "10.99.0.5"), (Family::V6, "fd00:99::5")] {
        let target = a.address(family)?;
        expect(pings_from(&nf.namespace, source, target), || format!("{source} is not answered"))?;
        expect(pings(&nf.namespace, target), || "its own address is not answered".to_owned())?;
        // The permit is one Pod's: not that of another of the same namespace.
        is_spoofed(cluster, &b.namespace, source, target)?;
    }
    leads_to_it(cluster)?;
    is_spoofed(cluster, &nf.namespace, "10.99.0.6", a.address(Family::V4)?)?;

    install(cluster, "thief.yaml", &asking("web", "thief", "allowed-addresses", "10.99.0.7"))?;
    let thief = PodManifest { namespace: "web".to_owned(), ..pod("thief", 1) };
    refused(cluster, &thief, "allowed-addresses")?;
    install(cluster, "wide.yaml", &asking("default", "wide", "allowed-addresses", "10.98.0.0/15"))?;
    refused(cluster, &pod("wide", 1), "allowed-addresses")?;
    install(cluster, "router.yaml", &asking("web", "router", "trusted-router", "true"))?;
    refused(cluster, &PodManifest { name: "router".to_owned(), ..thief }, "trusted-router")
}

/// What another Pod and the node begin towards an allowed address reaches the Pod that may have it.
fn leads_to_it(cluster: &Cluster) -> Outcome {
    let (nf, a, node) = (cluster.pod("nf")?, cluster.pod("a")?, cluster.node("node1")?);
    for address in ["10.99.0.5", "fd00:99::5"] {
        let address: IpAddr = address.parse().expect("a constant");
        until(&format!("the node reaches {address}"), 10, || pings(&node.namespace, address))?;
        expect(pings(&a.namespace, address), || format!("a Pod does not reach {address}"))?;
        tcp(&a.namespace, &nf.namespace, address)?;
    }
    Ok(())
}

/// The ADD of this Pod fails by its annotation, and nobody has permitted it.
pub(super) fn refused(cluster: &mut Cluster, pod: &PodManifest, annotation: &str) -> Outcome {
    match cluster.attach(pod) {
        Err(Failure::Plugin { code: 107, message, .. })
            if message.contains(annotation) && message.contains("no operator permits it") =>
        {
            Ok(())
        }
        Err(other) => Err(other),
        Ok(pod) => Err(Failure::Unmet(format!("{} was let in", pod.name()))),
    }
}

/// A namespace behind the Pod `nf`, which forwards for it. It has an address of both families, and
/// everything is behind the Pod.
fn behind(cluster: &Cluster) -> Outcome<Namespace> {
    let nf = &cluster.pod("nf")?.namespace;
    let behind = Namespace::create(&cluster.journal, "behind")?;
    nf.ip(&format!("link add lan type veth peer name eth0 netns {}", behind.name()))?;
    nf.ip("addr add 203.0.113.1/24 dev lan")?;
    nf.ip("addr add 2001:db8:99::1/64 dev lan nodad")?;
    nf.ip("link set lan up")?;
    nf.set("ipv4/ip_forward", "1")?;
    nf.set("ipv6/conf/all/forwarding", "1")?;
    behind.ip("addr add 203.0.113.80/24 dev eth0")?;
    behind.ip("addr add 2001:db8:99::80/64 dev eth0 nodad")?;
    behind.ip("link set eth0 up")?;
    behind.ip("route add default via 203.0.113.1")?;
    behind.ip("-6 route add default via 2001:db8:99::1")?;
    Ok(behind)
}

fn trusted_router(stage: &mut Stage) -> Outcome {
    let cluster = permitting(stage, PERMITS, &[("a", 1), ("b", 1)])?;
    install(cluster, "nf.yaml", &asking("default", "nf", "trusted-router", "true"))?;
    cluster.attach(&pod("nf", 1))?;
    let behind = behind(cluster)?;
    let (a, b) = (cluster.pod("a")?, cluster.pod("b")?);
    for family in Family::BOTH {
        let target = a.address(family)?;
        until("what is behind the router is answered", 5, || pings(&behind, target))?;
        tcp(&behind, &a.namespace, target)?;
    }
    let target = a.address(Family::V4)?;
    // Another Pod's, and one of the node's range that nobody has.
    for lie in [b.address(Family::V4)?.to_string(), "10.10.1.200".to_owned()] {
        behind.ip(&format!("addr add {lie}/32 dev eth0"))?;
        is_spoofed(cluster, &behind, &lie, target)?;
    }
    behind.remove()
}
