//! Cores come and go while packets flow.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::existing::{Talk, denied, talks};
use super::reach::failed;
use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::output;
use crate::node::Node;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "connections live on in order while the datapath gets other cores to run on",
        run: change,
    },
    Case { name: "a configuration that is wrong changes no core", run: refuse },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1), ("c", 2)];

/// From now on nobody may begin what `talks` and [`Stream`] have begun.
const DENIAL: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  priority: 5
  tier: application
  appliedTo: [{namespaceSelector: {}}]
  ingress:
    - name: nobody
      action: Drop
      ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 9000, endPort: 9001}]
";

/// Numbered datagrams from Pod to Pod: of one connection, which nobody may open any more.
struct Stream {
    client: UdpSocket,
    server: UdpSocket,
}

impl Stream {
    fn open(cluster: &Cluster, from: &str, to: &str, port: u16) -> Outcome<Stream> {
        let (from, to) = (cluster.pod(from)?, cluster.pod(to)?);
        let (source, target) = (from.address(Family::V4)?, to.address(Family::V4)?);
        let failed = failed("send datagrams to", target);
        let bind = |address| UdpSocket::bind(SocketAddr::new(address, port));
        let client = from.namespace.enter(|| bind(source))?.map_err(&failed)?;
        let server = to.namespace.enter(|| bind(target))?.map_err(&failed)?;
        for (socket, peer) in [(&client, target), (&server, source)] {
            socket.connect(SocketAddr::new(peer, port)).map_err(&failed)?;
            socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(&failed)?;
        }
        // There and back: an unanswered one would be given up soon.
        let mut number = [0; 4];
        client.send(&number).and_then(|_| server.recv(&mut number)).map_err(&failed)?;
        server.send(&number).and_then(|_| client.recv(&mut number)).map_err(&failed)?;
        Ok(Stream { client, server })
    }

    /// Sends some thousands of numbers a second.
    fn send(&self, ended: &AtomicBool) -> u32 {
        let mut number = 0_u32;
        while !ended.load(Ordering::Relaxed) {
            number += 1;
            // What the socket has no room for counts as lost.
            let _ = self.client.send(&number.to_be_bytes());
            std::thread::sleep(Duration::from_micros(100));
        }
        number
    }

    /// How many numbers came, each higher than the one before.
    fn receive(&self, ended: &AtomicBool) -> Outcome<u32> {
        let (mut count, mut last) = (0, 0);
        loop {
            let mut bytes = [0; 4];
            match self.server.recv(&mut bytes) {
                Ok(_) => {
                    let number = u32::from_be_bytes(bytes);
                    expect(number > last, || format!("datagram {number} came after {last}"))?;
                    (count, last) = (count + 1, number);
                }
                Err(_) if ended.load(Ordering::Relaxed) => return Ok(count),
                Err(_) => {}
            }
        }
    }
}

/// How the datapath is told.
#[derive(Clone, Copy)]
enum Tell {
    Signal,
    Command,
}

fn configure(node: &Node, workers: &str) -> Outcome {
    let text = node.datapath_configuration();
    let wanted = text.replace("cores = [0, 1]\n", &format!("{workers}\n"));
    expect(wanted != text || workers == "cores = [0, 1]", || format!("no cores in {text}"))?;
    node.write("datapath.toml", &wanted)
}

/// Of each worker its core and how it waits, as `seinectl worker list` says.
fn listed(node: &Node) -> Outcome<Vec<(u64, String)>> {
    let text = node.seinectl(&["--output", "json", "worker", "list"])?;
    let list: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Unmet(format!("`worker list` is no JSON: {error}")))?;
    let workers = list["workers"].as_array().cloned().unwrap_or_default();
    let told = |it: &Value| Some((it["core"].as_u64()?, it["poll"].as_str()?.to_owned()));
    Ok(workers.iter().filter_map(told).collect())
}

/// Of each thread that runs workers the cores that it may run on, as the kernel says.
fn pinned(node: &mut Node) -> Outcome<Vec<String>> {
    let children = node.datapath()?.children();
    let [child] = children[..] else {
        return Err(Failure::Unmet(format!("the datapath's children are {children:?}")));
    };
    let folder = format!("/proc/{child}/task");
    let tasks =
        fs::read_dir(&folder).map_err(Failure::io("read", std::path::Path::new(&folder)))?;
    let mut cores = Vec::new();
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let value = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        if value("Name:").is_some_and(|name| name.starts_with("seine-worker-")) {
            cores.extend(value("Cpus_allowed_list:").map(str::to_owned));
        }
    }
    cores.sort();
    Ok(cores)
}

