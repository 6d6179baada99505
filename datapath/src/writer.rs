//! The one writer of State: sessions, transactions, and what follows from them.
//!
//! A transaction is prepared without touching anything, so a refused one changes nothing; then the
//! next State is published and the reply waits for every worker. Ports are objects too, but the
//! datapath's own: no transaction names one.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seine_pipeline::address::PortId;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::limits::{
    ADJACENCIES_MAX, ENDPOINTS_MAX, GROUPS_MAX, PEERS_MAX, RULES_MAX, SERVICES_MAX,
};
use seine_pipeline::state::{
    Change, GroupDelta, Kind, Node, Object, ObjectId, Port, Refusal, State,
};

use crate::objects::Desired;
use crate::publish::{NotPassed, PublicationWriter, Published};

/// Objects that one transaction may name: every object there can be, upserted and deleted.
pub const TRANSACTION_OBJECTS_MAX: usize =
    2 * (1 + PEERS_MAX + ENDPOINTS_MAX + GROUPS_MAX + RULES_MAX + SERVICES_MAX);

/// How long a reply waits for workers. A batch takes microseconds; a worker that needs this long
/// is stuck.
pub const PASS_LIMIT: Duration = Duration::from_secs(2);

/// Which objects a transaction speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Those it names.
    Delta,
    /// All: what it does not name is pruned.
    Full,
}

/// A whole transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The caller's session.
    pub session: u64,
    /// The revision that it makes.
    pub revision: u64,
    /// Which objects it speaks of.
    pub mode: Mode,
    /// Objects to add or replace.
    pub upserts: Vec<Desired>,
    /// Objects to delete.
    pub deletes: Vec<ObjectId>,
    /// Groups of which only some members change.
    pub members: Vec<GroupDelta>,
}

/// Why a change was refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another session is in force.
    #[error(
        "session {given} is over: session {current} of `{client}` is in force; say Hello again"
    )]
    StaleSession {
        /// The one in the change.
        given: u64,
        /// The one in force.
        current: u64,
        /// Who opened it.
        client: String,
    },
    /// The revision does not rise.
    #[error("revision {given} is not above revision {current}, which is in force")]
    StaleRevision {
        /// The one in the transaction.
        given: u64,
        /// The one in force.
        current: u64,
    },
    /// An object was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No next hop is left for a peer.
    #[error("peer `{0}` would be one more than the limit of {ADJACENCIES_MAX} next hops")]
    NextHopsExhausted(String),
    /// Published, but not passed in time.
    #[error(transparent)]
    NotPassed(#[from] NotPassed),
}

/// What a transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects that are new.
    pub added: u32,
    /// Objects that were replaced by another of the same name.
    pub changed: u32,
    /// Objects named and equal to what was in force.
    pub kept: u32,
    /// Objects deleted or pruned.
    pub deleted: u32,
}

/// Who may change things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Its number; 0 before the first Hello.
    pub number: u64,
    /// What its owner called itself.
    pub client: String,
}

/// Writes State.
pub struct Writer {
    publication: PublicationWriter,
    session: Session,
    adjacencies: Arc<AdjacencyTable>,
    free_adjacencies: Vec<AdjacencyId>,
    /// Of deleted peers, until every worker has passed the deletion.
    freed_adjacencies: Vec<AdjacencyId>,
    /// Revisions within this session start anew, so that an agent may count from 1.
    session_revision: u64,
    in_force_since: Option<Instant>,
}

/// A transaction that is ready to be published.
struct Prepared {
    state: State,
    summary: Summary,
    /// Next hops of peers that are deleted or moved: what they resolved to is void.
    void: Vec<AdjacencyId>,
    /// Next hops that nobody uses any more.
    freed: Vec<AdjacencyId>,
}

impl Writer {
    /// A writer over what the workers read.
    pub fn new(publication: PublicationWriter, adjacencies: Arc<AdjacencyTable>) -> Writer {
        // From the end, so that the first peer gets index 0.
        let free_adjacencies = (0..ADJACENCIES_MAX).rev().filter_map(AdjacencyId::new).collect();
        Writer {
            publication,
            session: Session::default(),
            adjacencies,
            free_adjacencies,
            freed_adjacencies: Vec::new(),
            session_revision: 0,
            in_force_since: None,
        }
    }

