//! Virtual machines: a kernel of its own behind a vhost-user port, under the policy and the
//! Services of every Pod.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use seine_datapath_api::v1::vhost_user::Mode;

use super::seat::{self, MTU, Seat};
use super::service::{install, service};
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::failure::{Failure, Outcome, expect};
use crate::machine::{Machine, Nic};
use crate::pod::Family;
use crate::seeded::{BLOCK_BYTES, Seeded};

pub(super) const CASES: &[Case] = &[Case {
    name: "a virtual machine talks TCP to a pod by a Service, and only where a policy lets it",
    run: machine,
}];

const CLUSTER_ADDRESS: &str = "10.96.0.10:80";
const OPEN_PORT: u16 = 8080;
const CLOSED_PORT: u16 = 8081;

/// Names how many mebibytes go each way. A release is tried with 1024.
const MEBIBYTES: &str = "SEINE_GUEST_MIB";
const MEBIBYTES_USUALLY: u64 = 256;

/// How long a mebibyte may take: an emulated processor on a machine that is busy with other things.
const SECONDS_MAX_FOR_EACH: u64 = 2;

fn policy(seat: &Seat) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: default, name: guests}}\nspec:\n  podSelector: {{}}\n  \
         policyTypes: [Ingress]\n  ingress:\n    \
         - from: [{{ipBlock: {{cidr: {}/32}}}}]\n      \
         ports: [{{protocol: TCP, port: {OPEN_PORT}}}]\n",
        seat.address
    )
}

fn mebibytes() -> Outcome<u64> {
    match std::env::var(MEBIBYTES) {
        Ok(text) => text.parse().map_err(|_| Failure::Unmet(format!("{MEBIBYTES}={text}"))),
        Err(_) => Ok(MEBIBYTES_USUALLY),
    }
}

/// A server in a Pod: checks what a client sends, and answers with the next stream.
struct Server(JoinHandle<io::Result<()>>);

impl Server {
    fn start(cluster: &Cluster, pod: &str, stream: Seeded) -> Outcome<Server> {
        let pod = cluster.pod(pod)?;
        let address = SocketAddr::new(pod.address(Family::V4)?, OPEN_PORT);
        let listener = pod.namespace.enter(|| TcpListener::bind(address))?;
        let listener = listener.map_err(Failure::io("listen in", Path::new("the pod")))?;
        Ok(Server(std::thread::spawn(move || {
            let (mut client, _) = listener.accept()?;
            stream.check(&mut client)?;
            let answer = Seeded { seed: stream.seed + 1, ..stream };
            answer.send(&mut client)?;
            client.flush()
        })))
    }

    fn result(self) -> Outcome {
        let result = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.map_err(Failure::io("serve in", Path::new("the pod")))
    }
}

/// So many mebibytes there and back, each byte checked by who gets it.
fn exchange(cluster: &Cluster, machine: &mut Machine, mebibytes: u64, seed: u64) -> Outcome {
    let bytes = mebibytes << 20;
    let server = Server::start(cluster, "b", Seeded { seed, blocks: bytes / BLOCK_BYTES as u64 })?;
    let begin = std::time::Instant::now();
    let limit = Duration::from_secs(30 + mebibytes * SECONDS_MAX_FOR_EACH);
    machine.ask(&format!("exchange {CLUSTER_ADDRESS} {bytes} {seed}"), limit)?;
    println!("      {mebibytes} MiB each way in {:.1} s", begin.elapsed().as_secs_f64());
    server.result()
}

fn machine(stage: &mut Stage) -> Outcome {
    let mebibytes = mebibytes()?;
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("b", 1)]))?;
    let server: IpAddr = cluster.pod("b")?.address(Family::V4)?;
    install(cluster, "web.yaml", &service(server))?;
    let seat = Seat::new(cluster.node("node1")?, "machine", 200, Mode::Server);
    install(cluster, "guests.yaml", &policy(&seat))?;
    seat::open(cluster, "guests", std::slice::from_ref(&seat))?;
    let node = cluster.node("node1")?;
    let nic = Nic { socket: seat.socket.clone(), mac: seat.mac_text(), options: "" };
    let mut machine = Machine::start(&cluster.journal, &node.directory, &nic)?;
    let soon = Duration::from_secs(20);
    machine.ask(&format!("address {}/24 10.10.1.1 {MTU}", seat.address), soon)?;
    exchange(cluster, &mut machine, mebibytes, 1)?;

    let listener = cluster
        .pod("b")?
        .namespace
        .enter(|| TcpListener::bind(SocketAddr::new(server, CLOSED_PORT)))?;
    let listener = listener.map_err(Failure::io("listen in", Path::new("the pod")))?;
    let before = cluster.counters()?;
    let answer = machine.ask(&format!("connect {server}:{CLOSED_PORT}"), soon)?;
    expect(answer == "silent", || format!("a port that the policy does not name is {answer}"))?;
    let denied = cluster.counters()?.since(&before).dropped("IngressIsolation");
    expect(denied > 0, || "no drop was counted as IngressIsolation".to_owned())?;
    drop(listener);
    cluster.node_mut("node1")?.start_agent()
}
