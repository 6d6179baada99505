//! Every table at one revision, and how objects become it.
//!
//! One writer derives the next State from the last; workers only read. What a packet asks for is
//! kept under the key it asks by, so nothing is searched on the packet path.

mod check;
mod encapsulations;
mod epochs;
mod holders;
mod hops;
mod object;
mod permit;
mod policies;
mod rule;
mod service;
mod services;
mod stale;
mod transaction;
mod trunks;
mod view;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use check::is_host;
pub(crate) use encapsulations::Encapsulations;
pub use epochs::{Epochs, PolicyEpoch};
pub(crate) use holders::{Holder, Holders};
pub(crate) use hops::{Hops, mac_word};
use ipnet::IpNet;
pub use object::{
    Change, EncapMode, Endpoint, ExistingConnections, Kind, Node, Object, ObjectId, Peer, Port,
    Refusal, TunnelType,
};
pub(crate) use permit::Permission;
pub use permit::{AllowedAddress, Permit};
pub(crate) use policies::{GroupId, Opening, Policies, Subject, first_of};
pub use rule::{Action, Group, GroupDelta, PortRange, Rule, RuleDirection, RuleTable, Traffic};
pub(crate) use service::VIRTUAL_SERVICE;
pub use service::{Service, ServiceEndpoint};
pub use services::EndpointAddress;
pub(crate) use services::{InstalledService, Services};
pub use stale::StaleConnections;
pub(crate) use trunks::Trunks;
pub use trunks::VlanRange;
pub use view::{TableSummary, TableView};

use crate::address::{Mac, PortId};
use crate::connection::{RuleId, ServiceId};
use crate::table::{Exact, Longest, PerPort};

/// What packets are judged by: immutable, shared by workers, replaced whole.
#[derive(Clone, Debug)]
pub struct State {
    hash_seed: u64,
    revision: u64,
    node: Option<Arc<Node>>,
    gateway: Option<Arc<Port>>,
    host: Option<Arc<Port>>,
    uplink: Option<Arc<Port>>,
    ports: PerPort<Arc<Port>>,
    port_names: Exact<Arc<str>, Arc<Port>>,
    endpoints: Exact<Arc<str>, Attached>,
    /// By the name of the port, open or not.
    attachments: Exact<Arc<str>, Attached>,
    senders: PerPort<Attached>,
    owners: Exact<IpAddr, Attached>,
    stations: Exact<Mac, Attached>,
    peers: Exact<Arc<str>, Arc<Peer>>,
    tunnels: Exact<IpAddr, Arc<Peer>>,
    peer_gateways: Exact<IpAddr, Arc<Peer>>,
    routes: Longest<Arc<Peer>>,
    policies: Policies,
    /// By the port of the Endpoint that they apply to.
    subjects: PerPort<Arc<Subject>>,
    services: Services,
    epochs: Epochs,
    hops: Hops,
    holders: Holders,
    trunks: Trunks,
    encapsulations: Encapsulations,
}

/// An Endpoint, and the port it is attached to if that is open.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) port: Option<PortId>,
}

/// Who has an address that this node answers ARP and neighbour solicitations for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Neighbor<'a> {
    Endpoint(&'a Endpoint, PortId),
    Gateway(Mac),
    PeerGateway(&'a Peer),
}

impl Neighbor<'_> {
    pub(crate) fn mac(&self) -> Mac {
        match self {
            Neighbor::Endpoint(endpoint, _) => endpoint.mac,
            Neighbor::Gateway(mac) => *mac,
            Neighbor::PeerGateway(_) => Mac::VIRTUAL,
        }
    }
}

/// "default/web-0/eth0", "the gateway", "the gateway of node2".
impl fmt::Display for Neighbor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Neighbor::Endpoint(endpoint, _) => f.write_str(&endpoint.name),
            Neighbor::Gateway(_) => f.write_str("the gateway"),
            Neighbor::PeerGateway(peer) => write!(f, "the gateway of {}", peer.name),
        }
    }
}

impl State {
    /// A State without objects: it drops everything. The seed keys its hash tables.
    pub fn new(hash_seed: u64) -> State {
        State {
            hash_seed,
            revision: 0,
            node: None,
            gateway: None,
            host: None,
            uplink: None,
            ports: PerPort::new(),
            port_names: Exact::new(hash_seed),
            endpoints: Exact::new(hash_seed),
            attachments: Exact::new(hash_seed),
            senders: PerPort::new(),
            owners: Exact::new(hash_seed),
            stations: Exact::new(hash_seed),
            peers: Exact::new(hash_seed),
            tunnels: Exact::new(hash_seed),
            peer_gateways: Exact::new(hash_seed),
            routes: Longest::new(),
            policies: Policies::new(hash_seed),
            subjects: PerPort::new(),
            services: Services::new(hash_seed),
            epochs: Epochs::new(),
            hops: Hops::none(),
            holders: Holders::none(),
            trunks: Trunks::default(),
            encapsulations: Encapsulations::none(),
        }
    }

