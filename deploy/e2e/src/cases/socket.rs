//! A Pod without an interface: its driver in user space is met at a socket, and it is a Pod like
//! any other to policies, Services, the spoof guard and traces.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::service::{install, seen};
use super::{Case, Stage, Underlay, manifests, pod};
use crate::cluster::Cluster;
use crate::cni::Call;
use crate::daemon::{Daemon, until};
use crate::failure::{Failure, Outcome, expect};
use crate::front_end::{self, Listens, TAP};
use crate::measure::pings;
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a pod behind a socket speaks through policy and Service, and may not lie",
        run: speaks,
    },
    Case { name: "a front end that dies comes back, and so does the datapath", run: comes_back },
];

const CLUSTER_ADDRESS: &str = "10.96.0.20";

fn nf(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: default\n  name: nf\n  \
         labels: {{app: nf}}\n  annotations:\n    port.seine.io/kind: vhost-user\n    \
         port.seine.io/mode: {mode}\n    port.seine.io/queues: \"1\"\n    \
         port.seine.io/mtu: \"1400\"\n\
         spec:\n  nodeName: node1\n  containers:\n    - {{name: main, image: none}}\n"
    )
}

/// Two Services without selectors, each with one endpoint.
fn service(name: &str, cluster_address: &str, endpoint: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\n\
         spec:\n  clusterIP: {cluster_address}\n  clusterIPs: [{cluster_address}]\n  \
         ports: [{{protocol: TCP, port: 80, targetPort: 8080}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: default, name: {name}-1, \
         labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{protocol: TCP, port: 8080}}]\n\
         endpoints: [{{addresses: [{endpoint}], nodeName: node1, \
         conditions: {{ready: true, serving: true}}}}]\n"
    )
}

/// Nobody may open a connection to the Pod `nf` at port 8080.
const DENIAL: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  priority: 5
  tier: application
  appliedTo: [{podSelector: {matchLabels: {app: nf}}}]
  ingress:
    - {name: nobody, action: Drop, ports: [{protocol: TCP, port: 8080}]}
";

fn attached<'a>(stage: &'a mut Stage, mode: &str) -> Outcome<&'a mut Cluster> {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1)]))?;
    install(cluster, "nf.yaml", &nf(mode))?;
    cluster.attach(&pod("nf", 1))?;
    Ok(cluster)
}

fn front_end(cluster: &Cluster, listens: Listens) -> Outcome<Daemon> {
    let (node, nf, a) = (cluster.node("node1")?, cluster.pod("nf")?, cluster.pod("a")?);
    let daemon = front_end::start(node, nf, listens)?;
    let target = a.address(Family::V4)?;
    until("the front end is met", 20, || pings(&nf.namespace, target))?;
    Ok(daemon)
}

/// Whether a datagram goes there, and another back.
fn datagrams(from: &Namespace, to: &Namespace, target: SocketAddr) -> Outcome<bool> {
    let failed = |action| Failure::io(action, Path::new("a UDP socket"));
    let server = to.enter(|| UdpSocket::bind(target))?.map_err(failed("bind"))?;
    let any = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let client = from.enter(|| UdpSocket::bind(any))?.map_err(failed("bind"))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(failed("set up"))?;
    }
    let question = [7; 1200];
    client.send_to(&question, target).map_err(failed("send by"))?;
    let mut buffer = [0; 2048];
    let Ok((bytes, peer)) = server.recv_from(&mut buffer) else { return Ok(false) };
    let whole = buffer[..bytes] == question;
    server.send_to(b"answer", peer).map_err(failed("send by"))?;
    let Ok(answered) = client.recv(&mut buffer) else { return Ok(false) };
    Ok(whole && buffer[..answered] == *b"answer")
}

