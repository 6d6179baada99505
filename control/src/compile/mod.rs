//! The model becomes objects of the datapath. Pure, one file a feature.

mod address_range;
mod difference;
mod group;
mod inhabitants;
mod network_policy;
mod node;
mod pod_connectivity;
mod population;
mod rank;
mod rule;
#[cfg(test)]
mod scale_tests;
mod service;
mod source;
#[cfg(test)]
mod testbed;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use seine_datapath_api::v1;

use crate::model::{Cluster, PodName};
pub use difference::{Changes, Difference, ObjectKey, Objects, difference, identify, names};
pub use inhabitants::Attached;
pub use network_policy::policies;
pub use node::{LocalNode, NodeError, NodeNetwork, PeerNode, Underlay, node_network};
pub use pod_connectivity::{endpoint, loan, port};
pub use service::services;

/// Objects of the datapath, and what could not become one.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// In no order that means anything.
    pub objects: Vec<v1::Object>,
    /// What is left out, and why, in sentences.
    pub refused: Vec<String>,
    /// By Pod of this node: the groups that it belongs to, whether or not it has an address yet.
    pub memberships: BTreeMap<PodName, Vec<Arc<str>>>,
    /// Whether the endpoints of some Service are taken from Pods, for want of EndpointSlices.
    pub follow_pods: bool,
}

/// The groups, rules and Services of one node, as the cluster knows it.
pub fn tables(cluster: &Cluster, node: &str) -> Compiled {
    tables_with(cluster, node, &Attached::default())
}

/// The same for a node that knows what is attached to it.
pub fn tables_with(cluster: &Cluster, node: &str, attached: &Attached) -> Compiled {
    let offers = service::Offers::of(cluster);
    let pods = inhabitants::inhabitants(cluster, node, attached);
    let population = population::Population::new(cluster, &pods, node);
    let mut compiled = network_policy::policies_with(&population, &offers);
    let services = service::services_with(cluster, &pods, node, &offers);
    compiled.objects.extend(services.objects);
    compiled.refused.extend(services.refused);
    compiled.follow_pods = services.follow_pods;
    compiled
}
