//! What the node's kernel must know of Services, so that it hands their traffic to the pipeline.
//!
//! The kernel routes cluster and external addresses to `seine-gw0`, and what the node itself sends
//! to `seine-host0`; both by way of a virtual next hop that is a static neighbour. For NodePorts
//! it translates the node's address to a virtual one (see [`super::translation`]), for the node's
//! own address would never leave it. All else about Services happens in the pipeline.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::compile::NodeNetwork;
use crate::model::{Protocol, Service};

/// The next hop of Services, and the source of what the pipeline sends back to the node for an
/// endpoint outside of the Pod network (Antrea's virtual Service IP).
pub(super) fn virtual_service(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(169, 254, 0, 253).into(),
        true => Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeeff).into(),
    }
}

/// The next hop of what takes the host leg in IPv6. The kernel holds any other than a link-local
/// one against the main table, on-link or not, and finds the other leg there.
pub(super) const VIRTUAL_LINK_LOCAL: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeeff);

/// What NodePorts are translated to (Antrea's virtual NodePort IP).
pub(super) fn virtual_node_port(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(169, 254, 0, 252).into(),
        true => Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeefe).into(),
    }
}

/// Where Services are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Ranges and single addresses to be routed to the pipeline.
    pub destinations: BTreeSet<IpNet>,
    /// IP protocol and number of each NodePort.
    pub node_ports: BTreeSet<(u8, u16)>,
    /// The node's own addresses, at which NodePorts are reached.
    pub node_addresses: Vec<IpAddr>,
}

impl ServicePlan {
    /// What follows from the Services of the cluster. `ranges` are routed whole as soon as a
    /// Service has an address in them.
    ///
    /// Addresses of nodes, Pods and gateways are never taken away from their owners, whatever a
    /// Service claims as its external address.
    pub fn new<'a>(
        services: impl Iterator<Item = &'a Service>,
        ranges: &[IpNet],
        network: &NodeNetwork,
    ) -> Self {
        let node_addresses = network.local.node_port_addresses.clone();
        let mut plan = Self { node_addresses, ..Self::default() };
        for service in services.filter(|service| !service.cluster_addresses.is_empty()) {
            for address in &service.cluster_addresses {
                let range = ranges.iter().find(|range| range.contains(address)).copied();
                plan.route(*address, range.unwrap_or(IpNet::from(*address)), network);
            }
            for address in &service.external_addresses {
                plan.route(*address, IpNet::from(*address), network);
            }
            plan.node_ports.extend(service.ports.iter().filter_map(|port| {
                let number = match port.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    Protocol::Sctp => 132,
                    Protocol::Icmp | Protocol::Igmp => return None,
                };
                Some((number, port.node_port?))
            }));
        }
        plan
    }

    fn route(&mut self, address: IpAddr, range: IpNet, network: &NodeNetwork) {
        let local = &network.local;
        let taken = local.addresses.contains(&address)
            || local.pod_cidrs.iter().any(|range| range.contains(&address))
            || network.peers.iter().any(|peer| {
                peer.addresses.contains(&address)
                    || peer.pod_cidrs.iter().any(|range| range.contains(&address))
            });
        if !taken && routable(address) {
            self.destinations.insert(range);
        }
    }

    /// Whether there is anything for the kernel to know.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.node_ports.is_empty()
    }

    /// The node's addresses of one family, but for loopback ones.
    pub(super) fn node_addresses(&self, v6: bool) -> Vec<String> {
        let listed = self.node_addresses.iter();
        let listed = listed.filter(|it| it.is_ipv6() == v6 && !it.is_loopback());
        listed.map(ToString::to_string).collect()
    }
}

/// Whether a route to it can do no harm.
fn routable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::collections::BTreeMap;

    use super::*;
    use crate::compile::{LocalNode, PeerNode};
    use crate::model::{ObjectName, Port, ServicePort};

    fn network() -> NodeNetwork {
        let local = LocalNode {
            name: "a".into(),
            pod_cidrs: vec!["10.10.1.0/24".parse().unwrap()],
            gateway_addresses: vec!["10.10.1.1".parse().unwrap()],
            tunnel_address: "192.0.2.1".parse().unwrap(),
            tunnel_mtu: 1450,
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            node_port_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            encap_mode: Default::default(),
            tunnel_type: Default::default(),
            existing_connections: Default::default(),
        };
        let peer = PeerNode {
            name: "b".into(),
            pod_cidrs: vec!["10.10.2.0/24".parse().unwrap()],
            gateway_addresses: vec!["10.10.2.1".parse().unwrap()],
            tunnel_address: "192.0.2.2".parse().unwrap(),
            addresses: vec!["192.0.2.2".parse().unwrap()],
        };
        NodeNetwork { local, peers: vec![peer], left_out: Vec::new() }
    }

    fn service(cluster: &[&str], external: &[&str], node_port: Option<u16>) -> Service {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Service {
            name: ObjectName { namespace: "default".into(), name: "web".into() },
            selector: BTreeMap::new(),
            cluster_addresses: list(cluster),
            external_addresses: list(external),
            load_balancer_addresses: Vec::new(),
            source_ranges: Vec::new(),
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port,
                target: Port::Range(80, 80),
            }],
            affinity_seconds: None,
            internal_local: false,
            external_local: false,
        }
    }

    fn plan(services: &[Service]) -> ServicePlan {
        ServicePlan::new(services.iter(), &["10.96.0.0/12".parse().unwrap()], &network())
    }

    fn destinations(plan: &ServicePlan) -> Vec<String> {
        plan.destinations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_range_is_routed_whole_once_a_service_has_an_address_in_it() {
        assert!(plan(&[]).is_empty());
        let found =
            plan(&[service(&["10.96.0.10"], &[], None), service(&["10.97.0.1"], &[], None)]);
        assert_eq!(destinations(&found), ["10.96.0.0/12"]);
        let found = plan(&[service(&["10.200.0.1", "fd00:96::1"], &["203.0.113.7"], Some(30080))]);
        assert_eq!(destinations(&found), ["10.200.0.1/32", "203.0.113.7/32", "fd00:96::1/128"]);
        assert_eq!(found.node_ports, BTreeSet::from([(6, 30080)]));
    }

    #[test]
    fn node_ports_are_reached_at_addresses_of_their_ranges_alone() {
        assert_eq!(plan(&[]).node_addresses.len(), 2);
        let mut network = network();
        for (range, count) in [("192.0.2.0/24", 1), ("198.51.100.0/24", 0)] {
            network.keep_node_ports_within(&[range.parse().unwrap()]);
            let found = ServicePlan::new([].iter(), &[], &network);
            assert_eq!(found.node_addresses.len(), count, "{range}");
        }
    }

    #[test]
    fn a_headless_service_leaves_the_kernel_as_it_is() {
        assert!(plan(&[service(&[], &["203.0.113.7"], None)]).is_empty());
    }

    #[test]
    fn a_service_cannot_take_the_address_of_a_node_or_a_pod() {
        let greedy = ["192.0.2.1", "192.0.2.2", "10.10.1.7", "10.10.2.7", "127.0.0.1", "224.0.0.1"];
        let found = plan(&[service(&["10.96.0.10"], &greedy, None)]);
        assert_eq!(destinations(&found), ["10.96.0.0/12"]);
    }
}
