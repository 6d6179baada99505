//! A datapath that answers questions from fixed data, on a socket of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use seine_datapath_api::v1::datapath_server::{Datapath, DatapathServer};
use seine_datapath_api::v1::{self, Device, PortCounters};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What the datapath has to tell.
#[derive(Clone, Default)]
pub struct Facts {
    pub status: v1::StatusReply,
    pub ports: Vec<v1::Port>,
    pub drops: Vec<v1::Drop>,
    pub workers: Vec<v1::Worker>,
    /// What they say from the second time on, unless it is empty.
    pub workers_later: Vec<v1::Worker>,
    pub trace: v1::TraceReply,
    /// None refuses.
    pub reload: Option<v1::ReloadReply>,
}

/// A running datapath; dropping it stops it.
pub struct FakeDatapath {
    directory: tempfile::TempDir,
    traced: Arc<Mutex<Vec<v1::TraceRequest>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeDatapath {
    pub fn start(facts: Facts) -> FakeDatapath {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("datapath.sock");
        let traced = Arc::default();
        let (traced_here, listed_workers) = (Arc::clone(&traced), AtomicBool::new(false));
        let service = Service { facts, traced: traced_here, listed_workers };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || serve(&path, service, &ready, stopped));
        is_ready.recv().unwrap();
        FakeDatapath { directory, traced, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("datapath.sock")
    }

    /// The packets that were described, in order.
    pub fn traced(&self) -> Vec<v1::TraceRequest> {
        self.traced.lock().unwrap().clone()
    }
}

impl Drop for FakeDatapath {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    path: &Path,
    service: Service,
    ready: &std::sync::mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = UnixListener::bind(path).unwrap();
        ready.send(()).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(DatapathServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::select! {
            result = server => result.unwrap(),
            _ = stopped => {}
        }
    });
}

fn stage_cost((stage, packets, cycles): (&str, u64, u64)) -> v1::StageCost {
    v1::StageCost { stage: stage.into(), packets, cycles }
}

/// Of each port one.
fn queues(worker: u32) -> Vec<v1::WorkerQueue> {
    use v1::port::Kind;
    let queue =
        |port: &str, port_id, kind: Kind, endpoint: &str, packets, cycles| v1::WorkerQueue {
            port: port.into(),
            port_id,
            generation: 1,
            kind: kind.into(),
            endpoint: endpoint.into(),
            queue: worker,
            packets,
            cycles,
        };
    let client = if worker == 0 { (900, 108_000) } else { (100, 27_000) };
    vec![
        queue("seine-gw0", 0, Kind::Gateway, "", 200, 36_000),
        queue("pod-a", 2, Kind::Pod, "default/client/eth0", client.0, client.1),
        queue("pod-b", 3, Kind::Pod, "default/server/eth0", 0, 0),
    ]
}

