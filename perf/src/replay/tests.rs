#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use seine_pipeline::address::Mac;
use seine_pipeline::state::Action;
use serde_json::{Value, json};

use super::node::{Both, Ours, PORTS, Theirs};
use super::report::Summary;
use super::state::machine;
use super::switch::Switch;
use super::talk::Sent;
use crate::cases::desired::port_name;
use crate::cases::file::CaseFile;
use crate::cases::play::desired_objects;
use crate::cases::segment::{Message, Segment};
use crate::cases::world::machine::Machine;
use crate::openflow::walk::{Ends, Walk, met};

const GATEWAY: Mac = Mac([2, 0, 0, 0, 1, 0]);

/// Six Pods on this node and one on its peer, and a Service of those named `web`.
fn node(objects: &[Value], web: &[usize]) -> Machine {
    let pod = |index: usize| {
        let (node, address) = match index {
            6 => ("node-1", "10.1.1.2".to_owned()),
            _ => ("node-0", format!("10.1.0.{}", 2 + index)),
        };
        let app = if web.contains(&index) { "web" } else { "other" };
        json!({"namespace": "x", "name": format!("pod-{index}"), "labels": {"app": app},
            "ip": address, "node": node})
    };
    let node = |index: usize| {
        json!({"name": format!("node-{index}"), "ip": format!("192.168.77.{}", 101 + index),
            "labels": {}, "podCIDR": format!("10.1.{index}.0/24"),
            "gatewayIP": format!("10.1.{index}.1")})
    };
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "x"},
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "web"},
            "ports": [{"port": 80, "protocol": "UDP", "targetPort": 8080}]}});
    let objects: Vec<&Value> = objects.iter().chain([&service]).collect();
    let file = json!({"format": "conf-case/1", "suite": "walks",
        "clusters": {"c": {"namespaces": [{"name": "x", "labels": {}}],
            "pods": (0..7).map(pod).collect::<Vec<_>>(), "nodes": [node(0), node(1)]}},
        "cases": [{"id": "c", "steps": [{"cluster": "c", "objects": objects}]}]});
    let file: CaseFile = serde_json::from_value(file).unwrap();
    let cluster = &file.clusters["c"];
    let mut desired = desired_objects(cluster, &file.cases[0].steps[0]).unwrap();
    machine(cluster, 0, "node-0", desired.remove("node-0").unwrap()).unwrap()
}

/// A policy that lets everything pass, in both directions, by name.
fn allowing() -> Value {
    let rule = json!({"action": "Allow"});
    json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "allow"},
        "spec": {"priority": 5, "appliedTo": [{"namespaceSelector": {}}],
            "ingress": [rule], "egress": [rule]}})
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A datagram of a Pod of this node; of another node's it comes by the tunnel.
fn datagram(from: &str, to: &str, ports: (u16, u16)) -> Sent {
    let (source, destination) = (address(from), address(to));
    let mac = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            Mac([2, 4, a, b, c, d])
        }
        IpAddr::V6(_) => Mac::default(),
    };
    let segment =
        Segment { source, destination, message: Message::Udp { ports, payload: vec![b'?'] } };
    if from.starts_with("10.1.1.") {
        let tunnel = Some((address("192.168.77.102"), address("192.168.77.101")));
        let frame = segment.frame(Mac([2, 0, 0, 0, 1, 1]), Mac::VIRTUAL);
        return Sent { port: "uplink".to_owned(), frame, tunnel };
    }
    let local = to.starts_with("10.1.0.") && to != "10.1.0.1";
    let frame = segment.frame(mac(source), if local { mac(destination) } else { GATEWAY });
    let pod = json!({"namespace": "x", "name": "any", "ip": from});
    let port = port_name(&serde_json::from_value(pod).unwrap());
    Sent { port, frame, tunnel: None }
}

/// How many actions of connection tracking one packet meets.
fn actions(both: &mut Both<'_>, sent: &Sent) -> (usize, Ours) {
    both.asked(&["revalidator/purge"]).unwrap();
    let (ours, theirs) = both.send(sent).unwrap();
    assert!(matches!((&ours, &theirs), (Ours::Left(..), Theirs::Left(..))), "{ours:?} {theirs:?}");
    (met(&both.asked(&["dpctl/dump-flows"]).unwrap()), ours)
}