/// Has the datapath run its workers otherwise, and sees that it does.
fn place(node: &mut Node, workers: &str, tell: Tell, wanted: [u64; 2], poll: &str) -> Outcome {
    configure(node, workers)?;
    let expected: Vec<(u64, String)> = wanted.map(|core| (core, poll.to_owned())).into();
    match tell {
        Tell::Command => drop(node.seinectl(&["worker", "reload"])?),
        Tell::Signal => {
            node.datapath()?.signal(Signal::SIGHUP);
            until("the workers have moved", 10, || listed(node).is_ok_and(|it| it == expected))?;
        }
    }
    let told = listed(node)?;
    expect(told == expected, || format!("{workers}: the workers are {told:?}"))?;
    let mut cores: Vec<String> = wanted.map(|core| core.to_string()).into();
    cores.sort();
    cores.dedup();
    let threads = pinned(node)?;
    expect(threads == cores, || format!("{workers}: threads are on cores {threads:?}"))
}

fn all_go_on(talks: &mut [Talk], when: &str) -> Outcome {
    for (index, talk) in talks.iter_mut().enumerate() {
        let well = (0..20).any(|_| talk.goes_on());
        expect(well, || format!("TCP connection {index} carries nothing after {when}"))?;
    }
    Ok(())
}

fn change(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    // Enough connections for both queues of each port.
    let mut talking = talks(cluster)?;
    talking.extend(talks(cluster)?);
    let streams = [Stream::open(cluster, "a", "b", 9000)?, Stream::open(cluster, "c", "b", 9001)?];
    install(cluster, "closed.yaml", DENIAL)?;
    denied(cluster)?;
    let ended = AtomicBool::new(false);
    let node = cluster.node_mut("node1")?;
    std::thread::scope(|scope| {
        let start = |stream| {
            let (stream, ended): (&Stream, &AtomicBool) = (stream, &ended);
            (scope.spawn(|| stream.send(ended)), scope.spawn(|| stream.receive(ended)))
        };
        let running = streams.each_ref().map(start);
        let mut changes = || {
            for (workers, tell, wanted, poll) in [
                ("cores = [0]", Tell::Signal, [0, 0], "adaptive"),
                ("cores = [0, 1]", Tell::Command, [0, 1], "adaptive"),
                ("cores = [1]\npoll = \"spin\"", Tell::Command, [1, 1], "spin"),
                ("cores = [1, 0]\nrelative = true", Tell::Signal, [1, 0], "adaptive"),
                ("cores = [0, 1]\nplacement = [0, 1]", Tell::Command, [0, 1], "adaptive"),
            ] {
                place(node, workers, tell, wanted, poll)?;
                all_go_on(&mut talking, workers)?;
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        };
        let changed = changes();
        ended.store(true, Ordering::Relaxed);
        for (sending, receiving) in running {
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let came = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            println!("      {came} of {sent} datagrams came, in order");
            expect(came > sent / 2, || format!("only {came} of {sent} datagrams came"))?;
        }
        changed
    })
}

fn refuse(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    let node = cluster.node("node1")?;
    let before = listed(node)?;
    for (workers, reason) in [
        ("cores = [0, 1, 2]", "raise `workers.queues` to 3, which takes a restart"),
        ("cores = [0, 99]", "core 99 in `workers.cores` is not there"),
        ("cores = [99]\nrelative = true", "with `workers.relative` it is 0 to"),
        ("cores = [0, 1]\nplacement = [0, 0]", "places no queue on core 1"),
        ("coers = [0]", "unknown field `coers`"),
    ] {
        configure(node, workers)?;
        let mut command = node.seinectl_command(&["worker", "reload"])?;
        let said = match output(&mut command) {
            Err(Failure::Command { output, .. }) => output,
            other => return Err(Failure::Unmet(format!("{workers}: not refused: {other:?}"))),
        };
        let told = said.contains(reason) && said.contains("nothing was changed");
        expect(told, || format!("{workers}: {said}"))?;
        let now = listed(node)?;
        expect(now == before, || format!("{workers}: the workers are {now:?}"))?;
    }
    configure(node, "cores = [0, 1]\n[frames]\ncount = 8192")?;
    let said = node.seinectl(&["worker", "reload"])?;
    let told = said.contains("in force only after a restart: frames.");
    expect(told, || format!("what takes a restart is not said: {said}"))
}
