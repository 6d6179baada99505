//! Connections that a change of Services leaves behind.
//!
//! A TCP client whose endpoint is gone finds out and connects anew. A UDP client goes on sending
//! from the same port, so its connection would keep it with the dead endpoint for ever; Antrea and
//! kube-proxy forget such connections, and so does the datapath after it has published a State. It
//! also forgets those of any protocol that nobody has answered: whoever tries again, from the same
//! port, gets another endpoint.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::services::EndpointAddress;
use super::{Service, State};
use crate::connection::{Connection, ServiceId, Tuple};
use crate::wire::udp;

/// Which connections are to be forgotten, as one State follows another.
#[derive(Debug, Default)]
pub struct StaleConnections {
    /// Endpoints that their Service no longer has.
    gone: HashSet<(ServiceId, EndpointAddress)>,
    /// By protocol, address and port: where there was no Service before.
    opened: HashSet<(u8, IpAddr, u16)>,
}

impl StaleConnections {
    /// Those that end as `new` follows `old`, from which it must have been derived. Costs what
    /// differs.
    pub fn between(old: &State, new: &State) -> StaleConnections {
        let mut stale = StaleConnections::default();
        let (before, after) = (old.services(), new.services());
        for (name, installed) in before.differing(after) {
            let successor = after.named(name).filter(|it| it.id == installed.id);
            let same = successor.is_some_and(|it| Arc::ptr_eq(it, installed));
            if same {
                continue;
            }
            for endpoint in &installed.service.endpoints {
                let endpoint = EndpointAddress { address: endpoint.address, port: endpoint.port };
                if successor.is_none_or(|it| !it.has_endpoint(endpoint)) {
                    stale.gone.insert((installed.id, endpoint));
                }
            }
        }
        for (name, installed) in after.differing(before) {
            let known = before.named(name).map(|it| &it.service);
            let opened = places(&installed.service, new);
            let known: HashSet<_> = known.map(|it| places(it, old)).into_iter().flatten().collect();
            stale.opened.extend(opened.into_iter().filter(|place| !known.contains(place)));
        }
        stale
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.opened.is_empty()
    }

    /// Whether the connection is one of them.
    pub fn contains(&self, connection: &Connection) -> bool {
        let (original, reply) = (connection.original.tuple, connection.reply.tuple);
        if original.protocol != udp::PROTOCOL && !connection.progress.is_unanswered() {
            return false;
        }
        match connection.decision.service {
            Some(service) => {
                let endpoint = EndpointAddress { address: reply.source, port: reply.source_port };
                self.gone.contains(&(service, endpoint))
            }
            None => {
                let Tuple { destination, protocol, destination_port, .. } = original;
                self.opened.contains(&(protocol, destination, destination_port))
            }
        }
    }
}

/// Where clients send to.
fn places(service: &Service, state: &State) -> Vec<(u8, IpAddr, u16)> {
    let protocol = service.protocol;
    let addresses = service.addresses().map(|(_, address)| (protocol, address, service.port));
    let node = state.node_port_addresses().filter(|_| service.node_port != 0);
    addresses.chain(node.map(|address| (protocol, address, service.node_port))).collect()
}
