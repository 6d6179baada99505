//! An agent that remembers what it was asked and answers by rule, on a socket of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use seine_cni::v1::cni_server::{Cni, CniServer};
use seine_cni::{CniError, v1};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// A question as the agent got it.
#[derive(Clone, PartialEq, Debug)]
pub enum Asked {
    Add(v1::AttachRequest),
    Del(v1::AttachRequest),
    Check(v1::CheckRequest),
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Everything succeeds.
    Serve,
    /// Every question gets this error.
    Fail(CniError),
    /// ADD succeeds with this.
    Attach(v1::Attachment),
    /// ADD gets an empty answer.
    SayNothing,
    /// No question gets an answer.
    Hang,
    /// Every question gets this gRPC status.
    Refuse(tonic::Code),
}

/// A running agent; dropping it stops it.
pub struct FakeAgent {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeAgent {
    pub fn start(behaviour: Behaviour) -> FakeAgent {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let asked = Arc::default();
        let service = Service { behaviour, asked: Arc::clone(&asked) };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(CniServer::new(service))
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    result = server => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        FakeAgent { directory, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Everything asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What `Serve` attaches.
pub fn attachment(sandbox: &str) -> v1::Attachment {
    let interface = |name: &str, sandbox: &str| v1::Interface {
        name: name.into(),
        mac: "02:42:0a:0a:01:02".into(),
        mtu: 1450,
        sandbox: sandbox.into(),
        socket_path: String::new(),
    };
    let ip = |address: &str, gateway: &str| v1::Ip {
        address: address.into(),
        gateway: gateway.into(),
        interface: 1,
    };
    let route = |destination: &str, gateway: &str| v1::Route {
        destination: destination.into(),
        gateway: gateway.into(),
    };
    v1::Attachment {
        interfaces: vec![interface("web-0-1a2b", ""), interface("eth0", sandbox)],
        ips: vec![ip("10.10.1.2/24", "10.10.1.1"), ip("fd00:10:1::2/64", "fd00:10:1::1")],
        routes: vec![route("0.0.0.0/0", "10.10.1.1"), route("::/0", "fd00:10:1::1")],
    }
}

struct Service {
    behaviour: Behaviour,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Service {
    async fn ask(&self, asked: Asked) -> Result<Option<v1::Error>, Status> {
        self.asked.lock().unwrap().push(asked);
        match &self.behaviour {
            Behaviour::Fail(error) => Ok(Some(error.clone().into())),
            Behaviour::Refuse(code) => Err(Status::new(*code, "told to refuse")),
            Behaviour::Hang => std::future::pending().await,
            _ => Ok(None),
        }
    }

    async fn reply(&self, asked: Asked) -> Result<Response<v1::Reply>, Status> {
        Ok(Response::new(v1::Reply { error: self.ask(asked).await? }))
    }
}

#[tonic::async_trait]
impl Cni for Service {
    async fn add(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AddReply>, Status> {
        use v1::add_reply::Answer;
        let request = request.into_inner();
        let sandbox = request.netns.clone();
        let answer = match (self.ask(Asked::Add(request)).await?, &self.behaviour) {
            (Some(error), _) => Some(Answer::Error(error)),
            (None, Behaviour::SayNothing) => None,
            (None, Behaviour::Attach(made)) => Some(Answer::Attachment(made.clone())),
            (None, _) => Some(Answer::Attachment(attachment(&sandbox))),
        };
        Ok(Response::new(v1::AddReply { answer }))
    }

    async fn del(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::Reply>, Status> {
        self.reply(Asked::Del(request.into_inner())).await
    }

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::Reply>, Status> {
        self.reply(Asked::Check(request.into_inner())).await
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::Reply>, Status> {
        self.reply(Asked::Status).await
    }
}
