//! Services and policies with the real daemons: who is reached, by which address, and who is not.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::host::masquerade;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case { name: "a Service is reached from a pod, from the node and from outside", run: reached },
    Case {
        name: "a denied pod is refused until its policy is gone, and np.log says so",
        run: denied,
    },
    Case {
        name: "a policy that is wrong when the agent starts is in force as it was",
        run: wrong_at_start,
    },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1)];
const CLUSTER_ADDRESS: &str = "10.96.0.10";
const NODE_PORT: u16 = 30080;

/// A Service without selector whose one endpoint is this address.
pub(super) fn service(endpoint: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: web}}\n\
         spec:\n  type: NodePort\n  clusterIP: {CLUSTER_ADDRESS}\n  \
         clusterIPs: [{CLUSTER_ADDRESS}]\n  \
         ports: [{{name: http, protocol: TCP, port: 80, targetPort: 8080, \
         nodePort: {NODE_PORT}}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: default, name: web-1, \
         labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, protocol: TCP, port: 8080}}]\n\
         endpoints: [{{addresses: [{endpoint}], nodeName: node1, \
         conditions: {{ready: true, serving: true}}}}]\n"
    )
}

const DENIAL: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  priority: 5
  tier: application
  appliedTo: [{namespaceSelector: {}}]
  ingress:
    - {name: nobody, action: Drop, enableLogging: true}
";

pub(super) fn install(cluster: &Cluster, name: &str, text: &str) -> Outcome {
    let (path, part) = (cluster.manifests.join(name), cluster.manifests.join(".part"));
    fs::write(&part, text).map_err(Failure::io("write", &part))?;
    fs::rename(&part, &path).map_err(Failure::io("write", &path))
}

/// Whom the server sees as its client, when somebody connects to `target`.
pub(super) fn seen(
    from: &Namespace,
    to: &Namespace,
    own: IpAddr,
    target: SocketAddr,
) -> Outcome<Option<IpAddr>> {
    let failed = |action| Failure::io(action, std::path::Path::new("8080"));
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(own, 8080)))?;
    let listener = listener.map_err(failed("listen on"))?;
    listener.set_nonblocking(true).map_err(failed("listen on"))?;
    let client = from.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(800)))?;
    let Ok(mut client) = client else { return Ok(None) };
    // The last segment of the handshake may still be under way.
    let mut accepted = None;
    daemon::until("the connection is accepted", 2, || {
        accepted = listener.accept().ok();
        accepted.is_some()
    })?;
    let Some((server, peer)) = accepted else { return Ok(None) };
    drop(server);
    client.set_read_timeout(Some(Duration::from_secs(2))).map_err(failed("read from"))?;
    let ended = client.read(&mut [0; 8]).map_err(failed("read from"))?;
    expect(ended == 0, || "the server's end of the connection arrived".into())?;
    Ok(Some(peer.ip()))
}

fn reached(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, PODS))?;
    let (a, b, node) = (cluster.pod("a")?, cluster.pod("b")?, cluster.node("node1")?);
    let (client, server) = (a.address(Family::V4)?, b.address(Family::V4)?);
    install(cluster, "web.yaml", &service(server))?;
    let cluster_address = CLUSTER_ADDRESS.parse::<IpAddr>().expect("a constant");
    let service = SocketAddr::new(cluster_address, 80);
    let mut last = None;
    daemon::until("the Service is reached", 10, || {
        last = seen(&a.namespace, &b.namespace, server, service).ok().flatten();
        last.is_some()
    })?;
    expect(last == Some(client), || format!("the server saw {last:?}, not {client}"))?;
    let from_node = seen(&node.namespace, &b.namespace, server, service)?;
    expect(from_node.is_some(), || "the node does not reach the Service".into())?;
    let router = node.address_like(server);
    let Some(router) = router else { return Ok(()) };
    let outside = &cluster.underlay.outside;
    let from_outside = seen(outside, &b.namespace, server, SocketAddr::new(router, NODE_PORT))?;
    let own = crate::underlay::OUTSIDE.map(|it| it.parse::<IpAddr>().expect("a constant"));
    let segment: IpAddr = "192.0.2.254".parse().expect("a constant");
    let kept = from_outside.is_some_and(|it| own.contains(&it) || it == segment);
    expect(kept, || format!("the server saw {from_outside:?}, not the client outside"))?;
    let itself = seen(&node.namespace, &b.namespace, server, SocketAddr::new(router, NODE_PORT))?;
    expect(itself.is_some(), || "the node does not reach its own NodePort".into())
}

