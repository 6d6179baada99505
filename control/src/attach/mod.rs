//! Attaches and detaches Pods: what a CNI ADD, DEL, CHECK and STATUS do on this node.
//!
//! The order is what keeps the promises. ADD: record and lease, link, port, endpoint, and the
//! answer only when every worker of the datapath knows the endpoint. DEL: endpoint, port, link,
//! and the lease last, so an address is free only when no endpoint has it. A failed ADD takes the
//! way of a DEL. One attachment at a time is worked on per (container, interface); different ones
//! run side by side.

mod error;
mod pod_link;
mod reservation;
mod restore;
mod socket_folder;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use crate::attachments::{Attachment, AttachmentKey, Attachments};
use crate::compile::{LocalNode, loan, port};
use crate::configuration::{Configuration, VhostUserSettings};
use crate::datapath_session::{Session, SessionError, SessionState};
use crate::model::{Mac, Permission, PodName};
use crate::namespace::Namespace;
use crate::tables::Tables;
pub use error::AttachError;
pub use pod_link::{Expected, PodAddress};
use pod_link::{PodLink, PodRoute};
use reservation::port_name;
use turns::Turns;

/// Links made or deleted at one time. The kernel does one at a time under its lock; a few more
/// keep it busy, and every one costs a thread.
const LINKS_AT_ONCE_MAX: usize = 8;

/// What attaching needs to know of the node, once the datapath is connected and the node known.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This node.
    pub local: LocalNode,
    /// Queues that every link has: one for each worker.
    pub queues: u32,
    /// Bytes of the largest packet that the datapath has frames for.
    pub mtu_max: u32,
    /// Where host ends are born.
    pub ports: Namespace,
}

/// What the runtime asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which interface of which container.
    pub key: AttachmentKey,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// The Pod, when the runtime names it.
    pub pod: Option<PodName>,
    /// The Pod's UID; empty when the runtime does not tell it.
    pub pod_uid: String,
    /// The name of the network.
    pub network: String,
}

/// What an ADD has made.
#[derive(Debug, Clone)]
pub struct Attached {
    /// As recorded.
    pub attachment: Attachment,
    /// Of the host end, where there is one.
    pub host_mac: Option<Mac>,
    /// Addresses with their gateways.
    pub addresses: Vec<PodAddress>,
}

/// Attaches Pods to this node.
pub struct Attacher {
    session: Arc<Session>,
    tables: Arc<Tables>,
    attachments: Arc<Attachments>,
    facts: watch::Receiver<Option<Arc<Facts>>>,
    /// The agent's own namespace, which no Pod may have.
    own: Namespace,
    vhost_user: VhostUserSettings,
    /// What Pods may ask to send.
    permissions: Vec<Permission>,
    turns: Turns<AttachmentKey>,
    links: Semaphore,
}

impl Attacher {
    /// An attacher that is ready as soon as `facts` are known and `session` is in force.
    pub fn new(
        session: Arc<Session>,
        tables: Arc<Tables>,
        attachments: Arc<Attachments>,
        facts: watch::Receiver<Option<Arc<Facts>>>,
        own: Namespace,
        configuration: &Configuration,
    ) -> Self {
        let links = Semaphore::new(LINKS_AT_ONCE_MAX);
        let permissions = configuration.sender_permits.clone();
        let vhost_user = configuration.vhost_user.clone();
        let turns = Turns::default();
        Self { session, tables, attachments, facts, own, vhost_user, permissions, turns, links }
    }

    /// Attaches one interface.
    pub async fn add(&self, request: Request) -> Result<Attached, AttachError> {
        pod_link::check_interface_name(&request.key.interface)?;
        let _turn = self.turns.take(&request.key).await;
        let facts = self.ready()?;
        let pod = self.pod_namespace(&request.netns)?;
        if let Some(before) = self.attachments.find(&request.key) {
            if !before.detaching && self.is_there(&before, &pod).await? {
                return Err(AttachError::Exists(request.key));
            }
            info!(key = %request.key, "removing what is left of an earlier attachment");
            self.detach(&before).await?;
        }
        let wish = self.wish(&request, &facts).await?;
        let attachment = self.reserve(&request, &facts, &wish)?;
        match self.install(&attachment, &facts, pod).await {
            Ok(attached) => {
                info!(key = %request.key, endpoint = attachment.endpoint, port = attachment.port,
                    addresses = ?attachment.addresses, "attached");
                Ok(attached)
            }
            Err(error) => {
                warn!(key = %request.key, "not attached: {error}");
                if let Err(error) = self.detach(&attachment).await {
                    warn!(key = %request.key, "cleaning up after the failed attachment: {error}");
                }
                Err(error)
            }
        }
    }

