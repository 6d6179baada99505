//! Every table at one revision, and how objects become it.

mod object;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use object::{Change, Endpoint, Kind, Node, Object, ObjectId, Peer, Port, Refusal};

use crate::address::PortId;
use crate::adjacency::AdjacencyTable;

/// What packets are judged by: immutable, shared by workers, replaced whole.
#[derive(Clone)]
pub struct State {
    objects: Arc<BTreeMap<ObjectId, Object>>,
    ports: Arc<BTreeMap<PortId, Port>>,
}

impl State {
    /// A State without objects: it drops everything. The seed keys its hash tables.
    pub fn new(_hash_seed: u64) -> State {
        State { objects: Arc::default(), ports: Arc::default() }
    }

    /// The State that follows when all changes are made, or none of them.
    pub fn apply(&self, changes: &[Change]) -> Result<State, Refusal> {
        let mut objects = (*self.objects).clone();
        for change in changes {
            match change {
                Change::Upsert(object) => objects.insert(object.id(), object.clone()),
                Change::Delete(id) => objects.remove(id),
            };
        }
        let ports = objects
            .values()
            .filter_map(|object| match object {
                Object::Port(port) => Some((port.id, port.clone())),
                _ => None,
            })
            .collect();
        Ok(State { objects: Arc::new(objects), ports: Arc::new(ports) })
    }

    /// The object of that kind and name.
    pub fn object(&self, id: &ObjectId) -> Option<Object> {
        self.objects.get(id).cloned()
    }

    /// Every object, by kind and name.
    pub fn object_ids(&self) -> Vec<ObjectId> {
        self.objects.keys().cloned().collect()
    }

    /// The open port with this index.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(&id)
    }

    /// The open port of that name.
    pub fn port_by_name(&self, name: &str) -> Option<PortId> {
        self.ports.values().find(|port| port.name == name).map(|port| port.id)
    }

    /// The Endpoint attached to this port.
    pub fn endpoint_of(&self, id: PortId) -> Option<Arc<Endpoint>> {
        let port = self.port(id)?;
        self.objects.values().find_map(|object| match object {
            Object::Endpoint(endpoint) if endpoint.port == port.name => {
                Some(Arc::new(endpoint.clone()))
            }
            _ => None,
        })
    }

    /// The tables in order, with the entries each holds.
    pub fn tables(&self) -> Vec<TableSummary> {
        let each = |stage: &'static crate::stage::Stage| {
            stage.tables.iter().map(|table| TableSummary {
                stage: stage.name,
                name: table.id().name(),
                entries: table.entries(self),
            })
        };
        crate::STAGES.iter().flat_map(each).collect()
    }

    /// The entries of the table of that name, as text.
    pub fn show(&self, table: &str, adjacencies: &AdjacencyTable) -> Option<TableView> {
        crate::STAGES.iter().find_map(|stage| {
            let table = stage.tables.iter().find(|candidate| candidate.id().name() == table)?;
            Some(TableView {
                stage: stage.name,
                name: table.id().name(),
                columns: table.columns(),
                rows: table.rows(self, adjacencies),
            })
        })
    }
}

/// A table and how much it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// The stage it belongs to.
    pub stage: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: usize,
}

/// The entries of a table, as text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableView {
    /// The stage it belongs to.
    pub stage: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Names of the columns.
    pub columns: &'static [&'static str],
    /// One cell for each column.
    pub rows: Vec<Vec<String>>,
}
