//! Puts the agent together: the manifests, the session with the datapath, the node's own network
//! and the CNI server, each following the others' changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seine_datapath_api::v1;
use seine_datapath_api::v1::object_id::Kind;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::attach::{AttachError, Attacher, Facts};
use crate::attachments::{Attachments, RecordError};
use crate::audit_log;
use crate::cni_server::{self, ServeError};
use crate::compile::{NodeNetwork, Underlay, node_network};
use crate::configuration::Configuration;
use crate::datapath_session::{Changes, Connected, Session, SessionState};
use crate::host_network::{self, HostPlan, ServicePlan};
use crate::model::Cluster;
use crate::namespace::{Namespace, NamespaceError};
use crate::tables::Tables;
use crate::watch::manifests;

/// How long to wait before something that failed for reasons of its own is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The header that a frame has before its packet.
const ETHERNET_BYTES: u32 = 14;

/// What follows from the Nodes of the cluster.
const NETWORK: [Kind; 2] = [Kind::Node, Kind::Peer];

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The record of attachments.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The manifests.
    #[error("cannot read the manifests in `{}`: {source}", .folder.display())]
    Manifests {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CNI socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The CNI server ended by itself.
    #[error("the CNI server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

struct Agent {
    configuration: Configuration,
    nft: PathBuf,
    node: Namespace,
    session: Arc<Session>,
    tables: Arc<Tables>,
    attachments: Arc<Attachments>,
    attacher: Arc<Attacher>,
    cluster: watch::Receiver<Arc<Cluster>>,
    facts: watch::Sender<Option<Arc<Facts>>>,
    plan: watch::Sender<Option<HostPlan>>,
}

/// Runs the agent in the calling thread's network namespace until `stop` is done. Attachments
/// stay: the datapath forwards on without an agent.
pub async fn run(
    configuration: Configuration,
    nft: PathBuf,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let node = Namespace::current()?;
    let attachments = Arc::new(Attachments::open(&configuration.state_dir)?);
    let last_good = configuration.state_dir.join("manifests");
    let cluster = manifests::follow(&configuration.manifests, &last_good).map_err(|source| {
        StartError::Manifests { folder: configuration.manifests.clone(), source }
    })?;
    let name = concat!("seine-agent ", env!("CARGO_PKG_VERSION"));
    let client = format!("{name} on {}", configuration.node_name);
    let (session, changes) = Session::new(&configuration.datapath_socket, client);
    let facts = watch::Sender::new(None);
    let tables = Arc::new(Tables::new(&configuration.node_name, session.clone(), cluster.clone()));
    let attacher = Arc::new(Attacher::new(
        session.clone(),
        tables.clone(),
        attachments.clone(),
        facts.subscribe(),
        node.clone(),
        &configuration,
    ));
    let listener = cni_server::listen(&configuration.cni_socket).await?;
    info!(node = configuration.node_name, socket = %configuration.cni_socket.display(), "ready");
    let agent = Arc::new(Agent {
        nft,
        node,
        session,
        tables,
        attachments,
        attacher: attacher.clone(),
        cluster,
        facts,
        plan: watch::Sender::new(None),
        configuration,
    });
    let tasks = [
        tokio::spawn(agent.clone().keep_session(changes)),
        tokio::spawn(agent.clone().follow_cluster()),
        tokio::spawn(agent.clone().keep_host_network()),
        tokio::spawn(agent.clone().free_after_synchronising()),
        tokio::spawn(audit_log::follow(
            agent.configuration.audit_log(),
            agent.configuration.datapath_socket.clone(),
            agent.session.state(),
        )),
    ];
    let served = cni_server::serve(listener, attacher, stop).await;
    for task in tasks {
        task.abort();
    }
    // The record holds every change already; this only waits for a write that is under way.
    agent.attachments.persist().await?;
    info!("ended; attachments stay");
    Ok(served?)
}

impl Agent {
    /// Connects, brings everything into force, and starts again when the datapath has ended.
    async fn keep_session(self: Arc<Self>, mut changes: Changes) {
        let mut restored = false;
        loop {
            let mut connected = self.session.connect().await;
            let hello = connected.hello.clone();
            let prepared = tokio::select! {
                prepared = self.prepare(&hello, &mut restored) => prepared,
                ended = connected.ended() => Err(AttachError::from(ended)),
            };
            match prepared {
                Ok(()) => self.session.serve(connected, &mut changes).await,
                Err(error) => self.give_up(connected, error, &mut changes).await,
            }
        }
    }

    async fn give_up(&self, _connected: Connected, error: AttachError, changes: &mut Changes) {
        warn!("cannot bring the node's network into force: {error}");
        let reason = crate::datapath_session::SessionError::Away(error.to_string());
        self.session.abandon(reason, changes);
        tokio::time::sleep(RETRY).await;
    }

    /// Names all that shall be in force on this connection. Waits for this node to be known.
    async fn prepare(
        &self,
        hello: &v1::HelloReply,
        restored: &mut bool,
    ) -> Result<(), AttachError> {
        let ports = Namespace::open(hello.ports_namespace.as_ref())?;
        if !*restored {
            self.attacher.restore(&ports).await?;
            *restored = true;
        }
        let mut cluster = self.cluster.clone();
        let mut reported = String::new();
        loop {
            let known = cluster.borrow_and_update().clone();
            match self.network(&known, hello) {
                Ok(network) => {
                    self.session.replace(&NETWORK, network.objects());
                    // Not in force before the session is.
                    let _ = self.tables.compile(&network.local.pod_cidrs).await;
                    self.announce(network, &known, hello, ports);
                    return Ok(());
                }
                Err(reason) => {
                    if reason != reported {
                        error!("waiting: {reason}");
                        reported = reason;
                    }
                }
            }
            if cluster.changed().await.is_err() {
                return Err(AttachError::NotReady(
                    "the manifests are not followed any more".into(),
                ));
            }
        }
    }

    /// This node's network, with its ranges served. An error leaves what was before.
    fn network(&self, cluster: &Cluster, hello: &v1::HelloReply) -> Result<NodeNetwork, String> {
        let underlay = Underlay {
            uplink_mtu: hello.uplink.as_ref().map(|uplink| uplink.mtu),
            default_mtu: self.configuration.default_mtu,
            encap_mode: self.configuration.encap_mode(),
            tunnel_type: self.configuration.tunnel_type(),
        };
        let mut network = node_network(cluster, &self.configuration.node_name, underlay)
            .map_err(|error| error.to_string())?;
        network.keep_node_ports_within(&self.configuration.antrea_proxy.node_port_addresses);
        network.local.existing_connections = self.configuration.existing_connections();
        self.attachments.set_ranges(&network.local.pod_cidrs).map_err(|error| error.to_string())?;
        Ok(network)
    }

    fn announce(
        &self,
        network: NodeNetwork,
        cluster: &Cluster,
        hello: &v1::HelloReply,
        ports: Namespace,
    ) {
        for reason in &network.left_out {
            warn!("{reason}");
        }
        let ranges = self.configuration.service_ranges();
        let services = ServicePlan::new(cluster.services.values(), &ranges, &network);
        if let Some(plan) =
            HostPlan::new(&network, hello, services, self.attachments.allowed_addresses())
        {
            self.plan.send_replace(Some(plan));
        }
        let (local, queues) = (network.local, hello.workers.max(1));
        let mtu_max = hello.frame_bytes_max.saturating_sub(ETHERNET_BYTES).max(local.tunnel_mtu);
        self.facts.send_replace(Some(Arc::new(Facts { local, queues, mtu_max, ports })));
    }

    /// Brings a changed cluster into force while a session is.
    async fn follow_cluster(self: Arc<Self>) {
        let mut cluster = self.cluster.clone();
        let mut state = self.session.state();
        loop {
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() {
                    return;
                },
                () = self.tables.outdated() => {}
                () = self.attachments.permits_changed() => {}
            }
            // A session that is coming into force may have begun before this change.
            let in_force = |state: &SessionState| matches!(state, SessionState::InForce(_));
            let Ok(SessionState::InForce(hello)) =
                state.wait_for(in_force).await.map(|state| state.clone())
            else {
                return;
            };
            let known = cluster.borrow_and_update().clone();
            let Some(facts) = self.facts.borrow().clone() else {
                continue;
            };
            self.renew_network(&known, &hello, &facts).await;
            // Its ranges are those served, whether or not they are those of the cluster now.
            let local = self.facts.borrow().clone().unwrap_or(facts);
            match self.tables.compile(&local.local.pod_cidrs).await {
                Ok(true) => debug!("policies and Services in force"),
                Ok(false) => {}
                Err(error) => error!("changed policies or Services are not in force: {error}"),
            }
        }
    }

    async fn renew_network(&self, cluster: &Cluster, hello: &v1::HelloReply, facts: &Facts) {
        let network = match self.network(cluster, hello) {
            Ok(network) => network,
            Err(reason) => {
                error!("the changed Nodes are not taken: {reason}");
                return;
            }
        };
        let difference = self.session.replace(&NETWORK, network.objects());
        self.announce(network, cluster, hello, facts.ports.clone());
        if difference.is_empty() {
            return;
        }
        let changed = difference.len();
        match self.session.change(difference).await {
            Ok(()) => info!(changed, "nodes in force"),
            Err(error) => error!("the changed nodes are not in force: {error}"),
        }
    }

    /// Keeps the node's kernel in line with the plan, trying again after a failure.
    async fn keep_host_network(self: Arc<Self>) {
        let mut plans = self.plan.subscribe();
        let mut reported = String::new();
        loop {
            let plan = plans.borrow_and_update().clone();
            let mut failed = false;
            if let Some(plan) = plan {
                let (node, nft) = (self.node.clone(), self.nft.clone());
                let done = tokio::task::spawn_blocking(move || {
                    host_network::reconcile(&node, &nft, &plan).map_err(|error| error.to_string())
                });
                match done.await.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(()) => reported.clear(),
                    Err(reason) => {
                        failed = true;
                        if reason != reported {
                            error!("the node's own network is not as it shall be: {reason}");
                            reported = reason;
                        }
                    }
                }
            }
            let changed = async {
                if failed {
                    // Whether the plan changed or the time is over, it is tried again.
                    let _ = tokio::time::timeout(RETRY, plans.changed()).await;
                    true
                } else {
                    plans.changed().await.is_ok()
                }
            };
            if !changed.await {
                return;
            }
        }
    }

    /// Frees, after every full synchronisation, what was deleted while the datapath was away.
    async fn free_after_synchronising(self: Arc<Self>) {
        let mut state = self.session.state();
        loop {
            let in_force = matches!(*state.borrow_and_update(), SessionState::InForce(_));
            if in_force && let Err(error) = self.attacher.finish_detaching().await {
                warn!("freeing what was deleted while the datapath was away: {error}");
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }
}