    /// The State that follows when all changes are made, or none of them. Their order does not
    /// matter: what is judged is the result. It costs what the changes touch, not what there is;
    /// only a change of the Node looks at every Endpoint and Peer again.
    pub fn apply(&self, changes: &[Change]) -> Result<State, Refusal> {
        transaction::apply(self, changes)
    }

    /// The name of the Service that has this number, if it is still installed.
    pub fn service_name(&self, id: ServiceId) -> Option<&str> {
        self.services.by_id(id).map(|installed| installed.service.name.as_str())
    }

    /// The number of the installed Service of this name.
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        self.services.named(name).map(|installed| installed.id)
    }

    /// The object of that kind and name.
    pub fn object(&self, id: &ObjectId) -> Option<Object> {
        let name = id.name.as_str();
        match id.kind {
            Kind::Node => {
                let node = self.node.as_deref().filter(|node| node.name == name)?;
                Some(Object::Node(node.clone()))
            }
            Kind::Peer => self.peers.get(name).map(|peer| Object::Peer(Peer::clone(peer))),
            Kind::Endpoint => self
                .endpoints
                .get(name)
                .map(|attached| Object::Endpoint(Endpoint::clone(&attached.endpoint))),
            Kind::Port => self.port_names.get(name).map(|port| Object::Port(Port::clone(port))),
            Kind::Group => self.policies.group(name).map(Object::Group),
            Kind::Rule => self.policies.rule(name).cloned().map(Object::Rule),
            Kind::Service => self.services.service(name).cloned().map(Object::Service),
        }
    }

    /// Every object, by kind and name.
    pub fn object_ids(&self) -> Vec<ObjectId> {
        let id = |kind, name: &str| ObjectId { kind, name: name.to_owned() };
        let mut ids: Vec<ObjectId> =
            self.node.iter().map(|node| id(Kind::Node, &node.name)).collect();
        ids.extend(self.peers.iter().map(|(name, _)| id(Kind::Peer, name)));
        ids.extend(self.endpoints.iter().map(|(name, _)| id(Kind::Endpoint, name)));
        ids.extend(self.port_names.iter().map(|(name, _)| id(Kind::Port, name)));
        ids.extend(self.policies.group_names().map(|name| id(Kind::Group, name)));
        ids.extend(self.policies.rule_names().map(|name| id(Kind::Rule, name)));
        ids.extend(self.services.names().map(|name| id(Kind::Service, name)));
        ids.sort();
        ids
    }

    /// Every rule, with the number that stands for it in connections, counters and audit records.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.policies.installed().map(|installed| (installed.id, &installed.rule))
    }

    /// The rule that this number stands for, while it is in force.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.policies.installed_rule(id).map(|installed| &installed.rule)
    }

    /// The open port with this index.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id).map(Arc::as_ref)
    }

    /// The open port of that name.
    pub fn port_by_name(&self, name: &str) -> Option<PortId> {
        self.port_names.get(name).map(|port| port.id)
    }

    /// The Endpoint attached to this port.
    pub fn endpoint_of(&self, id: PortId) -> Option<Arc<Endpoint>> {
        self.senders.get(id).map(|attached| attached.endpoint.clone())
    }
}

/// What the stages ask for.
impl State {
    pub(crate) fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Ports, as packets under way meet them.
    pub(crate) fn hops(&self) -> &Hops {
        &self.hops
    }

    /// Tunnels, as packets under way meet them.
    pub(crate) fn encapsulations(&self) -> &Encapsulations {
        &self.encapsulations
    }

    /// The rules that apply to the Endpoint attached to this port.
    pub(crate) fn subject(&self, port: PortId) -> Option<&Subject> {
        self.subjects.get(port).map(Arc::as_ref)
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.as_deref()
    }

    pub(crate) fn gateway(&self) -> Option<&Port> {
        self.gateway.as_deref()
    }

    pub(crate) fn host(&self) -> Option<&Port> {
        self.host.as_deref()
    }

    pub(crate) fn uplink(&self) -> Option<&Port> {
        self.uplink.as_deref()
    }

    /// The gateway address of the same family as `like`.
    pub(crate) fn gateway_address(&self, like: IpAddr) -> Option<IpAddr> {
        let addresses = self.node.as_deref()?.gateway_addresses.iter();
        addresses.copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }

