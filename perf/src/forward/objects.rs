//! The node that packets are sent through: its Pods, policies and Services, and their addresses.

use std::net::{IpAddr, Ipv4Addr};

use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::state::{
    Action, Change, EncapMode, Endpoint, Group, Node, Object, Peer, Permit, Port, PortRange, Rule,
    RuleDirection, RuleTable, Service, ServiceEndpoint, Traffic, TunnelType,
};

use super::profile::Profile;

/// The port of the node's own leg.
pub const GATEWAY: usize = 0;
/// The port of the node's NIC.
pub const UPLINK: usize = 1;
/// The port of the first Pod; the others follow.
pub const FIRST_POD: usize = 2;
/// Pods of the peer that take part.
pub const REMOTE_PODS: usize = 64;
/// Endpoints of each Service.
pub const ENDPOINTS: usize = 4;
/// The port at which Services are reached.
pub const SERVICE_PORT: u16 = 80;
/// The destination port that the first policy lets through; the next one the next.
pub const FIRST_OPEN_PORT: u16 = 1024;
/// This node on the underlay.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// The peer on the underlay.
pub const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
/// The gateway's MAC address.
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// The NIC's.
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
/// The underlay's next hop.
pub const NEXT_HOP_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// IPv4's number of TCP.
pub const TCP: u8 = 6;
/// IPv4's number of UDP.
pub const UDP: u8 = 17;
const POD_MTU: u16 = 1500;

/// The address of a Pod here.
pub fn pod_address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, 1 + (pod / 200) as u8, 2 + (pod % 200) as u8)
}

/// Its MAC address; ends with the number of its port.
pub fn pod_mac(pod: usize) -> Mac {
    let [high, low] = ((pod + FIRST_POD) as u16).to_be_bytes();
    Mac([2, 0, 0, 1, high, low])
}

/// The address of a Pod of the peer.
pub fn remote_address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 1, 2 + pod as u8)
}

