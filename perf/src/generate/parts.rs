//! The parts that generated objects are made of: labels, selectors, ranges, ports.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::random::Random;

/// The namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// Values of the label `app`.
pub const APPS: [&str; 3] = ["a", "b", "c"];
/// Ports that Pods and Services have.
pub const PORTS: [u16; 5] = [80, 81, 443, 5000, 8080];
/// Names of ports.
pub const NAMES: [&str; 2] = ["http", "alt"];
/// Protocols.
pub const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Ranges of addresses.
pub const RANGES: [&str; 6] =
    ["10.1.0.0/16", "10.1.0.0/24", "10.1.1.0/25", "0.0.0.0/0", "203.0.113.0/24", "10.1.0.8/29"];
/// Exceptions from ranges.
pub const HOLES: [&str; 5] =
    ["10.1.0.0/28", "10.1.1.4/30", "203.0.113.8/32", "10.1.0.9/32", "10.1.1.0/26"];

/// A namespace with its labels.
pub fn namespace(name: &str, random: &mut Random) -> Value {
    let mut labels = json!({"kubernetes.io/metadata.name": name});
    if !random.once_in(4) {
        labels["team"] = json!(random.pick(&["red", "blue"]));
    }
    json!({"name": name, "labels": labels})
}

/// Labels of a Pod.
pub fn labels(random: &mut Random) -> Value {
    let mut labels = json!({"app": random.pick(&APPS)});
    if random.once_in(2) {
        labels["stage"] = json!(random.pick(&["test", "live"]));
    }
    labels
}

/// A selector of Pods.
pub fn selector(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!({}),
        1 => json!({"matchExpressions": [{"key": "stage", "operator": "Exists"}]}),
        2 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn",
            "values": [random.pick(&APPS)]}]}),
        3 => json!({"matchExpressions": [{"key": "stage", "operator": "DoesNotExist"}],
            "matchLabels": {"app": random.pick(&APPS)}}),
        _ => json!({"matchLabels": {"app": random.pick(&APPS)}}),
    }
}

/// A selector of namespaces.
pub fn namespace_selector(random: &mut Random) -> Value {
    match random.below(3) {
        0 => json!({}),
        1 => json!({"matchLabels": {"team": random.pick(&["red", "blue"])}}),
        _ => json!({"matchLabels": {"kubernetes.io/metadata.name": random.pick(&NAMESPACES)}}),
    }
}

/// A range, with holes that lie within it.
pub fn block(random: &mut Random) -> Value {
    let cidr = *random.pick(&RANGES);
    let within = |hole: &&&str| {
        let ranges = cidr.parse::<IpNet>().ok().zip(hole.parse::<IpNet>().ok());
        ranges.is_some_and(|(cidr, hole)| cidr.contains(&hole) && cidr != hole)
    };
    let holes: Vec<&&str> = HOLES.iter().filter(within).collect();
    let holes: Vec<&&&str> = holes.iter().filter(|_| random.once_in(2)).collect();
    json!({"cidr": cidr, "except": holes})
}

/// Ports as Kubernetes' policies name them.
pub fn ports(random: &mut Random) -> Value {
    let port = |random: &mut Random| {
        let protocol = random.pick(&PROTOCOLS);
        match random.below(4) {
            0 => json!({"protocol": protocol}),
            1 => json!({"protocol": protocol, "port": random.pick(&NAMES)}),
            2 => json!({"protocol": protocol, "port": 80, "endPort": 443}),
            _ => json!({"protocol": protocol, "port": random.pick(&PORTS)}),
        }
    };
    Value::Array((0..random.below(3)).map(|_| port(random)).collect())
}

/// Ports as Antrea's policies name them.
pub fn antrea_ports(random: &mut Random) -> Value {
    let Value::Array(mut ports) = ports(random) else { return Value::Null };
    for port in &mut ports {
        if random.once_in(4) {
            port["sourcePort"] = json!(40000);
            port["sourceEndPort"] = json!(48000);
        }
    }
    Value::Array(ports)
}

/// Pods as the policies of administrators name them.
pub fn upstream_pods(random: &mut Random) -> Value {
    if random.once_in(2) {
        return json!({"namespaces": namespace_selector(random)});
    }
    json!({"pods": {"namespaceSelector": namespace_selector(random),
        "podSelector": selector(random)}})
}

/// A peer of theirs.
pub fn upstream_peer(random: &mut Random, end: &str) -> Value {
    match random.below(4) {
        0 if end == "to" => json!({"networks": [random.pick(&RANGES)]}),
        1 if end == "to" => {
            json!({"nodes": {"matchLabels": {"zone": random.pick(&["zone-0", "zone-1"])}}})
        }
        _ => upstream_pods(random),
    }
}

/// Only Pods have named ports.
pub fn are_pods(peer: &Value) -> bool {
    peer["networks"].is_null() && peer["nodes"].is_null()
}