fn denied(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, PODS))?;
    let (a, b, node) = (cluster.pod("a")?, cluster.pod("b")?, cluster.node("node1")?);
    let server = b.address(Family::V4)?;
    let target = SocketAddr::new(server, 8080);
    let open = || seen(&a.namespace, &b.namespace, server, target).ok().flatten().is_some();
    expect(open(), || "without a policy a reaches b".into())?;
    // An outsider who looks like the node.
    let (outside, own) = (&cluster.underlay.outside, "10.10.1.1".parse().expect("a constant"));
    let router = node.address_like(server).map(|it| it.to_string()).unwrap_or_default();
    outside.ip(&format!("route replace {server} via {router}"))?;
    node.write("outsiders.nft", &masquerade(server))?;
    node.namespace.run(&format!("nft -f {}", node.file("outsiders.nft").display()))?;
    let disguised = seen(outside, &b.namespace, server, target)?;
    expect(disguised == Some(own), || format!("the outsider came as {disguised:?}"))?;
    install(cluster, "closed.yaml", DENIAL)?;
    daemon::until("the policy is in force", 10, || !open())?;
    for _ in 0..5 {
        expect(!open(), || "a reached b although its policy denies it".into())?;
    }
    let probe = seen(&node.namespace, &b.namespace, server, target)?;
    expect(probe.is_some(), || "the node's own probe did not pass".into())?;
    let disguised = seen(outside, &b.namespace, server, target)?;
    expect(disguised.is_none(), || "an outsider passed for the node".into())?;
    let log = || fs::read_to_string(node.file("np.log")).unwrap_or_default();
    let told = || log().contains("AntreaClusterNetworkPolicy:closed nobody Ingress Drop");
    daemon::until("np.log tells of it", 10, told)?;
    let stats = node.seinectl(&["rule", "stats"])?;
    expect(stats.contains("AntreaClusterNetworkPolicy:closed"), || stats.clone())?;
    install(cluster, "closed.yaml", "# open again\n")?;
    daemon::until("the policy is gone", 10, open)
}

fn wrong_at_start(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, PODS))?;
    let server = cluster.pod("b")?.address(Family::V4)?;
    let cluster_address = CLUSTER_ADDRESS.parse::<IpAddr>().expect("a constant");
    let to_service = SocketAddr::new(cluster_address, 80);
    let opens = |cluster: &Cluster, from: &Namespace, target| {
        let b = cluster.pod("b").map(|b| &b.namespace);
        b.and_then(|b| seen(from, b, server, target)).ok().flatten().is_some()
    };
    let open = |cluster: &Cluster| {
        let a = cluster.pod("a").map(|a| a.namespace.clone());
        a.is_ok_and(|a| opens(cluster, &a, SocketAddr::new(server, 8080)))
    };
    install(cluster, "closed.yaml", DENIAL)?;
    daemon::until("the policy is in force", 10, || !open(cluster))?;
    cluster.node_mut("node1")?.agent()?.kill()?;
    install(cluster, "closed.yaml", &DENIAL.replace("tier:", "teir:"))?;
    install(cluster, "web.yaml", &service(server))?;
    cluster.node_mut("node1")?.start_agent()?;
    // What is new in the manifests is in force, so all that the agent wants is.
    let node = cluster.node("node1")?.namespace.clone();
    daemon::until("the node reaches the Service", 10, || opens(cluster, &node, to_service))?;
    for _ in 0..5 {
        expect(!open(cluster), || "a reached b although its policy denied it".into())?;
    }
    install(cluster, "closed.yaml", "# open again\n")?;
    daemon::until("the policy is gone", 10, || open(cluster))
}
