//! Groups of the datapath: what selectors, blocks and names stand for, as sets of addresses.
//!
//! A group is named after what it is made of, so rules that select the same share one, whichever
//! policies they belong to, and a group keeps its name while its members come and go.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use seine_datapath_api::v1;

use super::address_range::without_exceptions;
use super::population::{PodIndex, Population};
use super::source::{NamedPort, Namespaces, Source};
use crate::ipam::gateway_of;
use crate::model::{Group, LabelSelector, ObjectName, Operator, PodName, Requirement, Service};

/// What ClusterGroups may be nested: one that names others.
const NESTING_MAX: u32 = 1;

/// Who belongs to a source.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// In order, each once.
    pub(super) pods: Vec<PodIndex>,
    ranges: Vec<IpNet>,
    names: Vec<String>,
}

/// A group that some rule names, or may come to name.
pub(super) struct Known {
    /// As the datapath knows it.
    pub(super) name: Rc<str>,
    pub(super) members: Rc<Members>,
    /// Whether one of its Pods runs on this node.
    pub(super) has_local_pods: bool,
}

/// All groups that were asked for so far.
pub(super) struct Groups<'a> {
    pub(super) population: &'a Population<'a>,
    known: HashMap<Source, Rc<Known>>,
    /// Those that rules name, in the order in which they were first named.
    named: Vec<Rc<Known>>,
    by_name: HashMap<Rc<str>, bool>,
}

impl<'a> Groups<'a> {
    /// None yet.
    pub(super) fn new(population: &'a Population<'a>) -> Self {
        Self { population, known: HashMap::new(), named: Vec::new(), by_name: HashMap::new() }
    }

    /// The group of a source, without an object of the datapath for it.
    pub(super) fn look_up(&mut self, source: &Source) -> Rc<Known> {
        if let Some(known) = self.known.get(source) {
            return known.clone();
        }
        let members = self.members(source);
        let has_local_pods =
            members.pods.iter().any(|i| self.population.is_local(self.population.pod(*i)));
        let mut name = source.name();
        // Two sources of one name: the texts were made to look alike, or the hashes are.
        while self.by_name.contains_key(name.as_str()) {
            name.push('~');
        }
        let name: Rc<str> = name.into();
        self.by_name.insert(name.clone(), false);
        let known = Rc::new(Known { name, members: Rc::new(members), has_local_pods });
        self.known.insert(source.clone(), known.clone());
        known
    }

    /// The name of a group, which a rule is going to name.
    pub(super) fn name(&mut self, source: &Source) -> String {
        let known = self.look_up(source);
        let is_named = self.by_name.entry(known.name.clone()).or_default();
        if !std::mem::replace(is_named, true) {
            self.named.push(known.clone());
        }
        known.name.to_string()
    }

    /// Those that rules name.
    pub(super) fn into_named(self) -> Vec<Rc<Known>> {
        self.named
    }

