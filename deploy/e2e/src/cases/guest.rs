//! Virtual machines: a kernel of its own behind a vhost-user port, under the policy and the
//! Services of every Pod.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use super::seat::{MTU, Seat};
use super::service::{install, service};
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::front_end::Listens;
use crate::machine::{Machine, Nic};
use crate::pod::Family;
use crate::seeded::{BLOCK_BYTES, Seeded};

pub(super) const CASES: &[Case] = &[Case {
    name: "a virtual machine talks TCP by a Service where a policy lets it, and the datapath dies",
    run: machine,
}];

const CLUSTER_ADDRESS: &str = "10.96.0.10:80";
const OPEN_PORT: u16 = 8080;
const CLOSED_PORT: u16 = 8081;

/// Names how many mebibytes go each way. A release is tried with 1024.
const MEBIBYTES: &str = "SEINE_GUEST_MIB";
const MEBIBYTES_USUALLY: u64 = 256;

/// Features of virtio-net that the machine must have, by bit.
const FEATURES: &[(&str, usize)] = &[
    ("CSUM", 0),
    ("GUEST_CSUM", 1),
    ("GUEST_TSO4", 7),
    ("GUEST_TSO6", 8),
    ("HOST_TSO4", 11),
    ("HOST_TSO6", 12),
    ("MRG_RXBUF", 15),
];

/// How long an answer may take that is no work.
const SOON: Duration = Duration::from_secs(20);

/// How long a mebibyte may take: an emulated processor on a machine that is busy with other things.
const SECONDS_MAX_FOR_EACH: u64 = 2;

/// Of all Pods only the machine may connect, and only to one port.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: guests}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: machine}}}]
      ports: [{protocol: TCP, port: 8080}]
";

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

fn limit(mebibytes: u64) -> Duration {
    Duration::from_secs(60 + mebibytes * SECONDS_MAX_FOR_EACH)
}

/// So many mebibytes there and back, each byte checked by who gets it.
fn exchange(cluster: &Cluster, machine: &mut Machine, mebibytes: u64, seed: u64) -> Outcome {
    let bytes = mebibytes << 20;
    let server = Server::start(cluster, "b", Seeded { seed, blocks: bytes / BLOCK_BYTES as u64 })?;
    let begin = std::time::Instant::now();
    machine.ask(&format!("exchange {CLUSTER_ADDRESS} {bytes} {seed}"), limit(mebibytes))?;
    println!("      {mebibytes} MiB each way in {:.1} s", begin.elapsed().as_secs_f64());
    server.result()
}

/// Another exchange, in whose midst the datapath dies: the machine's driver is met again, and the
/// connection goes on.
fn survives(cluster: &mut Cluster, seat: &Seat, machine: &mut Machine, mebibytes: u64) -> Outcome {
    let bytes = mebibytes << 20;
    let stream = Seeded { seed: 11, blocks: bytes / BLOCK_BYTES as u64 };
    let server = Server::start(cluster, "b", stream)?;
    let received = |cluster: &Cluster| -> Outcome<u64> {
        Ok(seat.port(cluster)?.counters.map_or(0, |counters| counters.receive_bytes))
    };
    let begin = received(cluster)?;
    machine.tell(&format!("exchange {CLUSTER_ADDRESS} {bytes} 11"))?;
    let mut moved = 0;
    until("the exchange is under way", 30, || {
        moved = received(cluster).map_or(0, |now| now - begin);
        moved > bytes / 16
    })?;
    cluster.node_mut("node1")?.datapath()?.kill()?;
    expect(moved < bytes, || "the exchange was over before the datapath died".to_owned())?;
    cluster.node_mut("node1")?.start_datapath()?;
    machine.answer(limit(mebibytes))?;
    server.result()
}

/// The machine leaves checksums and segmentation to its device, takes both, and made use of it: its
/// packets were larger than its MTU, on average, both ways.
fn in_segments(machine: &mut Machine) -> Outcome {
    let agreed = machine.ask("show device/features", SOON)?;
    for (name, bit) in FEATURES {
        let has = agreed.as_bytes().get(*bit) == Some(&b'1');
        expect(has, || format!("the machine has no {name}: its features are {agreed}"))?;
    }
    for way in ["tx", "rx"] {
        let mut counted = |what: &str| -> Outcome<u64> {
            let text = machine.ask(&format!("show statistics/{way}_{what}"), SOON)?;
            text.parse().map_err(|_| Failure::Unmet(format!("`{text}` {way}_{what}")))
        };
        let (bytes, packets) = (counted("bytes")?, counted("packets")?);
        println!("      {way}: {packets} packets of {} bytes", bytes / packets.max(1));
        expect(way == "rx" || bytes > packets * u64::from(2 * MTU), || {
            format!("{packets} packets with {bytes} bytes: no segments were left to the device")
        })?;
    }
    Ok(())
}

/// A port that the policy does not name is silent, and that is counted.
fn denied(cluster: &Cluster, machine: &mut Machine) -> Outcome {
    let pod = cluster.pod("b")?;
    let target = SocketAddr::new(pod.address(Family::V4)?, CLOSED_PORT);
    let listener = pod.namespace.enter(|| TcpListener::bind(target))?;
    let _listener = listener.map_err(Failure::io("listen in", Path::new("the pod")))?;
    let before = cluster.counters()?;
    let answer = machine.ask(&format!("connect {target}"), SOON)?;
    expect(answer == "silent", || format!("a port that the policy does not name is {answer}"))?;
    let denied = cluster.counters()?.since(&before).dropped("IngressIsolation");
    expect(denied > 0, || "no drop was counted as IngressIsolation".to_owned())
}

fn machine(stage: &mut Stage) -> Outcome {
    let mebibytes = mebibytes()?;
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("b", 1)]))?;
    install(cluster, "web.yaml", &service(cluster.pod("b")?.address(Family::V4)?))?;
    install(cluster, "guests.yaml", POLICY)?;
    let seat = Seat::take(cluster, "machine", Listens::Datapath)?;
    let node = cluster.node("node1")?;
    let nic = Nic { socket: seat.socket.clone(), mac: seat.mac.clone(), options: "" };
    let mut machine = Machine::start(&cluster.journal, &node.directory, &nic)?;
    machine.ask(&format!("address {}/24 10.10.1.1 {MTU}", seat.address), SOON)?;
    until("the Service is reached", 10, || {
        // Nobody listens yet.
        let answer = machine.ask(&format!("connect {CLUSTER_ADDRESS}"), SOON);
        answer.is_ok_and(|answer| answer == "refused")
    })?;
    exchange(cluster, &mut machine, mebibytes, 1)?;
    in_segments(&mut machine)?;
    denied(cluster, &mut machine)?;
    survives(cluster, &seat, &mut machine, mebibytes / 4)
}
