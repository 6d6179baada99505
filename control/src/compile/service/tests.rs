#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::compile::testbed::{NODE, Tables, cluster, labels, pod_name};
use crate::model::Endpoint;

fn service(name: &str, address: &str) -> Service {
    Service {
        name: ObjectName { namespace: "x".into(), name: name.into() },
        selector: labels("pod=a"),
        cluster_addresses: vec![address.parse().unwrap()],
        external_addresses: Vec::new(),
        load_balancer_addresses: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "web".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            target: Port::Named("http".into()),
        }],
        affinity_seconds: None,
        internal_local: false,
        external_local: false,
    }
}

fn endpoint(address: &str, node: &str, state: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().unwrap()],
        node: Some(node.into()),
        ready: state == "ready",
        serving: state == "ready" || state == "ending",
        terminating: state == "ending",
    }
}

fn with(services: Vec<Service>, endpoints: Vec<Endpoint>) -> Cluster {
    let mut cluster = cluster();
    for service in services {
        cluster.services.insert(service.name.clone(), service);
    }
    if !endpoints.is_empty() {
        let name = ObjectName { namespace: "x".into(), name: "web-1".into() };
        let offered =
            |name: &str, port| EndpointPort { name: name.into(), protocol: Protocol::Tcp, port };
        let ports = vec![offered("web", 8080), offered("metrics", 9090)];
        let slice = EndpointSlice { name: name.clone(), service: "web".into(), ports, endpoints };
        cluster.endpoint_slices.insert(name, slice);
    }
    cluster
}

/// "address:port flags" of each endpoint of the only Service.
fn endpoints(cluster: &Cluster) -> Vec<String> {
    let compiled = services(cluster, NODE);
    assert!(compiled.refused.is_empty(), "{:?}", compiled.refused);
    let [service] = Tables::of(&compiled).services.try_into().unwrap();
    let flag = |is: bool, name: &'static str| if is { name } else { "" };
    let shown = service.endpoints.iter().map(|endpoint| {
        let flags = [flag(endpoint.cluster, " cluster"), flag(endpoint.local, " local")].concat();
        format!("{}:{}{flags}", endpoint.address, endpoint.port)
    });
    shown.collect()
}

#[test]
fn the_ready_ones_are_chosen_among_all_and_among_those_of_the_node() {
    let cluster = with(
        vec![service("web", "10.96.0.1")],
        vec![
            endpoint("10.0.1.1", NODE, "ready"),
            endpoint("10.0.9.1", "n2", "ready"),
            endpoint("10.0.1.2", NODE, "ending"),
            endpoint("10.0.9.2", "n2", "starting"),
        ],
    );
    assert_eq!(endpoints(&cluster), ["10.0.1.1:8080 cluster local", "10.0.9.1:8080 cluster"]);
}

#[test]
fn those_that_end_but_still_answer_are_chosen_where_none_is_ready() {
    let remote_is_ready = with(
        vec![service("web", "10.96.0.1")],
        vec![endpoint("10.0.1.2", NODE, "ending"), endpoint("10.0.9.1", "n2", "ready")],
    );
    assert_eq!(endpoints(&remote_is_ready), ["10.0.1.2:8080 local", "10.0.9.1:8080 cluster"]);
    let none_is_ready = with(
        vec![service("web", "10.96.0.1")],
        vec![
            endpoint("10.0.1.2", NODE, "ending"),
            endpoint("10.0.9.2", "n2", "ending"),
            endpoint("10.0.9.3", "n2", "starting"),
        ],
    );
    assert_eq!(endpoints(&none_is_ready), ["10.0.1.2:8080 cluster local", "10.0.9.2:8080 cluster"]);
}

#[test]
fn a_family_without_ready_endpoints_does_not_do_without_for_the_sake_of_the_other() {
    let cluster = with(
        vec![service("web", "10.96.0.1")],
        vec![endpoint("10.0.9.1", "n2", "ready"), endpoint("fd00::9:2", "n2", "ending")],
    );
    assert_eq!(endpoints(&cluster), ["10.0.9.1:8080 cluster", "fd00::9:2:8080 cluster"]);
}

