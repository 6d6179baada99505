//! The desired cluster in our own words. Pure: no I/O, and no Kubernetes types, which only
//! [`crate::watch`] sees.

mod mac;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use mac::{Mac, MacError};

/// Everything the agent knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<PodName, Pod>,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The ranges its Pods get their addresses from, at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Its addresses on the underlay, in the order Kubernetes gives them.
    pub internal_addresses: Vec<IpAddr>,
}

/// A namespace of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
}

/// Names a Pod.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Pod of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// The Node it runs on, once it is scheduled.
    pub node: Option<String>,
    /// It uses the node's own network, so Seine has nothing to attach.
    pub host_network: bool,
}
