//! Services as installed: found by address and port, by node port, by name and by number.
//!
//! A Service keeps its number as long as it is installed, however often it changes. For each family
//! it has up to two lists to choose an endpoint from, that of the policy Cluster and that of the
//! policy Local, each made only if its policies can ask for it.

use std::net::IpAddr;
use std::sync::Arc;

use super::check::{self, refuse};
use super::service::Service;
use super::{Kind, Node, Refusal};
use crate::connection::ServiceId;
use crate::limits::SERVICES_MAX;
use crate::table::{Exact, Maglev};

/// Every Service, and what packets ask of them.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    services: Exact<Arc<str>, Arc<InstalledService>>,
    by_address: Exact<Place, Arc<InstalledService>>,
    /// By protocol and port.
    by_node_port: Exact<(u8, u16), Arc<InstalledService>>,
    /// How many Services share an address.
    addresses: Exact<IpAddr, u32>,
    slots: Exact<u16, Slot>,
    /// The slot that was freed last.
    free: Option<u16>,
    /// How many have affinity.
    with_affinity: usize,
}

/// Where a Service is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Place {
    address: IpAddr,
    protocol: u8,
    port: u16,
}

/// A number that Services have one after the other.
#[derive(Clone, Debug)]
struct Slot {
    /// Rises with each.
    generation: u16,
    has: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Service(Arc<InstalledService>),
    /// The slot that was freed before.
    Free(Option<u16>),
}

/// A Service with its number and what is chosen from.
#[derive(Debug)]
pub(crate) struct InstalledService {
    pub(crate) id: ServiceId,
    pub(crate) service: Service,
    cluster: [EndpointList; 2],
    local: [EndpointList; 2],
}

/// An endpoint of a Service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointAddress {
    /// Where it is.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
}

/// "10.10.1.3:8080", "[fd00:10:1::3]:8080".
impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Endpoints of one family to choose from: sorted, each once.
#[derive(Debug, Default)]
pub(crate) struct EndpointList {
    endpoints: Box<[EndpointAddress]>,
    maglev: Option<Maglev>,
}

impl EndpointList {
    fn of(endpoints: impl Iterator<Item = EndpointAddress>) -> EndpointList {
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        EndpointList { maglev: Maglev::new(&endpoints), endpoints: endpoints.into() }
    }

    /// The endpoint for this hash, if there is any.
    pub(crate) fn choose(&self, hash: u64) -> Option<EndpointAddress> {
        let index = self.maglev.as_ref().map_or(0, |maglev| maglev.get(hash));
        self.endpoints.get(index).copied()
    }

    pub(crate) fn contains(&self, endpoint: &EndpointAddress) -> bool {
        self.endpoints.binary_search(endpoint).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }
}

impl InstalledService {
    fn new(id: ServiceId, service: Service) -> InstalledService {
        let external = !service.external_addresses.is_empty() || service.node_port != 0;
        // A client of this node reaches all by an external address.
        let asks_all = !service.internal_local || external;
        let asks_local = service.internal_local || service.external_local && external;
        let lists = |asked: bool, is_in: fn(&super::ServiceEndpoint) -> bool| {
            [true, false].map(|v4| {
                let endpoints = service.endpoints.iter();
                let listed =
                    endpoints.filter(|it| asked && it.address.is_ipv4() == v4 && is_in(it));
                let addresses =
                    listed.map(|it| EndpointAddress { address: it.address, port: it.port });
                EndpointList::of(addresses)
            })
        };
        let cluster = lists(asks_all, |endpoint| endpoint.cluster);
        let local = lists(asks_local, |endpoint| endpoint.local);
        InstalledService { id, service, cluster, local }
    }

    /// What the policy chooses from, in the family of `like`.
    pub(crate) fn list(&self, local: bool, like: IpAddr) -> &EndpointList {
        let [v4, v6] = if local { &self.local } else { &self.cluster };
        if like.is_ipv4() { v4 } else { v6 }
    }

    /// Whether the endpoint is any of the Service's.
    pub(crate) fn has_endpoint(&self, endpoint: EndpointAddress) -> bool {
        let mut endpoints = self.service.endpoints.iter();
        endpoints.any(|it| it.address == endpoint.address && it.port == endpoint.port)
    }

    fn places(&self) -> impl Iterator<Item = (&'static str, Place)> {
        let (protocol, port) = (self.service.protocol, self.service.port);
        let addresses = self.service.addresses();
        addresses.map(move |(field, address)| (field, Place { address, protocol, port }))
    }
}

