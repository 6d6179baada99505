//! What is installed on a node, at any size, and which first packets come then.
//!
//! A thousand Pods are attached in every scenario, and every packet is a TCP SYN that is let
//! through. Addresses are taken in no order, so that a packet's neighbours in time are no
//! neighbours in memory.

use std::net::{IpAddr, Ipv4Addr};

use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::describe::{Description, Protocol};
use seine_pipeline::limits::PORTS_MAX;
use seine_pipeline::state::{
    self, Action, Change, Endpoint, Group, Node, Object, Peer, Permit, Port, PortRange, Rule,
    RuleDirection, RuleTable, Service, ServiceEndpoint, Traffic,
};

/// Pods of this node.
pub const PODS: usize = 1000;
/// Policies for each Pod, where they are spread.
const POLICIES_OF_A_POD: usize = 40;
/// Addresses of the peers of one policy.
const PEERS_OF_A_POLICY: usize = 4;
/// Endpoints of one Service.
const ENDPOINTS_OF_A_SERVICE: usize = 3;
/// Where Pods of this node begin, those of the other, ranges of the world, Services, and members of
/// large groups.
pub(super) const LOCAL: u32 = 0x0a00_0400;
pub(super) const REMOTE: u32 = 0x0a40_0000;
const WORLD: u32 = 0x6440_0000;
pub(super) const SERVICES: u32 = 0x0a20_0000;
const GROUPS: u32 = 0x0b00_0000;
/// Bytes of the longest packet of a Pod.
pub(super) const MTU: u16 = 1450;
/// Members of a large group.
pub const ADDRESSES_OF_A_GROUP: usize = 10_000;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Policies, 40 for each Pod, each with peers of its own.
    Spread,
    /// Policies, all for one Pod, each with peers of its own.
    OnePod,
    /// Policies, all for one Pod and the same peers, each for a port of its own.
    Ports,
    /// CIDRs of the one policy of one Pod.
    Ranges,
    /// Services.
    Services,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 5] =
        [Scenario::Spread, Scenario::OnePod, Scenario::Ports, Scenario::Ranges, Scenario::Services];

    /// What grows, in words.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Spread => "policies, 40 a Pod",
            Scenario::OnePod => "policies of one Pod",
            Scenario::Ports => "policies of one Pod, by port",
            Scenario::Ranges => "CIDRs of one policy",
            Scenario::Services => "Services",
        }
    }

    /// How many of them to look at.
    pub fn sizes(self, quick: bool) -> &'static [usize] {
        match self {
            _ if quick => &[10, 100],
            Scenario::Spread => &[10, 100, 1000, 10_000, 40_000],
            Scenario::OnePod | Scenario::Ports | Scenario::Services => &[10, 100, 1000, 10_000],
            Scenario::Ranges => &[10, 100, 1000, 15_000],
        }
    }

    /// Everything that is installed.
    pub fn changes(self, size: usize) -> Vec<Change> {
        let mut objects = node();
        match self {
            Scenario::Spread => {
                objects.extend((0..pods(size)).map(|pod| Object::Group(of_pod(pod))));
                objects.extend((0..pods(size)).map(isolation));
                for policy in 0..size {
                    objects.push(Object::Group(peers(policy, PEERS_OF_A_POLICY)));
                    objects.push(Object::Rule(rule(policy, policy % pods(size), policy, 80)));
                }
            }
            Scenario::OnePod => {
                objects.extend([Object::Group(of_pod(0)), isolation(0)]);
                for policy in 0..size {
                    objects.push(Object::Group(peers(policy, PEERS_OF_A_POLICY)));
                    objects.push(Object::Rule(rule(policy, 0, policy, 80)));
                }
            }
            Scenario::Ports => {
                objects.extend([Object::Group(of_pod(0)), isolation(0)]);
                objects.push(Object::Group(peers(0, size * PEERS_OF_A_POLICY)));
                let one = |policy| rule(policy, 0, 0, port(policy));
                objects.extend((0..size).map(|policy| Object::Rule(one(policy))));
            }
            Scenario::Ranges => {
                objects.extend([Object::Group(of_pod(0)), isolation(0)]);
                objects.push(Object::Rule(rule(0, 0, 0, 80)));
                objects.push(Object::Group(ranges(size)));
            }
            Scenario::Services => objects.extend((0..size).map(service)),
        }
        objects.into_iter().map(Change::Upsert).collect()
    }

    /// The packet of this number: from an address and port that no other packet comes from, for
    /// as long as there are any left.
    pub fn packet(self, size: usize, number: usize) -> Description {
        let any = scattered(number);
        let policy = any % size;
        let address = |first: u32, offset: usize| v4(first + offset as u32);
        let (ingress, source, destination, destination_port) = match self {
            Scenario::Spread | Scenario::OnePod => {
                let peer = policy * PEERS_OF_A_POLICY + any / size % PEERS_OF_A_POLICY;
                let pod = if self == Scenario::Spread { policy % pods(size) } else { 0 };
                ("tunnel".to_owned(), Some(address(REMOTE, peer)), local(pod), 80)
            }
            Scenario::Ports => {
                let peer = scattered(any) % (size * PEERS_OF_A_POLICY);
                ("tunnel".to_owned(), Some(address(REMOTE, peer)), local(0), port(policy))
            }
            Scenario::Ranges => {
                let host = policy * RANGE + any / size % RANGE;
                ("gateway".to_owned(), Some(address(WORLD, host)), local(0), 80)
            }
            Scenario::Services => (name(any / size % PODS), None, address(SERVICES, policy), 80),
        };
        Description {
            ingress,
            source,
            destination,
            protocol: Protocol::Tcp,
            source_port: 1024 + (number % 60_000) as u16,
            destination_port,
            payload_bytes: 0,
            ttl: 64,
            tcp_flags: None,
            source_mac: None,
            destination_mac: None,
        }
    }
}