/// Two Pods, a gateway and an uplink, two workers of which one lags.
pub fn facts() -> Facts {
    use v1::port::Kind;
    let worker = |index: u32, core, revision| v1::Worker {
        index,
        core,
        poll: "adaptive".into(),
        packets: 1200,
        batches: 400,
        empty_polls: 90_000,
        rests: 55,
        busy_cycles: 180_000,
        total_cycles: 1_440_000,
        revision,
        frames_cached: 64,
        composed_hits: 900,
        samples: 3,
        mismatches: 0,
        judged: 2,
        outdated: 1,
        timed_walks: 4,
        stages: [("Classifier", 4, 400), ("Output", 2, 100)].map(stage_cost).to_vec(),
        own_cycles: 18_000,
        queues: queues(index),
    };
    let drop = |port: &str, reason: &str, meaning: &str, packets| v1::Drop {
        port: port.into(),
        reason: reason.into(),
        meaning: meaning.into(),
        packets,
    };
    Facts {
        status: v1::StatusReply {
            server: "seine-datapath 0.1.0".into(),
            version: 1,
            uptime_seconds: 11_520,
            session: 7,
            client: "seine-agent 0.1.0 on node1".into(),
            revision: 12,
            revision_seconds: 300,
            ports_max: 110,
            connections: 12,
            connections_max: 4096,
            connections_evicted: 1,
            name_addresses: 3,
            name_addresses_max: 16_384,
            ..v1::StatusReply::default()
        },
        ports: vec![
            port(3, "pod-b", Kind::Pod, "default/server/eth0", &["10.10.1.3", "fd00:10:1::3"]),
            port(2, "pod-a", Kind::Pod, "default/client/eth0", &["10.10.1.2"]),
            port(0, "seine-gw0", Kind::Gateway, "", &["10.10.1.1"]),
            port(1, "eth0", Kind::Uplink, "", &[]),
        ],
        drops: vec![
            drop("pod-a", "SpoofedSource", "Source MAC or address is not the Pod's own.", 12),
            drop("eth0", "NotTunnel", "Came in by the uplink, but is no Geneve packet.", 3400),
        ],
        workers: vec![worker(1, 3, 11), worker(0, 2, 12)],
        workers_later: Vec::new(),
        trace: v1::TraceReply::default(),
        reload: None,
    }
}

fn port(id: u32, name: &str, kind: v1::port::Kind, endpoint: &str, addresses: &[&str]) -> v1::Port {
    let pod = kind == v1::port::Kind::Pod;
    v1::Port {
        name: name.into(),
        id,
        generation: 1,
        kind: kind.into(),
        device: Some(Device {
            interface: name.into(),
            mac: vec![2, 0, 0, 0, 0, id as u8],
            mtu: if pod { 1450 } else { 1500 },
        }),
        attach_mode: if kind == v1::port::Kind::Gateway { "".into() } else { "native".into() },
        queues: 2,
        counters: Some(PortCounters {
            receive_packets: 1000 * u64::from(id),
            receive_bytes: 1 << (10 * id),
            transmit_packets: 7,
            transmit_bytes: 700,
            drops: if id == 2 { 12 } else { 0 },
            system_calls: 5,
            cycles: 0,
        }),
        endpoint: endpoint.into(),
        endpoint_addresses: addresses.iter().map(|address| (*address).into()).collect(),
        fault: String::new(),
        ..v1::Port::default()
    }
}

struct Service {
    facts: Facts,
    traced: Arc<Mutex<Vec<v1::TraceRequest>>>,
    listed_workers: AtomicBool,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(reply: T) -> Answer<T> {
    Ok(Response::new(reply))
}

/// seinectl only reads.
fn no_change<T>() -> Answer<T> {
    Err(Status::permission_denied("an operator's command must not change anything"))
}

#[tonic::async_trait]
impl Datapath for Service {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        no_change()
    }

    async fn apply(
        &self,
        _: Request<Streaming<v1::TransactionPart>>,
    ) -> Answer<v1::TransactionReply> {
        no_change()
    }

    async fn open_port(&self, _: Request<v1::OpenPortRequest>) -> Answer<v1::Port> {
        no_change()
    }

    async fn close_port(&self, _: Request<v1::ClosePortRequest>) -> Answer<v1::ClosePortReply> {
        no_change()
    }

