//! What a client of a Service is told about its packets: always about what it sent itself; and what
//! becomes of it where there is no room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "each test file looks at its own part")]
mod policy;
#[allow(dead_code, reason = "each test file looks at its own part")]
mod seen;
mod service;

use seen::see;
use seine_pipeline::connection::{
    ConnectionWorker, Decision, FlowKey, Ingress, NewConnection, Progress, Tuple,
};
use seine_pipeline::packet::PacketSource;
use seine_pipeline::testbed::{Node, udp};

const ADDRESSES: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

fn node(endpoint: &str) -> Node {
    let mut node = Node::with_pods(["a", "b"]);
    let words = ["default/dns:", "udp", "53", "at", ADDRESSES[0], ADDRESSES[1], "to", endpoint];
    node.apply(&[service::change(&node, &words)]);
    node
}

/// The packet behind an ICMP error's header as its sender had sent it, but for its hops.
#[track_caller]
fn assert_about(sent: &[u8], quoted: &[u8], v6: bool) {
    let (mut sent, mut quoted) = (sent[14..14 + quoted.len()].to_vec(), quoted.to_vec());
    for bytes in [&mut sent, &mut quoted] {
        if v6 {
            bytes[7] = 0;
        } else {
            bytes[8] = 0;
            bytes[10..12].fill(0);
        }
    }
    assert_eq!(sent, quoted);
}

#[test]
fn a_refusal_by_policy_comes_from_the_service_and_quotes_what_was_sent_to_it() {
    for (v6, expected) in [(false, (3, 10)), (true, (1, 1))] {
        for (direction, whom) in [("egress", "a"), ("ingress", "b")] {
            let mut node = node("b:5353");
            let group = ["group", "g", whom];
            let rule = ["rule", "no", direction, "antrea", "1", "reject", "of", "g"];
            let changes = [policy::change(&node, &group), policy::change(&node, &rule)];
            node.apply(&changes);
            let probe = || udp().from("a").to(ADDRESSES[usize::from(v6)]).in_v6(v6);
            let sent = node.frame(&probe());
            let answer = see(&node.send(probe()).left_by("a"));
            assert_eq!(answer.icmp, Some(expected));
            assert_eq!(answer.source, node.address(ADDRESSES[usize::from(v6)], v6));
            assert_eq!(answer.destination, node.address("a", v6));
            assert_about(&sent, &answer.payload, v6);
        }
    }
}

#[test]
fn what_is_too_big_for_the_endpoint_is_told_about_the_service() {
    for (v6, expected) in [(false, (3, 4)), (true, (2, 0))] {
        let mut node = node("remote:5353");
        let to = ADDRESSES[usize::from(v6)];
        let probe = || udp().from("a").to(to).in_v6(v6).payload_bytes(1500);
        let sent = node.frame(&probe());
        let answer = see(&node.send(probe()).left_by("a"));
        assert_eq!(answer.icmp, Some(expected));
        assert_eq!(answer.source, node.address("gateway", v6));
        assert_about(&sent, &answer.payload, v6);
    }
}

#[test]
fn a_client_outside_for_whom_no_port_is_left_is_dropped_by_name() {
    let mut node = node("remote:5353");
    let (local, remote) = (node.address("gateway", false), node.address("remote", false));
    node.limit(1 << 17, 1 << 16);
    // Every port by which this node could ask the endpoint is somebody's.
    let decision = Decision {
        source: PacketSource::Gateway,
        from_node: false,
        service: None,
        snat: true,
        hairpin: false,
        egress_rule: None,
        ingress_rule: None,
        policy_epoch: Default::default(),
    };
    node.twin = None;
    let mut worker = ConnectionWorker::new();
    for source_port in (1024..32768).chain([40000]) {
        let (source, destination, protocol) = (local, remote, 17);
        let asks = Tuple { source, destination, protocol, source_port, destination_port: 5353 };
        let client = Tuple { source: "203.0.113.1".parse().unwrap(), ..asks };
        let key = |ingress, tuple| FlowKey { network: 0, ingress, tuple };
        let new = NewConnection {
            original: key(Ingress::Gateway, client),
            reply: key(Ingress::Tunnel, asks.reversed()),
            decision,
            progress: Progress::Answered,
        };
        node.learned.connections.insert(&new, node.now_ms, &mut worker).expect("there is room");
    }
    let probe = || udp().from("gateway").source("outside").to(ADDRESSES[0]);
    node.send(probe());
    node.assert_changed(["drops.gateway.SnatPortsExhausted +1"]);
    // Whose own port is free needs none of the others.
    node.send(probe().source_port(40001)).left_by("uplink");
}
