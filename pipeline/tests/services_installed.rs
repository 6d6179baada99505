//! Services as objects: what is refused, what stays as others change, and what is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use seine_pipeline::connection::{
    Connection, Decision, FlowKey, Ingress, Progress, ServiceId, Tuple,
};
use seine_pipeline::packet::PacketSource;
use seine_pipeline::state::{
    Change, Kind, Object, ObjectId, Refusal, Service, ServiceEndpoint, StaleConnections, State,
};
use seine_pipeline::testbed::Node;

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn endpoint(address: &str, port: u16) -> ServiceEndpoint {
    ServiceEndpoint { address: ip(address), port, cluster: true, local: false }
}

fn service(name: &str, address: &str) -> Service {
    Service {
        name: name.to_owned(),
        protocol: 17,
        cluster_addresses: vec![ip(address)],
        external_addresses: Vec::new(),
        port: 53,
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: vec![endpoint("10.10.1.2", 5353), endpoint("10.10.2.7", 5353)],
    }
}

fn put(service: Service) -> Change {
    Change::Upsert(Object::Service(service))
}

fn delete(name: &str) -> Change {
    Change::Delete(ObjectId { kind: Kind::Service, name: name.to_owned() })
}

fn changed(change: impl Fn(&mut Service)) -> Service {
    let mut service = service("default/dns:", "10.96.0.10");
    change(&mut service);
    service
}

#[test]
fn a_service_that_cannot_be_is_refused_with_field_and_reason() {
    type Edit = fn(&mut Service);
    let cases: [(Edit, &str, &str); 18] = [
        (
            |it| it.restricted_addresses.push(ip("203.0.113.9")),
            "restricted_addresses",
            "203.0.113.9 is none of its external addresses",
        ),
        (
            |it| it.source_ranges.push("10.0.0.1/8".parse().unwrap()),
            "source_ranges",
            "10.0.0.1/8 has bits set behind its length",
        ),
        (
            |it| it.source_ranges = vec!["10.0.0.0/8".parse().unwrap(); 257],
            "source_ranges",
            "there are more than 256",
        ),
        (|it| it.protocol = 1, "protocol", "1 is not TCP, UDP or SCTP"),
        (|it| it.port = 0, "port", "0 is no port"),
        (|it| it.affinity_seconds = 86_401, "affinity_seconds", "86401 is more than 86400"),
        (
            |it| it.cluster_addresses.push(ip("10.96.0.11")),
            "cluster_addresses",
            "there is more than one of a family",
        ),
        (
            |it| it.cluster_addresses = Vec::new(),
            "cluster_addresses",
            "nobody can reach it by any address",
        ),
        (
            |it| it.cluster_addresses = vec![ip("127.0.0.1")],
            "cluster_addresses",
            "127.0.0.1 is not an address that a Service can have",
        ),
        (
            |it| it.cluster_addresses = vec![ip("fc01::aabb:ccdd:eeff")],
            "cluster_addresses",
            "fc01::aabb:ccdd:eeff is not an address that a Service can have",
        ),
        (
            |it| it.external_addresses = vec![ip("fc01::aabb:ccdd:eefe")],
            "external_addresses",
            "fc01::aabb:ccdd:eefe is not an address that a Service can have",
        ),
        (
            |it| it.external_addresses = vec![ip("224.0.0.1")],
            "external_addresses",
            "224.0.0.1 is not an address that a Service can have",
        ),
        (
            |it| it.external_addresses = vec![ip("10.96.0.10")],
            "external_addresses",
            "10.96.0.10 is there twice",
        ),
        (
            |it| it.external_addresses = vec![ip("10.10.1.77")],
            "external_addresses",
            "10.10.1.77 is in 10.10.1.0/24, the Pod range of node `node1`",
        ),
        (|it| it.endpoints[0].port = 0, "endpoints", "10.10.1.2 has port 0, which is none"),
        (
            |it| it.endpoints[0].address = ip("169.254.1.1"),
            "endpoints",
            "169.254.1.1 is not an address that an endpoint can have",
        ),
        (
            |it| it.endpoints = (0..16385).map(|_| it.endpoints[0]).collect(),
            "endpoints",
            "there are more than 16384",
        ),
        (|it| it.name = String::new(), "name", "is empty"),
    ];
    let state = Node::with_pods(["a"]).state;
    for (edit, field, reason) in cases {
        let service = changed(edit);
        let Refusal { kind, name, field: found, reason: because } =
            state.apply(&[put(service.clone())]).expect_err(reason);
        assert_eq!((kind, name, found), (Kind::Service, service.name, field));
        assert_eq!(because, reason);
    }
}

#[test]
fn what_is_anothers_is_refused_until_it_is_given_up() {
    let state = Node::with_pods(["a"]).state;
    let state = state.apply(&[put(changed(|it| it.node_port = 30053))]).unwrap();
    let mut thief = service("default/thief:", "10.96.0.10");
    let refusal = state.apply(&[put(thief.clone())]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "service `default/thief:` is refused: cluster_addresses: 10.96.0.10 port 53 is that of \
         `default/dns:`"
    );
    // Another port or protocol of the same address is free.
    thief.protocol = 6;
    assert!(state.apply(&[put(thief.clone())]).is_ok());
    (thief.protocol, thief.port, thief.node_port) = (17, 54, 30053);
    let refusal = state.apply(&[put(thief.clone())]).unwrap_err();
    assert_eq!(
        (refusal.field, refusal.reason.as_str()),
        ("node_port", "30053 is that of `default/dns:`")
    );
    thief.port = 53;
    for changes in
        [[delete("default/dns:"), put(thief.clone())], [put(thief), delete("default/dns:")]]
    {
        assert!(
            state.apply(&changes).is_ok(),
            "in one transaction it passes from one to the other"
        );
    }
    // A node whose Pods would have the Service's address does not fit either.
    let mut node = Node::with_pods(["a"]);
    node.apply(&[put(service("default/dns:", "10.10.5.5"))]);
    let Some(Object::Node(mut object)) =
        node.state.object(&ObjectId { kind: Kind::Node, name: "node1".to_owned() })
    else {
        panic!("no node")
    };
    object.pod_cidrs[0] = "10.10.0.0/16".parse().unwrap();
    object.gateway_addresses[0] = ip("10.10.0.1");
    assert!(node.state.apply(&[Change::Upsert(Object::Node(object))]).is_err());
}

