//! What a State accepts, what it refuses and with which words, and what a change costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::type_complexity, reason = "a table of edits and reasons reads best as one")]

use proptest::prelude::*;
use seine_pipeline::STAGES;
use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::limits::{ENDPOINTS_MAX, PEERS_MAX};
use seine_pipeline::state::{Change, Endpoint, Kind, Node, Object, ObjectId, Peer, State};
use seine_pipeline::testbed::{self, assert_consistent, endpoint, port, udp};

fn upsert(object: Object) -> Change {
    Change::Upsert(object)
}

fn delete(kind: Kind, name: &str) -> Change {
    Change::Delete(ObjectId { kind, name: name.to_owned() })
}

fn installed() -> State {
    testbed::Node::with_pods(["a", "b"]).state
}

fn node() -> Node {
    let id = ObjectId { kind: Kind::Node, name: "node1".to_owned() };
    let Some(Object::Node(node)) = installed().object(&id) else { panic!("no node") };
    node
}

fn peer(index: usize) -> Peer {
    let (high, low) = (index / 256, index % 256);
    Peer {
        name: format!("peer{index}"),
        pod_cidrs: vec![format!("10.{}.{low}.0/24", 100 + high).parse().unwrap()],
        gateway_addresses: vec![format!("10.{}.{low}.1", 100 + high).parse().unwrap()],
        tunnel_address: format!("192.168.{}.{low}", 100 + high).parse().unwrap(),
        adjacency: AdjacencyId::new(index).unwrap(),
    }
}

#[track_caller]
fn refused(changes: &[Change], sentence: &str) {
    let refusal = installed().apply(changes).expect_err("refused");
    assert_eq!(refusal.to_string(), sentence);
}

#[test]
fn an_endpoint_that_contradicts_itself_is_refused_with_field_and_reason() {
    let edited = |edit: fn(&mut Endpoint)| {
        let mut endpoint = endpoint(7, "x");
        edit(&mut endpoint);
        [upsert(Object::Endpoint(endpoint))]
    };
    let cases: [(fn(&mut Endpoint), &str); 8] = [
        (|it| it.mac = Mac::BROADCAST, "mac: ff:ff:ff:ff:ff:ff is not a unicast address"),
        (
            |it| it.mac = Mac::VIRTUAL,
            "mac: aa:bb:cc:dd:ee:ff stands for peer nodes and cannot be an interface's",
        ),
        (|it| it.port.clear(), "port: is empty"),
        (|it| it.addresses.clear(), "addresses: there is none"),
        (
            |it| it.addresses = vec!["10.10.1.8".parse().unwrap(), "10.10.1.9".parse().unwrap()],
            "addresses: there is more than one of a family",
        ),
        (
            |it| it.addresses = vec!["127.0.0.1".parse().unwrap()],
            "addresses: 127.0.0.1 is not an address that a Pod can have",
        ),
        (|it| it.mtu = 1279, "mtu: 1279 is below 1280, the least for IPv6"),
        (
            |it| {
                it.addresses.truncate(1);
                it.mtu = 67;
            },
            "mtu: 67 is below 68, the least for IPv4",
        ),
    ];
    for (edit, reason) in cases {
        refused(&edited(edit), &format!("endpoint `default/x/eth0` is refused: {reason}"));
    }
}

#[test]
fn an_endpoint_must_fit_its_node_and_its_neighbours() {
    let edited = |edit: fn(&mut Endpoint)| {
        let mut endpoint = endpoint(7, "x");
        edit(&mut endpoint);
        [upsert(Object::Endpoint(endpoint))]
    };
    let cases: [(fn(&mut Endpoint), &str); 9] = [
        (
            |it| it.addresses[0] = "10.10.2.9".parse().unwrap(),
            "addresses: 10.10.2.9 is in no Pod range of node `node1`",
        ),
        (
            |it| it.addresses[0] = "10.10.1.1".parse().unwrap(),
            "addresses: 10.10.1.1 is the gateway's",
        ),
        (
            |it| it.addresses[0] = "10.10.1.255".parse().unwrap(),
            "addresses: 10.10.1.255 is the first or last of 10.10.1.0/24, which no host can have",
        ),
        (
            |it| it.addresses[0] = "10.10.1.2".parse().unwrap(),
            "addresses: 10.10.1.2 is that of endpoint `default/a/eth0`",
        ),
        (
            |it| it.addresses[1] = "fd00:10:1::3".parse().unwrap(),
            "addresses: fd00:10:1::3 is that of endpoint `default/b/eth0`",
        ),
        (
            |it| it.mac = Mac([2, 0, 0, 1, 0, 2]),
            "mac: 02:00:00:01:00:02 is that of endpoint `default/a/eth0`",
        ),
        (|it| it.mac = testbed::GATEWAY_MAC, "mac: 02:00:00:00:01:01 is the gateway's"),
        (|it| it.port = "a".to_owned(), "port: `a` is that of endpoint `default/a/eth0`"),
        (|it| it.port = "gateway".to_owned(), "port: `gateway` is the node's own"),
    ];
    for (edit, reason) in cases {
        refused(&edited(edit), &format!("endpoint `default/x/eth0` is refused: {reason}"));
    }
}

