//! What Pods send for others is composed like anything else, and ends with its permit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod permit;

use permit::{FOREIGN, permitted};
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::{
    Action, Change, ExistingConnections, Group, Kind, Object, ObjectId, Rule, RuleDirection,
    RuleTable,
};
use seine_pipeline::testbed::{Fate, Node, Twin, answered, endpoint, flags, tcp, udp};

fn sent(node: &mut Node, by: &str, frame: &[u8]) -> Option<(String, Vec<u8>)> {
    match node.send_frame(by, frame, Checksum::Complete) {
        Fate::Left(egress, left) => Some((egress, left)),
        _ => None,
    }
}

#[test]
fn what_a_pod_sends_for_others_is_composed_and_ends_with_its_permit() {
    for (router, family, which) in [(true, 0, 0), (true, 1, 0), (false, 0, 1), (false, 1, 1)] {
        for probe in [udp(), tcp().flags(flags::ACK)] {
            let mut node = Node::with_pods(["nf", "b"]);
            node.twin = Some(Twin::with_workers(2));
            node.apply(&[Change::Upsert(Object::Endpoint(permitted("nf", router)))]);
            let probe = probe.from("nf").to("b").in_v6(family == 1).source(FOREIGN[family][which]);
            let frame = node.frame(&probe);
            let (_, there) = sent(&mut node, "nf", &frame).unwrap();
            let answer = answered(&there);
            for _ in 0..2 {
                let back = sent(&mut node, "b", &answer).unwrap();
                assert_eq!(back.0, "nf", "it is answered to whom it came from");
                sent(&mut node, "nf", &frame).unwrap();
            }
            let (hits, _) = node.composed();
            assert!(sent(&mut node, "nf", &frame).is_some());
            assert_eq!(node.composed().0, hits + 1);
            // Another MAC address is looked at every time.
            let mut other = frame.clone();
            other[11] ^= 1;
            assert_eq!(sent(&mut node, "nf", &other), None);

            node.apply(&[Change::Upsert(Object::Endpoint(endpoint(0, "nf")))]);
            assert_eq!(sent(&mut node, "nf", &frame), None, "it has no permit any more");
            assert!(sent(&mut node, "b", &answer).is_none_or(|(egress, _)| egress != "nf"));
            node.assert_twins();
        }
    }
}

#[test]
fn what_goes_to_an_allowed_address_is_composed_unless_it_may_move() {
    for (family, alone) in [(0, true), (1, true), (0, false), (1, false)] {
        let mut node = Node::with_pods(["nf", "b", "other"]);
        node.twin = Some(Twin::with_workers(2));
        node.apply(&[Change::Upsert(Object::Endpoint(permitted("nf", false)))]);
        if !alone {
            let mut other = endpoint(2, "other");
            other.permit = permitted("nf", false).permit;
            node.apply(&[Change::Upsert(Object::Endpoint(other))]);
        }
        let probe = udp().from("b").in_v6(family == 1).to(FOREIGN[family][1]);
        let frame = node.frame(&probe);
        let (egress, there) = sent(&mut node, "b", &frame).unwrap();
        assert_eq!(egress, "nf");
        let answer = answered(&there);
        for _ in 0..3 {
            assert_eq!(sent(&mut node, "nf", &answer).unwrap().0, "b");
            assert_eq!(sent(&mut node, "b", &frame).unwrap().0, "nf");
        }
        let (hits, _) = node.composed();
        assert_eq!(sent(&mut node, "b", &frame).unwrap().0, "nf");
        assert_eq!(node.composed().0, hits + u64::from(alone));
        // Another Pod has the very address from now on: then it is that one's.
        node.apply(&[Change::Upsert(Object::Endpoint(endpoint(0, "nf")))]);
        let left = sent(&mut node, "b", &frame);
        let expected = if alone { "gateway" } else { "other" };
        assert!(left.is_none_or(|(egress, _)| egress == expected), "its permit has ended");
        node.assert_twins();
    }
}

#[test]
fn rules_about_a_pod_judge_what_is_under_way_to_its_allowed_address_again() {
    for direction in [RuleDirection::Egress, RuleDirection::Ingress] {
        let mut node = Node::with_pods(["nf", "b"]);
        node.twin = Some(Twin::with_workers(2));
        let id = ObjectId { kind: Kind::Node, name: "node1".to_owned() };
        let Some(Object::Node(mut own)) = node.state.object(&id) else { panic!("no node") };
        own.existing_connections = ExistingConnections::Reevaluate;
        let endpoint = Object::Endpoint(permitted("nf", false));
        node.apply(&[Change::Upsert(Object::Node(own)), Change::Upsert(endpoint)]);
        let frame = node.frame(&udp().from("b").to(FOREIGN[0][1]));
        let (_, there) = sent(&mut node, "b", &frame).unwrap();
        let answer = answered(&there);
        for _ in 0..3 {
            sent(&mut node, "nf", &answer).unwrap();
            sent(&mut node, "b", &frame).unwrap();
        }
        let group = |name: &str, address: &str| {
            let members = vec![address.parse().unwrap()];
            let (name, fqdns) = (name.to_owned(), Vec::new());
            Change::Upsert(Object::Group(Group { name, members, fqdns }))
        };
        let [own, far] = match direction {
            RuleDirection::Egress => ["b", "nf"],
            RuleDirection::Ingress => ["nf", "b"],
        };
        let rule = Rule {
            name: "closed".to_owned(),
            policy: "closed".to_owned(),
            rule_name: String::new(),
            direction,
            table: RuleTable::AntreaPolicy,
            rank: 1,
            action: Action::Drop,
            applied_to_groups: vec![own.to_owned()],
            applied_to_services: Vec::new(),
            peer_groups: vec![far.to_owned()],
            peer_services: Vec::new(),
            traffic: Vec::new(),
            log: false,
            log_label: String::new(),
            priority: String::new(),
        };
        let rule = Change::Upsert(Object::Rule(rule));
        node.apply(&[group("nf", "10.10.1.2/32"), group("b", "10.10.1.3/32"), rule]);
        assert_eq!(sent(&mut node, "b", &frame), None, "{direction:?}");
        assert_eq!(sent(&mut node, "nf", &answer), None, "{direction:?}");
        node.assert_twins();
    }
}

#[test]
fn what_comes_from_another_mac_address_is_never_composed() {
    let mut node = Node::with_pods(["nf", "b"]);
    node.twin = Some(Twin::with_workers(1));
    node.apply(&[Change::Upsert(Object::Endpoint(permitted("nf", false)))]);
    let probe = udp().from("nf").to("b").source(FOREIGN[0][2]);
    let own = node.frame(&probe);
    assert_eq!(sent(&mut node, "nf", &own), None, "the address has another MAC address");
    let mut frame = own.clone();
    frame[11] ^= 1;
    let (_, there) = sent(&mut node, "nf", &frame).unwrap();
    let mut answer = answered(&there);
    // By its route, as whoever is asked from another network answers.
    answer[..6].copy_from_slice(&node.mac("gateway").0);
    for _ in 0..3 {
        sent(&mut node, "b", &answer).unwrap();
        sent(&mut node, "nf", &frame).unwrap();
        assert_eq!(sent(&mut node, "nf", &own), None);
    }
    node.assert_twins();
}
