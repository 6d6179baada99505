//! Who dies comes back, and what went on meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::reach::reach;
use super::{Case, Stage, Underlay, manifests, pod};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::journal;
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case { name: "a datapath worker process that is killed is back within seconds", run: worker },
    Case {
        name: "a datapath that is killed and started again carries traffic again",
        run: datapath,
    },
    Case {
        name: "traffic goes on uninterrupted while the agent is killed and restarted",
        run: agent,
    },
    Case {
        name: "a TCP connection to the node survives the datapath's death and rebirth",
        run: uplink,
    },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1), ("c", 2)];

fn cluster(stage: &mut Stage) -> Outcome<&mut Cluster> {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    reach(cluster, "a", "c", Family::V4)?;
    Ok(cluster)
}

/// Pings from `a` to `address` a hundred times a second while `event` happens; the longest that
/// no answer came, in milliseconds.
fn interruption_ms(
    cluster: &mut Cluster,
    address: IpAddr,
    event: impl FnOnce(&mut Cluster) -> Outcome,
) -> Outcome<u32> {
    let a = cluster.pod("a")?.namespace.clone();
    let ping = format!("ping -n -D -i 0.01 -W 1 -w 6 {address}");
    let printed = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| match a.run(&ping) {
            // Lost packets make it end with 1; what it printed counts.
            Err(Failure::Command { output, .. }) => Ok(output),
            result => result,
        });
        std::thread::sleep(Duration::from_millis(500));
        let happened = event(cluster);
        let printed = pinging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        happened.and(printed)
    })?;
    let answered: Vec<f64> = printed
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse().ok())
        .collect();
    let gaps = answered.windows(2).map(|pair| pair[1] - pair[0]);
    expect(answered.len() > 50, || format!("only {} pings were answered", answered.len()))?;
    Ok((gaps.fold(0.0, f64::max) * 1000.0) as u32)
}

/// `a` reaches `b` and `c` as before.
fn resumed(cluster: &Cluster) -> Outcome {
    for name in ["b", "c"] {
        for family in Family::BOTH {
            reach(cluster, "a", name, family)?;
        }
    }
    Ok(())
}

fn kill_children(cluster: &mut Cluster) -> Outcome<Vec<u32>> {
    let children = cluster.node_mut("node1")?.datapath()?.children();
    expect(!children.is_empty(), || "the datapath has no worker process".to_owned())?;
    for child in &children {
        if let Some(ticks) = journal::start_time(*child) {
            journal::signal(*child, ticks, Signal::SIGKILL);
        }
    }
    Ok(children)
}

fn worker(stage: &mut Stage) -> Outcome {
    let cluster = cluster(stage)?;
    let address = cluster.pod("b")?.address(Family::V4)?;
    let mut killed = Vec::new();
    let gap = interruption_ms(cluster, address, |cluster| {
        killed = kill_children(cluster)?;
        Ok(())
    })?;
    println!("      no traffic for {gap} ms");
    resumed(cluster)?;
    let now = cluster.node_mut("node1")?.datapath()?.children();
    expect(!now.is_empty() && now.iter().all(|id| !killed.contains(id)), || {
        format!("the worker process is still {now:?}")
    })
}

fn datapath(stage: &mut Stage) -> Outcome {
    let cluster = cluster(stage)?;
    let address = cluster.pod("c")?.address(Family::V4)?;
    let gap = interruption_ms(cluster, address, |cluster| {
        let node = cluster.node_mut("node1")?;
        let children = node.datapath()?.children();
        node.datapath()?.kill()?;
        until("the worker process ends with its parent", 5, || {
            children.iter().all(|id| journal::start_time(*id).is_none())
        })?;
        node.start_datapath()
    })?;
    println!("      no traffic for {gap} ms");
    resumed(cluster)
}

fn agent(stage: &mut Stage) -> Outcome {
    let cluster = cluster(stage)?;
    let (a, to) = (cluster.pod("a")?.namespace.clone(), cluster.pod("c")?.address(Family::V4)?);
    let node = cluster.node_mut("node1")?;
    let pinged = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| a.run(&format!("ping -n -q -i 0.01 -W 1 -c 300 {to}")));
        std::thread::sleep(Duration::from_millis(300));
        node.agent()?.kill()?;
        std::thread::sleep(Duration::from_millis(300));
        node.start_agent()?;
        pinging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    expect(pinged.contains("300 received"), || format!("pings were lost: {}", pinged.trim()))?;
    // The new one knows the old one's Pods, and serves new ones.
    cluster.attach(&pod("d", 1))?;
    for to in ["a", "c"] {
        reach(cluster, "d", to, Family::V4)?;
    }
    cluster.detach("a")
}

/// An ssh session in all but name: bytes to and fro on one connection to the node's own address.
fn uplink(stage: &mut Stage) -> Outcome {
    let cluster = stage.machines(&manifests(1, Underlay::Ipv4, &[("a", 1)]))?;
    let address = SocketAddr::new(cluster.nodes[0].manifest.addresses[0], 22);
    let node = cluster.nodes[0].namespace.clone();
    let mut session = Session::open(&cluster.underlay.outside, &node, address)?;
    session.speak("before the datapath")?;
    cluster.start()?;
    session.speak("with the datapath")?;
    cluster.attach(&pod("a", 1))?;
    for (what, signal) in [("killed", Signal::SIGKILL), ("asked to end", Signal::SIGTERM)] {
        let datapath = cluster.node_mut("node1")?.datapath()?;
        datapath.signal(signal);
        session.speak(&format!("while the datapath is {what}"))?;
        cluster.node_mut("node1")?.datapath()?.wait(Duration::from_secs(5))?;
        session.speak(&format!("after the datapath was {what}"))?;
        cluster.node_mut("node1")?.start_datapath()?;
        session.speak("with the datapath again")?;
    }
    Session::open(&cluster.underlay.outside, &node, address)?.speak("in a new session")
}

/// A connection of which we hold both ends.
pub(super) struct Session {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
}

impl Session {
    fn open(from: &Namespace, to: &Namespace, address: SocketAddr) -> Outcome<Session> {
        let failed = || Failure::io("open a session with", Path::new("the node"));
        let listener = to.enter(|| TcpListener::bind(address))?.map_err(failed())?;
        let limit = Duration::from_secs(3);
        let connect = || TcpStream::connect_timeout(&address, limit);
        let client = from.enter(connect)?.map_err(failed())?;
        let (server, _) = listener.accept().map_err(failed())?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(limit)).map_err(failed())?;
        }
        Ok(Session { client, server })
    }

    /// Bytes there and back.
    pub(super) fn speak(&mut self, when: &str) -> Outcome {
        let mut exchange = || -> std::io::Result<()> {
            let mut bytes = [0; 4000];
            self.client.write_all(&[1; 4000])?;
            self.server.read_exact(&mut bytes)?;
            self.server.write_all(&bytes)?;
            self.client.read_exact(&mut bytes)
        };
        exchange().map_err(|error| Failure::Unmet(format!("the session broke {when}: {error}")))
    }
}
