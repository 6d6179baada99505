//! How a transaction becomes the next State.
//!
//! First everything named is taken out, then everything to be installed is put in: so a name, an
//! address or a port can pass from one object to another within one transaction, in any order. An
//! Endpoint whose port opens or closes is taken out and put in again, although nobody named it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{self, refuse};
use super::encapsulations::Encapsulations;
use super::epochs::Touched;
use super::{
    Attached, Change, Endpoint, Holders, Hops, Kind, Node, Object, ObjectId, Peer, Port, Refusal,
    State, Trunks, policies,
};
use crate::address::PortKind;
use crate::limits::{ENDPOINTS_MAX, PEERS_MAX, TRUNKS_MAX};

/// What is to become of each object that the transaction names, in an order of its own.
type Named<'a> = BTreeMap<ObjectId, Option<&'a Object>>;

pub(super) fn apply(state: &State, changes: &[Change]) -> Result<State, Refusal> {
    let named = named(state, changes)?;
    let mut next = state.clone();
    next.revision += 1;
    let mut displaced = Vec::new();
    for (id, object) in &named {
        displaced.extend(next.take_out(id, object.is_some()));
    }
    let objects = || named.values().filter_map(|object| *object);
    // Ports before Endpoints: an Endpoint finds its port open when it is put in.
    for object in objects() {
        if let Object::Port(port) = object {
            next.put_port(port)?;
        }
    }
    for endpoint in displaced {
        next.put_endpoint(endpoint)?;
    }
    for object in objects() {
        match object {
            Object::Node(node) => next.put_node(node)?,
            Object::Peer(peer) => next.put_peer(Arc::new(peer.clone()))?,
            Object::Endpoint(endpoint) => next.put_endpoint(Arc::new(endpoint.clone()))?,
            Object::Port(_) => {}
            Object::Group(_) | Object::Rule(_) => {}
            Object::Service(service) => next.services.put(service)?,
        }
    }
    next.check_trunks(&named)?;
    let mut judged = next.policies.apply(&policy_changes(&named, changes))?;
    // Rules about a Pod mean the other addresses, too, that it may send from: those are not listed.
    judged.all |= judged
        .addresses
        .iter()
        .any(|address| state.has_more_addresses(*address) || next.has_more_addresses(*address));
    next.place_subjects(state);
    next.check_beside_node(&named)?;
    next.epochs.policy_changed(&judged);
    next.epochs.exist_as(next.node.as_ref().map(|node| node.existing_connections));
    next.epochs.forwarding_changed(&forwarded(&named, state, &next));
    if named.keys().any(|id| matches!(id.kind, Kind::Node | Kind::Port | Kind::Endpoint)) {
        next.hops = Hops::of(&next);
        next.trunks = Trunks::of(&next);
        next.holders = Holders::of(&next);
    }
    next.place_tunnels(state, &named);
    Ok(next)
}

impl State {
    /// Writes the headers of tunnels that are others than before.
    fn place_tunnels(&mut self, before: &State, named: &Named<'_>) {
        let ends = named.keys().any(|id| id.kind == Kind::Node) || self.uplink != before.uplink;
        if ends {
            self.encapsulations = Encapsulations::of(self);
            return;
        }
        let mut encapsulations = self.encapsulations.clone();
        for id in named.keys().filter(|id| id.kind == Kind::Peer) {
            let [old, new] = [before, self].map(|it| it.peers.get(id.name.as_str()));
            encapsulations.replace(old.map(Arc::as_ref), new.map(Arc::as_ref), self);
        }
        self.encapsulations = encapsulations;
    }
}

/// The changes by object; those that change nothing are left out.
fn named<'a>(state: &State, changes: &'a [Change]) -> Result<Named<'a>, Refusal> {
    let mut named = Named::new();
    for change in changes {
        let (id, object) = match change {
            Change::Upsert(object) => (object.id(), Some(object)),
            Change::Delete(id) => (id.clone(), None),
            Change::Members(_) => continue,
        };
        if let Some(object) = object {
            check::alone(object)?;
        }
        let (kind, name) = (id.kind, id.name.clone());
        if let Some(known) = named.insert(id, object)
            && known != object
        {
            return refuse(kind, &name, "name", "two changes of one transaction differ");
        }
    }
    named.retain(|id, object| state.object(id).as_ref() != *object);
    Ok(named)
}

/// Whose packets may go elsewhere, or no more: see `epochs`.
fn forwarded(named: &Named<'_>, before: &State, after: &State) -> Touched {
    let mut touched = Touched::default();
    for id in named.keys() {
        let name = id.name.as_str();
        for state in [before, after] {
            let attached = match id.kind {
                Kind::Endpoint => state.endpoints.get(name),
                Kind::Port => state.attachments.get(name),
                Kind::Node | Kind::Peer => {
                    touched.all = true;
                    None
                }
                Kind::Group | Kind::Rule | Kind::Service => None,
            };
            // Whom it may speak for is not listed, and need not be: permits are few.
            touched.all |= attached.is_some_and(|it| !it.endpoint.permit.is_empty());
            touched.addresses.extend(attached.iter().flat_map(|it| &it.endpoint.addresses));
            let port = state.port_names.get(name).filter(|_| id.kind == Kind::Port);
            touched.all |= port.is_some_and(|port| port.kind != PortKind::Pod);
        }
    }
    touched
}

