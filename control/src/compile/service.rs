//! Services and their EndpointSlices become what clients reach and where they end up.
//!
//! Each port of a Service is one object of the datapath. Headless Services have no address, so
//! there is nothing to install for them. A Service that no EndpointSlice belongs to (manifests
//! without a controller that would write one) gets as endpoints the Pods that it selects.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use seine_datapath_api::v1;

use super::group::selector_of;
use super::inhabitants::inhabitants;
use super::source::{NamedPort, word};
use super::{Attached, Compiled};
use crate::model::{
    Cluster, EndpointPort, EndpointSlice, ObjectName, Pod, Port, Protocol, Service, ServicePort,
};

/// Kubernetes' own limit: a day.
const AFFINITY_SECONDS_MAX: u32 = 86_400;

/// The Services of one node.
pub fn services(cluster: &Cluster, node: &str) -> Compiled {
    let attached = Attached::default();
    let pods = inhabitants(cluster, node, &attached);
    services_with(cluster, &pods, node, &Offers::of(cluster))
}

pub(super) fn services_with(
    cluster: &Cluster,
    pods: &[Cow<'_, Pod>],
    node: &str,
    offers: &Offers<'_>,
) -> Compiled {
    let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in cluster.endpoint_slices.values() {
        let service = (slice.name.namespace.as_str(), slice.service.as_str());
        slices.entry(service).or_default().push(slice);
    }
    let mut follow_pods = false;
    let objects = offers.offers.iter().map(|offer| {
        let name = &offer.service.name;
        let found = match slices.get(&(name.namespace.as_str(), name.name.as_str())) {
            Some(slices) => from_slices(slices, offer.port, node),
            None => {
                follow_pods = true;
                from_pods(pods, offer, node)
            }
        };
        v1::Object { kind: Some(v1::object::Kind::Service(offer.object(choose(&found)))) }
    });
    let objects = objects.collect();
    Compiled { objects, refused: offers.refused.clone(), follow_pods, ..Compiled::default() }
}

/// What Services offer, as far as it is valid: one entry for each of their ports.
pub(super) struct Offers<'a> {
    offers: Vec<Offer<'a>>,
    refused: Vec<String>,
    /// The entries of each Service: the first and the one behind the last.
    of_service: HashMap<&'a ObjectName, std::ops::Range<usize>>,
}

struct Offer<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    name: String,
}

/// Where something is reached: no two Services can both be there.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    Address(IpAddr, Protocol, u16),
    NodePort(Protocol, u16),
}

impl<'a> Offers<'a> {
    /// Those of all Services of the cluster that have addresses. Of two that want the same address
    /// and port the one whose name comes first has it.
    pub(super) fn of(cluster: &'a Cluster) -> Self {
        let mut offers =
            Self { offers: Vec::new(), refused: Vec::new(), of_service: HashMap::new() };
        let mut taken = HashSet::new();
        for service in cluster.services.values() {
            if service.cluster_addresses.is_empty() {
                continue;
            }
            let first = offers.offers.len();
            for port in &service.ports {
                let name = format!("{}:{}", service.name, port.name);
                match check(service, port, &mut taken) {
                    Ok(()) => offers.offers.push(Offer { service, port, name }),
                    Err(reason) => offers.refused.push(format!("Service {name}: {reason}")),
                }
            }
            offers.of_service.insert(&service.name, first..offers.offers.len());
        }
        offers
    }

    /// The names of all ports of a Service, as the datapath knows them.
    pub(super) fn ports_of(&self, service: &ObjectName) -> impl Iterator<Item = String> {
        self.entries(service).map(|offer| offer.name.clone())
    }

    /// Those of them that are reached at Nodes.
    pub(super) fn node_ports_of(&self, service: &ObjectName) -> impl Iterator<Item = String> {
        let entries = self.entries(service).filter(|offer| offer.port.node_port.is_some());
        entries.map(|offer| offer.name.clone())
    }

    fn entries(&self, service: &ObjectName) -> impl Iterator<Item = &Offer<'a>> {
        let range = self.of_service.get(service).cloned().unwrap_or_default();
        self.offers.get(range).into_iter().flatten()
    }
}

/// Why a port of a Service is not installed.
fn check(service: &Service, port: &ServicePort, taken: &mut HashSet<Place>) -> Result<(), String> {
    if !matches!(port.protocol, Protocol::Tcp | Protocol::Udp | Protocol::Sctp) {
        return Err(format!("protocol: {} has no ports", word(port.protocol)));
    }
    if port.port == 0 || port.node_port == Some(0) {
        return Err("port: 0 is none".to_owned());
    }
    if let Some(seconds) = service.affinity_seconds
        && !(1..=AFFINITY_SECONDS_MAX).contains(&seconds)
    {
        return Err(format!(
            "sessionAffinityConfig: {seconds} s are not within 1 and {AFFINITY_SECONDS_MAX}"
        ));
    }
    let addresses = &service.cluster_addresses;
    let of_v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    if of_v4 > 1 || addresses.len() - of_v4 > 1 {
        return Err("clusterIPs: at most one of each family".to_owned());
    }
    let addresses = addresses.iter().chain(&service.external_addresses);
    let places = addresses.map(|address| Place::Address(*address, port.protocol, port.port));
    let node_port = port.node_port.map(|number| Place::NodePort(port.protocol, number));
    let places: Vec<Place> = places.chain(node_port).collect();
    if let Some(place) = places.iter().find(|place| taken.contains(*place)) {
        let place = match place {
            Place::Address(address, protocol, port) => {
                format!("{} port {port} at {address}", word(*protocol))
            }
            Place::NodePort(protocol, port) => format!("{} nodePort {port}", word(*protocol)),
        };
        return Err(format!("{place} is another Service's"));
    }
    taken.extend(places);
    Ok(())
}

