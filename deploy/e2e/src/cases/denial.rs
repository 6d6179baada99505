//! What a policy denies stays denied, whatever else happens to policies and daemons meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::exposed::{addresses, parsed, service};
use super::hostile::gateway;
use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::frames::{self, Mac, Marker};
use crate::journal;
use crate::pod::Family;
use crate::raw::{RawSocket, Watch};

pub(super) const CASES: &[Case] = &[Case {
    name: "a denied SYN never passes, however often, while policies and daemons come and go",
    run: retried,
}];

/// Retries of all senders together, at least, in each part of the test.
const RETRIES: u64 = 10_000;
/// Connections that each sender retries.
const CONNECTIONS: u16 = 20;

const DENIAL: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  priority: 5
  tier: application
  appliedTo: [{namespaceSelector: {}}]
  ingress:
    - {name: nobody, action: Drop, ports: [{protocol: TCP, port: 8080}]}
";

/// A policy beside it, before or after it, that allows what nobody sends.
fn bystander(number: u32) -> String {
    let (tier, priority) = (["emergency", "application"][(number % 2) as usize], number % 9 + 1);
    format!(
        "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: bystander}}\nspec:\n  priority: {priority}\n  tier: {tier}\n  \
         appliedTo: [{{namespaceSelector: {{}}}}]\n  ingress:\n    \
         - {{name: other, action: Allow, ports: [{{protocol: TCP, port: {}}}]}}\n",
        9000 + number
    )
}

/// A Pod that opens the same few connections again and again, by hand.
struct Sender {
    socket: RawSocket,
    macs: (Mac, Mac),
    source: IpAddr,
    target: SocketAddr,
}

impl Sender {
    /// From `name` to the target, straight or by its Service.
    fn of(cluster: &Cluster, name: &str, family: Family, by_service: bool) -> Outcome<Sender> {
        let (pod, target) = (cluster.pod(name)?, cluster.pod("b")?);
        // On one node a Pod is reached by its own MAC; all else by the gateway's.
        let near = pod.manifest.node == target.manifest.node;
        let router = if near && !by_service { target.mac()? } else { gateway(pod)?.0 };
        let target = match by_service {
            true => SocketAddr::new(parsed(addresses(family).cluster), 80),
            false => SocketAddr::new(target.address(family)?, 8080),
        };
        Ok(Sender {
            socket: RawSocket::open(&pod.namespace, "eth0")?,
            macs: (router, pod.mac()?),
            source: pod.address(family)?,
            target,
        })
    }

    /// One of each Pod, family and way.
    fn all(cluster: &Cluster) -> Outcome<Vec<Sender>> {
        let mut senders = Vec::new();
        for name in ["a", "c"] {
            for family in Family::BOTH {
                for by_service in [false, true] {
                    senders.push(Sender::of(cluster, name, family, by_service)?);
                }
            }
        }
        Ok(senders)
    }

    /// Another port for each way, as both ways end in the same connection.
    fn first_port(&self) -> u16 {
        if self.target.port() == 80 { 41_000 } else { 40_000 }
    }

    /// A round of its connections, then a breath.
    fn round(&self, marker: Marker) -> Outcome {
        let ((to, from), target) = (self.macs, (self.target.ip(), self.target.port()));
        for port in 0..CONNECTIONS {
            let source = (self.source, self.first_port() + port);
            self.socket.send(&frames::syn(to, from, source, target, marker))?;
        }
        std::thread::sleep(Duration::from_millis(15));
        Ok(())
    }
}

