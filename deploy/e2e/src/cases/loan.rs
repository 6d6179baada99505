//! AF_XDP sockets that a Pod asks for: used without any right, good for nothing that the Pod may
//! not do anyway, and there again after whoever made them has died.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::service::install;
use super::{Case, Stage, Underlay, manifests, pod};
use crate::cluster::Cluster;
use crate::cni::Call;
use crate::daemon::{Daemon, until};
use crate::failure::{Failure, Outcome, expect};
use crate::front_end::socket;
use crate::measure::pings;
use crate::node::{Node, binary};
use crate::pod::{Family, Pod};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an unprivileged program echoes on sockets lent to its pod, and passes no policy",
        run: echoes,
    },
    Case {
        name: "sockets lent to a pod outlive the agent, and come back with the datapath",
        run: come_back,
    },
];

const OPEN_PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9001;
const DATAGRAMS: u64 = 2000;

/// Who runs the program: nobody, with no right and no way to get one.
const NOBODY: u32 = 65534;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  namespace: default
  name: b
  annotations: {port.seine.io/kind: af-xdp, port.seine.io/queues: \"2\"}
spec:
  nodeName: node1
  containers: [{name: main, image: none}]
";

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

/// A cluster whose agent lends to nobody, with an ordinary Pod `a` and `b` that asks for sockets.
fn attached(stage: &mut Stage) -> Outcome<&mut Cluster> {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1)]))?;
    let manifests = cluster.manifests.clone();
    let node = cluster.node_mut("node1")?;
    let owner = format!("user = {NOBODY}\ngroup = {NOBODY}\n");
    node.write("agent.toml", &(node.agent_configuration(&manifests, "") + &owner))?;
    node.agent()?.stop()?;
    node.start_agent()?;
    install(cluster, "b.yaml", POD)?;
    cluster.attach(&pod("b", 1))?;
    Ok(cluster)
}

