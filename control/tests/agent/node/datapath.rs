//! A datapath that moves no packet: it keeps books, enforces the rules that the proto file
//! documents, and fails when told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use seine_control::namespace::Namespace;
use seine_control::netlink::Netlink;
use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_server::{Datapath, DatapathServer};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

mod loans;
mod views;

pub use super::books::Objects;
use super::books::{change_members, check_names, check_objects, key};

/// What fails from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Ports do not open.
    OpenPort,
    /// Sockets are not lent.
    LendSockets,
    /// Transactions with an endpoint are refused.
    Endpoint,
}

#[derive(Default)]
struct Books {
    session: u64,
    revision: u64,
    objects: Objects,
    ports: BTreeMap<String, u32>,
    /// Those of them with a guest.
    guests: BTreeMap<String, v1::VhostUser>,
    loans: loans::Loans,
    transactions: u32,
    full: u32,
    fault: Option<Fault>,
    /// What is refused by name.
    refused: Option<String>,
    /// What was in force after each transaction.
    history: Vec<Objects>,
}

/// The server's thread and its books.
pub struct FakeDatapath {
    socket: PathBuf,
    ports_namespace: PathBuf,
    books: Arc<Mutex<Books>>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Clone)]
struct Server {
    ports_namespace: PathBuf,
    books: Arc<Mutex<Books>>,
}

impl FakeDatapath {
    pub fn start(socket: &Path, ports_namespace: &Path) -> Self {
        let mut fake = Self {
            socket: socket.to_owned(),
            ports_namespace: ports_namespace.to_owned(),
            books: Arc::default(),
            running: None,
        };
        fake.resume();
        fake
    }

    /// Starts a process that has forgotten everything.
    pub fn resume(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.books = Arc::default();
        let server =
            Server { ports_namespace: self.ports_namespace.clone(), books: self.books.clone() };
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        // A thread of its own, so that everything it holds ends with it as with a process.
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let served = tonic::transport::Server::builder()
                    .add_service(DatapathServer::new(server))
                    .serve_with_incoming(listener);
                tokio::select! {
                    served = served => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        self.running = Some((stop, thread));
    }

    /// Ends it with all its connections, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub fn fail(&self, fault: Option<Fault>) {
        self.books().fault = fault;
    }

    /// Refuses an object of that name from now on.
    pub fn refuse(&self, name: &str) {
        self.books().refused = Some(name.into());
    }

    /// What was in force after each transaction, up to now.
    pub fn history(&self) -> Vec<Objects> {
        self.books().history.clone()
    }
}

impl Drop for FakeDatapath {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Books {
    fn check_session(&self, session: u64) -> Result<(), Status> {
        if session == self.session {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("session {} is in charge", self.session)))
    }

    /// The rules of the proto file; what they refuse changes nothing.
    fn apply(&mut self, parts: &[v1::TransactionPart]) -> Result<v1::TransactionReply, Status> {
        let invalid = |reason: String| Err(Status::invalid_argument(reason));
        let Some(last) = parts.last().filter(|part| part.last) else {
            return invalid("no part was the last".into());
        };
        self.check_session(last.session)?;
        if last.revision <= self.revision {
            return invalid(format!("revision {} is not above {}", last.revision, self.revision));
        }
        let mut objects = match last.mode() {
            v1::transaction_part::Mode::Unspecified => return invalid("no mode".into()),
            v1::transaction_part::Mode::Delta => self.objects.clone(),
            v1::transaction_part::Mode::Full => BTreeMap::new(),
        };
        for part in parts {
            for id in &part.deletes {
                objects.remove(&(id.kind, id.name.clone()));
            }
            for object in &part.upserts {
                objects.insert(key(object), object.clone());
            }
            for delta in &part.group_deltas {
                change_members(&mut objects, delta)?;
            }
        }
        if let Some(name) = &self.refused
            && let Some((kind, _)) = objects.keys().find(|key| key.1 == *name)
        {
            let kind = v1::object_id::Kind::try_from(*kind).unwrap();
            let kind = kind.as_str_name().trim_start_matches("KIND_").to_lowercase();
            return invalid(format!("{kind} `{name}` is refused: rank: not today"));
        }
        let upserts = parts.iter().flat_map(|part| &part.upserts);
        let with_endpoint = upserts
            .filter(|object| matches!(object.kind, Some(v1::object::Kind::Endpoint(_))))
            .count();
        if with_endpoint > 0 && self.fault == Some(Fault::Endpoint) {
            return invalid("endpoints are refused".into());
        }
        check_objects(&objects)?;
        check_names(&objects)?;
        self.history.push(objects.clone());
        self.objects = objects;
        self.revision = last.revision;
        self.transactions += 1;
        self.full += u32::from(last.mode() == v1::transaction_part::Mode::Full);
        Ok(v1::TransactionReply { revision: self.revision, ..v1::TransactionReply::default() })
    }
}

