//! The same cases in IPv6: every address, range and type of ICMP message is mapped, wherever it
//! stands.
//!
//! An IPv4 address becomes the last four bytes of one in [`PREFIX`], a range of length n one of
//! length 96 + n, and the range of everything that of everything. What names no IPv4 address stays
//! as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regex::{Captures, Regex};
use serde_json::Value;

use super::expectation::{Source, Target};
use super::file::{CaseFile, Cluster, Step};

/// Where IPv4 addresses go: unique local ones (RFC 4193).
const PREFIX: u128 = 0xfd00_5e1e << 96;

impl CaseFile {
    /// The same cases in IPv6. Admissions are what they were: no packet is sent in them.
    pub fn in_ipv6(mut self) -> CaseFile {
        self.clusters.values_mut().for_each(cluster);
        let steps = self.cases.iter_mut().flat_map(|case| &mut case.steps);
        steps.for_each(step);
        self
    }
}

/// The address in IPv6.
pub fn address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V6(Ipv6Addr::from(PREFIX | u128::from(u32::from(address)))),
        v6 => v6,
    }
}

fn range(range: IpNet) -> IpNet {
    let IpNet::V4(v4) = range else { return range };
    if v4.prefix_len() == 0 {
        return IpNet::V6(Ipv6Net::default());
    }
    let IpAddr::V6(first) = address(v4.addr().into()) else { return range };
    Ipv6Net::new(first, 96 + v4.prefix_len()).map_or(range, IpNet::V6)
}

/// ICMP's type as ICMPv6 numbers it.
fn icmp_type(kind: u8) -> u8 {
    match kind {
        8 => 128,
        0 => 129,
        3 => 1,
        11 => 3,
        other => other,
    }
}

fn cluster(cluster: &mut Cluster) {
    for pod in &mut cluster.pods {
        pod.ip = address(pod.ip);
    }
    for node in &mut cluster.nodes {
        node.ip = address(node.ip);
        node.pod_cidr = range(node.pod_cidr);
        node.gateway_ip = node.gateway_ip.map(address);
    }
}

fn step(step: &mut Step) {
    step.objects.iter_mut().for_each(object);
    for addresses in step.dns.values_mut() {
        addresses.iter_mut().for_each(|known| *known = address(*known));
    }
    for audit in &mut step.audit {
        audit.regex = map_texts(&audit.regex, address);
    }
    for probe in &mut step.probes {
        probe.icmp_type = probe.icmp_type.map(icmp_type);
        match &mut probe.from {
            Source::Node { ip, .. } | Source::External { external: ip } => *ip = address(*ip),
            Source::Pod { .. } => {}
        }
        match &mut probe.to {
            Target::Name { ip, .. } | Target::Address { ip, .. } => *ip = address(*ip),
            Target::Group { .. }
            | Target::Pod { .. }
            | Target::Service { .. }
            | Target::NodePort { .. } => {}
        }
    }
}

fn object(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(object),
        Value::Object(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field.as_u64().and_then(|number| u8::try_from(number).ok())) {
                    ("icmpType", Some(kind)) => *field = icmp_type(kind).into(),
                    _ => object(field),
                }
            }
        }
        Value::String(text) => {
            if let Ok(known) = text.parse::<Ipv4Addr>() {
                *text = address(known.into()).to_string();
            } else if let Ok(known) = text.parse::<Ipv4Net>() {
                *text = range(known.into()).to_string();
            }
        }
        _ => {}
    }
}

/// A pattern in which every address, written with escaped dots, is another one.
pub(super) fn map_texts(pattern: &str, map: impl Fn(IpAddr) -> IpAddr) -> String {
    // A pattern that is written here.
    let Ok(escaped) = Regex::new(r"[0-9]+(?:\\\.[0-9]+){3}") else { return pattern.to_owned() };
    let replace = |found: &Captures<'_>| {
        let text = found.get(0).map_or("", |whole| whole.as_str());
        text.replace('\\', "")
            .parse()
            .map_or(text.to_owned(), |address| regex::escape(&map(address).to_string()))
    };
    escaped.replace_all(pattern, replace).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_and_ranges_are_mapped_wherever_they_stand() {
        let mut policy = json!({"ipBlock": {"cidr": "10.20.3.0/24", "except": ["10.20.3.16/28"]},
            "networks": ["0.0.0.0/0", "::/0"], "clusterIP": "10.96.0.81", "port": 80,
            "labels": {"release": "1.2.3"}, "icmp": {"icmpType": 8, "icmpCode": 0}});
        object(&mut policy);
        let expected = json!({"ipBlock": {"cidr": "fd00:5e1e::a14:300/120",
            "except": ["fd00:5e1e::a14:310/124"]}, "networks": ["::/0", "::/0"],
            "clusterIP": "fd00:5e1e::a60:51", "port": 80,
            "labels": {"release": "1.2.3"}, "icmp": {"icmpType": 128, "icmpCode": 0}});
        assert_eq!(policy, expected);
    }

    #[test]
    fn addresses_within_a_pattern_are_mapped() {
        let pattern = r"x/a 10\.40\.1\.11 [0-9]+ 10\.40\.1\.1 80";
        assert_eq!(
            map_texts(pattern, address),
            r"x/a fd00:5e1e::a28:10b [0-9]+ fd00:5e1e::a28:101 80"
        );
    }
}