/// Everybody retries while `event` happens, and `RETRIES` times at least.
fn meanwhile(senders: &[Sender], marker: Marker, event: impl FnOnce() -> Outcome) -> Outcome {
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let run = |sender| {
            let (over, sent) = (&over, &sent);
            scope.spawn(move || -> Outcome {
                while !over.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < RETRIES {
                    Sender::round(sender, marker)?;
                    sent.fetch_add(u64::from(CONNECTIONS), Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let running: Vec<_> = senders.iter().map(run).collect();
        let happened = event();
        over.store(true, Ordering::Relaxed);
        for thread in running {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        happened
    })
}

/// Policies that come, change and go, until `rounds` are over.
fn churn(cluster: &Cluster, rounds: std::ops::Range<u32>) -> Outcome {
    for number in rounds {
        install(cluster, "bystander.yaml", &bystander(number))?;
        std::thread::sleep(Duration::from_millis(60));
        install(cluster, "bystander.yaml", "# none\n")?;
        std::thread::sleep(Duration::from_millis(60));
    }
    Ok(())
}

/// Shows that the target is reached by each sender.
fn passes(cluster: &Cluster, senders: &[Sender], marker: Marker) -> Outcome {
    let watch = Watch::start(&cluster.pod("b")?.namespace, "eth0", marker)?;
    for sender in senders {
        let wanted = watch.seen() + u64::from(CONNECTIONS);
        until(&format!("what nothing denies reaches {}", sender.target), 30, || {
            sender.round(marker).is_ok() && watch.seen() >= wanted
        })?;
    }
    Ok(())
}

fn denials(cluster: &Cluster) -> u64 {
    cluster.counters().map_or(0, |counters| counters.dropped("IngressPolicy"))
}

/// Waits until what each of them sends is counted as denied.
fn in_force(cluster: &Cluster, senders: &[Sender], marker: Marker) -> Outcome {
    for sender in senders {
        let before = denials(cluster);
        until(&format!("the policy denies what is sent to {}", sender.target), 30, || {
            sender.round(marker).is_ok() && denials(cluster) > before
        })?;
    }
    Ok(())
}

/// The target answers nothing, so that no connection is ever past its first packet.
fn silence(cluster: &Cluster) -> Outcome {
    let target = &cluster.pod("b")?.namespace;
    target.run("nft add table inet silent")?;
    target.run("nft add chain inet silent in { type filter hook input priority 0 ; }")?;
    target.run("nft add rule inet silent in tcp dport 8080 drop")?;
    Ok(())
}

fn retried(stage: &mut Stage) -> Outcome {
    let pods = [("a", 1), ("b", 1), ("c", 2)];
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, &pods))?;
    let [open, probe, denied] = [1, 2, 3].map(Marker::new);
    silence(cluster)?;
    install(cluster, "shop.yaml", &service(cluster, "Cluster", &["b"])?)?;
    let senders = Sender::all(cluster)?;
    passes(cluster, &senders, open)?;
    install(cluster, "closed.yaml", DENIAL)?;
    in_force(cluster, &senders, probe)?;

    let watch = Watch::start(&cluster.pod("b")?.namespace, "eth0", denied)?;
    let none = |when: &str| {
        expect(watch.seen() == 0, || format!("{} denied SYNs passed {when}", watch.seen()))
    };
    let before = denials(cluster);
    meanwhile(&senders, denied, || churn(cluster, 0..15))?;
    until("many of them are counted as denied", 30, || {
        denials(cluster).saturating_sub(before) > RETRIES / 4
    })?;
    none("while policies changed")?;
    meanwhile(&senders, denied, || {
        cluster.node_mut("node1")?.agent()?.kill()?;
        churn(cluster, 15..20)?;
        cluster.node_mut("node1")?.start_agent()?;
        churn(cluster, 20..25)
    })?;
    none("while the agent was killed and started")?;
    meanwhile(&senders, denied, || {
        let node = cluster.node_mut("node1")?;
        let children = node.datapath()?.children();
        node.datapath()?.kill()?;
        until("the worker process ends with its parent", 20, || {
            children.iter().all(|id| journal::start_time(*id).is_none())
        })?;
        node.start_datapath()?;
        churn(cluster, 25..30)
    })?;
    none("while the datapath was killed and started")?;
    // They go on until the new datapath has them to deny: it is not for want of a way that
    // nothing passed.
    in_force(cluster, &senders, probe)?;
    meanwhile(&senders, denied, || churn(cluster, 30..33))?;
    none("with the new datapath")?;
    drop(watch);
    install(cluster, "closed.yaml", "# open again\n")?;
    passes(cluster, &senders, open)
}