type Parts = tonic::Streaming<v1::TransactionPart>;

/// What the one audit record says.
pub const AUDIT_TEXT: &str = "IngressRule K8sNetworkPolicy:default/web <nil> Ingress Allow";

#[tonic::async_trait]
impl Datapath for Server {
    async fn hello(
        &self,
        request: Request<v1::HelloRequest>,
    ) -> Result<Response<v1::HelloReply>, Status> {
        assert_eq!(request.get_ref().version, seine_datapath_api::VERSION);
        let mut books = self.books.lock().unwrap();
        books.session += 1;
        let device = |interface: &str| v1::Device {
            interface: interface.into(),
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
        };
        Ok(Response::new(v1::HelloReply {
            session: books.session,
            server: "fake".into(),
            revision: books.revision,
            ports_namespace: self.ports_namespace.display().to_string(),
            gateway: Some(device("seine-gw0")),
            host: Some(device("seine-host0")),
            uplink: Some(device("uplink")),
            workers: 2,
            ports_max: 1000,
            frame_bytes_max: 1514,
        }))
    }

    async fn apply(
        &self,
        request: Request<Parts>,
    ) -> Result<Response<v1::TransactionReply>, Status> {
        let mut stream: Pin<Box<Parts>> = Box::pin(request.into_inner());
        let mut parts = Vec::new();
        while let Some(part) = stream.next().await {
            parts.push(part?);
        }
        Ok(Response::new(self.books.lock().unwrap().apply(&parts)?))
    }

    async fn open_port(
        &self,
        request: Request<v1::OpenPortRequest>,
    ) -> Result<Response<v1::Port>, Status> {
        let request = request.into_inner();
        if let Some(guest) = request.vhost_user.clone() {
            let mut books = self.books.lock().unwrap();
            books.check_session(request.session)?;
            if books.fault == Some(Fault::OpenPort) {
                return Err(Status::resource_exhausted("no frame memory is left"));
            }
            if guest.mode() == v1::vhost_user::Mode::Server {
                let _ = std::fs::remove_file(&guest.socket);
                // Its file stays when nobody listens any more.
                std::os::unix::net::UnixListener::bind(&guest.socket).unwrap();
            }
            books.guests.insert(request.name.clone(), guest);
            books.ports.insert(request.name.clone(), 0);
            return Ok(Response::new(v1::Port { name: request.name, ..v1::Port::default() }));
        }
        let namespace = Namespace::open(&self.ports_namespace).unwrap();
        let link = Netlink::open_in(&namespace).unwrap().link(&request.interface).unwrap();
        let mut books = self.books.lock().unwrap();
        books.check_session(request.session)?;
        if books.fault == Some(Fault::OpenPort) {
            return Err(Status::resource_exhausted("no frame memory is left"));
        }
        let Some(link) = link else {
            return Err(Status::not_found(format!("no interface {}", request.interface)));
        };
        assert!(link.up, "the host end is down");
        books.ports.insert(request.name.clone(), link.index);
        Ok(Response::new(v1::Port { name: request.name, ..v1::Port::default() }))
    }

