//! Which ports are open, and who has which index.

use std::collections::BTreeMap;
use std::sync::Arc;

use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::limits::PORTS_MAX;
use seine_pipeline::state::Port;

use crate::counters::{PortCounters, PortTotals};

/// The node's own ports: gateway, host and uplink.
pub const NODE_PORTS: usize = 3;

/// The most Pod ports that can be open at once.
pub const POD_PORTS_MAX: usize = PORTS_MAX - NODE_PORTS;

/// A port that is open.
pub struct OpenPort {
    /// Its index on the packet path.
    pub id: PortId,
    /// Rises each time the index is used.
    pub generation: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PortKind,
    /// Its interface.
    pub interface: String,
    /// The interface's MAC address.
    pub mac: Mac,
    /// The interface's MTU, in bytes.
    pub mtu: u16,
    /// Of each worker.
    pub counters: Vec<Arc<PortCounters>>,
    /// Whether pipeline and workers all have it.
    pub whole: bool,
}

impl OpenPort {
    /// What the pipeline is told of it.
    pub fn object(&self) -> Port {
        Port {
            id: self.id,
            name: self.name.clone(),
            kind: self.kind,
            mac: self.mac,
            mtu: self.mtu,
            generation: self.generation,
        }
    }

    /// What all workers counted together.
    pub fn totals(&self) -> PortTotals {
        PortTotals::sum(self.counters.iter().map(Arc::as_ref))
    }

    /// Why one of its queues stopped for good, if one did, or what else it lacks.
    pub fn fault(&self) -> Option<String> {
        if !self.whole {
            let reason = "a worker did not answer while the port was opened or closed";
            return Some(format!("{reason}; open it again"));
        }
        self.counters
            .iter()
            .find_map(|counters| counters.fault.get().map(|fault| fault.to_string()))
    }
}

/// All open ports by name, and the indexes that are free.
pub struct PortTable {
    open: BTreeMap<String, OpenPort>,
    /// Of each index, how often it was used.
    generations: Box<[u32]>,
    used: Box<[bool]>,
    /// Drops of ports that have closed, so that no drop is forgotten.
    closed: PortTotals,
}

impl Default for PortTable {
    fn default() -> Self {
        PortTable {
            open: BTreeMap::new(),
            generations: vec![0; PORTS_MAX].into(),
            used: vec![false; PORTS_MAX].into(),
            closed: PortTotals::default(),
        }
    }
}

impl PortTable {
    /// Takes a free index, the lowest, with a generation it never had. `None` when all are used.
    pub fn allocate(&mut self) -> Option<(PortId, u32)> {
        let index = self.used.iter().position(|used| !used)?;
        self.used[index] = true;
        self.generations[index] += 1;
        Some((PortId::new(index)?, self.generations[index]))
    }

    /// Gives an index back, after no worker has a queue of it.
    pub fn release(&mut self, id: PortId) {
        self.used[id.index()] = false;
    }

    /// Adds a port under an allocated index.
    pub fn insert(&mut self, port: OpenPort) {
        self.open.insert(port.name.clone(), port);
    }

    /// Says whether pipeline and workers all have a port.
    pub fn set_whole(&mut self, name: &str, whole: bool) {
        if let Some(port) = self.open.get_mut(name) {
            port.whole = whole;
        }
    }

    /// Forgets a port, keeping its drops and its index.
    pub fn remove(&mut self, name: &str) -> Option<OpenPort> {
        let port = self.open.remove(name)?;
        self.closed.absorb_drops(&port.totals());
        Some(port)
    }

    /// The port of that name.
    pub fn find(&self, name: &str) -> Option<&OpenPort> {
        self.open.get(name)
    }

    /// The port that uses this interface as this kind.
    pub fn by_interface(&self, kind: PortKind, interface: &str) -> Option<&OpenPort> {
        self.open.values().find(|port| port.kind == kind && port.interface == interface)
    }

    /// The node's port of this kind.
    pub fn of_kind(&self, kind: PortKind) -> Option<&OpenPort> {
        self.open.values().find(|port| port.kind == kind)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &OpenPort> {
        self.open.values()
    }

    /// Drops of ports that have closed.
    pub fn closed(&self) -> &PortTotals {
        &self.closed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_index_used_again_has_a_new_generation() {
        let mut ports = PortTable::default();
        let (first, generation) = ports.allocate().unwrap();
        let (second, _) = ports.allocate().unwrap();
        assert_ne!(first, second);
        ports.release(first);
        assert_eq!(ports.allocate().unwrap(), (first, generation + 1));
    }

    #[test]
    fn there_are_as_many_ports_as_the_limit_says() {
        let mut ports = PortTable::default();
        assert_eq!(std::iter::from_fn(|| ports.allocate()).count(), PORTS_MAX);
        assert_eq!(ports.allocate(), None);
    }
}
