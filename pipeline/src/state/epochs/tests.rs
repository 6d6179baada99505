//! Where a packet under way fares otherwise than before a change, its epoch is another one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::address::{Mac, PortId, PortKind};
use crate::adjacency::AdjacencyId;
use crate::packet::{Checksum, Packet};
use crate::run::{Context, run};
use crate::state::{Change, EncapMode, Endpoint, Group, Kind, Object, ObjectId, Peer, TunnelType};
use crate::testbed::{self, Node, endpoint, ip, net, port, udp};
use crate::verdict::Outcome;

const PODS: [&str; 4] = ["a", "b", "c", "d"];

/// Two who talk: by what port, and by what name.
const TALKS: [[(&str, &str); 2]; 5] = [
    [("a", "a"), ("b", "b")],
    [("b", "b"), ("c", "c")],
    [("a", "a"), ("tunnel", "remote")],
    [("c", "c"), ("gateway", "outside")],
    [("gateway", "outside"), ("d", "d")],
];

/// A packet of a connection under way.
struct Sample {
    ingress: PortId,
    frame: Vec<u8>,
    /// From whom to whom it is.
    ends: [IpAddr; 2],
}

impl Sample {
    fn epoch(&self, state: &State) -> u32 {
        let [source, destination] = self.ends.map(Epochs::low);
        state.epochs().forwarding(source, destination)
    }

    /// What becomes of it.
    fn fate(&self, node: &mut Node) -> (Outcome, Vec<u8>) {
        let mut buffer = vec![0; testbed::HEADROOM];
        buffer.extend(&self.frame);
        let (start, end) = (testbed::HEADROOM, buffer.len());
        let packet = Packet::new(&mut buffer, start, end, self.ingress, Checksum::Complete);
        let mut packet = packet.unwrap();
        let outcome = run(&mut packet, &mut Context { dry: true, ..node.context() });
        (outcome, packet.bytes().to_vec())
    }
}

/// A node with connections under way in both families, and packets of theirs, small and large.
fn talking() -> (Node, Vec<Sample>) {
    let mut node = Node::with_pods(PODS);
    let mut samples = Vec::new();
    for ([one, other], v6) in TALKS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let there = |bytes| {
            let probe = udp().from(one.0).source(one.1).to(other.1).in_v6(v6);
            probe.payload_bytes(bytes)
        };
        let back = |bytes| {
            let probe = udp().from(other.0).source(other.1).to(one.1).in_v6(v6);
            probe.port(40000).source_port(53).payload_bytes(bytes)
        };
        for probe in [there(4), back(4), there(4), back(4)] {
            assert!(matches!(node.send(probe), testbed::Fate::Left(..)));
        }
        for (probe, ingress, ends) in [4, 1300].into_iter().flat_map(|bytes| {
            [(there(bytes), one.0, [one.1, other.1]), (back(bytes), other.0, [other.1, one.1])]
        }) {
            let port = if ingress == "tunnel" { testbed::UPLINK } else { ingress };
            samples.push(Sample {
                ingress: node.state.port_by_name(port).unwrap(),
                frame: node.frame(&probe),
                ends: ends.map(|name| node.address(name, v6)),
            });
        }
    }
    (node, samples)
}

fn object(state: &State, kind: Kind, name: &str) -> Option<Object> {
    state.object(&ObjectId { kind, name: name.to_owned() })
}

fn an_endpoint() -> impl Strategy<Value = Endpoint> {
    let mtu = prop::sample::select(vec![testbed::MTU, 1300]);
    let port = prop::sample::select(vec!["a", "b", "spare"]);
    (0..PODS.len(), prop::option::of(port), 0u8..3, prop::option::of(0u8..3), mtu).prop_map(
        |(index, port, mac, address, mtu)| {
            let mut endpoint = Endpoint { mtu, ..endpoint(index, PODS[index]) };
            if let Some(port) = port {
                endpoint.port = port.to_owned();
            }
            if mac > 0 {
                endpoint.mac = Mac([2, 0, 0, 7, 0, mac]);
            }
            if let Some(last) = address {
                endpoint.addresses = vec![ip(&format!("10.10.1.{}", 2 + last))];
            }
            endpoint
        },
    )
}

fn a_port() -> impl Strategy<Value = Object> {
    let names = ["a", "b", "c", "d", "spare", testbed::GATEWAY, testbed::HOST, testbed::UPLINK];
    let kinds = [PortKind::Pod; 5].into_iter();
    let kinds = kinds.chain([PortKind::Gateway, PortKind::Host, PortKind::Uplink]);
    let named: Vec<_> = names.into_iter().zip(kinds).collect();
    (prop::sample::select(named), 2usize..8, 1u32..3, 0u8..3, any::<bool>()).prop_map(
        |((name, kind), index, generation, mac, small)| {
            let mut port = port(index, name, kind, Mac([2, 0, 0, 0, 1, mac]));
            port.generation = generation;
            port.mtu = if small { 1300 } else { port.mtu };
            Object::Port(port)
        },
    )
}

fn a_node() -> impl Strategy<Value = Object> {
    let gateway = prop::sample::select(vec!["10.10.1.1", "10.10.1.9"]);
    let mtu = prop::sample::select(vec![testbed::MTU, 1300]);
    (gateway, mtu, any::<bool>(), any::<bool>()).prop_map(|(gateway, mtu, tunnels, vxlan)| {
        let state = Node::with_pods([]).state;
        let Some(Object::Node(mut node)) = object(&state, Kind::Node, "node1") else { panic!() };
        node.gateway_addresses[0] = ip(gateway);
        node.tunnel_mtu = mtu;
        node.encap_mode = if tunnels { EncapMode::Encap } else { EncapMode::NoEncap };
        node.tunnel_type = if vxlan { TunnelType::Vxlan } else { TunnelType::Geneve };
        Object::Node(node)
    })
}

