//! A node for tests: namespaces of its own, a datapath that only keeps books, and the real agent.

pub mod books;
pub mod datapath;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use seine_cni::v1;
use seine_cni::v1::cni_client::CniClient;
use seine_control::agent;
use seine_control::configuration::{AuditLogging, Configuration, VhostUserSettings};
use seine_control::namespace::Namespace;
use seine_control::netlink::{Link, Netlink, Route};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint, Uri};

pub use datapath::{FakeDatapath, Fault};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that is deleted with this value.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("seine-{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub fn open(&self) -> Namespace {
        Namespace::open(&self.path()).unwrap()
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.open()).unwrap()
    }

    pub fn link(&self, name: &str) -> Option<Link> {
        self.netlink().link(name).unwrap()
    }

    pub fn addresses(&self, interface: &str) -> Vec<String> {
        let mut netlink = self.netlink();
        let index = netlink.link(interface).unwrap().unwrap().index;
        netlink.addresses(index).unwrap().iter().map(ToString::to_string).collect()
    }

    pub fn routes(&self) -> Vec<Route> {
        self.netlink().routes().unwrap()
    }

    pub fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

pub fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two nodes' manifests; this node is "node1".
pub const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node1}
spec: {podCIDRs: [10.10.1.0/24, 'fd00:10:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
spec: {podCIDRs: [10.10.2.0/24, 'fd00:10:2::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

/// One node. Fields are dropped in order: the agent ends before its namespaces do.
pub struct Node {
    running: Option<RunningAgent>,
    pub datapath: FakeDatapath,
    pub configuration: Configuration,
    pub netns: Netns,
    pub ports: Netns,
    _folder: tempfile::TempDir,
}

struct RunningAgent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the agent failed");
        }
    }
}

impl Node {
    /// A node whose agent serves, and knows the Pods that most tests attach.
    pub async fn start() -> Self {
        let names = (0..20).map(|number| format!("c{number}"));
        let names = names.chain(["stays", "goes", "next"].map(String::from));
        let pods: String = names.map(|name| format!("---\n{}", pod(&name, "{}"))).collect();
        let node = Self::prepare(&format!("{NODES}{pods}"));
        node.ready().await;
        node
    }

    /// A node with those manifests, its agent started but perhaps not ready.
    pub fn prepare(manifests: &str) -> Self {
        // RUST_LOG=info shows what the agents say.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let folder = tempfile::tempdir().unwrap();
        let (netns, ports) = (Netns::new("node"), Netns::new("ports"));
        // What the datapath promises of its namespace of ports.
        ports
            .open()
            .run_blocking(|| {
                for which in ["all", "default"] {
                    let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                    std::fs::write(path, "1").unwrap();
                }
            })
            .unwrap();
        for (leg, peer) in [("seine-gw0", "gw0-peer"), ("seine-host0", "host0-peer")] {
            netns.ip(&["link", "add", leg, "type", "veth", "peer", "name", peer]);
            netns.ip(&["link", "set", peer, "up"]);
        }
        std::fs::create_dir(folder.path().join("cluster")).unwrap();
        std::fs::write(folder.path().join("cluster/nodes.yaml"), manifests).unwrap();
        let configuration = Configuration {
            node_name: "node1".into(),
            manifests: folder.path().join("cluster"),
            datapath_socket: folder.path().join("datapath.sock"),
            cni_socket: folder.path().join("agent.sock"),
            state_dir: folder.path().join("state"),
            audit_logging: AuditLogging {
                file: folder.path().join("log/np.log"),
                ..AuditLogging::default()
            },
            vhost_user: VhostUserSettings {
                socket_dir: folder.path().join("pods"),
                ..VhostUserSettings::default()
            },
            ..Configuration::default()
        };
        let datapath = FakeDatapath::start(&configuration.datapath_socket, &ports.path());
        let mut node =
            Self { running: None, datapath, configuration, netns, ports, _folder: folder };
        node.start_agent();
        node
    }

    pub fn start_agent(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (configuration, netns) = (self.configuration.clone(), self.netns.open());
        let thread = std::thread::spawn(move || {
            netns.enter().unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime
                .block_on(agent::run(configuration, "/usr/sbin/nft".into(), async {
                    let _ = stopped.await;
                }))
                .unwrap();
        });
        self.running = Some(RunningAgent { stop: Some(stop), thread: Some(thread) });
    }

    pub fn stop_agent(&mut self) {
        self.running = None;
    }

    pub async fn ready(&self) {
        eventually("the agent is ready", async || {
            matches!(self.try_status().await, Some(v1::Reply { error: None }))
        })
        .await;
    }

    async fn try_status(&self) -> Option<v1::Reply> {
        let mut client = self.try_client().await?;
        Some(client.status(v1::StatusRequest {}).await.ok()?.into_inner())
    }

    pub async fn status_code(&self) -> u32 {
        self.try_status().await.unwrap().error.map_or(0, |error| error.code)
    }

    async fn try_client(&self) -> Option<CniClient<Channel>> {
        let path = self.configuration.cni_socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://agent");
        endpoint.connect_with_connector(connector).await.ok().map(CniClient::new)
    }

    pub async fn client(&self) -> CniClient<Channel> {
        self.try_client().await.unwrap()
    }

    pub async fn add(&self, container: &str, pod: &Netns) -> Result<v1::Attachment, v1::Error> {
        add_with(self.client().await, container, pod).await
    }

    pub async fn del(&self, container: &str) -> v1::Reply {
        let request = v1::AttachRequest {
            container_id: container.into(),
            interface: "eth0".into(),
            ..v1::AttachRequest::default()
        };
        self.client().await.del(request).await.unwrap().into_inner()
    }

    pub async fn check(
        &self,
        container: &str,
        pod: &Netns,
        expected: &v1::Attachment,
    ) -> Option<v1::Error> {
        let request = v1::CheckRequest {
            attachment: Some(request(container, pod)),
            expected: Some(expected.clone()),
        };
        self.client().await.check(request).await.unwrap().into_inner().error
    }

    /// Host ends that exist.
    pub fn host_ends(&self) -> Vec<String> {
        let links = self.ports.netlink().links().unwrap();
        links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
    }

    /// The record on disk.
    pub fn recorded(&self) -> Vec<serde_json::Value> {
        let path = self.configuration.state_dir.join("attachments.json");
        let text = std::fs::read_to_string(path).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["attachments"].as_array().unwrap().clone()
    }

    /// That nothing of any attachment is left anywhere.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.host_ends(), Vec::<String>::new());
        assert_eq!(self.recorded(), Vec::<serde_json::Value>::new());
        assert_eq!(self.datapath.endpoints(), Vec::<String>::new());
        assert_eq!(self.datapath.ports(), Vec::<String>::new());
        let folders = std::fs::read_dir(&self.configuration.vhost_user.socket_dir);
        assert_eq!(folders.map_or(0, Iterator::count), 0, "a Pod's folder is left");
    }

    pub fn write_manifest(&self, name: &str, text: &str) {
        let path = self.configuration.manifests.join(name);
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

/// A Pod of this node with such annotations.
pub fn pod(name: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: default, annotations: {annotations}}}\n\
         spec: {{nodeName: node1, containers: []}}\n"
    )
}

pub fn request(container: &str, pod: &Netns) -> v1::AttachRequest {
    v1::AttachRequest {
        container_id: container.into(),
        interface: "eth0".into(),
        netns: pod.path().display().to_string(),
        pod_namespace: "default".into(),
        pod_name: container.into(),
        pod_uid: String::new(),
        network: "seine".into(),
    }
}

pub async fn add_with(
    mut client: CniClient<Channel>,
    container: &str,
    pod: &Netns,
) -> Result<v1::Attachment, v1::Error> {
    let reply = client.add(request(container, pod)).await.unwrap().into_inner();
    match reply.answer.unwrap() {
        v1::add_reply::Answer::Attachment(attachment) => Ok(attachment),
        v1::add_reply::Answer::Error(error) => Err(error),
    }
}

/// The addresses of a result, without prefixes.
pub fn addresses(attachment: &v1::Attachment) -> Vec<IpAddr> {
    let address = |ip: &v1::Ip| ip.address.split('/').next().unwrap().parse().unwrap();
    attachment.ips.iter().map(address).collect()
}

/// Waits until something is so; ten seconds are never needed.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !so().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
