//! What an operator describes becomes the packet that its sender would have sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use etherparse::{SlicedPacket, TransportSlice};
use seine_pipeline::address::Mac;
use seine_pipeline::connection::{Direction, Progress};
use seine_pipeline::describe::{Description, Protocol, describe};
use seine_pipeline::run::{Context, run};
use seine_pipeline::state::{Change, Kind, ObjectId};
use seine_pipeline::testbed::{Node, endpoint, tcp};
use seine_pipeline::trace::Trace;
use seine_pipeline::verdict::{DropReason, Outcome};

fn description(ingress: &str, destination: &str) -> Description {
    Description {
        ingress: ingress.to_owned(),
        source: None,
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
        source_port: 40000,
        destination_port: 80,
        payload_bytes: 0,
        ttl: 64,
        tcp_flags: None,
        source_mac: None,
        destination_mac: None,
    }
}

#[test]
fn a_described_packet_is_explained_from_table_to_table() {
    let mut node = Node::with_pods(["a", "b"]);
    let mut described = describe(&description("default/a/eth0", "10.10.1.3"), &node.state).unwrap();
    let mut trace = Trace::default();
    let mut context = Context { trace: Some(&mut trace), ..node.context() };
    let outcome = run(&mut described.packet().unwrap(), &mut context);
    assert_eq!(outcome, Outcome::Output(node.state.port_by_name("b").unwrap()));
    let matched: Vec<_> =
        trace.steps.iter().map(|step| (step.table.name(), step.matched.as_str())).collect();
    assert_eq!(
        matched,
        [
            ("PipelineRootClassifier", "IPv4 from port a"),
            ("Classifier", "port a is that of default/a/eth0"),
            ("SpoofGuard", "default/a/eth0 owns 10.10.1.2"),
            ("ConntrackZone", "10.10.1.2:40000 > 10.10.1.3:80"),
            ("ConntrackState", "new"),
            ("NodePortMark", ""),
            ("SessionAffinity", ""),
            ("ServiceLB", ""),
            ("EndpointDNAT", ""),
            ("AntreaPolicyEgressRule", ""),
            ("EgressRule", ""),
            ("EgressDefaultRule", ""),
            ("EgressMetric", ""),
            ("L3Forwarding", "default/b/eth0 owns 10.10.1.3"),
            ("L3DecTTL", "switched, not routed: no hop"),
            ("SNATMark", ""),
            ("SNAT", ""),
            ("L2ForwardingCalc", "02:00:00:01:00:03 is default/b/eth0"),
            ("IngressSecurityClassifier", ""),
            ("AntreaPolicyIngressRule", ""),
            ("IngressRule", ""),
            ("IngressDefaultRule", ""),
            ("IngressMetric", ""),
            ("ConntrackCommit", "answers will be 10.10.1.3:80 > 10.10.1.2:40000"),
            ("Output", "port b"),
        ]
    );
}

#[test]
fn every_protocol_of_either_family_is_built_whole() {
    let node = Node::with_pods(["a", "b"]);
    for ingress in ["a", "default/a/eth0", "gateway", "tunnel"] {
        let protocols =
            [Protocol::Icmp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Arp];
        for protocol in protocols {
            for (destination, remote) in
                [("10.10.1.3", "10.10.2.9"), ("fd00:10:1::3", "fd00:10:2::9")]
            {
                let mut wanted = Description { protocol, ..description(ingress, destination) };
                if ingress == "tunnel" {
                    wanted.source = Some(remote.parse().unwrap());
                }
                let built = describe(&wanted, &node.state);
                if ingress == "tunnel" && protocol == Protocol::Arp {
                    assert!(built.is_err());
                    continue;
                }
                let built = built.unwrap();
                SlicedPacket::from_ethernet(built.bytes()).expect("an intact frame");
            }
        }
    }
}

#[test]
fn a_segment_has_the_flags_that_are_said_and_a_right_sum() {
    let node = Node::with_pods(["a", "b"]);
    for (tcp_flags, expected) in
        [(None, 0x02), (Some(0x10), 0x10), (Some(0), 0), (Some(0x29), 0x29)]
    {
        let wanted = Description { tcp_flags, ..description("a", "10.10.1.3") };
        let built = describe(&wanted, &node.state).unwrap();
        let packet = SlicedPacket::from_ethernet(built.bytes()).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{packet:?}") };
        assert_eq!(tcp.slice()[13], expected);
        let header = tcp.to_header();
        let summed = header.calc_checksum_ipv4_raw([10, 10, 1, 2], [10, 10, 1, 3], &[]);
        assert_eq!(summed.unwrap(), header.checksum);
    }
}