#[test]
fn without_slices_the_selected_pods_are_the_endpoints() {
    let mut cluster = with(vec![service("web", "10.96.0.1")], Vec::new());
    cluster.pods.get_mut(&pod_name("x/c")).unwrap().labels = labels("pod=a");
    assert_eq!(endpoints(&cluster), ["10.0.1.1:80 cluster local", "10.0.1.3:8080 cluster local"]);
}

#[test]
fn a_headless_service_is_nothing_to_install() {
    let mut headless = service("web", "10.96.0.1");
    headless.cluster_addresses.clear();
    assert!(services(&with(vec![headless], Vec::new()), NODE).objects.is_empty());
}

#[test]
fn every_port_is_an_object_that_says_all_there_is_to_it() {
    let mut web = service("web", "10.96.0.1");
    web.cluster_addresses.push("fd00:96::1".parse().unwrap());
    web.external_addresses = vec!["192.0.2.80".parse().unwrap(), "192.0.2.80".parse().unwrap()];
    web.affinity_seconds = Some(86_400);
    web.external_local = true;
    web.ports[0].node_port = Some(30080);
    let mut dns = web.ports[0].clone();
    (dns.name, dns.protocol, dns.node_port) = ("dns".into(), Protocol::Udp, None);
    web.ports.push(dns);
    let compiled = services(&with(vec![web], Vec::new()), NODE);
    let [web, dns]: [v1::Service; 2] = Tables::of(&compiled).services.try_into().unwrap();
    assert_eq!(
        (web.name.as_str(), web.protocol, web.port, web.node_port),
        ("x/web:web", 6, 80, 30080)
    );
    assert_eq!(web.cluster_addresses, ["10.96.0.1", "fd00:96::1"]);
    assert_eq!(web.external_addresses, ["192.0.2.80"]);
    assert_eq!(
        (web.affinity_seconds, web.internal_local, web.external_local),
        (86_400, false, true)
    );
    assert_eq!((dns.name.as_str(), dns.protocol, dns.node_port), ("x/web:dns", 17, 0));
    assert!(dns.endpoints.is_empty(), "no Pod calls a UDP port so");
}

#[test]
fn of_two_services_at_one_address_the_first_has_it_and_the_other_is_named() {
    let mut taken = service("b", "10.96.0.1");
    taken.ports[0].node_port = Some(30080);
    let mut wrong = service("c", "10.96.0.3");
    wrong.affinity_seconds = Some(86_401);
    let compiled = services(&with(vec![service("a", "10.96.0.1"), taken, wrong], Vec::new()), NODE);
    assert_eq!(
        compiled.refused,
        [
            "Service x/b:web: TCP port 80 at 10.96.0.1 is another Service's",
            "Service x/c:web: sessionAffinityConfig: 86401 s are not within 1 and 86400",
        ]
    );
    assert_eq!(Tables::of(&compiled).services.len(), 1);
}

#[test]
fn source_ranges_restrict_the_addresses_of_load_balancers_and_no_others() {
    let ips = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
    let mut web = service("web", "10.96.0.1");
    web.external_addresses = ips(&["203.0.113.9", "203.0.113.80", "2001:db8::80"]);
    web.load_balancer_addresses = ips(&["203.0.113.80", "2001:db8::80"]);
    let object = |web: &Service| {
        let compiled = services(&with(vec![web.clone()], Vec::new()), NODE);
        let [service] = Tables::of(&compiled).services.try_into().unwrap();
        (service.restricted_addresses, service.source_ranges)
    };
    assert_eq!(object(&web), (vec![], vec![]));
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let (restricted, ranges) = object(&web);
    assert_eq!(restricted, ["2001:db8::80", "203.0.113.80"]);
    assert_eq!(ranges, ["10.0.0.0/8", "198.51.100.0/24"]);
}