#[test]
fn a_peer_must_fit_the_node_and_other_peers() {
    let edited = |edit: fn(&mut Peer)| {
        let mut peer = peer(1);
        edit(&mut peer);
        [upsert(Object::Peer(peer))]
    };
    let cases: [(fn(&mut Peer), &str); 9] = [
        (|it| it.pod_cidrs.clear(), "pod_cidrs: there is none"),
        (
            |it| it.pod_cidrs = vec!["10.100.1.7/24".parse().unwrap()],
            "pod_cidrs: 10.100.1.7/24 has bits set behind its length: 10.100.1.0/24 is meant?",
        ),
        (
            |it| it.pod_cidrs.push("10.10.0.0/16".parse().unwrap()),
            "pod_cidrs: 10.10.0.0/16 overlaps a range of peer `node2`",
        ),
        (
            |it| it.pod_cidrs.push("10.10.1.128/25".parse().unwrap()),
            "pod_cidrs: 10.10.1.128/25 overlaps 10.10.1.0/24 of this node",
        ),
        (
            |it| it.gateway_addresses = vec!["10.100.2.1".parse().unwrap()],
            "gateway_addresses: 10.100.2.1 is in none of its Pod ranges",
        ),
        (
            |it| it.tunnel_address = "2001:db8::7".parse().unwrap(),
            "tunnel_address: 2001:db8::7 and this node's 192.168.0.1 are of different families",
        ),
        (
            |it| it.tunnel_address = "192.168.0.1".parse().unwrap(),
            "tunnel_address: 192.168.0.1 is this node's own",
        ),
        (
            |it| it.tunnel_address = "192.168.0.2".parse().unwrap(),
            "tunnel_address: 192.168.0.2 is that of peer `node2`",
        ),
        (
            |it| it.tunnel_address = "224.0.0.1".parse().unwrap(),
            "tunnel_address: 224.0.0.1 is not an address that a node can have",
        ),
    ];
    for (edit, reason) in cases {
        refused(&edited(edit), &format!("peer `peer1` is refused: {reason}"));
    }
}

#[test]
fn a_node_must_be_one_and_fit_what_is_installed() {
    let edited = |edit: fn(&mut Node)| {
        let mut node = node();
        edit(&mut node);
        [upsert(Object::Node(node))]
    };
    let cases: [(fn(&mut Node), &str); 6] = [
        (
            |it| it.name = "other".to_owned(),
            "node `other` is refused: name: this node is already called `node1`",
        ),
        (
            |it| it.pod_cidrs[0] = "10.10.9.0/24".parse().unwrap(),
            "node `node1` is refused: gateway_addresses: 10.10.1.1 is in none of its Pod ranges",
        ),
        (
            |it| it.gateway_addresses.truncate(1),
            "node `node1` is refused: gateway_addresses: one address within fd00:10:1::/64 \
             is needed",
        ),
        (
            |it| it.tunnel_mtu = 1200,
            "node `node1` is refused: tunnel_mtu: 1200 is below 1280, the least for IPv6",
        ),
        (
            |it| it.gateway_addresses[0] = "10.10.1.2".parse().unwrap(),
            "endpoint `default/a/eth0` is refused: addresses: 10.10.1.2 is the gateway's",
        ),
        (
            |it| it.tunnel_address = "2001:db8::1".parse().unwrap(),
            "peer `node2` is refused: tunnel_address: 192.168.0.2 and this node's 2001:db8::1 \
             are of different families",
        ),
    ];
    for (edit, sentence) in cases {
        refused(&edited(edit), sentence);
    }
}

#[test]
fn ports_are_unique_and_the_nodes_own_are_single() {
    let open = |index, name, kind| [upsert(Object::Port(port(index, name, kind, Mac([2; 6]))))];
    refused(&open(2, "x", PortKind::Pod), "port `x` is refused: id: 2 is that of port `a`");
    refused(
        &open(9, "x", PortKind::Gateway),
        "port `x` is refused: kind: port `gateway` is already that",
    );
}

#[test]
fn two_different_changes_of_one_object_are_refused_whatever_their_order() {
    let one = upsert(Object::Endpoint(endpoint(7, "x")));
    let other = delete(Kind::Endpoint, "default/x/eth0");
    let sentence =
        "endpoint `default/x/eth0` is refused: name: two changes of one transaction differ";
    refused(&[one.clone(), other.clone()], sentence);
    refused(&[other, one.clone()], sentence);
    assert!(installed().apply(&[one.clone(), one]).is_ok());
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let state = installed();
    let good = upsert(Object::Endpoint(endpoint(7, "x")));
    let bad = upsert(Object::Endpoint(Endpoint { mtu: 1, ..endpoint(8, "y") }));
    assert!(state.apply(&[good, bad]).is_err());
    assert_eq!(state.object_ids(), installed().object_ids());
}

