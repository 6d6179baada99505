//! The agent's session with the datapath: what is desired, and how it comes into force.
//!
//! The desired objects and ports are kept here. After every (re)connection the ports are opened,
//! everything is sent as one FULL transaction, and ports that nobody desires are closed; from then
//! on changes are sent as deltas. Changes that arrive while a transaction is under way travel
//! together in the next one, so many ADDs at once cost few transactions.
//!
//! That the datapath died is seen at once on a second, idle connection to its socket, which only
//! ends when the process does: a gRPC channel would quietly connect again to the next process,
//! which has no ports.

mod apply;
mod calls;
mod desired;
mod transaction;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_client::DatapathClient;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::compile::Difference;
use calls::{close_port, lend_sockets, open_port, timed};
use desired::Desired;

/// Changes that may wait for the transaction under way: every Pod of a full node, several times.
const CHANGES_MAX: usize = 1024;
/// The first and the longest pause between attempts to connect. Short, because Pods have no
/// network meanwhile and the attempt costs one system call.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Why the datapath did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// There is no session now.
    #[error("seine-datapath is not connected: {0}")]
    Away(String),
    /// It refused.
    #[error("seine-datapath refused to {action}: {message}")]
    Refused {
        /// "open the port v1234".
        action: String,
        /// What it said.
        message: String,
        /// How it classed that.
        code: tonic::Code,
    },
    /// Too much waits already.
    #[error("more than {CHANGES_MAX} changes wait for seine-datapath")]
    Busy,
}

/// How things stand with the datapath.
#[derive(Debug, Clone)]
pub enum SessionState {
    /// Not connected, and why.
    Away(String),
    /// Connected; what is desired is not in force yet.
    Connected(Arc<v1::HelloReply>),
    /// All that is desired is in force.
    InForce(Arc<v1::HelloReply>),
}

struct Change {
    difference: Difference,
    acknowledge: oneshot::Sender<Result<(), SessionError>>,
}

/// A change that is on its way.
pub struct Submitted(oneshot::Receiver<Result<(), SessionError>>);

impl Submitted {
    /// Waits until it is in force in every worker.
    pub async fn in_force(self) -> Result<(), SessionError> {
        self.0.await.unwrap_or_else(|_| Err(SessionError::Away("it has just gone".into())))
    }
}

#[derive(Clone)]
struct Connection {
    client: DatapathClient<Channel>,
    session: u64,
}

/// The session with the datapath at one socket.
pub struct Session {
    socket: PathBuf,
    client_name: String,
    desired: Mutex<Desired>,
    changes: mpsc::Sender<Change>,
    connection: Mutex<Option<Connection>>,
    state: watch::Sender<SessionState>,
}

/// The far end of a session's queue, for [`Session::serve`].
pub struct Changes(mpsc::Receiver<Change>);

/// One connection, from Hello to its end.
pub struct Connected {
    /// What the datapath said of itself.
    pub hello: Arc<v1::HelloReply>,
    connection: Connection,
    revision: u64,
    /// Ends when the datapath does.
    line: UnixStream,
}

impl Session {
    /// A session that is not connected yet.
    pub fn new(socket: &Path, client_name: String) -> (Arc<Self>, Changes) {
        let (changes, waiting) = mpsc::channel(CHANGES_MAX);
        let state = watch::Sender::new(SessionState::Away("not tried yet".into()));
        let session = Self {
            socket: socket.to_owned(),
            client_name,
            desired: Mutex::default(),
            changes,
            connection: Mutex::new(None),
            state,
        };
        (Arc::new(session), Changes(waiting))
    }

