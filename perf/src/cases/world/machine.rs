//! One node in memory: a State made from the objects that `control` sends, and all that its
//! workers learn.

use std::collections::BTreeMap;

use seine_datapath::objects::{self, Desired, ObjectError};
use seine_datapath_api::v1;
use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::audit::AuditLine;
use seine_pipeline::connection::ConnectionTable;
use seine_pipeline::learned::{Learned, WorkerMemory};
use seine_pipeline::limits::ConnectionLimits;
use seine_pipeline::packet::{Checksum, Packet};
use seine_pipeline::run::{Context, run};
use seine_pipeline::state::{Change, Object, Port, Refusal, State};
use seine_pipeline::testbed;
use seine_pipeline::trace::Trace;
use seine_pipeline::verdict::Outcome;

/// Bytes in front of every packet, for outer headers.
const HEADROOM: usize = 256;
/// Bytes behind it, for answers that are longer.
const TAILROOM: usize = 1024;
/// MTU of the node's own ports.
const MTU: u16 = 1500;

/// Why a node does not take what it is sent.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// An object cannot be typed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The State refuses a change.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no room.
    #[error("no index is left for {0}")]
    Full(&'static str),
}

/// What a node is sent in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Objects that are new or other than before.
    pub upserts: Vec<v1::Object>,
    /// Objects that are gone.
    pub deletes: Vec<v1::ObjectId>,
    /// Groups of which only members change.
    pub group_deltas: Vec<v1::GroupDelta>,
}

/// A node in memory.
pub struct Machine {
    /// Its name.
    pub name: String,
    state: State,
    adjacencies: AdjacencyTable,
    learned: Learned,
    worker: WorkerMemory,
    ports: BTreeMap<String, PortId>,
    peers: BTreeMap<String, AdjacencyId>,
    index: u8,
}

impl Machine {
    /// A node without objects: it drops everything.
    pub fn new(name: &str, index: u8) -> Result<Machine, InstallError> {
        let mut machine = Machine {
            name: name.to_owned(),
            state: State::new(1),
            adjacencies: AdjacencyTable::new(),
            learned: Learned { connections: connections(), ..testbed::learned() },
            worker: WorkerMemory::new(),
            ports: BTreeMap::new(),
            peers: BTreeMap::new(),
            index,
        };
        let gateway = machine.gateway_mac();
        machine.open("gateway", PortKind::Gateway, gateway)?;
        machine.open("host", PortKind::Host, gateway)?;
        let uplink = uplink_mac(index);
        machine.open("uplink", PortKind::Uplink, uplink)?;
        Ok(machine)
    }

    /// The MAC address of its gateway.
    pub fn gateway_mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 1, self.index])
    }

    /// Which port it is that has this name.
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).copied()
    }

    /// The name of a port.
    pub fn port_name(&self, id: PortId) -> Option<&str> {
        self.state.port(id).map(|port| port.name.as_str())
    }

    /// Every object of its State.
    pub fn objects(&self) -> Vec<Object> {
        self.state.object_ids().iter().filter_map(|id| self.state.object(id)).collect()
    }

    /// Opens a port; one that is open already stays.
    pub fn open(&mut self, name: &str, kind: PortKind, mac: Mac) -> Result<(), InstallError> {
        if self.ports.contains_key(name) {
            return Ok(());
        }
        let id = PortId::new(self.ports.len()).ok_or(InstallError::Full("a port"))?;
        let port = Port { id, name: name.to_owned(), kind, mac, mtu: MTU, generation: 1 };
        self.state = self.state.apply(&[Change::Upsert(Object::Port(port))])?;
        self.ports.insert(name.to_owned(), id);
        Ok(())
    }

    /// Makes the changes of a transaction, or none. `machines` tells the index of each node.
    pub fn install(
        &mut self,
        transaction: Transaction,
        machines: &BTreeMap<String, u8>,
    ) -> Result<(), InstallError> {
        let mut changes = Vec::new();
        for object in transaction.upserts {
            changes.push(Change::Upsert(match objects::object(object)? {
                Desired::Object(object) => object,
                Desired::Peer(peer) => {
                    let name = Desired::Peer(peer.clone()).id().name;
                    peer.with(self.next_hop(&name, machines)?)
                }
            }));
        }
        for id in transaction.deletes {
            changes.push(Change::Delete(objects::object_id(id)?));
        }
        for delta in transaction.group_deltas {
            changes.push(Change::Members(objects::group_delta(delta)?));
        }
        self.state = self.state.apply(&changes)?;
        Ok(())
    }

    fn next_hop(
        &mut self,
        peer: &str,
        machines: &BTreeMap<String, u8>,
    ) -> Result<AdjacencyId, InstallError> {
        if let Some(id) = self.peers.get(peer) {
            return Ok(*id);
        }
        let id = AdjacencyId::new(self.peers.len()).ok_or(InstallError::Full("a next hop"))?;
        self.adjacencies.set(id, machines.get(peer).map(|index| uplink_mac(*index)));
        self.peers.insert(peer.to_owned(), id);
        Ok(id)
    }

    /// Ends connections whose time is up.
    pub fn expire(&mut self, now_ms: u64) {
        const AT_ONCE: usize = 1024;
        let worker = &mut self.worker.connections;
        while self.learned.connections.expire(worker, now_ms, AT_ONCE, |_| {}) == AT_ONCE {}
    }

    /// The lines of audit since this was last asked.
    pub fn audit(&mut self, now_ms: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let state = &self.state;
        self.worker.audit.drain(now_ms, |record| {
            lines.extend(AuditLine::of(&record, state).map(|line| line.to_string()));
        });
        lines
    }

    /// Runs one packet through the pipeline.
    pub fn receive(
        &mut self,
        ingress: PortId,
        frame: &[u8],
        now_ms: u64,
        trace: Option<&mut Trace>,
    ) -> (Outcome, Vec<u8>) {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(frame);
        let end = buffer.len();
        buffer.resize(end + TAILROOM, 0);
        let packet = Packet::new(&mut buffer, HEADROOM, end, ingress, Checksum::Complete);
        // The bounds are those of the buffer.
        let Some(mut packet) = packet else {
            return (Outcome::Drop(seine_pipeline::verdict::DropReason::Malformed), Vec::new());
        };
        let mut context = Context {
            state: &self.state,
            adjacencies: &self.adjacencies,
            now_ms,
            learned: &self.learned,
            worker: &mut self.worker,
            dry: false,
            trace,
        };
        let outcome = run(&mut packet, &mut context);
        packet.complete_checksum();
        (outcome, packet.bytes().to_vec())
    }
}

/// Room for all connections of one step: a table as large as a node's takes longer to make than a
/// step to play.
fn connections() -> ConnectionTable {
    const CONNECTIONS: u32 = 1 << 12;
    let limits = ConnectionLimits {
        connections: CONNECTIONS,
        per_port: CONNECTIONS,
        ..ConnectionLimits::default()
    };
    ConnectionTable::new(limits, 1)
}

/// The MAC address of a node's uplink.
fn uplink_mac(index: u8) -> Mac {
    Mac([2, 0, 0, 0, 2, index])
}
