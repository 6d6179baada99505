//! VLAN trunks: Pods whose tagged frames reach each other, within a VLAN, and nobody else.
//!
//! Frames are written here and not by interfaces in VLANs: not every kernel that this runs on has
//! them.

use std::time::Duration;

use super::permitted::{asking, permitting, refused};
use super::reach::reach;
use super::service::install;
use super::{Case, Stage, pod};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::frames::{self, BROADCAST, Mac, Marker};
use crate::measure::pings;
use crate::pod::Family;
use crate::raw::{RawSocket, Watch};

pub(super) const CASES: &[Case] = &[Case {
    name: "pods that are trunks reach each other in a VLAN that they share, and nowhere else",
    run: trunks,
}];

const PERMITS: &str = "[[senderPermits]]\nnamespace = \"default\"\nvlans = [100, \"200-203\"]\n";

/// Pods, each with the VLANs that it asks for.
const TRUNKS: [(&str, &str); 4] =
    [("one", "100"), ("two", "100, 200-203"), ("three", "200"), ("four", "100")];

/// Nobody may begin anything with the Pod `two` by the Pod network.
const ISOLATION: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: alone}
spec:
  podSelector: {matchLabels: {app: two}}
  policyTypes: [Ingress]
";

/// A frame that a Pod sends, and who is to get it.
struct Sent {
    what: &'static str,
    by: &'static str,
    vlan: u16,
    from: Mac,
    to: Mac,
    reaches: &'static [&'static str],
}

/// How long a frame that is to reach nobody has to do so.
const SILENCE: Duration = Duration::from_millis(300);

impl Sent {
    /// Sends it, and sees whom it reaches.
    fn check(&self, cluster: &Cluster, number: u8) -> Outcome {
        let marker = Marker::new(number);
        let names = ["plain", "one", "two", "three", "four"];
        let others = names.into_iter().filter(|name| *name != self.by);
        let watch = |name| Ok((name, Watch::start(&cluster.pod(name)?.namespace, "eth0", marker)?));
        let watches: Vec<(&str, Watch)> = others.map(watch).collect::<Outcome<_>>()?;
        let socket = RawSocket::open(&cluster.pod(self.by)?.namespace, "eth0")?;
        socket.send(&frames::tagged(&frames::raw(self.to, self.from, marker), self.vlan))?;
        let seen = || watches.iter().map(|(name, watch)| (*name, watch.seen()));
        let expected = |(name, seen): (&str, u64)| seen == u64::from(self.reaches.contains(&name));
        if self.reaches.is_empty() {
            std::thread::sleep(SILENCE);
        } else {
            // What came twice, or to others, is looked at below.
            until(&format!("{} arrives", self.what), 5, || {
                seen().all(|(name, seen)| seen > 0 || !self.reaches.contains(&name))
            })?;
        }
        expect(seen().all(expected), || {
            format!("{} by {} reached {:?}", self.what, self.by, seen().collect::<Vec<_>>())
        })
    }
}

/// What Pods try, and whom it reaches.
fn frames(cluster: &Cluster) -> Outcome<Vec<Sent>> {
    let mac = |name: &str| cluster.pod(name)?.mac();
    let (one, two, three, four) = (mac("one")?, mac("two")?, mac("three")?, mac("four")?);
    let plain = mac("plain")?;
    let sent = |what, by, vlan, from, to, reaches| Sent { what, by, vlan, from, to, reaches };
    Ok(vec![
        sent("what is for one", "one", 100, one, two, &["two"]),
        sent("what is for another", "four", 100, four, one, &["one"]),
        sent("what is for one in another VLAN", "three", 200, three, two, &["two"]),
        sent("what is for all", "one", 100, one, BROADCAST, &["two", "four"]),
        sent("what is for all in another VLAN", "two", 200, two, BROADCAST, &["three"]),
        sent("a VLAN that it shares with nobody", "two", 203, two, BROADCAST, &[]),
        sent("a VLAN that it has not asked for", "one", 200, one, three, &[]),
        sent("a neighbour's MAC address", "one", 100, four, two, &[]),
        sent("the address of who is in no VLAN", "one", 100, one, plain, &[]),
        sent("a tag of who has none", "plain", 100, plain, two, &[]),
        sent("no VLAN at all", "one", 0, one, two, &[]),
    ])
}

fn trunks(stage: &mut Stage) -> Outcome {
    let cluster = permitting(stage, PERMITS, &[("plain", 1)])?;
    for (name, vlans) in TRUNKS {
        install(cluster, &format!("{name}.yaml"), &asking("default", name, "vlans", vlans))?;
        cluster.attach(&pod(name, 1))?;
        let features = cluster.pod(name)?.namespace.run("ethtool -k eth0")?;
        expect(features.contains("tx-vlan-offload: off"), || {
            format!("tags of {name} are left to the device: {features}")
        })?;
    }
    let before = cluster.counters()?;
    for (number, sent) in (0..).zip(frames(cluster)?) {
        sent.check(cluster, number)?;
    }
    let moved = cluster.counters()?.since(&before);
    let reasons =
        ["ForeignVlan", "SpoofedSource", "TaggedFrame", "Multicast", "UnknownDestinationMac"];
    for reason in reasons {
        expect(moved.dropped(reason) > 0, || format!("no drop was counted as {reason}"))?;
    }
    let table = cluster.node("node1")?.seinectl(&["table", "show", "VLANTrunk"])?;
    expect(table.contains("200-203") && table.contains("default/two/eth0"), || {
        format!("the table of trunks is {table}")
    })?;
    // Without tags they are Pods like any other, under their policies.
    reach(cluster, "one", "two", Family::V4)?;
    install(cluster, "alone.yaml", ISOLATION)?;
    let (one, own) = (cluster.pod("one")?, cluster.pod("two")?.address(Family::V4)?);
    until("nobody begins anything by the Pod network", 20, || !pings(&one.namespace, own))?;
    for (number, sent) in (100..).zip(frames(cluster)?) {
        sent.check(cluster, number)?;
    }

    install(cluster, "greedy.yaml", &asking("default", "greedy", "vlans", "100, 204"))?;
    refused(cluster, &pod("greedy", 1), "vlans")
}