    /// Opens a session: the last one wins. `floor` keeps numbers rising over restarts.
    pub fn hello(&mut self, client: String, floor: u64) -> u64 {
        let number = (self.session.number + 1).max(floor).max(1);
        self.session = Session { number, client };
        self.session_revision = 0;
        number
    }

    /// The session in force.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What is published now.
    pub fn current(&self) -> Arc<Published> {
        self.publication.current()
    }

    /// When the revision in force came into force.
    pub fn in_force_since(&self) -> Option<Instant> {
        self.in_force_since
    }

    /// The revision that a worker works with.
    pub fn revision_of(&self, worker: usize) -> u64 {
        self.publication.revision_of(worker)
    }

    /// Refuses a change by any session but the one in force.
    pub fn check_session(&self, given: u64) -> Result<(), ChangeError> {
        if given == self.session.number && given != 0 {
            return Ok(());
        }
        let Session { number: current, client } = self.session.clone();
        Err(ChangeError::StaleSession { given, current, client })
    }

    /// Installs a transaction, whole or not at all, and waits until every worker has passed it.
    pub async fn apply(&mut self, transaction: Transaction) -> Result<Summary, ChangeError> {
        self.check_session(transaction.session)?;
        if transaction.revision <= self.session_revision {
            let (given, current) = (transaction.revision, self.session_revision);
            return Err(ChangeError::StaleRevision { given, current });
        }
        let revision = transaction.revision;
        let prepared = self.prepare(transaction)?;
        for adjacency in &prepared.void {
            self.adjacencies.set(*adjacency, None);
        }
        let sequence = self.publication.publish(revision, prepared.state);
        self.session_revision = revision;
        self.in_force_since = Some(Instant::now());
        self.freed_adjacencies.extend(prepared.freed);
        self.publication.passed(sequence, PASS_LIMIT).await?;
        // Free only now: before, a worker could look them up under the old peer.
        self.free_adjacencies.append(&mut self.freed_adjacencies);
        Ok(prepared.summary)
    }

    /// Announces an open port to the pipeline, and waits until every worker has passed it.
    pub async fn announce(&mut self, port: Port) -> Result<(), ChangeError> {
        self.change_port(Change::Upsert(Object::Port(port))).await
    }

    /// Takes a port back, and waits until no worker sends to it any more.
    pub async fn withdraw(&mut self, name: &str) -> Result<(), ChangeError> {
        let id = ObjectId { kind: Kind::Port, name: name.to_owned() };
        self.change_port(Change::Delete(id)).await
    }

    /// The tunnel address of each peer, by next hop.
    pub fn peers(&self) -> BTreeMap<usize, IpAddr> {
        let published = self.current();
        let peers = published.state.object_ids().into_iter().filter(|id| id.kind == Kind::Peer);
        peers
            .filter_map(|id| match published.state.object(&id) {
                Some(Object::Peer(peer)) => Some((peer.adjacency.index(), peer.tunnel_address)),
                _ => None,
            })
            .collect()
    }

