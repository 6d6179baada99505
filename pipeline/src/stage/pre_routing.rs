//! Services: which one a new connection is for, and which endpoint is to have it.
//!
//! Antrea: stage PreRouting, tables `NodePortMark`, `SessionAffinity`, `ServiceLB`, `EndpointDNAT`.
//! Reads: destination, protocol, ports, where the packet comes from.
//! Writes: the Service, the endpoint and the marks of both; the destination; whose affinity it is.
//! Hit: next table, the packet being for the endpoint.  Miss: next table.
//! Refused: a Service without endpoints, and an address of a Service at a port that no Service has.
//! Dropped: clients that a load balancer's address is not for.
//!
//! Only the first packet of a connection comes by here; the others follow it by what their
//! connection remembers, wherever the Service's endpoints have gone since. What a peer tunnels has
//! passed its own node's Services and is not looked at.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::quality::FixedState;

use crate::adjacency::AdjacencyTable;
use crate::affinity::Affinity;
use crate::connection::Tuple;
use crate::packet::{Packet, PacketSource};
use crate::reject::{Rejection, reject};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{InstalledService, State};
use crate::translate;
use crate::verdict::{DropReason, Verdict};

/// A Service, and how a packet asks for it.
struct Asked<'s> {
    installed: &'s InstalledService,
    /// By an external address or a NodePort.
    external: bool,
    /// Whether the policy Local chooses.
    local: bool,
}

impl<'s> Asked<'s> {
    /// The Service that the packet is for.
    fn by(packet: &Packet<'_>, state: &'s State) -> Option<Asked<'s>> {
        let tuple = packet.facts.tuple.filter(|tuple| tuple.has_ports())?;
        let (services, source) = (state.services(), packet.facts.source?);
        if source == PacketSource::Tunnel {
            return None;
        }
        let Tuple { destination, protocol, destination_port, .. } = tuple;
        let (installed, external) = match services.at(destination, protocol, destination_port) {
            Some(it) => (it, !it.service.cluster_addresses.contains(&destination)),
            None if packet.facts.node_port => {
                (services.at_node_port(protocol, destination_port)?, true)
            }
            None => return None,
        };
        // A client of this node goes to any endpoint, as its traffic would by the cluster address.
        let outside = source == PacketSource::Gateway
            && !packet.facts.from_node
            && !state.is_gateway_address(tuple.source);
        let local = match external {
            true => installed.service.external_local && outside,
            false => installed.service.internal_local,
        };
        Some(Asked { installed, external, local })
    }

    /// Whether the client may come by the address that it uses. The node may if any of its
    /// addresses of that family may: by which it comes is the kernel's choice.
    fn serves(&self, packet: &Packet<'_>, tuple: &Tuple, state: &State) -> bool {
        let service = &self.installed.service;
        let node = packet.facts.from_node;
        let mut own =
            state.node_port_addresses().filter(|it| it.is_ipv4() == tuple.source.is_ipv4());
        service.serves(tuple.source, tuple.destination)
            || node && own.any(|address| service.serves(address, tuple.destination))
    }

    /// What the client's affinity is found by.
    fn affinity(&self, client: IpAddr) -> Affinity {
        Affinity { service: self.installed.id, client, local: self.local }
    }
}

/// Tells NodePort traffic.
pub struct NodePortMark;

impl Table for NodePortMark {
    fn id(&self) -> TableId {
        TableId::NodePortMark
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        let state = context.state;
        if let Some(tuple) = packet.facts.tuple
            && state.services().at_node_port(tuple.protocol, tuple.destination_port).is_some()
            && state.node_port_addresses().any(|address| address == tuple.destination)
        {
            packet.facts.node_port = true;
            context.note(format_args!("{} is a NodePort", tuple.destination_port));
        }
        Verdict::Next
    }

    fn columns(&self) -> &'static [&'static str] {
        &["address"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        state.node_port_addresses().map(|address| row([&address])).collect()
    }

    fn entries(&self, state: &State) -> usize {
        state.node_port_addresses().count()
    }
}

/// Sends a client to the endpoint it had before.
pub struct SessionAffinity;

impl SessionAffinity {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Option<()> {
        let state = context.state;
        if state.services().with_affinity() == 0 {
            return None;
        }
        let client = packet.facts.tuple?.source;
        let asked = Asked::by(packet, state)?;
        if asked.installed.service.affinity_seconds == 0 {
            return None;
        }
        let endpoint = context.learned.affinities.get(&asked.affinity(client), context.now_ms)?;
        if !asked.installed.list(asked.local, client).contains(&endpoint) {
            context.note(format_args!("{client} had {endpoint}, which is gone"));
            return None;
        }
        context.note(format_args!("{client} has {endpoint}"));
        packet.facts.endpoint = Some(endpoint);
        Some(())
    }
}