fn speaks(stage: &mut Stage) -> Outcome {
    let cluster = attached(stage, "server")?;
    let mut daemon = front_end(cluster, Listens::Datapath)?;
    let (node, nf, a) = (cluster.node("node1")?, cluster.pod("nf")?, cluster.pod("a")?);
    expect(nf.namespace.ip("link show eth0").is_err(), || "it has an interface".to_owned())?;
    for family in Family::BOTH {
        let (own, other) = (nf.address(family)?, a.address(family)?);
        expect(pings(&nf.namespace, other), || format!("no ping to {other}"))?;
        expect(pings(&a.namespace, own), || format!("no ping to {own}"))?;
        expect(pings(&node.namespace, own), || format!("the node does not ping {own}"))?;
        let target = SocketAddr::new(other, 9000);
        let there = datagrams(&nf.namespace, &a.namespace, target)?;
        let back = datagrams(&a.namespace, &nf.namespace, SocketAddr::new(own, 9000))?;
        expect(there && back, || format!("UDP: {there} to {other}, {back} to {own}"))?;
    }
    through_services(cluster)?;
    let trace = node.seinectl(&["trace", "default/nf/eth0", CLUSTER_ADDRESS, "tcp/80"])?;
    expect(trace.contains("default/web"), || format!("the trace names no Service: {trace}"))?;

    install(cluster, "closed.yaml", DENIAL)?;
    let (own, other) = (nf.address(Family::V4)?, a.address(Family::V4)?);
    until("nobody may connect to it", 20, || {
        let target = SocketAddr::new(own, 8080);
        seen(&a.namespace, &nf.namespace, own, target).is_ok_and(|peer| peer.is_none())
    })?;
    expect(cluster.counters()?.dropped("IngressPolicy") > 0, || "nothing was denied".into())?;
    expect(pings(&a.namespace, own), || "the policy denies more than it says".to_owned())?;

    let before = cluster.counters()?.dropped("SpoofedSource");
    nf.namespace.ip(&format!("addr add 10.10.1.200/32 dev {TAP}"))?;
    let lie = format!("ping -n -q -W 1 -c 1 -I 10.10.1.200 {other}");
    expect(nf.namespace.run(&lie).is_err(), || "it has spoken by another address".to_owned())?;
    let lies = cluster.counters()?.dropped("SpoofedSource") - before;
    expect(lies > 0, || "the spoof guard has seen nothing".to_owned())?;
    daemon.stop()?;
    goes(cluster)
}

fn through_services(cluster: &Cluster) -> Outcome {
    let (nf, a) = (cluster.pod("nf")?, cluster.pod("a")?);
    let (own, other) = (nf.address(Family::V4)?, a.address(Family::V4)?);
    let address = |text: &str| text.parse::<IpAddr>().expect("a constant");
    let both = [("web", CLUSTER_ADDRESS, other), ("nf", "10.96.0.21", own)];
    for (name, cluster_address, endpoint) in both {
        install(cluster, &format!("{name}-service.yaml"), &{
            service(name, cluster_address, endpoint)
        })?;
    }
    let from_nf = SocketAddr::new(address(CLUSTER_ADDRESS), 80);
    until("the Service before the other pod is reached", 20, || {
        let client = seen(&nf.namespace, &a.namespace, other, from_nf);
        client.is_ok_and(|client| client == Some(own))
    })?;
    let to_nf = SocketAddr::new(address("10.96.0.21"), 80);
    until("the Service before it is reached", 20, || {
        let client = seen(&a.namespace, &nf.namespace, own, to_nf);
        client.is_ok_and(|client| client == Some(other))
    })
}

/// CHECK is good, only root can reach the socket, and DEL leaves nothing of it.
fn goes(cluster: &mut Cluster) -> Outcome {
    let (node, nf) = (cluster.node("node1")?, cluster.pod("nf")?);
    let mut check = Call::of("CHECK", &nf.container_id, &nf.namespace.path());
    check.previous = Some(nf.attachment.result.clone());
    node.plugin.call(&check)?;
    let socket = front_end::socket(nf)?;
    let folder = socket.parent().unwrap_or(Path::new("/")).to_owned();
    let mode = fs::metadata(&folder).map_err(Failure::io("look at", &folder))?.mode() & 0o777;
    expect(mode == 0o700, || format!("{} has mode {mode:o}", folder.display()))?;
    let pods = node.file("pods");
    cluster.detach("nf")?;
    let left = fs::read_dir(&pods).map_err(Failure::io("read", &pods))?.count();
    expect(left == 0, || format!("{left} folders are left in {}", pods.display()))
}

fn comes_back(stage: &mut Stage) -> Outcome {
    let cluster = attached(stage, "client")?;
    let mut daemon = front_end(cluster, Listens::FrontEnd)?;
    daemon.kill()?;
    // It left its socket, as a crash does.
    let socket = front_end::socket(cluster.pod("nf")?)?;
    fs::remove_file(&socket).map_err(Failure::io("remove", &socket))?;
    let mut daemon = front_end(cluster, Listens::FrontEnd)?;
    let node = cluster.node_mut("node1")?;
    node.datapath()?.kill()?;
    node.start_datapath()?;
    let (nf, a) = (cluster.pod("nf")?, cluster.pod("a")?);
    let (own, other) = (nf.address(Family::V4)?, a.address(Family::V4)?);
    until("it speaks again", 20, || pings(&nf.namespace, other) && pings(&a.namespace, own))?;
    expect(daemon.ended().is_none(), || "the front end has ended meanwhile".to_owned())?;
    daemon.stop()
}
