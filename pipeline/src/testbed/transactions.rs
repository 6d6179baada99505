//! Transactions out of bytes, and what must hold for every State they lead to.
//!
//! The objects come from a small space, so that names, addresses, MACs and ports meet and clash.

use std::net::IpAddr;

use super::{ip, net, port};
use crate::address::{Mac, PortKind, Vlan};
use crate::adjacency::{AdjacencyId, AdjacencyTable};
use crate::state::{
    Action, AllowedAddress, Change, EncapMode, Endpoint, Group, GroupDelta, Kind, Node, Object,
    ObjectId, Peer, Permit, PortRange, Rule, RuleDirection, RuleTable, Service, ServiceEndpoint,
    State, Traffic, TunnelType, VlanRange,
};

/// Bytes that make one change.
pub const CHANGE_BYTES: usize = 6;

/// The transactions that these bytes are; a byte of 0xff in front of a change ends one.
pub fn transactions(bytes: &[u8]) -> Vec<Vec<Change>> {
    let mut all = vec![Vec::new()];
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if *first == 0xff {
            all.push(Vec::new());
            rest = after;
            continue;
        }
        let Some((change, after)) = rest.split_first_chunk::<CHANGE_BYTES>() else { break };
        all.last_mut().expect("one at least").push(decoded(*change));
        rest = after;
    }
    all
}

fn decoded([what, name, a, b, c, d]: [u8; CHANGE_BYTES]) -> Change {
    let kind = [
        Kind::Node,
        Kind::Peer,
        Kind::Endpoint,
        Kind::Endpoint,
        Kind::Port,
        Kind::Group,
        Kind::Rule,
        Kind::Service,
    ][usize::from(what % 8)];
    let name = match kind {
        Kind::Node => ["node1", "node2"][usize::from(name % 2)].to_owned(),
        Kind::Peer => format!("peer{}", name % 4),
        Kind::Endpoint => format!("default/pod{}/eth0", name % 6),
        Kind::Group => format!("group{}", name % 4),
        Kind::Rule => format!("rule{}", name % 6),
        Kind::Service => format!("default/web{}:", name % 3),
        Kind::Port => format!("port{}", name % 6),
    };
    if what & 0x80 != 0 {
        return Change::Delete(ObjectId { kind, name });
    }
    if kind == Kind::Group && what & 0x40 != 0 {
        let (added, removed) = (members([a, b, c]), members([b, c, d]));
        return Change::Members(GroupDelta { name, added, removed });
    }
    Change::Upsert(match kind {
        Kind::Node => Object::Node(Node {
            name,
            pod_cidrs: ranges(a),
            gateway_addresses: ranges(b).iter().map(|range| host(range.addr(), 1)).collect(),
            tunnel_address: tunnel_address(c),
            tunnel_mtu: mtu(d),
            encap_mode: EncapMode::default(),
            tunnel_type: TunnelType::default(),
            node_port_addresses: Vec::new(),
            existing_connections: Default::default(),
        }),
        Kind::Peer => Object::Peer(Peer {
            name,
            pod_cidrs: ranges(a),
            gateway_addresses: ranges(b).iter().map(|range| host(range.addr(), 1)).collect(),
            tunnel_address: tunnel_address(c),
            adjacency: AdjacencyId::new(usize::from(d)).expect("below the limit"),
        }),
        Kind::Endpoint => Object::Endpoint(Endpoint {
            name,
            port: format!("port{}", a % 6),
            mac: mac(b),
            addresses: ranges(c).iter().map(|range| host(range.addr(), d % 8)).collect(),
            mtu: mtu(d >> 3),
            permit: Permit {
                allowed_addresses: ranges(d)
                    .into_iter()
                    .filter(|_| b % 4 == 0)
                    .map(|range| AllowedAddress { range, mac: (a % 3 == 0).then(|| mac(a)) })
                    .collect(),
                trusted_router: c % 5 == 0,
                vlans: vlans(a, c),
            },
            network_id: u16::from(d == 255),
            interface_index: (a % 4).into(),
        }),
        Kind::Group => {
            let fqdns = ["a.example.com", "*.example.com"].map(str::to_owned);
            let fqdns = fqdns[..usize::from(d % 3)].to_vec();
            Object::Group(Group { name, members: members([a, b, c]), fqdns })
        }
        Kind::Rule => Object::Rule(rule(name, [a, b, c, d])),
        Kind::Service => Object::Service(service(name, [a, b, c, d])),
        Kind::Port => {
            let kind =
                [PortKind::Pod, PortKind::Pod, PortKind::Gateway, PortKind::Host, PortKind::Uplink]
                    [usize::from(a % 5)];
            Object::Port(port(usize::from(b % 8), &name, kind, mac(c)))
        }
    })
}

