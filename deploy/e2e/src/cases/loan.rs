//! AF_XDP sockets that a Pod is lent: used without any right, and good for nothing that the Pod
//! may not do anyway.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use seine_datapath_api::v1;

use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::counters;
use crate::daemon::{Daemon, until};
use crate::failure::{Failure, Outcome, expect};
use crate::node::{Node, binary};
use crate::pod::{Family, Pod};

pub(super) const CASES: &[Case] = &[Case {
    name: "an unprivileged program echoes on sockets lent to its pod, and passes no policy",
    run: echoes,
}];

const OPEN_PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9001;
const DATAGRAMS: u64 = 2000;

/// Who runs the program: nobody, with no right and no way to get one.
const NOBODY: u32 = 65534;

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: echo}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - ports: [{protocol: UDP, port: 9000}]
";

/// Lends sockets to a Pod in the agent's place.
fn lend(node: &Node, pod: &Pod, socket: &Path) -> Outcome {
    counters::call(&node.file("datapath.sock"), "a loan", async |client| {
        let hello =
            v1::HelloRequest { client: "seine-e2e".into(), version: seine_datapath_api::VERSION };
        let session = client.hello(hello).await?.into_inner().session;
        let request = v1::LendSocketsRequest {
            session,
            name: pod.attachment.host_interface.clone(),
            namespace: pod.namespace.path().display().to_string(),
            interface: "eth0".into(),
            socket: socket.display().to_string(),
            socket_user: NOBODY,
            socket_group: NOBODY,
        };
        client.lend_sockets(request).await
    })?;
    Ok(())
}

/// Starts the program in the Pod.
fn start(node: &Node, pod: &Pod, socket: &Path, more: &[&str]) -> Outcome<Daemon> {
    let mut command = pod.namespace.command("setpriv");
    command
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .args(["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(binary("seine-echo")?)
        .arg("--socket")
        .arg(socket)
        .args(more);
    let log = node.file("echo.log");
    let _ = std::fs::remove_file(&log);
    let mut daemon = Daemon::start(&node.journal, "seine-echo", &mut command, &log)?;
    daemon.until("it has taken the loan", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
    })?;
    Ok(daemon)
}

/// Sends datagrams, each when the one before has come back; how many did.
fn echoed(from: &Pod, target: SocketAddr, count: u64) -> Outcome<u64> {
    let failed = || Failure::io("send by", Path::new("a UDP socket"));
    let any: IpAddr = [0; 4].into();
    let socket = from.namespace.enter(|| UdpSocket::bind(SocketAddr::new(any, 0)))?;
    let socket = socket.map_err(failed())?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).map_err(failed())?;
    socket.connect(target).map_err(failed())?;
    let mut came = 0;
    for number in 0..count {
        let question: Vec<u8> =
            (0..200 + number % 1000).map(|it| (it * 31 + number) as u8).collect();
        socket.send(&question).map_err(failed())?;
        let mut answer = [0; 2048];
        match socket.recv(&mut answer) {
            Ok(bytes) if answer[..bytes] == question => came += 1,
            Ok(_) => return Err(Failure::Unmet(format!("datagram {number} came back changed"))),
            Err(_) if came == 0 => break,
            Err(_) => {}
        }
    }
    Ok(came)
}

fn echoes(stage: &mut Stage) -> Outcome {
    let cluster: &mut Cluster =
        stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1), ("b", 1)]))?;
    install(cluster, "echo.yaml", POLICY)?;
    let node = cluster.node("node1")?;
    until("the policy is in force", 20, || {
        node.seinectl(&["rule", "stats"]).is_ok_and(|stats| stats.contains("default/echo"))
    })?;
    cluster.node_mut("node1")?.agent()?.kill()?;
    let (node, a, b) = (cluster.node("node1")?, cluster.pod("a")?, cluster.pod("b")?);
    let socket: PathBuf = node.file("loan.sock");
    lend(node, b, &socket)?;
    let mut program = start(node, b, &socket, &[])?;
    let own = b.address(Family::V4)?;
    let came = echoed(a, SocketAddr::new(own, OPEN_PORT), DATAGRAMS)?;
    expect(came * 100 >= DATAGRAMS * 99, || format!("{came} of {DATAGRAMS} came back"))?;

    let before = cluster.counters()?;
    let came = echoed(a, SocketAddr::new(own, CLOSED_PORT), 1)?;
    let denied = cluster.counters()?.since(&before).dropped("IngressIsolation");
    expect(came == 0 && denied > 0, || format!("{came} passed the policy, {denied} did not"))?;

    program.stop()?;
    // Rings and frames are where the first one left them: the next one has its own.
    lend(node, b, &socket)?;
    let mut liar = start(node, b, &socket, &["--source", "10.10.1.77"])?;
    let before = cluster.counters()?;
    let came = echoed(a, SocketAddr::new(own, OPEN_PORT), 1)?;
    let lies = cluster.counters()?.since(&before).dropped("SpoofedSource");
    expect(came == 0 && lies > 0, || format!("{came} lies passed, {lies} did not"))?;
    liar.stop()?;

    // It goes with the port, and so does its program.
    let program = b.namespace.ip("-d link show dev eth0")?.contains("xdp");
    expect(program, || "there is no program on the pod's end".to_owned())?;
    cluster.node_mut("node1")?.start_agent()?;
    cluster.detach("b")?;
    expect(!socket.exists(), || "the loan is still offered".to_owned())
}