#[test]
fn the_connection_that_a_described_packet_meets_is_told_in_its_direction() {
    let mut node = Node::with_pods(["a", "b"]);
    let met = |node: &mut Node, wanted: &Description| {
        let mut described = describe(wanted, &node.state).unwrap();
        let mut packet = described.packet().unwrap();
        let mut context = Context { dry: true, ..node.context() };
        let outcome = run(&mut packet, &mut context);
        let met = context.learned.connections.met_by(&packet, context.now_ms);
        (met.map(|(listed, direction)| (listed.connection.progress, direction)), outcome)
    };
    let syn = description("a", "10.10.1.3");
    assert_eq!(met(&mut node, &syn).0, None, "nobody has opened it");
    node.send(tcp().from("a").to("b").source_port(40000).port(80)).left_by("b");
    assert_eq!(met(&mut node, &syn).0, Some((Progress::SynSent, Direction::Original)));
    let answer = Description {
        source_port: 80,
        destination_port: 40000,
        tcp_flags: Some(0x12),
        ..description("b", "10.10.1.2")
    };
    assert_eq!(met(&mut node, &answer).0, Some((Progress::SynSent, Direction::Reply)));
    // A segment that cannot be part of it is dropped, and was meant for it all the same.
    let stray = Description { tcp_flags: Some(0x11), ..answer };
    let (found, outcome) = met(&mut node, &stray);
    assert_eq!(found, Some((Progress::SynSent, Direction::Reply)));
    assert_eq!(outcome, Outcome::Drop(DropReason::InvalidConnection));
}

#[test]
fn what_is_said_is_not_replaced() {
    let node = Node::with_pods(["a", "b"]);
    let mac = Mac([2, 9, 9, 9, 9, 9]);
    let source: IpAddr = "10.10.1.77".parse().unwrap();
    let wanted = Description {
        source: Some(source),
        source_mac: Some(mac),
        destination_mac: Some(mac),
        ..description("a", "10.10.1.3")
    };
    let built = describe(&wanted, &node.state).unwrap();
    assert_eq!(built.bytes()[..12], [mac.0, mac.0].concat());
    assert_eq!(built.bytes()[26..30], [10, 10, 1, 77]);
}

#[test]
fn what_cannot_be_described_is_refused_with_a_way_on() {
    let mut node = Node::with_pods(["a"]);
    node.apply(&[Change::Upsert(seine_pipeline::state::Object::Endpoint(endpoint(1, "late")))]);
    let long = Description { payload_bytes: 70_000, ..description("a", "10.10.1.1") };
    let mixed =
        Description { source: Some("fd00::1".parse().unwrap()), ..description("a", "10.10.1.1") };
    let cases = [
        (
            description("nobody", "10.10.1.1"),
            "no open port or endpoint is called `nobody`; try `seinectl port list`, or \"tunnel\"",
        ),
        (
            description("default/late/eth0", "10.10.1.1"),
            "endpoint `default/late/eth0` has no open port yet",
        ),
        (
            description("uplink", "10.10.1.1"),
            "what comes in by the uplink comes by the tunnel: name \"tunnel\" as the ingress",
        ),
        (
            description("tunnel", "10.10.1.2"),
            "the ingress has no address of the destination's family; name a source",
        ),
        (mixed, "fd00::1 and 10.10.1.1 are of different families"),
        (long, "70000 bytes of payload do not fit an IP packet"),
        (
            Description {
                source: Some("192.0.2.1".parse().unwrap()),
                ..description("tunnel", "10.10.1.2")
            },
            "no peer has 192.0.2.1 in its Pod ranges, so none would tunnel from there",
        ),
    ];
    for (wanted, sentence) in cases {
        assert_eq!(describe(&wanted, &node.state).unwrap_err().to_string(), sentence);
    }
    let gateway = ObjectId { kind: Kind::Port, name: "gateway".to_owned() };
    node.apply(&[Change::Delete(gateway)]);
    let refused = describe(&description("a", "10.10.1.1"), &node.state).unwrap_err();
    assert!(refused.to_string().contains("not open yet"));
}