#[test]
fn a_number_is_a_services_own_as_long_as_it_is_installed_and_never_the_next_ones() {
    let state = State::new(1);
    let state =
        state.apply(&[put(service("a:", "10.96.0.1")), put(service("b:", "10.96.0.2"))]).unwrap();
    let (a, b) = (state.service_id("a:").unwrap(), state.service_id("b:").unwrap());
    assert_ne!(a, b);
    let mut other = service("a:", "10.96.0.9");
    other.endpoints.clear();
    let state = state.apply(&[put(other)]).unwrap();
    assert_eq!((state.service_id("a:"), state.service_name(a)), (Some(a), Some("a:")));
    let state = state.apply(&[delete("a:"), put(service("c:", "10.96.0.1"))]).unwrap();
    assert_eq!((state.service_id("a:"), state.service_name(a)), (None, None));
    let c = state.service_id("c:").unwrap();
    assert_ne!(c, a);
    assert_eq!((state.service_name(b), state.service_name(c)), (Some("b:"), Some("c:")));
}

/// A connection through a Service, or past all, that was led to an endpoint.
fn connection(
    service: Option<ServiceId>,
    protocol: u8,
    to: (&str, u16),
    ends: (&str, u16),
) -> Connection {
    let tuple = |destination: (&str, u16)| Tuple {
        source: ip("10.10.1.2"),
        destination: ip(destination.0),
        protocol,
        source_port: 40000,
        destination_port: destination.1,
    };
    let key = |tuple| FlowKey { network: 0, ingress: Ingress::Gateway, tuple };
    Connection {
        original: key(tuple(to)),
        reply: key(tuple(ends).reversed()),
        decision: Decision {
            source: PacketSource::Pod,
            service,
            from_node: false,
            snat: false,
            hairpin: false,
            egress_rule: None,
            ingress_rule: None,
            policy_epoch: Default::default(),
        },
        progress: Progress::Answered,
    }
}

#[test]
fn a_udp_connection_is_stale_when_its_endpoint_or_its_service_is_gone() {
    let old = Node::with_pods(["a"]).state.apply(&[put(service("dns:", "10.96.0.10"))]).unwrap();
    let id = old.service_id("dns:");
    let vip = ("10.96.0.10", 53);
    let leaving = connection(id, 17, vip, ("10.10.2.7", 5353));
    let staying = connection(id, 17, vip, ("10.10.1.2", 5353));
    let mut fewer = service("dns:", "10.96.0.10");
    fewer.endpoints.pop();
    let new = old.apply(&[put(fewer)]).unwrap();
    let stale = StaleConnections::between(&old, &new);
    assert!(stale.contains(&leaving) && !stale.contains(&staying));
    // TCP finds out by itself.
    assert!(!stale.contains(&connection(id, 6, vip, ("10.10.2.7", 5353))));
    // Unless nobody has answered it: then its next attempt may go elsewhere.
    let opening =
        Connection { progress: Progress::SynSent, ..connection(id, 6, vip, ("10.10.2.7", 5353)) };
    assert!(stale.contains(&opening));
    let gone = old.apply(&[delete("dns:")]).unwrap();
    let stale = StaleConnections::between(&old, &gone);
    assert!(stale.contains(&leaving) && stale.contains(&staying));
    // Another Service with the same name, later: its connections are others.
    let again = gone.apply(&[put(service("dns:", "10.96.0.10"))]).unwrap();
    let stale = StaleConnections::between(&old, &again);
    assert!(stale.contains(&leaving) && stale.contains(&staying));
    // An endpoint that nobody new is sent to any more is still one.
    let mut draining = service("dns:", "10.96.0.10");
    draining.endpoints[1].cluster = false;
    let new = old.apply(&[put(draining)]).unwrap();
    assert!(StaleConnections::between(&old, &new).is_empty());
    assert!(StaleConnections::between(&old, &old.clone()).is_empty());
}

#[test]
fn a_udp_connection_that_went_past_all_services_is_stale_where_there_is_one_now() {
    let old = Node::with_pods(["a"]).state;
    let new = changed(|it| {
        it.external_addresses = vec![ip("203.0.113.9")];
        it.node_port = 30053;
    });
    let new = old.apply(&[put(new)]).unwrap();
    let stale = StaleConnections::between(&old, &new);
    for to in [("10.96.0.10", 53), ("203.0.113.9", 53), ("192.168.0.1", 30053)] {
        assert!(stale.contains(&connection(None, 17, to, to)), "{to:?}");
        assert!(!stale.contains(&connection(None, 6, to, to)), "{to:?}");
    }
    assert!(!stale.contains(&connection(None, 17, ("203.0.113.9", 54), ("203.0.113.9", 54))));
    // It was there before: nobody went past it.
    let more = changed(|it| it.node_port = 30053);
    let other = new.apply(&[put(more)]).unwrap();
    let stale = StaleConnections::between(&new, &other);
    assert!(!stale.contains(&connection(None, 17, ("10.96.0.10", 53), ("10.96.0.10", 53))));
}