/// What policies are made of, and whom they apply to.
fn policy_changes<'a>(named: &'a Named<'a>, changes: &'a [Change]) -> policies::Changes<'a> {
    let mut policies = policies::Changes::default();
    for (id, object) in named {
        let name = id.name.as_str();
        match (id.kind, object) {
            (Kind::Endpoint, Some(Object::Endpoint(it))) => {
                policies.endpoints.push((name, Some(it)))
            }
            (Kind::Group, Some(Object::Group(it))) => policies.groups.push((name, Some(it))),
            (Kind::Rule, Some(Object::Rule(it))) => policies.rules.push((name, Some(it))),
            (Kind::Endpoint, None) => policies.endpoints.push((name, None)),
            (Kind::Group, None) => policies.groups.push((name, None)),
            (Kind::Rule, None) => policies.rules.push((name, None)),
            _ => {}
        }
    }
    policies.members.extend(changes.iter().filter_map(|change| match change {
        Change::Members(delta) => Some(delta),
        Change::Upsert(_) | Change::Delete(_) => None,
    }));
    policies
}

impl State {
    /// Takes an object out, of which another of its name may take the place; with a port also the
    /// Endpoint attached to it, which is given back.
    fn take_out(&mut self, id: &ObjectId, replaced: bool) -> Option<Arc<Endpoint>> {
        let name = id.name.as_str();
        match id.kind {
            Kind::Node => {
                if self.node.as_ref().is_some_and(|node| node.name == name) {
                    self.node = None;
                }
            }
            Kind::Peer => {
                let peer = self.peers.remove(name)?;
                self.tunnels.remove(&peer.tunnel_address);
                for address in &peer.gateway_addresses {
                    self.peer_gateways.remove(address);
                }
                for range in &peer.pod_cidrs {
                    self.routes.remove(*range);
                }
            }
            Kind::Endpoint => {
                self.detach(name);
            }
            Kind::Port => {
                if let Some(port) = self.port_names.remove(name) {
                    self.ports.remove(port.id);
                    match port.kind {
                        PortKind::Gateway => self.gateway = None,
                        PortKind::Host => self.host = None,
                        PortKind::Uplink => self.uplink = None,
                        PortKind::Pod => {}
                    }
                }
                let attached = self.attachments.get(name)?.endpoint.name.clone();
                return self.detach(&attached);
            }
            Kind::Group | Kind::Rule => {}
            Kind::Service => self.services.remove(name, replaced),
        }
        None
    }

    fn detach(&mut self, name: &str) -> Option<Arc<Endpoint>> {
        let Attached { endpoint, port } = self.endpoints.remove(name)?;
        self.attachments.remove(endpoint.port.as_str());
        self.stations.remove(&endpoint.mac);
        for address in &endpoint.addresses {
            self.owners.remove(address);
        }
        if let Some(port) = port {
            self.senders.remove(port);
            self.subjects.remove(port);
        }
        Some(endpoint)
    }

    /// Puts the rules of Endpoints under their ports, where anything of it differs from before.
    fn place_subjects(&mut self, before: &State) {
        let changed = self.policies.differing(&before.policies).filter_map(|(name, subject)| {
            let port = self.endpoints.get(name)?.port?;
            Some((port, subject.clone()))
        });
        let opened = self.senders.differing(&before.senders).filter_map(|(port, attached)| {
            let subject = self.policies.of_endpoint(&attached.endpoint.name)?;
            Some((port, subject.clone()))
        });
        let placed: Vec<_> = changed.chain(opened).collect();
        for (port, subject) in placed {
            if self.subjects.get(port).is_none_or(|known| !Arc::ptr_eq(known, &subject)) {
                self.subjects.insert(port, subject);
            }
        }
    }

    fn put_node(&mut self, node: &Node) -> Result<(), Refusal> {
        if let Some(known) = &self.node {
            let reason = format!("this node is already called `{}`", known.name);
            return refuse(Kind::Node, &node.name, "name", reason);
        }
        self.node = Some(Arc::new(node.clone()));
        Ok(())
    }