/// The address of a Service.
pub fn service_address(service: usize) -> Ipv4Addr {
    let [high, low] = (service as u16).to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The Pods that a Service stands for.
pub fn service_pods(service: usize, pods: usize) -> [usize; ENDPOINTS] {
    std::array::from_fn(|place| (service * ENDPOINTS + place) % pods)
}

/// The port at which they listen.
pub fn service_target(service: usize, policies: usize) -> u16 {
    FIRST_OPEN_PORT + (service % policies) as u16
}

/// Everything that is installed before the first packet.
pub fn installed(profile: &Profile) -> Vec<Change> {
    let mut changes: Vec<Change> = nodes().into_iter().map(Change::Upsert).collect();
    let mut upsert = |object| changes.push(Change::Upsert(object));
    upsert(Object::Port(port(GATEWAY, "gateway", PortKind::Gateway, GATEWAY_MAC)));
    upsert(Object::Port(port(UPLINK, "uplink", PortKind::Uplink, UPLINK_MAC)));
    for pod in 0..profile.pods {
        let [a, b] = ((pod + FIRST_POD) as u16).to_be_bytes();
        let host_end = Mac([2, 0, 0, 2, a, b]);
        let name = pod_name(pod);
        upsert(Object::Port(port(pod + FIRST_POD, &name, PortKind::Pod, host_end)));
        upsert(Object::Endpoint(endpoint(pod)));
    }
    let members = |addresses: &mut dyn Iterator<Item = Ipv4Addr>| {
        let mut members: Vec<_> = addresses.map(|it| IpAddr::from(it).into()).collect();
        members.sort();
        members
    };
    upsert(Object::Group(Group {
        name: "pods".to_owned(),
        members: members(&mut (0..profile.pods).map(pod_address)),
        fqdns: Vec::new(),
    }));
    let everybody = (0..profile.pods).map(pod_address);
    upsert(Object::Group(Group {
        name: "peers".to_owned(),
        members: members(&mut everybody.chain((0..REMOTE_PODS).map(remote_address))),
        fqdns: Vec::new(),
    }));
    for direction in [RuleDirection::Egress, RuleDirection::Ingress] {
        upsert(Object::Rule(isolation(direction)));
        for number in 0..profile.policies_per_side {
            let protocol = if profile.tso { TCP } else { UDP };
            upsert(Object::Rule(policy(number, direction, protocol)));
        }
    }
    for number in 0..profile.services {
        upsert(Object::Service(service(number, profile)));
    }
    changes
}

fn nodes() -> [Object; 2] {
    let range = |text: &str| text.parse().ok().into_iter().collect();
    let node = Node {
        name: "node1".to_owned(),
        pod_cidrs: range("10.10.0.0/16"),
        gateway_addresses: vec![IpAddr::from([10, 10, 0, 1])],
        tunnel_address: NODE_ADDRESS.into(),
        tunnel_mtu: POD_MTU,
        encap_mode: EncapMode::Encap,
        tunnel_type: TunnelType::Geneve,
        node_port_addresses: Vec::new(),
        existing_connections: Default::default(),
    };
    let peer = AdjacencyId::new(0).map(|adjacency| Peer {
        name: "node2".to_owned(),
        pod_cidrs: range("10.20.0.0/16"),
        gateway_addresses: vec![IpAddr::from([10, 20, 0, 1])],
        tunnel_address: PEER_ADDRESS.into(),
        adjacency,
    });
    let Some(peer) = peer else { unreachable!("there is a first adjacency") };
    [Object::Node(node), Object::Peer(peer)]
}

fn port(index: usize, name: &str, kind: PortKind, mac: Mac) -> Port {
    let Some(id) = PortId::new(index) else { unreachable!("the profile was checked") };
    let mtu = if kind == PortKind::Uplink { 9000 } else { POD_MTU };
    Port { id, name: name.to_owned(), kind, mac, mtu, generation: 1 }
}

fn pod_name(pod: usize) -> String {
    format!("pod{pod}")
}

/// A Pod's interface, attached to the port of its name, open or not.
pub fn endpoint(pod: usize) -> Endpoint {
    Endpoint {
        name: format!("default/{}/eth0", pod_name(pod)),
        port: pod_name(pod),
        mac: pod_mac(pod),
        addresses: vec![pod_address(pod).into()],
        mtu: POD_MTU,
        permit: Permit::default(),
        network_id: 0,
        interface_index: 0,
    }
}

/// A Kubernetes policy for every Pod that lets one port through.
pub fn policy(number: usize, direction: RuleDirection, protocol: u8) -> Rule {
    let port = FIRST_OPEN_PORT + number as u16;
    let ports = Some(PortRange { first: port, last: port });
    let traffic = Traffic { protocol, ports, source_ports: None, icmp_type: None, icmp_code: None };
    Rule {
        name: format!("np/default/allow-{number}/{direction:?}"),
        policy: format!("K8sNetworkPolicy:default/allow-{number}"),
        table: RuleTable::NetworkPolicy,
        rank: 0,
        action: Action::Allow,
        peer_groups: vec!["peers".to_owned()],
        traffic: vec![traffic],
        ..isolation(direction)
    }
}

/// What Kubernetes' policies leave shut.
fn isolation(direction: RuleDirection) -> Rule {
    Rule {
        name: format!("isolation/{direction:?}"),
        policy: "K8sNetworkPolicy".to_owned(),
        rule_name: String::new(),
        direction,
        table: RuleTable::Default,
        rank: 0,
        action: Action::Isolate,
        applied_to_groups: vec!["pods".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

fn service(number: usize, profile: &Profile) -> Service {
    let port = service_target(number, profile.policies_per_side);
    let pods = service_pods(number, profile.pods);
    let endpoint = |pod| ServiceEndpoint {
        address: pod_address(pod).into(),
        port,
        cluster: true,
        local: false,
    };
    service_of(number, format!("default/service-{number}:udp"), pods.map(endpoint).to_vec())
}

/// A Service that nobody uses.
pub fn idle_service(number: usize, pods: usize) -> Service {
    let pod = service_pods(number, pods)[0];
    let address = pod_address(pod).into();
    let endpoints = vec![ServiceEndpoint { address, port: 9, cluster: true, local: false }];
    let mut service = service_of(number, format!("idle/service-{number}:udp"), endpoints);
    let [high, low] = (number as u16).to_be_bytes();
    service.cluster_addresses = vec![IpAddr::from([10, 97, high, low])];
    service
}

fn service_of(number: usize, name: String, mut endpoints: Vec<ServiceEndpoint>) -> Service {
    endpoints.sort();
    Service {
        name,
        protocol: UDP,
        cluster_addresses: vec![service_address(number).into()],
        external_addresses: Vec::new(),
        port: SERVICE_PORT,
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints,
    }
}