/// Starts the program in the Pod.
fn start(node: &Node, pod: &Pod, more: &[&str]) -> Outcome<Daemon> {
    let mut command = pod.namespace.command("setpriv");
    command
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .args(["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(binary("seine-echo")?)
        .arg("--socket")
        .arg(socket(pod)?)
        .args(more);
    let log = node.file("echo.log");
    let _ = fs::remove_file(&log);
    let mut daemon = Daemon::start(&node.journal, "seine-echo", &mut command, &log)?;
    daemon.until("it has taken the loan", || loans(node) == 1)?;
    Ok(daemon)
}

/// How many loans the program has taken.
fn loans(node: &Node) -> usize {
    let log = fs::read_to_string(node.file("echo.log")).unwrap_or_default();
    log.lines().filter(|line| line.starts_with("ready")).count()
}

/// A datagram of its own length and content.
fn question(number: u64) -> Vec<u8> {
    let rest = (0..200 + number % 1000).map(|it| (it * 31 + number) as u8);
    number.to_be_bytes().into_iter().chain(rest).collect()
}

/// Sends datagrams, each when the one before has come back or is late; how many did.
fn echoed(from: &Pod, target: SocketAddr, count: u64) -> Outcome<u64> {
    let failed = || Failure::io("send by", Path::new("a UDP socket"));
    let any: IpAddr = [0; 4].into();
    let socket = from.namespace.enter(|| UdpSocket::bind(SocketAddr::new(any, 0)))?;
    let socket = socket.map_err(failed())?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).map_err(failed())?;
    socket.connect(target).map_err(failed())?;
    let (mut came, mut answer) = (0, [0; 2048]);
    for number in 0..count {
        socket.send(&question(number)).map_err(failed())?;
        while let Ok(bytes) = socket.recv(&mut answer) {
            let asked = answer.first_chunk().map_or(u64::MAX, |it| u64::from_be_bytes(*it));
            if asked > number || answer[..bytes] != question(asked) {
                return Err(Failure::Unmet(format!(
                    "after {number}, a datagram came back changed"
                )));
            }
            came += 1;
            if asked == number {
                break;
            }
        }
        if came == 0 {
            break;
        }
    }
    Ok(came)
}

fn check(node: &Node, pod: &Pod) -> Outcome {
    let mut check = Call::of("CHECK", &pod.container_id, &pod.namespace.path());
    check.previous = Some(pod.attachment.result.clone());
    node.plugin.call(&check)?;
    Ok(())
}

fn has_program(pod: &Pod) -> Outcome<bool> {
    Ok(pod.namespace.ip("-d link show dev eth0")?.contains("xdp"))
}

fn echoes(stage: &mut Stage) -> Outcome {
    let cluster = attached(stage)?;
    let (node, a, b) = (cluster.node("node1")?, cluster.pod("a")?, cluster.pod("b")?);
    let own = b.address(Family::V4)?;
    check(node, b)?;
    // As long as no program has taken sockets, its kernel has the interface.
    expect(pings(&a.namespace, own), || "its kernel does not answer".to_owned())?;
    expect(!has_program(b)?, || "there is a program on an unused interface".to_owned())?;
    install(cluster, "echo.yaml", POLICY)?;
    until("the policy is in force", 20, || {
        node.seinectl(&["rule", "stats"]).is_ok_and(|stats| stats.contains("default/echo"))
    })?;
    let mut program = start(node, b, &[])?;
    let came = echoed(a, SocketAddr::new(own, OPEN_PORT), DATAGRAMS)?;
    expect(came * 100 >= DATAGRAMS * 99, || format!("{came} of {DATAGRAMS} came back"))?;

    let before = cluster.counters()?;
    let came = echoed(a, SocketAddr::new(own, CLOSED_PORT), 1)?;
    let denied = cluster.counters()?.since(&before).dropped("IngressIsolation");
    expect(came == 0 && denied > 0, || format!("{came} passed the policy, {denied} did not"))?;

    // The next program has sockets of its own, and so has the one after a crash.
    program.kill()?;
    let mut liar = start(node, b, &["--source", "10.10.1.77"])?;
    let before = cluster.counters()?;
    let came = echoed(a, SocketAddr::new(own, OPEN_PORT), 1)?;
    let lies = cluster.counters()?.since(&before).dropped("SpoofedSource");
    expect(came == 0 && lies > 0, || format!("{came} lies passed, {lies} did not"))?;
    expect(has_program(b)?, || "there is no program on the pod's end".to_owned())?;
    liar.stop()?;
    until("its kernel has its interface back", 5, || has_program(b).is_ok_and(|has| !has))?;
    goes(cluster)
}

/// CHECK is good, only the named user can reach the socket, and DEL leaves nothing of it.
fn goes(cluster: &mut Cluster) -> Outcome {
    let (node, b) = (cluster.node("node1")?, cluster.pod("b")?);
    check(node, b)?;
    let path = socket(b)?;
    let facts = fs::metadata(&path).map_err(Failure::io("look at", &path))?;
    let rights = (facts.uid(), facts.gid(), facts.mode() & 0o777);
    expect(rights == (NOBODY, NOBODY, 0o660), || format!("the socket has {rights:?}"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let facts = fs::metadata(folder).map_err(Failure::io("look at", folder))?;
    let rights = (facts.uid(), facts.gid(), facts.mode() & 0o777);
    expect(rights == (0, NOBODY, 0o710), || format!("its folder has {rights:?}"))?;
    let again = Call::of("ADD", &b.container_id, &b.namespace.path());
    let again = node.plugin.run(&again.for_pod("default", "b"))?;
    expect(again.code() == 101, || format!("a second ADD: {}", again.code()))?;
    check(node, b)?;
    let del = Call::of("DEL", &b.container_id, &b.namespace.path()).for_pod("default", "b");
    let pods = node.file("pods");
    cluster.detach("b")?;
    let left = fs::read_dir(&pods).map_err(Failure::io("read", &pods))?.count();
    expect(left == 0, || format!("{left} folders are left in {}", pods.display()))?;
    cluster.node("node1")?.plugin.call(&del)?;
    Ok(())
}

fn come_back(stage: &mut Stage) -> Outcome {
    let cluster = attached(stage)?;
    let (node, a, b) = (cluster.node("node1")?, cluster.pod("a")?, cluster.pod("b")?);
    let (a, target) = (a.namespace.clone(), SocketAddr::new(b.address(Family::V4)?, OPEN_PORT));
    let echoes =
        |cluster: &Cluster| -> Outcome<bool> { Ok(echoed(cluster.pod("a")?, target, 1)? == 1) };
    let mut program = start(node, b, &[])?;
    expect(echoes(cluster)?, || "there is no echo".to_owned())?;

    let node = cluster.node_mut("node1")?;
    node.agent()?.kill()?;
    expect(echoes(cluster)?, || "there is no echo without an agent".to_owned())?;
    cluster.node_mut("node1")?.start_agent()?;
    expect(echoes(cluster)?, || "there is no echo after the agent's restart".to_owned())?;
    let taken = loans(cluster.node("node1")?);
    expect(taken == 1, || format!("the agent's restart made {taken} loans of it"))?;

    let node = cluster.node_mut("node1")?;
    node.datapath()?.kill()?;
    node.start_datapath()?;
    until("the program has taken sockets anew", 20, || {
        cluster.node("node1").is_ok_and(|node| loans(node) == 2)
    })?;
    until("it echoes again", 20, || echoes(cluster).unwrap_or(false))?;
    expect(program.ended().is_none(), || "the program has ended meanwhile".to_owned())?;
    check(cluster.node("node1")?, cluster.pod("b")?)?;

    program.stop()?;
    until("its kernel answers", 5, || pings(&a, target.ip()))?;
    goes(cluster)
}