    fn put_port(&mut self, port: &Port) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Port, &port.name, field, reason);
        if let Some(known) = self.ports.get(port.id) {
            return refuse("id", format!("{} is that of port `{}`", port.id, known.name));
        }
        let port = Arc::new(port.clone());
        let single = match port.kind {
            PortKind::Gateway => Some(&mut self.gateway),
            PortKind::Host => Some(&mut self.host),
            PortKind::Uplink => Some(&mut self.uplink),
            PortKind::Pod => None,
        };
        if let Some(single) = single {
            if let Some(known) = single {
                return refuse("kind", format!("port `{}` is already that", known.name));
            }
            *single = Some(port.clone());
        }
        self.ports.insert(port.id, port.clone());
        self.port_names.insert(port.name.as_str().into(), port);
        Ok(())
    }

    fn put_peer(&mut self, peer: Arc<Peer>) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Peer, &peer.name, field, reason);
        if self.peers.len() >= PEERS_MAX {
            return refuse("name", format!("there are {PEERS_MAX} peers, the most there can be"));
        }
        if let Some(known) = self.tunnels.get(&peer.tunnel_address) {
            let reason = format!("{} is that of peer `{}`", peer.tunnel_address, known.name);
            return refuse("tunnel_address", reason);
        }
        for range in &peer.pod_cidrs {
            if let Some(known) = self.routes.overlapping(*range) {
                let reason = format!("{range} overlaps a range of peer `{}`", known.name);
                return refuse("pod_cidrs", reason);
            }
        }
        for range in &peer.pod_cidrs {
            self.routes.insert(*range, peer.clone());
        }
        for address in &peer.gateway_addresses {
            self.peer_gateways.insert(*address, peer.clone());
        }
        self.tunnels.insert(peer.tunnel_address, peer.clone());
        self.peers.insert(peer.name.as_str().into(), peer);
        Ok(())
    }

    fn put_endpoint(&mut self, endpoint: Arc<Endpoint>) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Endpoint, &endpoint.name, field, reason);
        if self.endpoints.len() >= ENDPOINTS_MAX {
            let reason = format!("there are {ENDPOINTS_MAX} endpoints, the most there can be");
            return refuse("name", reason);
        }
        let belongs = |known: &Attached| format!("is that of endpoint `{}`", known.endpoint.name);
        if let Some(known) = self.attachments.get(endpoint.port.as_str()) {
            return refuse("port", format!("`{}` {}", endpoint.port, belongs(known)));
        }
        if let Some(known) = self.stations.get(&endpoint.mac) {
            return refuse("mac", format!("{} {}", endpoint.mac, belongs(known)));
        }
        for address in &endpoint.addresses {
            if let Some(known) = self.owners.get(address) {
                return refuse("addresses", format!("{address} {}", belongs(known)));
            }
        }
        let port = match self.port_names.get(endpoint.port.as_str()) {
            Some(port) if port.kind != PortKind::Pod => {
                return refuse("port", format!("`{}` is the node's own", endpoint.port));
            }
            port => port.map(|port| port.id),
        };
        let attached = Attached { endpoint: endpoint.clone(), port };
        if let Some(port) = port {
            self.senders.insert(port, attached.clone());
        }
        for address in &endpoint.addresses {
            self.owners.insert(*address, attached.clone());
        }
        self.stations.insert(endpoint.mac, attached.clone());
        self.attachments.insert(endpoint.port.as_str().into(), attached.clone());
        self.endpoints.insert(endpoint.name.as_str().into(), attached);
        Ok(())
    }

    /// What must hold of all Endpoints that may send tagged frames, open or not.
    fn check_trunks(&self, named: &Named<'_>) -> Result<(), Refusal> {
        let is_trunk = |endpoint: &Endpoint| !endpoint.permit.vlans.is_empty();
        let added = named.values().find_map(|object| match object {
            Some(Object::Endpoint(endpoint)) if is_trunk(endpoint) => Some(endpoint),
            _ => None,
        });
        let Some(added) = added else { return Ok(()) };
        let trunks = self.endpoints.iter().filter(|(_, it)| is_trunk(&it.endpoint)).count();
        if trunks > TRUNKS_MAX {
            let reason = format!("there are {TRUNKS_MAX} trunks, the most there can be");
            return refuse(Kind::Endpoint, &added.name, "vlans", reason);
        }
        Ok(())
    }

    /// What must hold between objects and the node: for those named, or for all when the Node is
    /// among them.
    fn check_beside_node(&self, named: &Named<'_>) -> Result<(), Refusal> {
        if let Some(gateway) = &self.gateway
            && let Some(known) = self.stations.get(&gateway.mac)
        {
            let reason = format!("{} is the gateway's", gateway.mac);
            return refuse(Kind::Endpoint, &known.endpoint.name, "mac", reason);
        }
        let Some(node) = &self.node else { return Ok(()) };
        if named.keys().any(|id| id.kind == Kind::Node) {
            let mut endpoints: Vec<_> =
                self.endpoints.iter().map(|(_, attached)| &attached.endpoint).collect();
            endpoints.sort_by_key(|endpoint| &endpoint.name);
            endpoints.into_iter().try_for_each(|it| check::endpoint_on_node(it, node))?;
            let mut peers: Vec<_> = self.peers.iter().map(|(_, peer)| peer).collect();
            peers.sort_by_key(|peer| &peer.name);
            peers.into_iter().try_for_each(|peer| check::peer_of_node(peer, node))?;
            return self.services.check_beside(node);
        }
        named.values().filter_map(|object| *object).try_for_each(|object| match object {
            Object::Endpoint(endpoint) => check::endpoint_on_node(endpoint, node),
            Object::Peer(peer) => check::peer_of_node(peer, node),
            Object::Service(service) => check::service_on_node(service, node),
            _ => Ok(()),
        })
    }
}
