//! Packet processors: DPDK programs behind vhost-user ports, at speed, and who of them dies.

use std::time::{Duration, Instant};

use seine_datapath_api::v1::vhost_user::Mode;

use super::hostile::gateway;
use super::seat::{self, Seat};
use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::counters;
use crate::daemon::{Daemon, until};
use crate::failure::{Outcome, expect};
use crate::journal;
use crate::testpmd::{Counted, Testpmd};

pub(super) const CASES: &[Case] = &[Case {
    name: "DPDK programs talk by a Service at speed, and go on when any side was killed",
    run: processors,
}];

/// What is seen both ways before something is said to flow.
const PACKETS: u64 = 20_000;
const CLUSTER_ADDRESS: &str = "10.96.0.30";

/// A Service of datagrams whose one endpoint is the echo.
fn service(echo: &Seat) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: echo}}\n\
         spec:\n  clusterIP: {CLUSTER_ADDRESS}\n  clusterIPs: [{CLUSTER_ADDRESS}]\n  \
         ports: [{{name: echo, protocol: UDP, port: 7, targetPort: 7007}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: default, name: echo-1, \
         labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\n\
         ports: [{{name: echo, protocol: UDP, port: 7007}}]\n\
         endpoints: [{{addresses: [{}], nodeName: node1, \
         conditions: {{ready: true, serving: true}}}}]\n",
        echo.address
    )
}

/// A policy that keeps the Pods of the node to themselves: its rules say that it is in force.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: alone}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - ports: [{protocol: UDP, port: 7007}]
";

/// The two programs and their seats.
struct Pair {
    seats: [Seat; 2],
    source: Testpmd,
    echo: Testpmd,
}

impl Pair {
    /// One sends to the Service as fast as it can; the other sends back what it gets. The first
    /// connects to our socket, the second listens and we connect.
    fn new(cluster: &Cluster) -> Outcome<Pair> {
        let node = cluster.node("node1")?;
        let source = Seat::new(node, "source", 201, Mode::Server);
        let echo = Seat::new(node, "echo", 202, Mode::Client);
        let (router, _) = gateway(cluster.pod("b")?)?;
        let router = router.map(|byte| format!("{byte:02x}")).join(":");
        let run = cluster.journal.run();
        let program = |seat: &Seat, core, application| Testpmd {
            name: format!("{run}-{}", seat.name),
            socket: seat.socket.clone(),
            listens: seat.mode == Mode::Client,
            mac: seat.mac_text(),
            core,
            device: "",
            application,
        };
        let sending = vec![
            "--forward-mode=txonly".to_owned(),
            format!("--tx-ip={},{CLUSTER_ADDRESS}", source.address),
            "--tx-udp=4000,7".to_owned(),
            format!("--eth-peer=0,{router}"),
        ];
        let echoing = vec!["--forward-mode=5tswap".to_owned()];
        Ok(Pair {
            source: program(&source, 0, sending),
            echo: program(&echo, 1, echoing),
            seats: [source, echo],
        })
    }

    fn start(&self, cluster: &Cluster, program: &Testpmd) -> Outcome<Daemon> {
        program.start(&cluster.journal, &cluster.node("node1")?.directory)
    }

    /// Packets go to the echo and come back from it, many of each.
    fn flows(&self, cluster: &Cluster, when: &str) -> Outcome {
        let before = cluster.counters()?;
        let begin = Instant::now();
        until(&format!("{PACKETS} packets each way {when}"), 60, || {
            cluster.counters().is_ok_and(|now| {
                let moved = now.since(&before).port("node1", "echo");
                moved.receive.min(moved.transmit) >= PACKETS
            })
        })?;
        let moved = cluster.counters()?.since(&before).port("node1", "echo");
        let seconds = begin.elapsed().as_secs_f64();
        let [there, back] = [moved.transmit, moved.receive].map(|it| it as f64 / seconds / 1e3);
        println!("      {when}: {there:.0} kpps to the echo, {back:.0} back");
        Ok(())
    }

    /// What the echo has counted when nothing moves any more.
    fn at_rest(&self, cluster: &Cluster) -> Outcome<Counted> {
        let folder = &cluster.node("node1")?.directory;
        let (mut last, mut since) = (Counted::default(), Instant::now());
        until("the echo is at rest", 30, || {
            let now = self.echo.counted(folder).unwrap_or_default();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            // It prints what it counts once a second.
            since.elapsed() > Duration::from_millis(2500)
        })?;
        Ok(last)
    }

    /// A program is killed, its port says so, and another in its place is served.
    fn succeeded(&self, cluster: &Cluster, program: &Testpmd, old: &mut Daemon) -> Outcome {
        let socket = program.socket.display().to_string();
        old.kill()?;
        until("its port waits for another", 10, || {
            let ports = counters::ports(&cluster.nodes[0]).unwrap_or_default();
            ports.iter().any(|port| {
                port.attach_mode == "waiting"
                    && port.device.as_ref().is_some_and(|device| device.interface == socket)
            })
        })?;
        *old = self.start(cluster, program)?;
        self.flows(cluster, &format!("with a new {}", program.name))
    }
}

fn processors(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("b", 1)]))?;
    let pair = Pair::new(cluster)?;
    install(cluster, "echo.yaml", &service(&pair.seats[1]))?;
    install(cluster, "alone.yaml", POLICY)?;
    seat::open(cluster, "alone", &pair.seats)?;
    let mut echo = pair.start(cluster, &pair.echo)?;
    let mut source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "at first")?;
    pair.succeeded(cluster, &pair.echo, &mut echo)?;
    pair.succeeded(cluster, &pair.source, &mut source)?;

    renewed(cluster, &pair)?;
    // DPDK connects once; the one that listens is found again.
    source.kill()?;
    source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "with a new datapath")?;

    source.stop()?;
    let before = pair.at_rest(cluster)?;
    renewed(cluster, &pair)?;
    source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "with the next one")?;
    source.stop()?;
    let after = pair.at_rest(cluster)?;
    // Buffers that were the first datapath's are the next one's, each once.
    let port = cluster.counters()?.port("node1", "echo");
    let counted =
        Counted { received: after.received - before.received, sent: after.sent - before.sent };
    let moved = Counted { received: port.transmit, sent: port.receive };
    expect(counted == moved, || format!("the echo counted {counted:?}, its port {moved:?}"))?;
    expect(echo.ended().is_none(), || "the echo ended with a datapath".to_owned())?;
    echo.stop()?;
    cluster.node_mut("node1")?.start_agent()
}

/// The datapath is killed, and another one has the same ports.
fn renewed(cluster: &mut Cluster, pair: &Pair) -> Outcome {
    let node = cluster.node_mut("node1")?;
    let children = node.datapath()?.children();
    node.datapath()?.kill()?;
    until("the worker process ends with its parent", 5, || {
        children.iter().all(|id| journal::start_time(*id).is_none())
    })?;
    node.start_datapath()?;
    node.start_agent()?;
    seat::open(cluster, "alone", &pair.seats)
}