fn members([a, b, c]: [u8; 3]) -> Vec<ipnet::IpNet> {
    let mut members = ranges(a);
    members.extend(ranges(b).iter().map(|range| ipnet::IpNet::from(host(range.addr(), c))));
    members.sort_unstable();
    members.dedup();
    members
}

fn rule(name: String, [a, b, c, d]: [u8; 4]) -> Rule {
    let table = [RuleTable::AntreaPolicy, RuleTable::NetworkPolicy, RuleTable::Default];
    let action = [Action::Allow, Action::Drop, Action::Reject, Action::Pass, Action::Isolate];
    let ports = PortRange { first: u16::from(d % 64), last: u16::from(d % 64) + u16::from(d / 64) };
    let traffic = Traffic {
        protocol: [6, 17, 132, 1][usize::from(d % 4)],
        ports: (!d.is_multiple_of(4)).then_some(ports).filter(|_| d % 4 != 3),
        source_ports: None,
        icmp_type: None,
        icmp_code: None,
    };
    Rule {
        policy: format!("AntreaClusterNetworkPolicy:{name}"),
        name,
        rule_name: String::new(),
        direction: [RuleDirection::Egress, RuleDirection::Ingress][usize::from(a & 1)],
        table: table[usize::from(a >> 1) % table.len()],
        rank: u64::from(b % 16),
        action: action[usize::from(a >> 4) % action.len()],
        applied_to_groups: vec![format!("group{}", b >> 4 & 3)],
        applied_to_services: Vec::new(),
        peer_groups: (0..c % 3).map(|index| format!("group{}", (c >> 4) + index)).collect(),
        peer_services: Vec::new(),
        traffic: if d & 0x80 == 0 { vec![traffic] } else { Vec::new() },
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

fn service(name: String, [a, b, c, d]: [u8; 4]) -> Service {
    let endpoint = |index: u8| ServiceEndpoint {
        address: host(net("10.10.1.0/24").addr(), 2 + b.wrapping_add(index) % 8),
        port: 8080,
        cluster: c & 1 == 0,
        local: c & 2 != 0,
    };
    Service {
        name,
        protocol: [6, 17, 132][usize::from(a % 3)],
        cluster_addresses: vec![host(net("10.96.0.0/16").addr(), a >> 4)],
        external_addresses: Vec::new(),
        port: 80,
        node_port: if d & 1 == 0 { 0 } else { 30000 + u16::from(d) },
        affinity_seconds: u32::from(c >> 4),
        internal_local: d & 2 != 0,
        external_local: d & 4 != 0,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: (0..a % 4).map(endpoint).collect(),
    }
}

/// None, one or both families; ranges that nest, repeat and are wrong.
fn ranges(byte: u8) -> Vec<ipnet::IpNet> {
    let v4 = ["10.10.1.0/24", "10.10.2.0/24", "10.10.2.128/25", "10.10.3.1/24"];
    let v6 = ["fd00:10:1::/64", "fd00:10:2::/64", "fd00:10::/32", "ff00::/8"];
    let mut ranges = Vec::new();
    if byte & 1 == 0 {
        ranges.push(net(v4[usize::from(byte >> 1 & 3)]));
    }
    if byte & 8 != 0 {
        ranges.push(net(v6[usize::from(byte >> 4 & 3)]));
    }
    if byte & 0xc0 == 0xc0 {
        ranges.reverse();
    }
    ranges
}

fn host(network: IpAddr, last: u8) -> IpAddr {
    match network {
        IpAddr::V4(network) => (network.to_bits() | u32::from(last)).to_be_bytes().into(),
        IpAddr::V6(network) => (network.to_bits() | u128::from(last)).to_be_bytes().into(),
    }
}

fn tunnel_address(byte: u8) -> IpAddr {
    ip(["192.168.0.1", "192.168.0.2", "192.168.0.3", "2001:db8::1", "10.10.1.9", "127.0.0.1"]
        [usize::from(byte % 6)])
}

fn mac(byte: u8) -> Mac {
    match byte % 16 {
        14 => Mac::VIRTUAL,
        15 => Mac::BROADCAST,
        last => Mac([2, 0, 0, 0, 0, last]),
    }
}

/// None for most; some of them twice, and some the wrong way round.
fn vlans(a: u8, b: u8) -> Vec<VlanRange> {
    let range = |first: u8, last: u8| {
        let [first, last] = [first, last].map(|it| Vlan::new(u16::from(it % 4) + 1));
        first.zip(last).map(|(first, last)| VlanRange { first, last })
    };
    let ranges = [range(a, b), range(b, b)].into_iter().flatten();
    ranges.filter(|_| a.is_multiple_of(3)).collect()
}

fn mtu(byte: u8) -> u16 {
    [1450, 1500, 1280, 576, 60][usize::from(byte % 5)]
}

/// Makes the transactions one after the other, from nothing, each forwards and backwards. Asserts
/// that the order within them did not matter, that each did what it says, and in the end that what
/// has grown change by change is what its objects make at once. Gives the number of those accepted.
#[track_caller]
pub fn assert_consistent(bytes: &[u8]) -> usize {
    let (mut state, mut mirror, mut accepted) = (State::new(3), State::new(4), 0);
    for mut changes in transactions(bytes) {
        let next = state.apply(&changes);
        changes.reverse();
        let mirrored = mirror.apply(&changes);
        assert_eq!(next.is_ok(), mirrored.is_ok(), "{changes:#?}");
        let (Ok(next), Ok(mirrored)) = (next, mirrored) else { continue };
        let moved = |id: &ObjectId| {
            id.kind == Kind::Group
                && changes.iter().any(|it| matches!(it, Change::Members(it) if it.name == id.name))
        };
        for change in &changes {
            match change {
                Change::Upsert(object) if moved(&object.id()) => {}
                Change::Upsert(object) => {
                    assert_eq!(next.object(&object.id()).as_ref(), Some(object));
                }
                Change::Delete(id) => assert_eq!(next.object(id), None),
                Change::Members(_) => {}
            }
        }
        (state, mirror) = (next, mirrored);
        accepted += 1;
    }
    let ids = state.object_ids();
    let upserts: Vec<_> =
        ids.iter().filter_map(|id| state.object(id)).map(Change::Upsert).collect();
    assert_eq!(upserts.len(), ids.len());
    let rebuilt = State::new(5).apply(&upserts).expect("what is in force can be installed");
    assert_same(&state, &rebuilt);
    assert_same(&state, &mirror);
    accepted
}

#[track_caller]
fn assert_same(one: &State, other: &State) {
    let adjacencies = AdjacencyTable::new();
    assert_eq!(one.object_ids(), other.object_ids());
    assert_eq!(one.tables(), other.tables());
    for table in one.tables() {
        let view = one.show(table.name, &adjacencies).expect("a table that is listed");
        assert_eq!(view.rows.len(), table.entries, "{}", table.name);
        assert_eq!(Some(view), other.show(table.name, &adjacencies));
    }
}