    pub(crate) fn is_gateway_address(&self, address: IpAddr) -> bool {
        self.node.as_deref().is_some_and(|node| node.gateway_addresses.contains(&address))
    }

    /// This node's Pod range that holds the address.
    pub(crate) fn local_range(&self, address: IpAddr) -> Option<&IpNet> {
        self.node.as_deref()?.pod_cidrs.iter().find(|range| range.contains(&address))
    }

    /// Whether whoever has the address does not send by the gateway: Pods of this node never do,
    /// those of peers only where there are no tunnels.
    pub(crate) fn is_elsewhere(&self, address: IpAddr) -> bool {
        let tunnelled = self.node().is_none_or(|node| node.encap_mode == EncapMode::Encap);
        let peers = tunnelled && self.peer_by_route(address).is_some();
        (self.local_range(address).is_some() || peers) && !self.is_gateway_address(address)
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Whether nothing but Services is at an address: no node is known to have it.
    pub(crate) fn is_for_services_only(&self, address: IpAddr) -> bool {
        service::VIRTUAL_NODE_PORT.contains(&address)
            || self.services.has_address(address) && !self.is_node_address(address)
    }

    fn is_node_address(&self, address: IpAddr) -> bool {
        let own = self.node().is_some_and(|node| {
            node.tunnel_address == address || node.node_port_addresses.contains(&address)
        });
        own || self.peer_by_tunnel(address).is_some()
    }

    /// The addresses at which NodePorts are reached: the node's own, and the one that its kernel
    /// translates them into.
    pub(crate) fn node_port_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let node = self.node.iter().flat_map(|node| node.node_port_addresses.iter().copied());
        node.chain(service::VIRTUAL_NODE_PORT)
    }

    pub(crate) fn endpoint_by_name(&self, name: &str) -> Option<&Attached> {
        self.endpoints.get(name)
    }

    /// The Endpoint that may send by this port.
    pub(crate) fn sender(&self, port: PortId) -> Option<&Endpoint> {
        self.senders.get(port).map(|attached| attached.endpoint.as_ref())
    }

    /// The Endpoint that has the address, and its open port.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<(&Endpoint, PortId)> {
        let attached = self.owners.get(&address)?;
        Some((attached.endpoint.as_ref(), attached.port?))
    }

    /// The Endpoint that has the MAC address, and its open port.
    pub(crate) fn station(&self, mac: Mac) -> Option<(&Endpoint, PortId)> {
        let attached = self.stations.get(&mac)?;
        Some((attached.endpoint.as_ref(), attached.port?))
    }

    /// The peer that has the address in its Pod ranges.
    pub(crate) fn peer_by_route(&self, address: IpAddr) -> Option<&Peer> {
        self.routes.get(address).map(Arc::as_ref)
    }

    /// The peer that tunnels from this underlay address.
    pub(crate) fn peer_by_tunnel(&self, address: IpAddr) -> Option<&Peer> {
        self.tunnels.get(&address).map(Arc::as_ref)
    }

    /// Who has the address, as far as this node answers for it.
    pub(crate) fn neighbor(&self, address: IpAddr) -> Option<Neighbor<'_>> {
        if let Some((endpoint, port)) = self.owner(address) {
            return Some(Neighbor::Endpoint(endpoint, port));
        }
        if self.is_gateway_address(address) {
            return self.gateway().map(|gateway| Neighbor::Gateway(gateway.mac));
        }
        self.peer_gateways.get(&address).map(|peer| Neighbor::PeerGateway(peer))
    }

    /// Endpoints with an open port.
    pub(crate) fn bound(&self) -> impl Iterator<Item = (&Endpoint, &Port)> {
        self.senders.iter().filter_map(|(port, attached)| {
            Some((attached.endpoint.as_ref(), self.ports.get(port)?.as_ref()))
        })
    }

    pub(crate) fn open_ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().map(|(_, port)| port.as_ref())
    }

    pub(crate) fn known_peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().map(|(_, peer)| peer.as_ref())
    }

    /// Every address this node answers for, of one family.
    pub(crate) fn neighbors(&self, v4: bool) -> impl Iterator<Item = (IpAddr, Neighbor<'_>)> {
        let local = self.bound().flat_map(|(endpoint, _)| endpoint.addresses.iter().copied());
        let gateway = self.node.iter().flat_map(|node| node.gateway_addresses.iter().copied());
        let peers = self.peer_gateways.iter().map(|(address, _)| *address);
        let all = local.chain(gateway).chain(peers).filter(move |address| address.is_ipv4() == v4);
        all.filter_map(|address| Some((address, self.neighbor(address)?)))
    }
}