/// An endpoint as its slice describes it.
struct Found {
    address: IpAddr,
    port: u16,
    is_local: bool,
    is_ready: bool,
    /// About to end, but still answering: good enough where there is nobody else.
    is_last_resort: bool,
}

fn from_slices(slices: &[&EndpointSlice], port: &ServicePort, node: &str) -> Vec<Found> {
    let is_wanted =
        |offered: &&EndpointPort| offered.name == port.name && offered.protocol == port.protocol;
    let mut found = Vec::new();
    for slice in slices {
        for offered in slice.ports.iter().filter(is_wanted) {
            for endpoint in &slice.endpoints {
                found.extend(endpoint.addresses.iter().map(|address| Found {
                    address: *address,
                    port: offered.port,
                    is_local: endpoint.node.as_deref() == Some(node),
                    is_ready: endpoint.ready,
                    is_last_resort: endpoint.serving && endpoint.terminating,
                }));
            }
        }
    }
    found
}

fn from_pods(pods: &[Cow<'_, Pod>], offer: &Offer<'_>, node: &str) -> Vec<Found> {
    let Some(selector) = selector_of(offer.service) else {
        return Vec::new();
    };
    let namespace = &offer.service.name.namespace;
    let first = pods.partition_point(|pod| pod.name.namespace < *namespace);
    let pods = pods.iter().skip(first).take_while(|pod| pod.name.namespace == *namespace);
    let mut found = Vec::new();
    for pod in pods.filter(|pod| selector.matches(&pod.labels)) {
        let number = match &offer.port.target {
            Port::Range(0, _) => Some(offer.port.port),
            Port::Range(number, _) => Some(*number),
            Port::Named(name) => {
                let port = NamedPort { name: name.clone(), protocol: Some(offer.port.protocol) };
                port.numbers(pod).next().map(|(_, number)| number)
            }
        };
        let Some(port) = number else {
            continue;
        };
        found.extend(pod.addresses.iter().map(|address| Found {
            address: *address,
            port,
            is_local: pod.node.as_deref() == Some(node),
            is_ready: true,
            is_last_resort: false,
        }));
    }
    found
}

/// Who gets new connections, as Kubernetes' proxies choose, for each family by itself: those that
/// are ready; where none is, those that still answer. Once among all, once among those of the node.
fn choose(found: &[Found]) -> Vec<v1::ServiceEndpoint> {
    let mut chosen: BTreeMap<(IpAddr, u16), (bool, bool)> = BTreeMap::new();
    for is_ipv4 in [true, false] {
        let of_family: Vec<&Found> =
            found.iter().filter(|found| found.address.is_ipv4() == is_ipv4).collect();
        for only_local in [false, true] {
            let scope = || of_family.iter().filter(|found| found.is_local || !only_local);
            let any_ready = scope().any(|found| found.is_ready);
            let takes = |found: &Found| match any_ready {
                true => found.is_ready,
                false => found.is_last_resort,
            };
            for found in scope().filter(|found| takes(found)) {
                let flags = chosen.entry((found.address, found.port)).or_default();
                match only_local {
                    true => flags.1 = true,
                    false => flags.0 = true,
                }
            }
        }
    }
    let endpoint = |((address, port), (cluster, local)): ((IpAddr, u16), (bool, bool))| {
        v1::ServiceEndpoint { address: address.to_string(), port: port.into(), cluster, local }
    };
    chosen.into_iter().map(endpoint).collect()
}

impl Offer<'_> {
    fn object(&self, endpoints: Vec<v1::ServiceEndpoint>) -> v1::Service {
        let Offer { service, port, name } = self;
        let mut external: Vec<String> =
            service.external_addresses.iter().map(IpAddr::to_string).collect();
        external.sort_unstable();
        external.dedup();
        let mut source_ranges: Vec<String> =
            service.source_ranges.iter().map(IpNet::to_string).collect();
        source_ranges.sort_unstable();
        source_ranges.dedup();
        let mut restricted: Vec<String> = match source_ranges.is_empty() {
            true => Vec::new(),
            false => service.load_balancer_addresses.iter().map(IpAddr::to_string).collect(),
        };
        restricted.sort_unstable();
        restricted.dedup();
        v1::Service {
            name: name.clone(),
            protocol: port.protocol.number().into(),
            cluster_addresses: service.cluster_addresses.iter().map(IpAddr::to_string).collect(),
            external_addresses: external,
            port: port.port.into(),
            node_port: port.node_port.unwrap_or_default().into(),
            affinity_seconds: service.affinity_seconds.unwrap_or_default(),
            internal_local: service.internal_local,
            external_local: service.external_local,
            endpoints,
            restricted_addresses: restricted,
            source_ranges,
        }
    }
}

#[cfg(test)]
mod tests;
