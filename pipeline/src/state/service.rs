//! Services: addresses that stand for endpoints.

use std::net::IpAddr;

/// One port of a Service: Antrea's ServicePortName.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// "namespace/name:port".
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Addresses at which clients of the cluster reach it.
    pub cluster_addresses: Vec<IpAddr>,
    /// Load balancer and external addresses.
    pub external_addresses: Vec<IpAddr>,
    /// The port at both kinds of address.
    pub port: u16,
    /// The port at the node's addresses; 0: none.
    pub node_port: u16,
    /// How long a client stays with an endpoint; 0: no affinity.
    pub affinity_seconds: u32,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Of both families.
    pub endpoints: Vec<ServiceEndpoint>,
}

/// Where a Service's traffic may go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether the policy Cluster chooses from it.
    pub cluster: bool,
    /// Whether it is on this node and the policy Local chooses from it.
    pub local: bool,
}
