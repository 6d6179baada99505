//! The model becomes objects of the datapath. Pure, one file a feature.

mod address_range;
mod difference;
mod group;
mod network_policy;
mod node;
mod pod_connectivity;
mod population;
mod rank;
mod rule;
mod service;
mod source;
#[cfg(test)]
mod testbed;
mod traffic;

use std::collections::BTreeMap;
use std::rc::Rc;

use seine_datapath_api::v1;

use crate::model::{Cluster, PodName};
pub use difference::{Changes, Difference, ObjectKey, Objects, difference, identify, names};
pub use network_policy::policies;
pub use node::{LocalNode, NodeError, NodeNetwork, PeerNode, Underlay, node_network};
pub use pod_connectivity::endpoint;
pub use service::services;

/// Objects of the datapath, and what could not become one.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// In no order that means anything.
    pub objects: Vec<v1::Object>,
    /// What is left out, and why, in sentences.
    pub refused: Vec<String>,
    /// By Pod of this node: the groups that it belongs to, whether or not it has an address yet.
    pub memberships: BTreeMap<PodName, Vec<Rc<str>>>,
}

/// The groups, rules and Services of one node.
pub fn tables(cluster: &Cluster, node: &str) -> Compiled {
    let offers = service::Offers::of(cluster);
    let mut compiled = network_policy::policies_with(cluster, node, &offers);
    let services = service::services_with(cluster, node, &offers);
    compiled.objects.extend(services.objects);
    compiled.refused.extend(services.refused);
    compiled
}
