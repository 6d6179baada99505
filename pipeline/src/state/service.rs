//! Services: addresses that stand for endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::check::{is_host, refuse};
use super::{Kind, Refusal};
use crate::limits::{SERVICE_ENDPOINTS_MAX, SOURCE_RANGES_MAX};
use crate::wire::{sctp, tcp, udp};

/// A day: what Kubernetes allows `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS_MAX: u32 = 86_400;

/// In whose name the node speaks to an endpoint where the answer would not come back otherwise
/// (Antrea's virtual Service IP).
pub(crate) const VIRTUAL_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 253)),
    IpAddr::V6(Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeeff)),
];

/// Where the node's kernel sends what came to a NodePort (Antrea's virtual NodePort DNAT IP).
pub(crate) const VIRTUAL_NODE_PORT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 252)),
    IpAddr::V6(Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeefe)),
];

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
    /// Those of the external addresses at which only clients of some ranges are served.
    pub restricted_addresses: Vec<IpAddr>,
    /// Where clients of those have to be.
    pub source_ranges: Vec<IpNet>,
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

impl Service {
    /// What must hold of it alone.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Service, &self.name, field, reason);
        if !matches!(self.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL) {
            return refuse("protocol", format!("{} is not TCP, UDP or SCTP", self.protocol));
        }
        if self.port == 0 {
            return refuse("port", "0 is no port".to_owned());
        }
        if self.affinity_seconds > AFFINITY_SECONDS_MAX {
            let reason = format!("{} is more than {AFFINITY_SECONDS_MAX}", self.affinity_seconds);
            return refuse("affinity_seconds", reason);
        }
        let of_v4 = self.cluster_addresses.iter().filter(|it| it.is_ipv4()).count();
        if of_v4 > 1 || self.cluster_addresses.len() - of_v4 > 1 {
            let reason = "there is more than one of a family".to_owned();
            return refuse("cluster_addresses", reason);
        }
        self.check_addresses()?;
        self.check_sources()?;
        if self.endpoints.len() > SERVICE_ENDPOINTS_MAX {
            let reason = format!("there are more than {SERVICE_ENDPOINTS_MAX}");
            return refuse("endpoints", reason);
        }
        for ServiceEndpoint { address, port, .. } in &self.endpoints {
            let reason = if *port == 0 {
                format!("{address} has port 0, which is none")
            } else if !is_host(*address) {
                format!("{address} is not an address that an endpoint can have")
            } else {
                continue;
            };
            return refuse("endpoints", reason);
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Service, &self.name, field, reason);
        let mut addresses = self.addresses().peekable();
        if addresses.peek().is_none() && self.node_port == 0 {
            return refuse("cluster_addresses", "nobody can reach it by any address".to_owned());
        }
        for (count, (field, address)) in addresses.enumerate() {
            let reason = if self.addresses().take(count).any(|(_, other)| other == address) {
                format!("{address} is there twice")
            } else if !is_host(address)
                || VIRTUAL_SERVICE.contains(&address)
                || VIRTUAL_NODE_PORT.contains(&address)
            {
                format!("{address} is not an address that a Service can have")
            } else {
                continue;
            };
            return refuse(field, reason);
        }
        Ok(())
    }

    fn check_sources(&self) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Service, &self.name, field, reason);
        let external = |address: &&IpAddr| !self.external_addresses.contains(address);
        if let Some(address) = self.restricted_addresses.iter().find(external) {
            let reason = format!("{address} is none of its external addresses");
            return refuse("restricted_addresses", reason);
        }
        if let Some(range) = self.source_ranges.iter().find(|range| range.trunc() != **range) {
            let reason = format!("{range} has bits set behind its length");
            return refuse("source_ranges", reason);
        }
        if self.source_ranges.len() > SOURCE_RANGES_MAX {
            return refuse("source_ranges", format!("there are more than {SOURCE_RANGES_MAX}"));
        }
        Ok(())
    }

    /// Whether a client may come by one of its addresses.
    pub(crate) fn serves(&self, client: IpAddr, address: IpAddr) -> bool {
        !self.restricted_addresses.contains(&address)
            || self.source_ranges.iter().any(|range| range.contains(&client))
    }

    /// Its addresses of both kinds, each with its field.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&'static str, IpAddr)> {
        let cluster = self.cluster_addresses.iter().map(|address| ("cluster_addresses", *address));
        cluster.chain(self.external_addresses.iter().map(|it| ("external_addresses", *it)))
    }
}