    /// How things stand, and how they go on.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.subscribe()
    }

    fn desired(&self) -> MutexGuard<'_, Desired> {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Result<Connection, SessionError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connection.ok_or_else(|| match &*self.state.borrow() {
            SessionState::Away(reason) => SessionError::Away(reason.clone()),
            _ => SessionError::Away("it has just gone".into()),
        })
    }

    /// Adds to what is desired, without sending it: what was attached before the agent started.
    pub fn desire(
        &self,
        endpoint: v1::Object,
        port: v1::OpenPortRequest,
        loan: Option<v1::LendSocketsRequest>,
    ) {
        self.desired().add(endpoint, port, loan);
    }

    /// Replaces the desired objects of some kinds, without sending them. Returns what that changed,
    /// for [`Session::submit`]. What the datapath has refused is left out until it changes.
    pub fn replace(&self, kinds: &[v1::object_id::Kind], objects: Vec<v1::Object>) -> Difference {
        self.desired().replace(kinds, objects)
    }

    /// Changes what is desired and sends it; for that a session must be in force already. Changes
    /// come into force in the order of these calls.
    ///
    /// After an error other than a refusal it is unknown whether it is in force; it stays desired
    /// all the same, so a caller that gives up must take it back. A group, rule or Service that the
    /// datapath refuses is left out and reported, and the rest comes into force.
    pub fn submit(&self, mut difference: Difference) -> Result<Submitted, SessionError> {
        let (acknowledge, acknowledged) = oneshot::channel();
        // Under one lock, so that the queue and what is desired agree on the order.
        let mut desired = self.desired();
        desired.apply(&mut difference);
        match &*self.state.borrow() {
            SessionState::Away(reason) => return Err(SessionError::Away(reason.clone())),
            // Waiting could take for ever: this node may not be known yet.
            SessionState::Connected(_) => {
                return Err(SessionError::Away("it is being synchronised".into()));
            }
            SessionState::InForce(_) => {}
        }
        self.changes
            .try_send(Change { difference, acknowledge })
            .map_err(|_| SessionError::Busy)?;
        Ok(Submitted(acknowledged))
    }

    /// Submits a change and waits until it is in force in every worker.
    pub async fn change(&self, difference: Difference) -> Result<(), SessionError> {
        self.submit(difference)?.in_force().await
    }

    /// Opens a port, now and after every reconnection; whose session it is, is filled in.
    pub async fn open_port(&self, port: v1::OpenPortRequest) -> Result<v1::Port, SessionError> {
        self.desired().ports.insert(port.name.clone(), port.clone());
        open_port(self.connection()?, port).await
    }

    /// Lends sockets on an open port, now and after every reconnection, as long as it is open.
    pub async fn lend_sockets(&self, loan: v1::LendSocketsRequest) -> Result<(), SessionError> {
        self.desired().loans.insert(loan.name.clone(), loan.clone());
        lend_sockets(self.connection()?, loan).await
    }

    /// Closes a port, now and for good.
    pub async fn close_port(&self, name: &str) -> Result<(), SessionError> {
        {
            let mut desired = self.desired();
            desired.ports.remove(name);
            desired.loans.remove(name);
        }
        close_port(self.connection()?, name).await
    }

    /// The ports that are open.
    pub async fn list_ports(&self) -> Result<Vec<v1::Port>, SessionError> {
        let mut client = self.connection()?.client;
        let reply = timed("list ports", client.list_ports(v1::ListPortsRequest {})).await?;
        Ok(reply.ports)
    }

    /// Connects, however long it takes, and opens a session.
    pub async fn connect(&self) -> Connected {
        let mut pause = BACKOFF_MIN;
        loop {
            match self.try_connect().await {
                Ok(connected) => {
                    info!(server = connected.hello.server, "connected to the datapath");
                    return connected;
                }
                Err(reason) => {
                    let changed = self.state.send_if_modified(|state| match state {
                        SessionState::Away(before) if *before == reason => false,
                        _ => {
                            *state = SessionState::Away(reason.clone());
                            true
                        }
                    });
                    if changed {
                        warn!("the datapath is away: {reason}");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn try_connect(&self) -> Result<Connected, String> {
        let line = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| format!("`{}`: {error}", self.socket.display()))?;
        let mut client =
            seine_datapath_api::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let request = v1::HelloRequest {
            client: self.client_name.clone(),
            version: seine_datapath_api::VERSION,
        };
        let hello =
            timed("greet", client.hello(request)).await.map_err(|error| error.to_string())?;
        let connection = Connection { client, session: hello.session };
        let revision = hello.revision;
        let hello = Arc::new(hello);
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        self.state.send_replace(SessionState::Connected(hello.clone()));
        Ok(Connected { hello, connection, revision, line })
    }

    /// Brings all that is desired into force, then every change, until the datapath is gone.
    pub async fn serve(&self, mut connected: Connected, changes: &mut Changes) {
        let reason = match self.synchronise(&mut connected).await {
            Ok(()) => self.follow(&mut connected, changes).await,
            Err(error) => error,
        };
        warn!("the session with the datapath ended: {reason}");
        self.abandon(reason, changes);
    }

    /// Ends a connection that was not served: waiting changes fail.
    pub fn abandon(&self, reason: SessionError, changes: &mut Changes) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // The lock keeps a change from slipping in between the state and the queue.
        let _desired = self.desired();
        self.state.send_replace(SessionState::Away(reason.to_string()));
        while let Ok(change) = changes.0.try_recv() {
            // The caller may have been cancelled; then nobody waits.
            let _ = change.acknowledge.send(Err(reason.clone()));
        }
    }

    async fn synchronise(&self, connected: &mut Connected) -> Result<(), SessionError> {
        self.open_ports(connected).await?;
        loop {
            let version = self.desired().version();
            let reply = self.apply_all(connected).await?;
            info!(
                revision = reply.revision,
                added = reply.added,
                changed = reply.changed,
                kept = reply.kept,
                deleted = reply.deleted,
                "everything desired is in force"
            );
            self.close_strays(connected).await?;
            // What has changed meanwhile nobody has sent: from now on whoever changes it does.
            let desired = self.desired();
            if desired.version() == version {
                self.state.send_replace(SessionState::InForce(connected.hello.clone()));
                return Ok(());
            }
        }
    }

    async fn open_ports(&self, connected: &Connected) -> Result<(), SessionError> {
        let (ports, mut loans) = {
            let desired = self.desired();
            (desired.ports.clone(), desired.loans.clone())
        };
        for (name, port) in ports {
            let connection = &connected.connection;
            let mut done = open_port(connection.clone(), port).await.map(|_| ());
            if let (Ok(()), Some(loan)) = (&done, loans.remove(&name)) {
                done = lend_sockets(connection.clone(), loan).await;
            }
            match done {
                Err(error @ SessionError::Away(_)) => return Err(error),
                // One lost port must not keep the others from coming back.
                Err(error) => warn!(port = name, "a recorded port did not come back: {error}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Closes Pod ports that nobody desires: their Pods went while the agent was away.
    async fn close_strays(&self, connected: &Connected) -> Result<(), SessionError> {
        let mut client = connected.connection.client.clone();
        let open = timed("list ports", client.list_ports(v1::ListPortsRequest {})).await?.ports;
        for port in open.into_iter().filter(|port| port.kind() == v1::port::Kind::Pod) {
            if !self.desired().ports.contains_key(&port.name) {
                info!(port = port.name, "closing a port that no attachment needs");
                close_port(connected.connection.clone(), &port.name).await?;
            }
        }
        Ok(())
    }

    /// Sends changes as they come, all that wait together. Returns why it ended.
    async fn follow(&self, connected: &mut Connected, changes: &mut Changes) -> SessionError {
        loop {
            let first = tokio::select! {
                change = changes.0.recv() => change,
                ended = connected.ended() => return ended,
            };
            let Some(first) = first else {
                return SessionError::Away("the agent ends".into());
            };
            let mut batch = vec![first];
            while let Ok(change) = changes.0.try_recv() {
                batch.push(change);
            }
            if let Err(error) = self.apply_batch(connected, batch).await {
                return error;
            }
        }
    }
}

impl Connected {
    /// Waits until the datapath has ended.
    pub async fn ended(&mut self) -> SessionError {
        // A gRPC server greets with its settings and then waits for ever.
        let mut greeting = [0; 256];
        while let Ok(1..) = self.line.read(&mut greeting).await {}
        SessionError::Away("seine-datapath has ended".into())
    }
}

/// Whether an error means that this session has ended: the datapath is gone or has another master.
fn lost(error: &SessionError) -> bool {
    match error {
        SessionError::Away(_) => true,
        SessionError::Refused { code, .. } => *code == tonic::Code::FailedPrecondition,
        SessionError::Busy => false,
    }
}