    /// The Node object, if one is installed.
    pub fn node(&self) -> Option<Node> {
        let published = self.current();
        let id = published.state.object_ids().into_iter().find(|id| id.kind == Kind::Node)?;
        match published.state.object(&id) {
            Some(Object::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The name of the Endpoint attached to a port, and its addresses.
    pub fn endpoint_of(&self, port: PortId) -> Option<(String, Vec<String>)> {
        let endpoint = self.current().state.endpoint_of(port)?;
        let addresses = endpoint.addresses.iter().map(IpAddr::to_string).collect();
        Some((endpoint.name.clone(), addresses))
    }

    /// The gateway's addresses, once the Node is known.
    pub fn gateway_addresses(&self) -> Vec<String> {
        let addresses = self.node().map(|node| node.gateway_addresses).unwrap_or_default();
        addresses.iter().map(IpAddr::to_string).collect()
    }

    async fn change_port(&mut self, change: Change) -> Result<(), ChangeError> {
        let current = self.publication.current();
        let state = current.state.apply(&[change])?;
        let sequence = self.publication.publish(current.revision, state);
        Ok(self.publication.passed(sequence, PASS_LIMIT).await?)
    }

    fn prepare(&mut self, transaction: Transaction) -> Result<Prepared, ChangeError> {
        let current = self.publication.current();
        let mut draft = Draft::new(&current.state);
        let mut free = self.free_adjacencies.iter().rev();
        for desired in transaction.upserts {
            draft.name(desired.id())?;
            let object = match desired {
                Desired::Object(object) => object,
                Desired::Peer(peer) => {
                    let id = Desired::Peer(peer.clone()).id();
                    match current.state.object(&id) {
                        Some(Object::Peer(known)) => peer.with(known.adjacency),
                        _ => {
                            peer.with(*free.next().ok_or(ChangeError::NextHopsExhausted(id.name))?)
                        }
                    }
                }
            };
            draft.upsert(object);
        }
        match transaction.mode {
            Mode::Delta => {
                for id in transaction.deletes {
                    draft.name(id.clone())?;
                    draft.delete(id);
                }
            }
            Mode::Full => draft.prune(),
        }
        let left = free.len();
        let Draft { mut deletes, upserts, summary, void, freed, .. } = draft;
        // What is deleted makes room for what is added: an address may change hands.
        deletes.extend(upserts);
        deletes.extend(transaction.members.into_iter().map(Change::Members));
        let state = current.state.apply(&deletes)?;
        // Nothing can fail any more: now the next hops are really taken.
        self.free_adjacencies.truncate(left);
        Ok(Prepared { state, summary, void, freed })
    }
}

/// Changes on their way to a State.
struct Draft<'a> {
    state: &'a State,
    deletes: Vec<Change>,
    upserts: Vec<Change>,
    named: HashSet<ObjectId>,
    summary: Summary,
    void: Vec<AdjacencyId>,
    freed: Vec<AdjacencyId>,
}

impl<'a> Draft<'a> {
    fn new(state: &'a State) -> Draft<'a> {
        Draft {
            state,
            deletes: Vec::new(),
            upserts: Vec::new(),
            named: HashSet::new(),
            summary: Summary::default(),
            void: Vec::new(),
            freed: Vec::new(),
        }
    }

    /// Refuses an object that is named twice: which of the two is meant?
    fn name(&mut self, id: ObjectId) -> Result<(), Refusal> {
        if self.named.insert(id.clone()) {
            return Ok(());
        }
        let reason = "named twice in one transaction".to_owned();
        Err(Refusal { kind: id.kind, name: id.name, field: "name", reason })
    }

    fn upsert(&mut self, object: Object) {
        match self.state.object(&object.id()) {
            None => self.summary.added += 1,
            Some(known) if known == object => {
                self.summary.kept += 1;
                return;
            }
            Some(known) => {
                self.summary.changed += 1;
                if let (Object::Peer(old), Object::Peer(new)) = (&known, &object)
                    && old.tunnel_address != new.tunnel_address
                {
                    self.void.push(old.adjacency);
                }
            }
        }
        self.upserts.push(Change::Upsert(object));
    }

    fn delete(&mut self, id: ObjectId) {
        self.summary.deleted += 1;
        if let Some(Object::Peer(peer)) = self.state.object(&id) {
            self.void.push(peer.adjacency);
            self.freed.push(peer.adjacency);
        }
        self.deletes.push(Change::Delete(id));
    }

    fn prune(&mut self) {
        let agents = |id: &ObjectId| id.kind != Kind::Port;
        let ids = self.state.object_ids().into_iter().filter(agents);
        let unnamed: Vec<ObjectId> = ids.filter(|id| !self.named.contains(id)).collect();
        unnamed.into_iter().for_each(|id| self.delete(id));
    }
}