impl Table for SessionAffinity {
    fn id(&self) -> TableId {
        TableId::SessionAffinity
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        let _ = Self::decide(packet, context);
        Verdict::Next
    }

    fn columns(&self) -> &'static [&'static str] {
        &["service", "seconds"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let services = state.services().iter().map(|installed| &installed.service);
        let kept = services.filter(|service| service.affinity_seconds != 0);
        kept.map(|service| row([&service.name, &service.affinity_seconds])).collect()
    }

    fn entries(&self, state: &State) -> usize {
        state.services().with_affinity()
    }
}

/// Chooses an endpoint for a Service.
pub struct ServiceLb;

impl ServiceLb {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let tuple = packet.facts.tuple.ok_or(DropReason::Malformed)?;
        let Some(asked) = Asked::by(packet, state) else {
            let Tuple { destination, .. } = tuple;
            if packet.facts.source != Some(PacketSource::Tunnel)
                && state.is_for_services_only(destination)
            {
                context.note(format_args!("no Service of {destination} has this port"));
                let rejection = Rejection::PortUnreachable;
                return Ok(reject(packet, context, rejection, DropReason::NoService));
            }
            return Ok(Verdict::Next);
        };
        let service = &asked.installed.service;
        if !asked.serves(packet, &tuple, state) {
            context.note(format_args!("{} is not for {}", service.name, tuple.source));
            return Err(DropReason::ServiceSource);
        }
        packet.facts.service = Some(asked.installed.id);
        packet.facts.external = asked.external;
        packet.facts.rewrite = true;
        if packet.facts.endpoint.is_some() {
            context.note(format_args!("{}, by affinity", service.name));
            return Ok(Verdict::Next);
        }
        let list = asked.installed.list(asked.local, tuple.source);
        let policy = if asked.local { " of this node" } else { "" };
        context.note(format_args!("{}: one of {}{policy}", service.name, list.len()));
        let hash = FixedState::with_seed(state.hash_seed()).hash_one(tuple);
        packet.facts.endpoint = list.choose(hash);
        packet.facts.affinity =
            (service.affinity_seconds != 0).then(|| asked.affinity(tuple.source));
        Ok(Verdict::Next)
    }
}

impl Table for ServiceLb {
    fn id(&self) -> TableId {
        TableId::ServiceLb
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["service", "protocol", "address", "port", "endpoints", "endpoints of this node"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let rows = state.services().iter().flat_map(|installed| {
            let service = &installed.service;
            let place = move |address: &dyn std::fmt::Display, port: u16, like: Option<IpAddr>| {
                let count = |local| {
                    let families = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].into_iter();
                    let families = families
                        .filter(|any| like.is_none_or(|like| like.is_ipv4() == any.is_ipv4()));
                    families.map(|any| installed.list(local, any).len()).sum::<usize>()
                };
                let protocol = service.protocol;
                row([&service.name, &protocol, address, &port, &count(false), &count(true)])
            };
            let addresses = service.addresses();
            let node_port =
                (service.node_port != 0).then(|| place(&"this node's", service.node_port, None));
            let addresses =
                addresses.map(move |(_, address)| place(&address, service.port, Some(address)));
            addresses.chain(node_port).collect::<Vec<_>>()
        });
        rows.collect()
    }

    fn entries(&self, state: &State) -> usize {
        state.services().places_len()
    }
}

/// Translates the destination into the chosen endpoint.
pub struct EndpointDnat;

impl EndpointDnat {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        if packet.facts.service.is_none() {
            return Ok(Verdict::Next);
        }
        let Some(endpoint) = packet.facts.endpoint else {
            context.note(format_args!("there is no endpoint"));
            let rejection = Rejection::PortUnreachable;
            return Ok(reject(packet, context, rejection, DropReason::NoEndpoint));
        };
        translate::destination(packet, endpoint.address, endpoint.port)?;
        context.note(format_args!("now to {endpoint}"));
        Ok(Verdict::Next)
    }
}

impl Table for EndpointDnat {
    fn id(&self) -> TableId {
        TableId::EndpointDnat
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["service", "endpoint", "policy Cluster", "policy Local"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let rows = state.services().iter().flat_map(|installed| {
            let name = &installed.service.name;
            installed.service.endpoints.iter().map(move |endpoint| {
                let address = std::net::SocketAddr::new(endpoint.address, endpoint.port);
                row([name, &address, &endpoint.cluster, &endpoint.local])
            })
        });
        rows.collect()
    }

    fn entries(&self, state: &State) -> usize {
        state.services().iter().map(|installed| installed.service.endpoints.len()).sum()
    }
}