/// Addresses of one range.
const RANGE: usize = 256;

fn pods(policies: usize) -> usize {
    policies.div_ceil(POLICIES_OF_A_POD).clamp(1, PODS)
}

fn port(policy: usize) -> u16 {
    1 + (policy % 60_000) as u16
}

/// Some number, the same for the same number: SplitMix64.
fn scattered(number: usize) -> usize {
    let state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 8) as usize
}

/// The node with its Pods, and nothing else.
pub fn pods_alone() -> Vec<Change> {
    node().into_iter().map(Change::Upsert).collect()
}

/// The same with large groups, and a rule about each.
pub fn addresses(groups: usize) -> Vec<Change> {
    let mut objects = node();
    objects.push(Object::Group(of_pod(0)));
    for group in 0..groups {
        objects.push(Object::Group(peers(group, ADDRESSES_OF_A_GROUP)));
        objects.push(Object::Rule(rule(group, 0, group, 80)));
    }
    objects.into_iter().map(Change::Upsert).collect()
}

/// An address of a large group; those behind its last are the next group's.
pub fn member(group: usize, index: usize) -> IpAddr {
    v4(GROUPS + (group * 2 * ADDRESSES_OF_A_GROUP + index) as u32)
}

pub(super) fn v4(bits: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(bits))
}

pub(super) fn local(pod: usize) -> IpAddr {
    v4(LOCAL + pod as u32)
}

fn range(text: &str) -> ipnet::IpNet {
    // All are written here.
    text.parse().unwrap_or_default()
}

/// Names a Pod's port.
pub fn name(pod: usize) -> String {
    format!("pod{pod}")
}

/// Where a Pod is.
pub fn endpoint(pod: usize) -> Endpoint {
    let [_, _, high, low] = (pod as u32).to_be_bytes();
    Endpoint {
        name: format!("default/{}/eth0", name(pod)),
        port: name(pod),
        mac: Mac([2, 0, 0, 1, high, low]),
        addresses: vec![local(pod)],
        mtu: MTU,
        permit: Permit::default(),
        network_id: 0,
        interface_index: 0,
    }
}

