//! Packet processors: DPDK programs behind vhost-user ports, at speed, and who of them dies.

use std::time::{Duration, Instant};

use super::hostile::gateway;
use super::seat::{Moved, Seat};
use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::counters;
use crate::daemon::{Daemon, until};
use crate::failure::{Outcome, expect};
use crate::front_end::Listens;
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
         ports: [{{name: echo, protocol: UDP, port: 7, targetPort: 7007}}, \
         {{name: other, protocol: UDP, port: 8, targetPort: 7008}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: default, name: echo-1, \
         labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\n\
         ports: [{{name: echo, protocol: UDP, port: 7007}}, \
         {{name: other, protocol: UDP, port: 7008}}]\n\
         endpoints: [{{addresses: [{}], nodeName: node1, \
         conditions: {{ready: true, serving: true}}}}]\n",
        echo.address
    )
}

/// Of all Pods only the source may send to the echo, and only to one port.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: echo}
spec:
  podSelector: {matchLabels: {app: echo}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: source}}}]
      ports: [{protocol: UDP, port: 7007}]
";

/// The two programs and their seats.
struct Pair {
    seat: Seat,
    source: Testpmd,
    echo: Testpmd,
    denied: Testpmd,
}

impl Pair {
    /// One sends to the Service as fast as it can; the other sends back what it gets. The first
    /// connects to our socket, the second listens and we connect.
    fn new(cluster: &mut Cluster) -> Outcome<Pair> {
        let source = Seat::take(cluster, "source", Listens::Datapath)?;
        let echo = Seat::take(cluster, "echo", Listens::FrontEnd)?;
        let (router, _) = gateway(cluster.pod("b")?)?;
        let router = router.map(|byte| format!("{byte:02x}")).join(":");
        let run = cluster.journal.run();
        let program = |seat: &Seat, core, application| Testpmd {
            name: format!("{run}-{}", seat.name),
            socket: seat.socket.clone(),
            listens: seat.listens == Listens::FrontEnd,
            mac: seat.mac.clone(),
            core,
            device: "",
            application,
        };
        let sending = |ports: &str| {
            vec![
                "--forward-mode=txonly".to_owned(),
                format!("--tx-ip={},{CLUSTER_ADDRESS}", source.address),
                format!("--tx-udp={ports}"),
                format!("--eth-peer=0,{router}"),
            ]
        };
        let echoing = vec!["--forward-mode=5tswap".to_owned()];
        Ok(Pair {
            source: program(&source, 0, sending("4000,7")),
            denied: program(&source, 0, sending("4000,8")),
            echo: program(&echo, 1, echoing),
            seat: echo,
        })
    }

    fn start(&self, cluster: &Cluster, program: &Testpmd) -> Outcome<Daemon> {
        program.start(&cluster.journal, &cluster.node("node1")?.directory)
    }

    /// Packets go to the echo and come back from it, many of each.
    fn flows(&self, cluster: &Cluster, when: &str) -> Outcome {
        let before = self.seat.moved(cluster)?;
        let begin = Instant::now();
        let mut moved = before;
        until(&format!("{PACKETS} packets each way {when}"), 60, || {
            moved = self.seat.moved(cluster).unwrap_or(moved);
            moved.to.saturating_sub(before.to) >= PACKETS
                && moved.from.saturating_sub(before.from) >= PACKETS
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let [there, back] = [moved.to - before.to, moved.from - before.from]
            .map(|packets| packets as f64 / seconds / 1e3);
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
    install(cluster, "echo-policy.yaml", POLICY)?;
    let pair = Pair::new(cluster)?;
    install(cluster, "echo-service.yaml", &service(&pair.seat))?;
    let mut echo = pair.start(cluster, &pair.echo)?;
    let mut source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "at first")?;
    pair.succeeded(cluster, &pair.echo, &mut echo)?;
    pair.succeeded(cluster, &pair.source, &mut source)?;

    renewed(cluster, &pair.seat)?;
    // DPDK connects once; the one that listens is found again.
    source.kill()?;
    source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "with a new datapath")?;

    source.stop()?;
    let before = pair.at_rest(cluster)?;
    renewed(cluster, &pair.seat)?;
    source = pair.start(cluster, &pair.source)?;
    pair.flows(cluster, "with the next one")?;
    source.stop()?;
    let after = pair.at_rest(cluster)?;
    // Buffers that were the first datapath's are the next one's, each once.
    let moved = pair.seat.moved(cluster)?;
    let counted = Moved { to: after.received - before.received, from: after.sent - before.sent };
    expect(counted == moved, || format!("the echo counted {counted:?}, its port {moved:?}"))?;

    let mut denied = pair.start(cluster, &pair.denied)?;
    until("what the policy does not name is denied, at speed as well", 30, || {
        cluster.counters().is_ok_and(|now| now.dropped("IngressIsolation") >= PACKETS)
    })?;
    denied.stop()?;
    let then = pair.seat.moved(cluster)?;
    expect(then == moved, || format!("the echo's port moved {then:?}, and before {moved:?}"))?;
    expect(echo.ended().is_none(), || "the echo ended with a datapath".to_owned())?;
    echo.stop()
}

/// The datapath is killed and started; the agent goes on and tells the new one everything.
fn renewed(cluster: &mut Cluster, seat: &Seat) -> Outcome {
    let node = cluster.node_mut("node1")?;
    let children = node.datapath()?.children();
    node.datapath()?.kill()?;
    until("the worker process ends with its parent", 5, || {
        children.iter().all(|id| journal::start_time(*id).is_none())
    })?;
    node.start_datapath()?;
    until("the echo has its port again", 20, || seat.port(cluster).is_ok())
}