    async fn lend_sockets(
        &self,
        _: Request<v1::LendSocketsRequest>,
    ) -> Answer<v1::LendSocketsReply> {
        no_change()
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        answer(self.facts.status.clone())
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsReply> {
        answer(v1::ListPortsReply { ports: self.facts.ports.clone() })
    }

    async fn list_drops(&self, _: Request<v1::ListDropsRequest>) -> Answer<v1::ListDropsReply> {
        answer(v1::ListDropsReply { drops: self.facts.drops.clone() })
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Answer<v1::ListWorkersReply> {
        let Facts { workers, workers_later, .. } = &self.facts;
        let again = self.listed_workers.swap(true, Ordering::Relaxed);
        let said = if again && !workers_later.is_empty() { workers_later } else { workers };
        answer(v1::ListWorkersReply { workers: said.clone() })
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Answer<v1::ReloadReply> {
        let refused = || Status::failed_precondition("core 9 is not there");
        answer(self.facts.reload.clone().ok_or_else(refused)?)
    }

    async fn list_tables(&self, _: Request<v1::ListTablesRequest>) -> Answer<v1::ListTablesReply> {
        let table = |stage: &str, name: &str, entries| v1::Table {
            stage: stage.into(),
            name: name.into(),
            entries,
        };
        answer(v1::ListTablesReply {
            tables: vec![
                table("Classifier", "Classifier", 4),
                table("Validation", "SpoofGuard", 2),
            ],
        })
    }

    async fn show_table(
        &self,
        request: Request<v1::ShowTableRequest>,
    ) -> Answer<v1::ShowTableReply> {
        let name = request.into_inner().name;
        if name != "SpoofGuard" {
            return Err(Status::not_found(format!("there is no table `{name}`")));
        }
        let row = |cells: [&str; 3]| v1::show_table_reply::Row {
            cells: cells.map(String::from).to_vec(),
        };
        answer(v1::ShowTableReply {
            stage: "Validation".into(),
            name,
            columns: ["port", "endpoint", "addresses"].map(String::from).to_vec(),
            rows: vec![
                row(["2", "default/client/eth0", "10.10.1.2"]),
                row(["13", "default/server/eth0", ""]),
            ],
        })
    }

    type ListRulesStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ListRulesReply, Status>>>;
    async fn list_rules(&self, _: Request<v1::ListRulesRequest>) -> Answer<Self::ListRulesStream> {
        let rule = |policy: &str, name: &str, sessions| v1::RuleCounts {
            name: format!("{policy}/{name}"),
            policy: policy.into(),
            rule_name: name.into(),
            direction: v1::rule::Direction::Ingress.into(),
            table: v1::rule::Table::AntreaPolicy.into(),
            rank: 7,
            action: v1::rule::Action::Drop.into(),
            sessions,
            packets: 2 * sessions,
            bytes: 120 * sessions,
        };
        let parts = [
            v1::ListRulesReply { rules: vec![rule("AntreaClusterNetworkPolicy:web", "a", 3)] },
            v1::ListRulesReply {
                rules: vec![
                    rule("AntreaClusterNetworkPolicy:web", "b", 1),
                    rule("AntreaClusterNetworkPolicy:db", "", 0),
                ],
            },
        ];
        answer(tokio_stream::iter(parts.map(Ok).to_vec()))
    }

    type ListConnectionsStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ListConnectionsReply, Status>>>;
    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Answer<Self::ListConnectionsStream> {
        let request = request.into_inner();
        let connection = v1::Connection {
            protocol: 6,
            original: format!("10.10.1.2:40000 > {}", request.addresses.join("+")),
            reply: "10.10.1.3:8080 > 10.10.1.2:40000".into(),
            progress: "Established".into(),
            source: "pod".into(),
            service: request.service,
            egress_rule: request.rule,
            original_packets: 5,
            original_bytes: 300,
            reply_packets: 4,
            reply_bytes: 200,
            age_ms: 3000,
            idle_ms: 1500,
            ..v1::Connection::default()
        };
        let shown = (request.limit > 0).then_some(connection);
        let part = v1::ListConnectionsReply { connections: shown.into_iter().collect(), found: 12 };
        answer(tokio_stream::iter(vec![Ok(part)]))
    }

    type FollowAuditStream = tokio_stream::Empty<Result<v1::AuditPart, Status>>;
    async fn follow_audit(
        &self,
        _: Request<v1::FollowAuditRequest>,
    ) -> Answer<Self::FollowAuditStream> {
        no_change()
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Answer<v1::TraceReply> {
        self.traced.lock().unwrap().push(request.into_inner());
        answer(self.facts.trace.clone())
    }
}