/// What arrived, answered by whom it arrived at.
fn answer(frame: &[u8]) -> Sent {
    let Segment { source, destination, message } = Segment::parse(frame).unwrap();
    let Message::Udp { ports: (far, near), .. } = message else { panic!("{message:?}") };
    datagram(&destination.to_string(), &source.to_string(), (near, far))
}

#[test]
#[ignore = "needs Open vSwitch, which deploy/test installs"]
fn packets_meet_the_actions_of_connection_tracking_that_their_walk_says() {
    let mut switch = Switch::start(PORTS).unwrap();
    let ways = [
        (Ends::Local, "10.1.0.2", "10.1.0.3", false),
        (Ends::ToPeer, "10.1.0.2", "10.1.1.2", false),
        (Ends::FromPeer, "10.1.1.2", "10.1.0.3", false),
        (Ends::Local, "10.1.0.3", "10.96.0.1", true),
        (Ends::Hairpin, "10.1.0.2", "10.96.0.1", true),
    ];
    for policies in [vec![], vec![allowing()]] {
        let rule = (!policies.is_empty()).then_some(Action::Allow);
        let mut machine = node(&policies, &[0]);
        let mut both = Both::begin(0, &mut machine, &mut switch, &mut Summary::default()).unwrap();
        for (index, (ends, from, to, service)) in ways.into_iter().enumerate() {
            let walk = Walk { ends, service, egress: rule, ingress: rule };
            let first = datagram(from, to, (40000 + index as u16, 80));
            let (met, ours) = actions(&mut both, &first);
            assert_eq!(met, walk.first(), "{walk:?}");
            let Ours::Left(_, frame, _) = ours else { continue };
            let (met, _) = actions(&mut both, &answer(&frame));
            assert_eq!(met, walk.later(), "the answer of {walk:?}");
            let (met, _) = actions(&mut both, &first);
            assert_eq!(met, walk.later(), "later, {walk:?}");
        }
    }
}

#[test]
#[ignore = "needs Open vSwitch, which deploy/test installs"]
fn both_choose_every_endpoint_about_as_often() {
    const CONNECTIONS: usize = 400;
    let mut switch = Switch::start(PORTS).unwrap();
    let mut machine = node(&[], &[0, 1, 2, 3]);
    let mut both = Both::begin(0, &mut machine, &mut switch, &mut Summary::default()).unwrap();
    let mut counts: [BTreeMap<IpAddr, usize>; 2] = Default::default();
    for index in 0..CONNECTIONS {
        // From many clients: ports of UDP are no part of Open vSwitch's hash.
        let source = IpAddr::from([198, 51, (100 + index / 200) as u8, (1 + index % 200) as u8]);
        let message = Message::Udp { ports: (40000, 80), payload: vec![b'?'] };
        let segment = Segment { source, destination: address("10.96.0.1"), message };
        let frame = segment.frame(GATEWAY, Mac::VIRTUAL);
        let sent = Sent { port: "gateway".to_owned(), frame, tunnel: None };
        let (ours, theirs) = both.send(&sent).unwrap();
        let (Ours::Left(_, ours, _), Theirs::Left(_, theirs)) = (ours, theirs) else {
            panic!("one of them drops it");
        };
        for (count, frame) in counts.iter_mut().zip([ours, theirs]) {
            *count.entry(Segment::parse(&frame).unwrap().destination).or_default() += 1;
        }
    }
    for (who, counts) in ["Seine", "Open vSwitch"].iter().zip(counts) {
        assert_eq!(counts.len(), 4, "{who}: {counts:?}");
        // A fair choice is out of these bounds once in a million times.
        let fair = CONNECTIONS / 4 - 45..CONNECTIONS / 4 + 45;
        assert!(counts.values().all(|count| fair.contains(count)), "{who}: {counts:?}");
    }
}