/// This node, one other, and all ports with their Pods.
fn node() -> Vec<Object> {
    let peer = |adjacency| Peer {
        name: "node2".to_owned(),
        pod_cidrs: vec![range("10.64.0.0/10")],
        gateway_addresses: vec![v4(0x0a40_0001)],
        tunnel_address: v4(0xc000_0202),
        adjacency,
    };
    let mut objects = vec![Object::Node(Node {
        name: "node1".to_owned(),
        pod_cidrs: vec![range("10.0.0.0/16")],
        gateway_addresses: vec![v4(0x0a00_0001)],
        tunnel_address: v4(0xc000_0201),
        tunnel_mtu: MTU,
        encap_mode: state::EncapMode::default(),
        tunnel_type: state::TunnelType::default(),
        node_port_addresses: Vec::new(),
        existing_connections: Default::default(),
    })];
    objects.extend(AdjacencyId::new(0).map(peer).map(Object::Peer));
    let own = |index: usize, name: &str, kind, last| {
        let mac = Mac([2, 0, 0, 0, 1, last]);
        PortId::new(index).map(|id| Port {
            id,
            name: name.into(),
            kind,
            mac,
            mtu: 1500,
            generation: 1,
        })
    };
    let legs = [
        own(0, "gateway", PortKind::Gateway, 1),
        own(1, "uplink", PortKind::Uplink, 2),
        own(PORTS_MAX - 1, "host", PortKind::Host, 1),
    ];
    objects.extend(legs.into_iter().flatten().map(Object::Port));
    for pod in 0..PODS {
        let [_, _, high, low] = (pod as u32).to_be_bytes();
        let mac = Mac([6, 0, 0, 1, high, low]);
        let kind = PortKind::Pod;
        let port = |id| Port { id, name: name(pod), kind, mac, mtu: MTU, generation: 1 };
        objects.extend(PortId::new(pod + 2).map(port).map(Object::Port));
        objects.push(Object::Endpoint(endpoint(pod)));
    }
    objects
}

fn of_pod(pod: usize) -> Group {
    Group { name: name(pod), members: vec![local(pod).into()], fqdns: Vec::new() }
}

fn peers(policy: usize, count: usize) -> Group {
    let first = REMOTE + (policy * count) as u32;
    let members = (first..).take(count).map(|bits| v4(bits).into()).collect();
    Group { name: format!("peers{policy}"), members, fqdns: Vec::new() }
}

fn ranges(count: usize) -> Group {
    let range = |index: usize| {
        let first = WORLD + (index * RANGE) as u32;
        // A length of 24 bits is one that a range can have.
        ipnet::IpNet::new(v4(first), 24).ok()
    };
    let members = (0..count).filter_map(range).collect();
    Group { name: "peers0".to_owned(), members, fqdns: Vec::new() }
}

fn rule(policy: usize, pod: usize, peers: usize, port: u16) -> Rule {
    let traffic = Traffic {
        protocol: 6,
        ports: Some(PortRange { first: port, last: port }),
        source_ports: None,
        icmp_type: None,
        icmp_code: None,
    };
    Rule {
        name: format!("knp/default/policy-{policy}/ingress/0"),
        policy: format!("K8sNetworkPolicy:default/policy-{policy}"),
        rule_name: String::new(),
        direction: RuleDirection::Ingress,
        table: RuleTable::NetworkPolicy,
        rank: 0,
        action: Action::Allow,
        applied_to_groups: vec![name(pod)],
        applied_to_services: Vec::new(),
        peer_groups: vec![format!("peers{peers}")],
        peer_services: Vec::new(),
        traffic: vec![traffic],
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

/// As the compile step makes it for whom a policy of Kubernetes selects.
fn isolation(pod: usize) -> Object {
    Object::Rule(Rule {
        name: format!("isolate/default/ingress/{}", name(pod)),
        policy: "K8sNetworkPolicy".to_owned(),
        table: RuleTable::Default,
        action: Action::Isolate,
        peer_groups: Vec::new(),
        traffic: Vec::new(),
        ..rule(0, pod, 0, 0)
    })
}

fn service(index: usize) -> Object {
    let endpoint = |place: usize| ServiceEndpoint {
        address: v4(REMOTE + (index * ENDPOINTS_OF_A_SERVICE + place) as u32),
        port: 8080,
        cluster: true,
        local: false,
    };
    Object::Service(Service {
        name: format!("default/service-{index}:http"),
        protocol: 6,
        cluster_addresses: vec![v4(SERVICES + index as u32)],
        external_addresses: Vec::new(),
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        port: 80,
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        endpoints: (0..ENDPOINTS_OF_A_SERVICE).map(endpoint).collect(),
    })
}
