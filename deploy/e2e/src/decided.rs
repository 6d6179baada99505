//! Rows of the demo about what objects decide: a Service, and a policy that denies and then allows.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::pod::{Family, Pod};

const CLUSTER_ADDRESS: &str = "10.96.0.80";
const SERVER_PORT: u16 = 8080;
/// Connections to the Service in each row; that one of two endpoints gets none of so many is
/// a matter of one in a million.
const CONNECTIONS: usize = 20;
/// The policy as counters and traces name it.
const POLICY: &str = "AntreaClusterNetworkPolicy:demo";

/// A client, and the two servers behind a Service, each on a node of its own.
pub struct Shop<'a> {
    cluster: &'a Cluster,
    client: &'a Pod,
    servers: [(&'a Pod, TcpListener); 2],
    /// The Service.
    target: SocketAddr,
}

impl<'a> Shop<'a> {
    /// Starts the servers, and installs the Service.
    pub fn open(cluster: &'a Cluster, client: &'a Pod, servers: [&'a Pod; 2]) -> Outcome<Self> {
        let listen = |pod: &'a Pod| -> Outcome<(&'a Pod, TcpListener)> {
            let address = SocketAddr::new(pod.address(Family::V4)?, SERVER_PORT);
            let failed = Failure::io("listen in", Path::new(&pod.manifest.name));
            let listener = pod.namespace.enter(|| {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true).map(|()| listener)
            })?;
            Ok((pod, listener.map_err(failed)?))
        };
        let [one, other] = servers;
        let cluster_address: IpAddr = CLUSTER_ADDRESS.parse().expect("a constant");
        let target = SocketAddr::new(cluster_address, 80);
        let servers = [listen(one)?, listen(other)?];
        let shop = Shop { cluster, client, servers, target };
        shop.install("shop.yaml", &shop.manifest()?)?;
        Ok(shop)
    }

    /// A Service without selector, and its endpoints.
    fn manifest(&self) -> Outcome<String> {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: shop}}\n\
             spec:\n  clusterIP: {CLUSTER_ADDRESS}\n  clusterIPs: [{CLUSTER_ADDRESS}]\n  \
             ports: [{{name: http, protocol: TCP, port: 80, targetPort: {SERVER_PORT}}}]\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: demo, name: shop-1, \
             labels: {{kubernetes.io/service-name: shop}}}}\naddressType: IPv4\n\
             ports: [{{name: http, protocol: TCP, port: {SERVER_PORT}}}]\nendpoints:\n"
        );
        for (pod, _) in &self.servers {
            let (address, node) = (pod.address(Family::V4)?, &pod.manifest.node);
            text.push_str(&format!(
                "- {{addresses: [{address}], nodeName: {node}, conditions: {{ready: true}}}}\n"
            ));
        }
        Ok(text)
    }

    /// Connects to the Service from a Pod, again and again; who has served it how often.
    pub fn shared(&self, from: &Pod) -> Outcome<String> {
        until("the Service is reached", 10, || {
            self.connect(from, self.target).is_ok_and(|it| it.is_some())
        })?;
        let mut served = [0; 2];
        for _ in 0..CONNECTIONS {
            let by = self.connect(from, self.target)?;
            let by = by.ok_or_else(|| Failure::Unmet("a connection failed".to_owned()))?;
            served[by] += 1;
        }
        expect(served.iter().all(|count| *count > 0), || format!("one got them all: {served:?}"))?;
        let [one, other] = [0, 1].map(|it| &self.servers[it].0.manifest.name);
        Ok(format!("{one} {}, {other} {} of {CONNECTIONS}", served[0], served[1]))
    }

    /// Installs a policy with this action; how it is told who has decided, once it is in force.
    pub fn judged(&self, action: &str) -> Outcome<String> {
        let passes = action == "Allow";
        let before = self.sessions(action)?;
        self.install("policy.yaml", &policy(action))?;
        for (server, _) in &self.servers {
            let target = SocketAddr::new(server.address(Family::V4)?, SERVER_PORT);
            let as_wanted = || {
                let reached = self.connect(self.client, target);
                reached.is_ok_and(|it| it.is_some() == passes)
            };
            until("the policy is in force", 10, as_wanted)?;
            for _ in 0..3 {
                expect(as_wanted(), || format!("{} is not as {POLICY} says", server.name()))?;
            }
        }
        let sessions = self.sessions(action)?.saturating_sub(before);
        expect(sessions >= 6, || format!("{POLICY} has counted {sessions} of 6"))?;
        self.traced()?;
        Ok(format!("{action} by {POLICY} ({sessions} counted)"))
    }

    /// The trace of a packet to the server of the client's node names the policy.
    fn traced(&self) -> Outcome {
        let node = self.cluster.node(&self.client.manifest.node)?;
        let endpoint = format!("{}/eth0", self.client.name());
        let target = self.servers[0].0.address(Family::V4)?.to_string();
        let text = node.seinectl(&["trace", &endpoint, &target, &format!("tcp/{SERVER_PORT}")])?;
        expect(text.contains(POLICY), || format!("the trace does not name {POLICY}: {text}"))
    }

    /// What the policy's rule has counted on both nodes with this action.
    fn sessions(&self, action: &str) -> Outcome<u64> {
        let mut sum = 0;
        for node in &self.cluster.nodes {
            let text = node.seinectl(&["rule", "stats", "-o", "json"])?;
            let stats: Value = serde_json::from_str(&text)
                .map_err(|error| Failure::Unmet(format!("`rule stats` is not JSON: {error}")))?;
            let rules = stats["rules"].as_array().into_iter().flatten();
            let own = rules.filter(|rule| {
                rule["policy"] == POLICY && rule["action"] == action.to_lowercase().as_str()
            });
            sum += own.filter_map(|rule| rule["sessions"].as_u64()).sum::<u64>();
        }
        Ok(sum)
    }

    fn install(&self, name: &str, text: &str) -> Outcome {
        let (path, part) =
            (self.cluster.manifests.join(name), self.cluster.manifests.join(".part"));
        fs::write(&part, text).map_err(Failure::io("write", &part))?;
        fs::rename(&part, &path).map_err(Failure::io("write", &path))
    }

    /// Which server has got a connection; none if it was refused.
    fn connect(&self, from: &Pod, target: SocketAddr) -> Outcome<Option<usize>> {
        let connected = from
            .namespace
            .enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(800)))?;
        if connected.is_err() {
            return Ok(None);
        }
        let mut by = None;
        until("a server has the connection", 2, || {
            by = self.servers.iter().position(|(_, listener)| listener.accept().is_ok());
            by.is_some()
        })?;
        Ok(by)
    }
}

fn policy(action: &str) -> String {
    format!(
        "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: demo}}\nspec:\n  priority: 5\n  tier: application\n  \
         appliedTo: [{{podSelector: {{matchLabels: {{app: server}}}}}}]\n  ingress:\n    \
         - {{name: shop, action: {action}, ports: [{{protocol: TCP, port: {SERVER_PORT}}}]}}\n"
    )
}
