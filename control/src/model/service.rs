//! Services and the endpoints behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Protocol;

/// Names an object within a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// What it selects Pods by; empty where its endpoints are written by somebody else.
    pub selector: BTreeMap<String, String>,
    /// Its cluster addresses; empty for a headless one.
    pub cluster_addresses: Vec<IpAddr>,
    /// `externalIPs` and the addresses of load balancers.
    pub external_addresses: Vec<IpAddr>,
    /// Those of them that are a load balancer's.
    pub load_balancer_addresses: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`: who is served there; empty: anybody.
    pub source_ranges: Vec<IpNet>,
    /// What it offers.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// May be empty where it is the only one.
    pub name: String,
    /// Of which protocol.
    pub protocol: Protocol,
    /// At the Service's addresses.
    pub port: u16,
    /// At the nodes' addresses.
    pub node_port: Option<u16>,
    /// `targetPort`, for who has no EndpointSlices to look into.
    pub target: super::Port,
}

/// Some of the endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service, in the same namespace, that it belongs to.
    pub service: String,
    /// Name, protocol and number of each port that the endpoints offer.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port that endpoints offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// That of the Service's port.
    pub name: String,
    /// Of which protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses, all of them alike.
    pub addresses: Vec<IpAddr>,
    /// Where it runs.
    pub node: Option<String>,
    /// It takes new connections.
    pub ready: bool,
    /// It answers, ready or terminating.
    pub serving: bool,
    /// It is about to end.
    pub terminating: bool,
}