    /// Detaches one interface. What is not there is a success.
    pub async fn del(&self, key: &AttachmentKey) -> Result<(), AttachError> {
        let _turn = self.turns.take(key).await;
        match self.attachments.find(key) {
            Some(attachment) => {
                self.detach(&attachment).await?;
                info!(%key, endpoint = attachment.endpoint, "detached");
            }
            // No record: at most a link that a crash left between its making and its record.
            None => self.delete_link(&port_name(key)).await?,
        }
        Ok(())
    }

    /// Compares an attachment with what the runtime expects and with our own record.
    pub async fn check(&self, request: &Request, expected: Expected) -> Result<(), AttachError> {
        let _turn = self.turns.take(&request.key).await;
        let attachment = self
            .attachments
            .find(&request.key)
            .filter(|attachment| !attachment.detaching)
            .ok_or_else(|| AttachError::Differs(format!("{} has no lease", request.key)))?;
        let pod = self.pod_namespace(&request.netns)?;
        let expected = expected.with(&attachment);
        let facts = self.ready()?;
        if attachment.has_link() {
            let interface = request.key.interface.clone();
            pod.run(move || pod_link::compare(&interface, &expected)).await??;
            let port = attachment.port.clone();
            facts.ports.run(move || pod_link::compare_host_end(&port)).await??;
        } else {
            expected.compare_record(&attachment)?;
        }
        socket_folder::compare(&attachment)?;
        let ports = self.session.list_ports().await?;
        let open = ports.iter().find(|port| port.name == attachment.port);
        match open {
            None => Err(AttachError::Differs(format!("the port {} is closed", attachment.port))),
            Some(port) if port.endpoint != attachment.endpoint => Err(AttachError::Differs(
                format!("the port {} has no endpoint {}", port.name, attachment.endpoint),
            )),
            // A guest has broken the rules of its rings: only a new port helps it.
            Some(port) if attachment.vhost_user().is_some() && !port.fault.is_empty() => {
                Err(AttachError::Differs(format!("the port {} is down: {}", port.name, port.fault)))
            }
            Some(port) => match attachment.lent_sockets() {
                Some(lent) if port.lends_at != lent.socket.to_string_lossy() => {
                    Err(AttachError::Differs(format!("the port {} lends no sockets", port.name)))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether an ADD can succeed now.
    pub fn status(&self) -> Result<(), AttachError> {
        self.ready()?;
        match self.attachments.exhausted_range() {
            Some(range) => Err(AttachError::Exhausted(range)),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Result<Arc<Facts>, AttachError> {
        let state = self.session.state().borrow().clone();
        match (state, self.facts.borrow().clone()) {
            (SessionState::InForce(_), Some(facts)) => Ok(facts),
            (SessionState::Away(reason), _) => Err(AttachError::DatapathAway(reason)),
            (SessionState::Connected(_), Some(_)) => {
                Err(AttachError::NotReady("the datapath is being synchronised".into()))
            }
            (_, None) => Err(AttachError::NotReady("this node's network is not known yet".into())),
        }
    }

    fn pod_namespace(&self, path: &Path) -> Result<Namespace, AttachError> {
        let pod = Namespace::open(path)?;
        if pod.is(&self.own) {
            return Err(AttachError::OwnNamespace(path.to_owned()));
        }
        Ok(pod)
    }

    async fn is_there(
        &self,
        attachment: &Attachment,
        pod: &Namespace,
    ) -> Result<bool, AttachError> {
        if let Some(guest) = attachment.vhost_user() {
            return Ok(socket_folder::exists(&guest.socket));
        }
        let interface = attachment.key.interface.clone();
        Ok(pod.run(move || pod_link::exists(&interface)).await??)
    }

    async fn install(
        &self,
        attachment: &Attachment,
        facts: &Facts,
        pod: Namespace,
    ) -> Result<Attached, AttachError> {
        let addresses: Vec<PodAddress> = attachment
            .addresses
            .iter()
            .map(|address| PodAddress {
                address: *address,
                gateway: crate::ipam::gateway_of(address.trunc()),
            })
            .collect();
        // The record reaches the disk while link and port are made; only the endpoint, which lets
        // packets with the address pass, waits for it.
        let start = Instant::now();
        let made = async {
            socket_folder::make(attachment, &addresses)?;
            let host_mac = if attachment.has_link() {
                self.make_link(attachment, facts, pod, &addresses).await?
            } else {
                pod.run(pod_link::raise_loopback).await??;
                None
            };
            let link_time = start.elapsed();
            self.session.open_port(port(attachment)).await?;
            if let Some(loan) = loan(attachment) {
                self.session.lend_sockets(loan).await?;
            }
            Ok::<_, AttachError>((host_mac, link_time, start.elapsed()))
        };
        let recorded = async {
            let recorded = self.attachments.persist().await;
            (recorded, start.elapsed())
        };
        let (made, (recorded, record)) = tokio::join!(made, recorded);
        let (host_mac, link, port) = made?;
        recorded?;
        self.tables.attach(attachment).await?;
        debug!(key = %attachment.key, ?record, ?link, ?port, endpoint = ?start.elapsed(),
            "the steps of the attachment were done after");
        Ok(Attached { attachment: attachment.clone(), host_mac, addresses })
    }

    async fn make_link(
        &self,
        attachment: &Attachment,
        facts: &Facts,
        pod: Namespace,
        addresses: &[PodAddress],
    ) -> Result<Option<Mac>, AttachError> {
        let link = PodLink {
            port: attachment.port.clone(),
            interface: attachment.key.interface.clone(),
            mac: attachment.mac,
            mtu: attachment.mtu,
            queues: facts.queues,
            trunk: !attachment.permit.vlans.is_empty(),
            addresses: addresses.to_vec(),
        };
        let _permit = self.links.acquire().await;
        facts.ports.run(move || pod_link::make(&link, &pod)).await?
    }

    /// Takes everything of an attachment away, in the order that keeps its address safe.
    async fn detach(&self, attachment: &Attachment) -> Result<(), AttachError> {
        let forgotten = self.tables.detach(attachment).await;
        let closed = self.session.close_port(&attachment.port).await;
        if attachment.has_link() {
            self.delete_link(&attachment.port).await?;
        }
        if let Some(socket) = attachment.socket() {
            socket_folder::remove(socket)?;
        }
        match forgotten.and(closed) {
            Ok(()) => self.attachments.remove(&attachment.key),
            Err(SessionError::Away(_)) => self.attachments.mark_detaching(&attachment.key),
            Err(error) => return Err(error.into()),
        }
        self.attachments.persist().await?;
        Ok(())
    }

    async fn delete_link(&self, port: &str) -> Result<(), AttachError> {
        let ports = match self.facts.borrow().clone() {
            Some(facts) => facts.ports.clone(),
            // Before the first contact with the datapath: where the host ends were last time. If
            // that is gone, so are they.
            None => match self.attachments.ports_namespace().map(|path| Namespace::open(&path)) {
                Some(Ok(ports)) => ports,
                _ => return Ok(()),
            },
        };
        self.delete_link_in(&ports, port).await
    }

    async fn delete_link_in(&self, ports: &Namespace, port: &str) -> Result<(), AttachError> {
        let _permit = self.links.acquire().await;
        let port = port.to_owned();
        Ok(ports.run(move || pod_link::delete(&port)).await??)
    }
}

/// The routes that an ADD makes: everything goes through the gateway.
pub fn default_routes(addresses: &[PodAddress]) -> Vec<(IpNet, std::net::IpAddr)> {
    addresses
        .iter()
        .map(|address| PodRoute::default_through(address.gateway))
        .map(|route| (route.destination, route.gateway))
        .collect()
}