#[test]
fn an_address_passes_from_one_endpoint_to_another_in_one_transaction() {
    let state = installed();
    let heir = Endpoint { name: "default/heir/eth0".to_owned(), ..endpoint(0, "a") };
    let changes =
        [upsert(Object::Endpoint(heir.clone())), delete(Kind::Endpoint, "default/a/eth0")];
    for changes in [changes.clone(), [changes[1].clone(), changes[0].clone()]] {
        let next = state.apply(&changes).unwrap();
        let id = next.port_by_name("a").unwrap();
        assert_eq!(next.endpoint_of(id).as_deref(), Some(&heir));
    }
}

#[test]
fn two_endpoints_trade_their_addresses_in_one_transaction() {
    let (mut a, mut b) = (endpoint(0, "a"), endpoint(1, "b"));
    std::mem::swap(&mut a.addresses, &mut b.addresses);
    let changes = [upsert(Object::Endpoint(a)), upsert(Object::Endpoint(b))];
    let mut node = testbed::Node::with_pods(["a", "b"]);
    node.apply(&changes);
    node.send(udp().from("a").to("b")).left_by("b");
}

#[test]
fn an_endpoint_waits_for_its_port_and_survives_it() {
    let mut node = testbed::Node::with_pods(["a"]);
    node.apply(&[upsert(Object::Endpoint(endpoint(1, "b")))]);
    node.send(udp().from("a").to("10.10.1.3"));
    node.assert_changed(["drops.a.UnknownDestination +1"]);
    let open = port(3, "b", PortKind::Pod, Mac([2; 6]));
    node.apply(&[upsert(Object::Port(open.clone()))]);
    node.send(udp().from("a").to("10.10.1.3")).left_by("b");
    node.send(udp().from("b").to("a")).left_by("a");
    node.assert_changed(["outputs.a +1", "outputs.b +1"]);
    let frame = node.frame(&udp().from("b").to("a"));
    node.apply(&[delete(Kind::Port, "b")]);
    node.send(udp().from("a").to("10.10.1.3"));
    node.send_by(PortId::new(3).unwrap(), &frame, Default::default());
    node.assert_changed(["drops.a.UnknownDestination +1", "drops.port3.UnknownPort +1"]);
    let again = seine_pipeline::state::Port { id: PortId::new(9).unwrap(), generation: 2, ..open };
    node.apply(&[upsert(Object::Port(again))]);
    node.send(udp().from("b").to("a")).left_by("a");
}

#[test]
fn capacities_are_refused_at_their_limit() {
    let peers: Vec<_> = (0..PEERS_MAX - 1).map(|index| upsert(Object::Peer(peer(index)))).collect();
    let full = installed().apply(&peers).unwrap();
    let mut last = peer(PEERS_MAX - 1);
    last.tunnel_address = "172.16.0.1".parse().unwrap();
    let refusal = full.apply(&[upsert(Object::Peer(last))]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "peer `peer8191` is refused: name: there are 8192 peers, the most there can be"
    );
    let endpoints = (0..=ENDPOINTS_MAX).map(|index| {
        let [high, low] = (index as u16).to_be_bytes();
        upsert(Object::Endpoint(Endpoint {
            mac: Mac([2, 1, 1, 1, high, low]),
            addresses: vec![format!("fd00:10:1::1:{index:x}").parse().unwrap()],
            ..endpoint(0, &format!("pod{index}"))
        }))
    });
    let refusal = installed().apply(&endpoints.collect::<Vec<_>>()).unwrap_err();
    assert!(refusal.to_string().contains("there are 1024 endpoints, the most there can be"));
}

#[test]
fn tables_show_themselves_in_the_words_of_an_operator() {
    let node = testbed::Node::with_pods(["a"]);
    let ids: Vec<_> =
        STAGES.iter().flat_map(|stage| stage.tables).map(|table| table.id()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "each once, in Antrea's order: {ids:?}");
    let names: Vec<_> = node.state.tables().iter().map(|table| table.name).collect();
    assert_eq!(names, ids.iter().map(|id| id.name()).collect::<Vec<_>>());
    assert_eq!(names[..3], ["PipelineRootClassifier", "Classifier", "ARPSpoofGuard"]);
    let view = node.state.show("SpoofGuard", &node.adjacencies).unwrap();
    assert_eq!(view.stage, "Validation");
    assert_eq!(view.columns, ["port", "source MAC", "source address", "owner"]);
    assert_eq!(view.rows[0], ["a", "02:00:00:01:00:02", "10.10.1.2", "default/a/eth0"]);
    let view = node.state.show("Output", &node.adjacencies).unwrap();
    assert_eq!(view.rows[3], ["uplink", "node2", "192.168.0.2", "02:00:00:00:09:09"]);
    let view = node.state.show("Output", &AdjacencyTable::new()).unwrap();
    assert_eq!(view.rows[3][3], "unresolved");
    assert!(node.state.show("NoSuchTable", &node.adjacencies).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_state_that_grew_is_the_state_its_objects_make_at_once(
        bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0xff)], 0..300),
    ) {
        assert_consistent(&bytes);
    }
}
