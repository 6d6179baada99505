//! Nodes and Pods as network namespaces, with the real binary on each node.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_client::DatapathClient;
use seine_datapath_api::v1::transaction_part::Mode;
use tempfile::TempDir;
use tonic::transport::Channel;

static LABS: AtomicU32 = AtomicU32::new(0);

/// Runs a command and wants it to succeed.
pub fn run(line: &str) -> String {
    let output = attempt(line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {text}{errors}");
    text
}

/// Runs a command.
pub fn attempt(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().expect("a command")).args(words).output().expect("to run")
}

/// Two nodes with an underlay link between them. Names are unique, and everything is removed when
/// it is dropped.
pub struct Lab {
    prefix: String,
    folder: TempDir,
    pub nodes: Vec<Node>,
    namespaces: Vec<String>,
}

pub struct Node {
    pub number: u8,
    pub namespace: String,
    pub ports_namespace: String,
    pub config: PathBuf,
    pub run_dir: PathBuf,
    process: Option<Child>,
}

impl Lab {
    pub fn new() -> Lab {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("sd{}x{number}", std::process::id());
        let folder = tempfile::tempdir().expect("folder");
        let mut lab = Lab { prefix, folder, nodes: Vec::new(), namespaces: Vec::new() };
        for number in 1..=2_u8 {
            let namespace = lab.namespace(&format!("n{number}"));
            run(&format!("ip -n {namespace} link set lo up"));
            let run_dir = lab.folder.path().join(format!("run{number}"));
            let config = lab.folder.path().join(format!("node{number}.toml"));
            let ports_namespace = format!("{}p{number}", lab.prefix);
            let text = format!(
                "node = \"node{number}\"\nrun_dir = \"{}\"\nports_namespace = \"{ports_namespace}\"\n\
                 [uplink]\ninterface = \"eth0\"\n[frames]\ncount = 8192\n",
                run_dir.display()
            );
            std::fs::write(&config, text).expect("config");
            let process = None;
            let node = Node { number, namespace, ports_namespace, config, run_dir, process };
            lab.nodes.push(node);
        }
        let (one, two) = (&lab.nodes[0].namespace, &lab.nodes[1].namespace);
        run(&format!(
            "ip link add eth0 numrxqueues 2 numtxqueues 2 netns {one} type veth \
             peer name eth0 numrxqueues 2 numtxqueues 2 netns {two}"
        ));
        for node in &lab.nodes {
            let Node { namespace, number, .. } = node;
            run(&format!("ip -n {namespace} addr add 192.0.2.{number}/24 dev eth0"));
            run(&format!("ip -n {namespace} link set eth0 up"));
        }
        lab
    }

    fn namespace(&mut self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        run(&format!("ip netns add {name}"));
        self.namespaces.push(name.clone());
        name
    }

    /// A Pod with the address 10.10.<node>.<number>, attached to interface "pod<number>".
    pub fn pod(&mut self, node: usize, number: u8) -> String {
        let pod = self.namespace(&format!("n{}p{number}", node + 1));
        run(&format!("ip -n {pod} link set lo up"));
        self.link(node, number, &pod);
        pod
    }