impl Services {
    pub(super) fn new(seed: u64) -> Services {
        Services {
            services: Exact::new(seed),
            by_address: Exact::new(seed),
            by_node_port: Exact::new(seed),
            addresses: Exact::new(seed),
            slots: Exact::new(seed),
            free: None,
            with_affinity: 0,
        }
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name).map(|installed| &installed.service)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(name, _)| name.as_ref())
    }

    /// Takes a Service out. One that is `replaced` keeps its number for the next of its name.
    pub(super) fn remove(&mut self, name: &str, replaced: bool) {
        let Some(installed) = self.services.get(name).cloned() else { return };
        for (_, place) in installed.places() {
            self.by_address.remove(&place);
            if let Some(count) = self.addresses.remove(&place.address)
                && count > 1
            {
                self.addresses.insert(place.address, count - 1);
            }
        }
        let service = &installed.service;
        if service.node_port != 0 {
            self.by_node_port.remove(&(service.protocol, service.node_port));
        }
        self.with_affinity -= usize::from(service.affinity_seconds != 0);
        if !replaced {
            self.services.remove(name);
            let (number, generation) = split(installed.id);
            let has = Content::Free(self.free);
            self.slots.insert(number, Slot { generation, has });
            self.free = Some(number);
        }
    }

    pub(super) fn put(&mut self, service: &Service) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Service, &service.name, field, reason);
        let known = self.services.get(service.name.as_str()).map(|installed| installed.id);
        let Some(id) = known.or_else(|| self.fresh_id()) else {
            let reason = format!("there are {SERVICES_MAX} Services, the most there can be");
            return refuse("name", reason);
        };
        let installed = Arc::new(InstalledService::new(id, service.clone()));
        for (field, place) in installed.places() {
            if let Some(other) = self.by_address.insert(place, installed.clone()) {
                let Place { address, port, .. } = place;
                let name = &other.service.name;
                return refuse(field, format!("{address} port {port} is that of `{name}`"));
            }
            let count = self.addresses.get(&place.address).copied().unwrap_or(0);
            self.addresses.insert(place.address, count + 1);
        }
        if service.node_port != 0 {
            let key = (service.protocol, service.node_port);
            if let Some(other) = self.by_node_port.insert(key, installed.clone()) {
                let name = &other.service.name;
                return refuse("node_port", format!("{} is that of `{name}`", service.node_port));
            }
        }
        self.with_affinity += usize::from(service.affinity_seconds != 0);
        let (number, generation) = split(id);
        self.slots.insert(number, Slot { generation, has: Content::Service(installed.clone()) });
        self.services.insert(service.name.as_str().into(), installed);
        Ok(())
    }

    /// A number that no Service has, and none had lately.
    fn fresh_id(&mut self) -> Option<ServiceId> {
        if let Some(number) = self.free {
            let Slot { generation, has: Content::Free(next) } = self.slots.get(&number)? else {
                return None;
            };
            let generation = generation.wrapping_add(1);
            self.free = *next;
            return Some(join(number, generation));
        }
        // No slot is free, so as many are taken as there are.
        u16::try_from(self.slots.len()).ok().map(|number| join(number, 0))
    }

    pub(super) fn check_beside(&self, node: &Node) -> Result<(), Refusal> {
        let mut all: Vec<_> = self.services.iter().map(|(_, it)| &it.service).collect();
        all.sort_by_key(|service| &service.name);
        all.into_iter().try_for_each(|service| check::service_on_node(service, node))
    }
}

/// What the stages ask.
impl Services {
    /// The Service that is reached there.
    pub(crate) fn at(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&InstalledService> {
        self.by_address.get(&Place { address, protocol, port }).map(Arc::as_ref)
    }

    /// The Service that is reached by this port of a node.
    pub(crate) fn at_node_port(&self, protocol: u8, port: u16) -> Option<&InstalledService> {
        self.by_node_port.get(&(protocol, port)).map(Arc::as_ref)
    }

    /// Whether it is an address of any Service.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some()
    }

    /// How many Services have affinity.
    pub(crate) fn with_affinity(&self) -> usize {
        self.with_affinity
    }

    /// How many pairs of address and port, and node ports, Services are reached by.
    pub(crate) fn places_len(&self) -> usize {
        self.by_address.len() + self.by_node_port.len()
    }

    /// The Service that has this number.
    pub(crate) fn by_id(&self, id: ServiceId) -> Option<&InstalledService> {
        let (number, generation) = split(id);
        match self.slots.get(&number)? {
            Slot { generation: now, has: Content::Service(it) } if *now == generation => Some(it),
            _ => None,
        }
    }

    /// The Service of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<InstalledService>> {
        self.services.get(name)
    }

    /// Those that `other` does not have alike, and few more.
    pub(super) fn differing<'a>(
        &'a self,
        other: &'a Services,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<InstalledService>)> {
        let differing = self.services.differing(&other.services);
        differing.map(|(name, installed)| (name.as_ref(), installed))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InstalledService> {
        self.services.iter().map(|(_, installed)| installed.as_ref())
    }
}

/// A number: its slot below, how often that was used before above.
const fn join(number: u16, generation: u16) -> ServiceId {
    ServiceId((generation as u32) << 16 | number as u32)
}

const fn split(id: ServiceId) -> (u16, u16) {
    // Each half has sixteen bits.
    (id.0 as u16, (id.0 >> 16) as u16)
}
