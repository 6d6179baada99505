//! The desired cluster in our own words. Pure: no I/O, and no Kubernetes types, which only
//! [`crate::watch`] sees.

mod mac;
mod object;
mod policy;
mod port;
mod selector;
mod sender;
mod service;
mod vlan;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use mac::{Mac, MacError};
pub use object::{Object, ObjectKey};
pub use policy::{
    DEFAULT_TIER, Group, GroupName, IpBlock, NamespaceScope, Peer, PodSelector, Policy, PolicyKind,
    PolicyName, PolicyRule, Port, Protocol, RuleAction, STATIC_TIERS, Subject, Tier, TierOf,
    Traffic,
};
pub use port::{
    PORT_ANNOTATIONS, PortKind, PortLimits, PortRequest, PortRequestError, QUEUES_MAX, SocketMode,
};
pub use selector::{LabelSelector, Operator, Requirement};
pub use sender::{AllowedAddress, Permission, SenderPermit};
pub use service::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Service, ServicePort};
pub use vlan::{VlanError, VlanRange};

/// Everything the agent knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<PodName, Pod>,
    /// By namespace and name.
    pub services: BTreeMap<ObjectName, Service>,
    /// By namespace and name.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// By kind, namespace and name.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// Priorities of Antrea's tiers by name, beside those that are always there.
    pub tiers: BTreeMap<String, u32>,
    /// By namespace and name.
    pub groups: BTreeMap<GroupName, Group>,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The ranges its Pods get their addresses from, at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// Its addresses on the underlay, in the order Kubernetes gives them.
    pub internal_addresses: Vec<IpAddr>,
    /// Its other addresses (`ExternalIP`): policies that select the node mean these as well.
    pub external_addresses: Vec<IpAddr>,
}

/// A namespace of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes' own policies in it log what they decide (Antrea's annotation
    /// `networkpolicy.antrea.io/enable-logging`).
    pub log_policies: bool,
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
    /// Its addresses, as far as the cluster knows them.
    pub addresses: Vec<IpAddr>,
    /// The account it runs under.
    pub service_account: String,
    /// The ports that its containers declare.
    pub ports: Vec<ContainerPort>,
    /// What it asks of its port, see [`PortRequest`]: annotations without [`PORT_ANNOTATIONS`].
    pub port_annotations: BTreeMap<String, String>,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// May be empty.
    pub name: String,
    /// Of which protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}