    /// The link of a Pod to its node.
    pub fn link(&self, node: usize, number: u8, pod: &str) {
        let Node { ports_namespace, number: node, .. } = &self.nodes[node];
        run(&format!(
            "ip link add pod{number} numrxqueues 2 numtxqueues 2 mtu 1450 netns {ports_namespace} \
             type veth peer name eth0 numrxqueues 2 numtxqueues 2 mtu 1450 netns {pod}"
        ));
        let mac = mac(*node, number);
        run(&format!("ip -n {pod} link set eth0 address {}", text(&mac)));
        run(&format!("ip -n {ports_namespace} link set pod{number} up"));
        run(&format!("ip -n {pod} link set eth0 up"));
        run(&format!("ip -n {pod} addr add 10.10.{node}.{number}/24 dev eth0"));
        run(&format!("ip -n {pod} route add default via 10.10.{node}.1"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.stop();
            // Before its namespace goes: the gateway lives in it.
            let output = node.binary("--remove").output().expect("to run");
            if !output.status.success() {
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        for namespace in &self.namespaces {
            attempt(&format!("ip netns delete {namespace}"));
        }
    }
}

pub fn mac(node: u8, number: u8) -> [u8; 6] {
    [2, 0, 0, node, 0, number]
}

pub fn text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Node {
    /// The real binary, in the node's network namespace.
    pub fn binary(&self, arguments: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.arg(env!("CARGO_BIN_EXE_seine-datapath"));
        command.arg("--config").arg(&self.config).args(arguments.split_whitespace());
        command
    }

    /// Starts the datapath and waits until it serves.
    pub async fn start(&mut self) -> DatapathClient<Channel> {
        let log = self.config.with_extension("log");
        let log = File::options().create(true).append(true).open(log).expect("log");
        let process = self.binary("").stderr(log).spawn().expect("to start");
        self.process = Some(process);
        self.connect().await
    }

    /// Waits until the datapath serves.
    pub async fn connect(&self) -> DatapathClient<Channel> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if let Ok(mut client) =
                seine_datapath_api::connect(&self.run_dir.join("datapath.sock")).await
                && client.status(v1::StatusRequest {}).await.is_ok()
            {
                return client;
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    /// The parent's process id: nsenter becomes it.
    pub fn parent(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().expect("started").id() as i32)
    }

    /// The worker process.
    pub fn child(&self) -> Option<Pid> {
        let parent = self.parent();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let first = children.split_whitespace().next()?;
        first.parse().ok().map(Pid::from_raw)
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut process = self.process.take()?;
        // It fails only when the process has ended.
        let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
        process.wait().expect("to wait").code()
    }

    /// Waits for the parent to end by itself.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.take().expect("started").wait().expect("to wait").code()
    }

    /// Opens the Pods' ports and installs everything: itself, the other node, its Pods.
    pub async fn install(&self, client: &mut DatapathClient<Channel>, pods: &[u8]) {
        let request = v1::HelloRequest { client: "test".into(), version: 1 };
        let session = client.hello(request).await.expect("hello").into_inner().session;
        let mut upserts = vec![self.object(), peer(3 - self.number)];
        for &pod in pods {
            let name = format!("pod{pod}");
            let request = v1::OpenPortRequest {
                session,
                name: name.clone(),
                interface: name.clone(),
                vhost_user: None,
            };
            let port = client.open_port(request).await.expect("port").into_inner();
            assert_eq!((port.attach_mode.as_str(), port.queues), ("native", 2));
            upserts.push(v1::Object {
                kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
                    name: format!("default/{name}/eth0"),
                    port: name,
                    mac: mac(self.number, pod).to_vec(),
                    addresses: vec![format!("10.10.{}.{pod}", self.number)],
                    mtu: 1450,
                    ..v1::Endpoint::default()
                })),
            });
        }
        let part = v1::TransactionPart {
            session,
            revision: 1,
            mode: Mode::Full.into(),
            upserts,
            deletes: Vec::new(),
            last: true,
            ..v1::TransactionPart::default()
        };
        client.apply(tokio_stream::iter([part])).await.expect("apply");
    }

    fn object(&self) -> v1::Object {
        let number = self.number;
        v1::Object {
            kind: Some(v1::object::Kind::Node(v1::Node {
                name: format!("node{number}"),
                pod_cidrs: vec![format!("10.10.{number}.0/24")],
                gateway_addresses: vec![format!("10.10.{number}.1")],
                tunnel_address: format!("192.0.2.{number}"),
                tunnel_mtu: 1450,
                ..v1::Node::default()
            })),
        }
    }
}

fn peer(number: u8) -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Peer(v1::Peer {
            name: format!("node{number}"),
            pod_cidrs: vec![format!("10.10.{number}.0/24")],
            gateway_addresses: vec![format!("10.10.{number}.1")],
            tunnel_address: format!("192.0.2.{number}"),
        })),
    }
}
