//! Which way the kernel of a node takes, for others and for itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, unused_imports, reason = "other tests use more of it")]
#[path = "agent/node/mod.rs"]
mod node;

use std::path::Path;

use node::Netns;
use seine_control::compile::{LocalNode, NodeNetwork, PeerNode};
use seine_control::host_network::{self, HostPlan, ServicePlan};
use seine_datapath_api::v1;
use seine_datapath_api::v1::node::{EncapMode, TunnelType};

fn network(encap_mode: EncapMode) -> NodeNetwork {
    let local = LocalNode {
        name: "a".into(),
        pod_cidrs: vec!["10.10.1.0/24".parse().unwrap(), "fd00:10:1::/64".parse().unwrap()],
        gateway_addresses: vec!["10.10.1.1".parse().unwrap(), "fd00:10:1::1".parse().unwrap()],
        tunnel_address: "192.0.2.1".parse().unwrap(),
        tunnel_mtu: 1450,
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        node_port_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        encap_mode,
        tunnel_type: TunnelType::Geneve,
        existing_connections: Default::default(),
    };
    let peer = PeerNode {
        name: "b".into(),
        pod_cidrs: vec!["10.10.2.0/24".parse().unwrap(), "fd00:10:2::/64".parse().unwrap()],
        gateway_addresses: vec!["10.10.2.1".parse().unwrap(), "fd00:10:2::1".parse().unwrap()],
        tunnel_address: "192.0.2.2".parse().unwrap(),
        addresses: vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
    };
    NodeNetwork { local, peers: vec![peer], left_out: Vec::new() }
}

fn plan(network: &NodeNetwork) -> HostPlan {
    let device = |interface: &str| {
        Some(v1::Device { interface: interface.into(), mac: vec![2, 0, 0, 0, 0, 1], mtu: 1500 })
    };
    let services = ServicePlan {
        destinations: ["10.96.0.0/12", "203.0.113.7/32", "fd00:96::/108"]
            .map(|range| range.parse().unwrap())
            .into(),
        node_ports: [(6, 30080)].into(),
        node_addresses: network.local.addresses.clone(),
    };
    let hello = v1::HelloReply {
        gateway: device("seine-gw0"),
        host: device("seine-host0"),
        ..v1::HelloReply::default()
    };
    HostPlan::new(network, &hello, services, Default::default()).unwrap()
}

/// A node with an uplink and both legs, all of them up.
fn host() -> Netns {
    let netns = Netns::new("host");
    for (leg, peer) in [("seine-gw0", "p0"), ("seine-host0", "p1"), ("uplink", "p2")] {
        netns.ip(&["link", "add", leg, "type", "veth", "peer", "name", peer]);
        netns.ip(&["link", "set", peer, "up"]);
    }
    netns.ip(&["link", "set", "uplink", "up"]);
    netns.ip(&["link", "set", "lo", "up"]);
    netns.ip(&["address", "add", "192.0.2.1/24", "dev", "uplink"]);
    netns.ip(&["address", "add", "2001:db8::1/64", "dev", "uplink", "nodad"]);
    netns
}

/// The device and the source that the kernel picks for what the node itself sends.
fn own(netns: &Netns, destination: &str) -> String {
    let line = netns.ip(&["route", "get", destination]);
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |key: &str| {
        let at = words.iter().position(|word| *word == key);
        at.and_then(|at| words.get(at + 1)).copied().unwrap_or_default()
    };
    format!("{} {}", after("dev"), after("src"))
}

/// The device that it picks for what came in by the uplink.
fn others(netns: &Netns, source: &str, destination: &str) -> String {
    let line = netns.ip(&["route", "get", destination, "from", source, "iif", "uplink"]);
    let mut words = line.split_whitespace();
    words.find(|word| *word == "dev").and_then(|_| words.next()).unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn only_what_the_node_itself_sends_takes_the_leg_of_its_own() {
    let netns = host();
    let plan = plan(&network(EncapMode::Encap));
    host_network::reconcile(&netns.open(), Path::new("nft"), &plan).unwrap();
    for (destination, source) in [
        ("10.10.1.7", "10.10.1.1"),
        ("10.10.2.7", "10.10.1.1"),
        ("10.96.0.10", "10.10.1.1"),
        ("203.0.113.7", "10.10.1.1"),
        ("169.254.0.252", "10.10.1.1"),
        ("fd00:10:1::7", "fd00:10:1::1"),
        ("fd00:10:2::7", "fd00:10:1::1"),
        ("fd00:96::10", "fd00:10:1::1"),
        ("fc01::aabb:ccdd:eefe", "fd00:10:1::1"),
    ] {
        assert_eq!(own(&netns, destination), format!("seine-host0 {source}"), "to {destination}");
        let from = if destination.contains(':') { "2001:db8::9" } else { "192.0.2.9" };
        assert_eq!(others(&netns, from, destination), "seine-gw0", "to {destination}");
    }
    assert_eq!(own(&netns, "192.0.2.9"), "uplink 192.0.2.1");
    let neighbors = netns.ip(&["neigh", "show", "nud", "permanent"]);
    assert_eq!(neighbors.matches("lladdr aa:bb:cc:dd:ee:ff").count(), 6, "{neighbors}");
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn reconciling_twice_changes_nothing_and_what_is_not_wanted_goes() {
    let netns = host();
    let reconcile = |plan: &HostPlan| {
        host_network::reconcile(&netns.open(), Path::new("nft"), plan).unwrap();
    };
    let shown = || {
        let tables = ["main", "83"].map(|table| {
            let v4 = netns.ip(&["route", "show", "table", table, "proto", "83"]);
            format!("{v4}{}", netns.ip(&["-6", "route", "show", "table", table, "proto", "83"]))
        });
        format!("{}{}{}", tables.concat(), netns.ip(&["rule"]), netns.ip(&["-6", "rule"]))
    };
    let full = plan(&network(EncapMode::Encap));
    reconcile(&full);
    let before = shown();
    reconcile(&full);
    assert_eq!(shown(), before);
    assert_eq!(before.matches("iif lo lookup 83").count(), 2, "{before}");

    let mut fewer = full.clone();
    fewer.services.destinations.retain(|range| range.prefix_len() == 12);
    reconcile(&fewer);
    assert!(!shown().contains("203.0.113.7") && shown().contains("10.96.0.0/12"));

    for _ in 0..2 {
        host_network::remove(&netns.open(), Path::new("nft")).unwrap();
        let left = shown();
        assert!(!left.contains("seine-") && !left.contains("lookup 83"), "{left}");
    }
    assert!(!netns.ip(&["neigh", "show", "nud", "permanent"]).contains("aa:bb:cc:dd:ee:ff"));
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn without_a_tunnel_peers_are_reached_by_their_own_addresses() {
    let netns = host();
    let plan = plan(&network(EncapMode::NoEncap));
    for _ in 0..2 {
        host_network::reconcile(&netns.open(), Path::new("nft"), &plan).unwrap();
        assert_eq!(own(&netns, "10.10.2.7"), "uplink 192.0.2.1");
        assert_eq!(own(&netns, "fd00:10:2::7"), "uplink 2001:db8::1");
        assert_eq!(own(&netns, "10.10.1.7"), "seine-host0 10.10.1.1");
        let from_pod =
            netns.ip(&["route", "get", "10.10.2.7", "from", "10.10.1.5", "iif", "seine-gw0"]);
        assert!(from_pod.contains("via 192.0.2.2 dev uplink"), "{from_pod}");
    }
}
