//! How long a CNI plugin takes: Seine's with agent and datapath behind it, beside Debian's
//! `bridge` with `host-local`.
//!
//! Namespaces are made beforehand, as a runtime does. A call is timed from fork to exit. One by
//! one, the two systems take turns Pod by Pod; all at once, they take turns burst by burst.
//! Seine attaches IPv4 and IPv6, `bridge` only IPv4: with IPv6 it waits a second or more for
//! duplicate address detection.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome, expect};
use seine_e2e::namespace::Namespace;
use serde_json::{Value, json};

use crate::noise::Meter;
use crate::output::Output;
use crate::record::{PluginBurst, PluginCall, Record, System};
use crate::topology::{Stage, stage};

/// Debian's folder of plugins.
const PEERS: &str = "/usr/lib/cni";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Pods attached in every round, one by one and then all at once.
    #[arg(long, default_value_t = 50)]
    pub pods: usize,
    /// How often all of them are attached and detached.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// A plugin and the containers it is to attach.
struct Peer {
    system: System,
    binary: PathBuf,
    configuration: Value,
    node: Namespace,
    containers: Vec<Namespace>,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let bridge = Path::new(PEERS).join("bridge");
    expect(bridge.exists(), || {
        format!("no `{}`: apt install containernetworking-plugins", bridge.display())
    })?;
    let cluster = Stage { nodes: 1, pods: arguments.pods, far: 0 }.start(output)?;
    output.progress(&format!("making {} namespaces on each system ...", arguments.pods));
    let peers = [seine(&cluster, arguments.pods)?, plain(&cluster, bridge, arguments.pods)?];
    output.expect_steps(arguments.rounds * 3);
    for round in 0..arguments.rounds {
        output.step(&format!("start-up of the plugins, round {}", round + 1));
        one_by_one(&peers, "VERSION", round, output)?;
        output.step(&format!("{} pods one by one, round {}", arguments.pods, round + 1));
        one_by_one(&peers, "ADD", round, output)?;
        one_by_one(&peers, "DEL", round, output)?;
        output.step(&format!("{} pods at once, round {}", arguments.pods, round + 1));
        for command in ["ADD", "DEL"] {
            for system in System::turns(round) {
                all_at_once(peer(&peers, system), command, round, output)?;
            }
        }
    }
    cluster.close()
}

fn peer(peers: &[Peer; 2], system: System) -> &Peer {
    &peers[usize::from(system == System::Bridge)]
}

fn seine(cluster: &Cluster, pods: usize) -> Outcome<Peer> {
    let plugin = &cluster.node("node1")?.plugin;
    Ok(Peer {
        system: System::Seine,
        binary: plugin.binary.clone(),
        configuration: json!({
            "cniVersion": "1.0.0", "name": "seine", "type": "seine-cni",
            "agentSocket": plugin.socket,
        }),
        node: plugin.node.clone(),
        containers: containers(cluster, "pod", pods)?,
    })
}

fn plain(cluster: &Cluster, binary: PathBuf, pods: usize) -> Outcome<Peer> {
    let directory = cluster.journal.directory().join("host-local");
    Ok(Peer {
        system: System::Bridge,
        binary,
        configuration: json!({
            "cniVersion": "1.0.0", "name": "plain", "type": "bridge", "bridge": "cni0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": directory,
                "ranges": [[{"subnet": "10.20.1.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }),
        node: Namespace::create(&cluster.journal, "plain1")?,
        containers: containers(cluster, "plain-pod", pods)?,
    })
}

fn containers(cluster: &Cluster, name: &str, pods: usize) -> Outcome<Vec<Namespace>> {
    (0..pods).map(|index| stage::sandbox(cluster, &format!("{name}{index}"))).collect()
}

fn one_by_one(peers: &[Peer; 2], command: &str, round: usize, output: &mut Output) -> Outcome {
    for index in 0..peers[0].containers.len() {
        for system in System::turns(index) {
            let peer = peer(peers, system);
            let ms = peer.node.enter(|| peer.call(command, index))??;
            let command = command.to_owned();
            let call = PluginCall { round, system, command, at_once: false, ms };
            output.add(Record::PluginCall(call))?;
        }
    }
    Ok(())
}

fn all_at_once(peer: &Peer, command: &str, round: usize, output: &mut Output) -> Outcome {
    let calls = peer.containers.len();
    let barrier = Barrier::new(calls + 1);
    let (results, ms, noise) = std::thread::scope(|scope| -> Outcome<_> {
        let threads: Vec<_> = (0..calls)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || {
                    peer.node.enter(|| {
                        barrier.wait();
                        peer.call(command, index)
                    })
                })
            })
            .collect();
        let meter = Meter::start()?;
        barrier.wait();
        let begin = Instant::now();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let results: Vec<Outcome<Outcome<f64>>> = threads.into_iter().map(join).collect();
        Ok((results, begin.elapsed().as_secs_f64() * 1e3, meter.stop()?))
    })?;
    let system = peer.system;
    for result in results {
        let (command, ms) = (command.to_owned(), result??);
        let call = PluginCall { round, system, command, at_once: true, ms };
        output.add(Record::PluginCall(call))?;
    }
    let command = command.to_owned();
    output.add(Record::PluginBurst(PluginBurst { round, system, command, calls, ms, noise }))
}

impl Peer {
    /// One call from fork to exit, in milliseconds. The thread is on the node already.
    fn call(&self, command: &str, index: usize) -> Outcome<f64> {
        let pod = stage::near(index);
        let container_id = format!("{}-{}", pod.namespace, pod.name);
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};\
             K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID=",
            pod.namespace, pod.name
        );
        let mut process = Command::new(&self.binary);
        process
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &container_id)
            .env("CNI_NETNS", self.containers[index].path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", PEERS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let configuration = self.configuration.to_string();
        let name = self.binary.display().to_string();
        let failed = |source| Failure::Start { command: name.clone(), source };
        let begin = Instant::now();
        let mut child = process.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that refuses by its environment need not read; then the pipe is broken.
            let _ = stdin.write_all(configuration.as_bytes());
        }
        let answer = child.wait_with_output().map_err(failed)?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        expect(answer.status.success(), || {
            let said = String::from_utf8_lossy(&answer.stdout);
            let also = String::from_utf8_lossy(&answer.stderr);
            format!("{name} {command} of {container_id} failed: {} {}", said.trim(), also.trim())
        })?;
        Ok(ms)
    }
}
