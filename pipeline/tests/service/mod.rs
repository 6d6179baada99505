//! Services in the words of packet scripts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::state::{Change, Object, Service, ServiceEndpoint};
use seine_pipeline::testbed::Node;

/// The change that the words after `service` mean.
pub fn change(node: &Node, words: &[&str]) -> Change {
    let [name, protocol, port, rest @ ..] = words else { panic!("not understood: {words:?}") };
    let mut service = Service {
        name: (*name).to_owned(),
        protocol: match *protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            other => panic!("{other}: no such protocol"),
        },
        cluster_addresses: Vec::new(),
        external_addresses: Vec::new(),
        port: port.parse().unwrap(),
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: Vec::new(),
    };
    let mut what = "";
    for word in rest {
        match (*word, what) {
            ("internal-local", _) => service.internal_local = true,
            ("external-local", _) => service.external_local = true,
            ("at" | "external" | "to" | "node-port" | "affinity" | "for", _) => what = word,
            (address, "at") => service.cluster_addresses.push(address.parse().unwrap()),
            (address, "external") => service.external_addresses.push(address.parse().unwrap()),
            (range, "for") => service.source_ranges.push(range.parse().unwrap()),
            (number, "node-port") => service.node_port = number.parse().unwrap(),
            (seconds, "affinity") => service.affinity_seconds = seconds.parse().unwrap(),
            (endpoint, "to") => service.endpoints.extend(endpoints(node, endpoint)),
            (other, _) => panic!("not understood: {other}"),
        }
    }
    if !service.source_ranges.is_empty() {
        service.restricted_addresses.clone_from(&service.external_addresses);
    }
    Change::Upsert(Object::Service(service))
}

/// "b:8080": both addresses of a Pod, or those that another name stands for; or one address.
fn endpoints(node: &Node, word: &str) -> Vec<ServiceEndpoint> {
    let (name, port) = word.rsplit_once(':').unwrap();
    let families = if name.parse::<std::net::IpAddr>().is_ok() { 1 } else { 2 };
    let addresses = [false, true].into_iter().take(families).map(|v6| node.address(name, v6));
    let endpoint = |address| ServiceEndpoint {
        address,
        port: port.parse().unwrap(),
        cluster: true,
        local: node.state.port_by_name(name).is_some(),
    };
    addresses.map(endpoint).collect()
}