    async fn lend_sockets(
        &self,
        request: Request<v1::LendSocketsRequest>,
    ) -> Result<Response<v1::LendSocketsReply>, Status> {
        self.books.lock().unwrap().lend(request.into_inner())?;
        Ok(Response::new(v1::LendSocketsReply {}))
    }

    async fn close_port(
        &self,
        request: Request<v1::ClosePortRequest>,
    ) -> Result<Response<v1::ClosePortReply>, Status> {
        let request = request.into_inner();
        let mut books = self.books.lock().unwrap();
        books.check_session(request.session)?;
        let closed = books.ports.remove(&request.name).is_some();
        if let Some(guest) = books.guests.remove(&request.name) {
            let _ = std::fs::remove_file(&guest.socket);
        }
        books.loans.end(&request.name);
        Ok(Response::new(v1::ClosePortReply { closed }))
    }

    async fn list_ports(
        &self,
        _request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsReply>, Status> {
        let books = self.books.lock().unwrap();
        let endpoint_of = |port: &str| {
            books.objects.values().find_map(|object| match &object.kind {
                Some(v1::object::Kind::Endpoint(e)) if e.port == port => Some(e.name.clone()),
                _ => None,
            })
        };
        let ports = books.ports.keys().map(|name| v1::Port {
            name: name.clone(),
            kind: v1::port::Kind::Pod.into(),
            endpoint: endpoint_of(name).unwrap_or_default(),
            lends_at: books.loans.at(name),
            ..v1::Port::default()
        });
        Ok(Response::new(v1::ListPortsReply { ports: ports.collect() }))
    }

    async fn list_drops(
        &self,
        _request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsReply>, Status> {
        Err(Status::unimplemented("the fake has no packets"))
    }

    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersReply>, Status> {
        Err(Status::unimplemented("the fake has no workers"))
    }

    async fn reload(
        &self,
        _request: Request<v1::ReloadRequest>,
    ) -> Result<Response<v1::ReloadReply>, Status> {
        Err(Status::unimplemented("the fake has no workers"))
    }

    async fn list_tables(
        &self,
        _request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesReply>, Status> {
        Err(Status::unimplemented("the fake has no tables"))
    }

    async fn show_table(
        &self,
        _request: Request<v1::ShowTableRequest>,
    ) -> Result<Response<v1::ShowTableReply>, Status> {
        Err(Status::unimplemented("the fake has no tables"))
    }

    type ListRulesStream = tokio_stream::Empty<Result<v1::ListRulesReply, Status>>;
    async fn list_rules(
        &self,
        _: Request<v1::ListRulesRequest>,
    ) -> Result<Response<Self::ListRulesStream>, Status> {
        Err(Status::unimplemented("list_rules"))
    }

    type ListConnectionsStream = tokio_stream::Empty<Result<v1::ListConnectionsReply, Status>>;
    async fn list_connections(
        &self,
        _: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        Err(Status::unimplemented("list_connections"))
    }

    type FollowAuditStream = Pin<Box<dyn Stream<Item = Result<v1::AuditPart, Status>> + Send>>;
    async fn follow_audit(
        &self,
        request: Request<v1::FollowAuditRequest>,
    ) -> Result<Response<Self::FollowAuditStream>, Status> {
        assert_eq!(request.get_ref().session, self.books.lock().unwrap().session);
        let line = v1::AuditLine { unix_us: 1_688_474_721_804_416, text: AUDIT_TEXT.into() };
        let part = v1::AuditPart { lines: vec![line], lost: 3 };
        // What follows never comes: the stream stays open, as the datapath's does.
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(part)).chain(tokio_stream::pending()))))
    }

    async fn trace(
        &self,
        _request: Request<v1::TraceRequest>,
    ) -> Result<Response<v1::TraceReply>, Status> {
        Err(Status::unimplemented("the fake has no tables"))
    }

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        Err(Status::unimplemented("the fake has no status"))
    }
}