fn a_peer() -> impl Strategy<Value = Object> {
    let ranges = ["10.10.2.0/24", "10.10.3.0/24", "203.0.113.0/24"].map(net);
    (0..2, prop::sample::subsequence(ranges.to_vec(), 1..3), 2..4, 0usize..2).prop_map(
        |(name, pod_cidrs, tunnel, adjacency)| {
            Object::Peer(Peer {
                name: format!("node{}", 2 + name),
                pod_cidrs,
                gateway_addresses: Vec::new(),
                tunnel_address: ip(&format!("192.168.0.{tunnel}")),
                adjacency: AdjacencyId::new(adjacency).unwrap(),
            })
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let objects = prop_oneof![
        4 => an_endpoint().prop_map(Object::Endpoint),
        4 => a_port(),
        1 => a_node(),
        1 => a_peer(),
    ];
    let upsert = objects.clone().prop_map(Change::Upsert);
    prop_oneof![3 => upsert, 1 => objects.prop_map(|object| Change::Delete(object.id()))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_packet_under_way_that_fares_otherwise_than_before_has_another_epoch(
        transactions in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..6),
    ) {
        let (mut node, samples) = talking();
        for changes in transactions {
            let before: Vec<_> = samples.iter().map(|it| it.fate(&mut node)).collect();
            let Ok(next) = node.state.apply(&changes) else { continue };
            let last = std::mem::replace(&mut node.state, next);
            for (sample, before) in samples.iter().zip(before) {
                let after = sample.fate(&mut node);
                let same = sample.epoch(&last) == sample.epoch(&node.state);
                // What is dropped is decided anew each time.
                let dropped = matches!(before.0, Outcome::Drop(_));
                prop_assert!(!same || dropped || before == after, "{:?} {before:?} {after:?}", sample.ends);
            }
        }
    }

    #[test]
    fn what_a_pod_gains_or_loses_ends_decisions_about_it_and_few_others(
        endpoint in an_endpoint(),
    ) {
        let state = Node::with_pods(PODS).state;
        let Ok(next) = state.apply(&[Change::Upsert(Object::Endpoint(endpoint))]) else {
            return Ok(());
        };
        let address = |last: u32| u64::from(last) + 0xffff_0a0a_0500;
        let others: Vec<u64> = (0..256).map(address).collect();
        let changed = others.iter().filter(|it| {
            let epoch = |state: &State| state.epochs().forwarding(**it, **it);
            epoch(&state) != epoch(&next)
        });
        // Of one address in a thousand it is the bucket.
        prop_assert!(changed.count() <= 8);
    }
}

fn pair(node: &Node, one: &str, other: &str) -> [u32; 2] {
    let [one, other] = [one, other].map(|name| Epochs::low(node.address(name, false)));
    [node.state.epochs().forwarding(one, other), node.state.epochs().policy(one, other)]
}

#[test]
fn what_is_installed_again_as_it_is_changes_no_epoch() {
    let state = Node::with_pods(PODS).state;
    let all: Vec<_> = state.object_ids().iter().filter_map(|id| state.object(id)).collect();
    let all: Vec<_> = all.into_iter().map(Change::Upsert).collect();
    assert_eq!(state.apply(&all).unwrap().epochs(), state.epochs());
}

#[test]
fn a_pods_port_that_closes_is_the_concern_of_its_address_only() {
    let mut node = Node::with_pods(PODS);
    let (mine, others) = (pair(&node, "a", "outside"), pair(&node, "c", "d"));
    let id = ObjectId { kind: Kind::Port, name: "a".to_owned() };
    let address = node.address("a", false);
    node.apply(&[Change::Delete(id)]);
    let low = Epochs::low(address);
    let outside = Epochs::low(node.address("outside", false));
    assert_ne!(node.state.epochs().forwarding(low, outside), mine[0]);
    assert_eq!(node.state.epochs().policy(low, outside), mine[1]);
    assert_eq!(pair(&node, "c", "d"), others);
}

#[test]
fn a_peer_that_comes_is_everybodys_concern_and_no_policy() {
    let mut node = Node::with_pods(PODS);
    let before = pair(&node, "c", "d");
    node.apply(&[Change::Upsert(Object::Peer(Peer {
        name: "node3".to_owned(),
        pod_cidrs: vec![net("10.10.3.0/24")],
        gateway_addresses: Vec::new(),
        tunnel_address: ip("192.168.0.3"),
        adjacency: AdjacencyId::new(1).unwrap(),
    }))]);
    let after = pair(&node, "c", "d");
    assert!(after[0] != before[0] && after[1] == before[1]);
}

#[test]
fn a_group_that_no_rule_means_moves_only_the_epochs_of_its_addresses() {
    let mut node = Node::with_pods(PODS);
    let (mine, others) = (pair(&node, "a", "outside"), pair(&node, "c", "d"));
    let members = vec![net("10.0.0.0/8"), IpNet::from(node.address("a", false))];
    let group = Group { name: "group".to_owned(), members, fqdns: Vec::new() };
    node.apply(&[Change::Upsert(Object::Group(group))]);
    let after = pair(&node, "a", "outside");
    assert!(after[0] == mine[0] && after[1] != mine[1]);
    assert_eq!(pair(&node, "c", "d"), others);
}