    fn members(&mut self, source: &Source) -> Members {
        let population = self.population;
        match source {
            Source::Pods { namespaces: Namespaces::Named(name), pods } => {
                Members::of_pods(population.in_namespace(name, pods))
            }
            Source::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
                Members::of_pods(population.in_matching(namespaces, pods))
            }
            Source::ServiceAccount { namespace, name } => {
                let mut pods = population.in_namespace(namespace, &LabelSelector::default());
                pods.retain(|index| population.pod(*index).service_account == *name);
                Members::of_pods(pods)
            }
            Source::Nodes(labels) => {
                Members { ranges: node_ranges(population, labels), ..Members::default() }
            }
            Source::Blocks(blocks) => {
                let ranges = blocks.iter().flat_map(without_exceptions).collect();
                Members { ranges, ..Members::default() }
            }
            Source::Names(names) => Members { names: names.clone(), ..Members::default() },
            Source::Group { name, pods_only } => {
                let mut members = Members::default();
                if let Some(group) = population.cluster.groups.get(name) {
                    self.collect(group, *pods_only, NESTING_MAX, &mut members);
                }
                members.pods.sort_unstable();
                members.pods.dedup();
                members
            }
            Source::Within { source, namespace } => {
                let mut pods = self.look_up(source).members.pods.clone();
                pods.retain(|index| population.pod(*index).name.namespace == *namespace);
                Members::of_pods(pods)
            }
            Source::Serving { source, port, protocol, number } => {
                let mut pods = self.pods_at(source);
                let port = NamedPort { name: port.clone(), protocol: Some(*protocol) };
                pods.retain(|i| port.numbers(population.pod(*i)).any(|(_, n)| n == *number));
                Members::of_pods(pods)
            }
        }
    }

    /// The Pods of a source; also those that have an address within its ranges.
    pub(super) fn pods_at(&mut self, source: &Source) -> Vec<PodIndex> {
        let members = self.look_up(source).members.clone();
        let mut pods = members.pods.clone();
        if !members.ranges.is_empty() {
            let is_within = |address| members.ranges.iter().any(|range| range.contains(address));
            let found =
                self.population.pods().filter(|(_, pod)| pod.addresses.iter().any(is_within));
            pods.extend(found.map(|(index, _)| index));
            pods.sort_unstable();
            pods.dedup();
        }
        pods
    }

    fn collect(&mut self, group: &Group, pods_only: bool, nesting: u32, members: &mut Members) {
        let population = self.population;
        if let Some(source) = group.pods.as_ref().and_then(Source::pods) {
            members.pods.extend_from_slice(&self.look_up(&source).members.pods);
        }
        if let Some((namespace, name)) = &group.service {
            let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
            let selector = population.cluster.services.get(&name).and_then(selector_of);
            if let Some(selector) = selector {
                members.pods.extend(population.in_namespace(namespace, &selector));
            }
        }
        if !pods_only {
            members.ranges.extend(group.ip_blocks.iter().flat_map(without_exceptions));
            if let Some(labels) = &group.nodes {
                members.ranges.extend(node_ranges(population, labels));
            }
        }
        if nesting > 0 {
            for child in &group.child_groups {
                if let Some(child) = population.cluster.groups.get(child) {
                    self.collect(child, pods_only, nesting - 1, members);
                }
            }
        }
    }
}

/// The groups of each Pod of this node.
pub(super) fn memberships(
    population: &Population<'_>,
    groups: &[Rc<Known>],
) -> BTreeMap<PodName, Vec<Arc<str>>> {
    let local = population.pods().filter(|(_, pod)| population.is_local(pod));
    let mut memberships: BTreeMap<PodName, Vec<Arc<str>>> =
        local.map(|(_, pod)| (pod.name.clone(), Vec::new())).collect();
    for group in groups.iter().filter(|group| group.has_local_pods) {
        let name: Arc<str> = group.name.as_ref().into();
        for index in &group.members.pods {
            if let Some(groups) = memberships.get_mut(&population.pod(*index).name) {
                groups.push(name.clone());
            }
        }
    }
    memberships
}

impl Members {
    fn of_pods(pods: Vec<PodIndex>) -> Self {
        Self { pods, ..Self::default() }
    }
}

impl Known {
    /// As an object of the datapath.
    pub(super) fn object(&self, population: &Population<'_>) -> v1::Object {
        let pods = self.members.pods.iter().flat_map(|index| &population.pod(*index).addresses);
        let ranges = self.members.ranges.iter().map(|range| shown(*range));
        let mut members: Vec<String> = pods.map(IpAddr::to_string).chain(ranges).collect();
        members.sort_unstable();
        members.dedup();
        let group =
            v1::Group { name: self.name.to_string(), members, fqdns: self.members.names.clone() };
        v1::Object { kind: Some(v1::object::Kind::Group(group)) }
    }
}

/// One address without its prefix length, so that it is written in one way only.
fn shown(range: IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() {
        range.addr().to_string()
    } else {
        range.to_string()
    }
}

/// What a Service selects Pods by; `None` where somebody else writes its endpoints.
pub(super) fn selector_of(service: &Service) -> Option<LabelSelector> {
    let requirements: Vec<_> = service
        .selector
        .iter()
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        })
        .collect();
    (!requirements.is_empty()).then_some(LabelSelector { requirements })
}

/// All addresses that the Nodes speak from: their own, and those of their gateways, by which they
/// speak to Pods.
fn node_ranges(population: &Population<'_>, labels: &LabelSelector) -> Vec<IpNet> {
    let nodes = population.cluster.nodes.values().filter(|node| labels.matches(&node.labels));
    let addresses = nodes.flat_map(|node| {
        let gateways = node.pod_cidrs.iter().map(|range| gateway_of(*range));
        node.internal_addresses.iter().chain(&node.external_addresses).copied().chain(gateways)
    });
    addresses.map(IpNet::from).collect()
}
