//! Gives every cluster of a file nodes, and every Pod an address within its node's range.
//!
//! Many files leave out nodes, or give their Pods addresses that no node's range holds. A cluster
//! without nodes gets two, if its Pods' addresses can be cut in two, so that its packets cross a
//! tunnel; else one that has them all. A Pod outside of its node's range moves into it, and every
//! block of addresses in the objects goes on meaning the same Pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};

use super::address::map_texts;
use super::file::{CaseFile, Cluster, Node, Step};

/// Pods that moved: where from and where to.
type Moves = BTreeMap<IpAddr, IpAddr>;

/// The longest range of a node that is made up: the gateway needs room, too.
const LENGTH_MAX: u8 = 28;
/// The shortest.
const LENGTH_MIN: u8 = 8;
/// Addresses of nodes that are made up.
const UNDERLAY: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 168, 77, 101), Ipv4Addr::new(192, 168, 77, 102)];

/// Why a cluster cannot be brought into nodes.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// A Pod is on no node that is there.
    #[error("cluster `{cluster}`: Pod `{pod}` is on no node that the cluster has")]
    Homeless {
        /// The cluster.
        cluster: String,
        /// The Pod.
        pod: String,
    },
    /// No range fits.
    #[error("cluster `{0}`: no range holds all its Pods and leaves room for a gateway")]
    NoRange(String),
    /// A node's range has no room.
    #[error("cluster `{cluster}`: the range {range} of node `{node}` is full")]
    Full {
        /// The cluster.
        cluster: String,
        /// The node.
        node: String,
        /// Its range.
        range: IpNet,
    },
}

impl CaseFile {
    /// The same cases with nodes for all Pods. To be called before anything is mapped to IPv6.
    pub fn settle(mut self) -> Result<CaseFile, SettleError> {
        let taken: BTreeSet<IpAddr> = self
            .clusters
            .values()
            .flat_map(|cluster| cluster.pods.iter().map(|pod| pod.ip))
            .collect();
        let mut moves: BTreeMap<String, Moves> = BTreeMap::new();
        for (name, cluster) in &mut self.clusters {
            if cluster.nodes.is_empty() {
                found(name, cluster)?;
            }
            moves.insert(name.clone(), move_pods(name, cluster, &taken)?);
        }
        for case in &mut self.cases {
            for step in &mut case.steps {
                if let Some(moves) = moves.get(&step.cluster).filter(|moves| !moves.is_empty()) {
                    follow(step, moves);
                }
            }
        }
        Ok(self)
    }
}

/// Makes up nodes.
fn found(name: &str, cluster: &mut Cluster) -> Result<(), SettleError> {
    let addresses: Vec<Ipv4Addr> = cluster
        .pods
        .iter()
        .filter_map(|pod| match pod.ip {
            IpAddr::V4(address) if !pod.host_network => Some(address),
            _ => None,
        })
        .collect();
    let ranges = halves(&addresses)
        .or_else(|| whole(&addresses))
        .ok_or_else(|| SettleError::NoRange(name.to_owned()))?;
    for (index, (range, address)) in ranges.iter().zip(UNDERLAY).enumerate() {
        let name = format!("node-{index}");
        for pod in &mut cluster.pods {
            if IpNet::V4(*range).contains(&pod.ip) || pod.host_network && index == 0 {
                pod.node = Some(name.clone());
            }
        }
        cluster.nodes.push(Node {
            name,
            ip: address.into(),
            labels: BTreeMap::new(),
            pod_cidr: IpNet::V4(*range),
            gateway_ip: None,
        });
    }
    Ok(())
}

/// The length of the prefix that all have in common.
fn common_length(addresses: &[Ipv4Addr]) -> u8 {
    let bits = |address: &Ipv4Addr| u32::from(*address);
    let first = addresses.first().map_or(0, bits);
    let differing = addresses.iter().fold(0, |all, address| all | (bits(address) ^ first));
    // At most 32.
    differing.leading_zeros() as u8
}

fn range_of(address: Ipv4Addr, length: u8) -> Option<Ipv4Net> {
    Ipv4Net::new(address, length).ok().map(|range| range.trunc())
}

/// Whether a node can have this range with these Pods: its gateway is the first host.
fn fits(range: Ipv4Net, addresses: &[Ipv4Addr]) -> bool {
    let gateway = u32::from(range.network()) + 1;
    range.prefix_len() <= LENGTH_MAX
        && addresses
            .iter()
            .filter(|address| range.contains(*address))
            .all(|address| u32::from(*address) > gateway && *address != range.broadcast())
}

fn halves(addresses: &[Ipv4Addr]) -> Option<Vec<Ipv4Net>> {
    let length = common_length(addresses) + 1;
    let ranges: BTreeSet<Ipv4Net> =
        addresses.iter().map(|address| range_of(*address, length)).collect::<Option<_>>()?;
    let fit = ranges.len() == 2 && ranges.iter().all(|range| fits(*range, addresses));
    fit.then(|| ranges.into_iter().collect())
}

fn whole(addresses: &[Ipv4Addr]) -> Option<Vec<Ipv4Net>> {
    let first = *addresses.first()?;
    let longest = common_length(addresses).min(LENGTH_MAX);
    let mut ranges = (LENGTH_MIN..=longest).rev().filter_map(|length| range_of(first, length));
    ranges.find(|range| fits(*range, addresses)).map(|range| vec![range])
}

fn move_pods(
    name: &str,
    cluster: &mut Cluster,
    taken: &BTreeSet<IpAddr>,
) -> Result<Moves, SettleError> {
    let mut moves = Moves::new();
    for pod in cluster.pods.iter_mut().filter(|pod| !pod.host_network) {
        let node = cluster.nodes.iter().find(|node| pod.node.as_ref() == Some(&node.name));
        let node = node.ok_or_else(|| SettleError::Homeless {
            cluster: name.to_owned(),
            pod: format!("{}/{}", pod.namespace, pod.name),
        })?;
        if node.pod_cidr.contains(&pod.ip) {
            continue;
        }
        // Not the gateway, which is the first.
        let free = node.pod_cidr.hosts().skip(1).find(|address| {
            !taken.contains(address) && moves.values().all(|moved| moved != address)
        });
        let free = free.ok_or_else(|| SettleError::Full {
            cluster: name.to_owned(),
            node: node.name.clone(),
            range: node.pod_cidr,
        })?;
        moves.insert(pod.ip, free);
        pod.ip = free;
    }
    Ok(moves)
}

/// Lets the objects and expectations of a step follow Pods that moved.
fn follow(step: &mut Step, moves: &Moves) {
    for object in &mut step.objects {
        follow_blocks(object, moves);
    }
    for audit in &mut step.audit {
        audit.regex =
            map_texts(&audit.regex, |address| moves.get(&address).copied().unwrap_or(address));
    }
}

/// What a block meant before the move it means after it.
fn follow_blocks(value: &mut Value, moves: &Moves) {
    match value {
        Value::Array(items) => {
            let mut more = Vec::new();
            for item in items.iter_mut() {
                if item["ipBlock"].is_object() {
                    for range in adapt(&mut item["ipBlock"], moves) {
                        more.push(json!({"ipBlock": {"cidr": range}}));
                    }
                }
                follow_blocks(item, moves);
            }
            items.extend(more);
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field) {
                    ("ipBlocks", Value::Array(blocks)) => {
                        let more: Vec<String> =
                            blocks.iter_mut().flat_map(|block| adapt(block, moves)).collect();
                        blocks.extend(more.into_iter().map(|range| json!({"cidr": range})));
                    }
                    ("networks", Value::Array(ranges)) => {
                        let more: Vec<String> = ranges
                            .iter()
                            .flat_map(|range| adapt(&mut json!({"cidr": range}), moves))
                            .collect();
                        ranges.extend(more.into_iter().map(Value::String));
                    }
                    (_, field) => follow_blocks(field, moves),
                }
            }
        }
        _ => {}
    }
}

/// Takes out of a block the Pods that moved into it, and returns ranges of those that it had.
fn adapt(block: &mut Value, moves: &Moves) -> Vec<String> {
    let range = |value: &Value| value.as_str().and_then(|text| text.parse::<IpNet>().ok());
    let contains = |block: &Value, address: &IpAddr| {
        let holes = block["except"].as_array().map_or(&[][..], Vec::as_slice);
        range(&block["cidr"]).is_some_and(|range| range.contains(address))
            && !holes.iter().filter_map(range).any(|hole| hole.contains(address))
    };
    let mut had = Vec::new();
    for (from, to) in moves {
        match (contains(block, from), contains(block, to)) {
            (true, false) => had.push(IpNet::from(*to).to_string()),
            (false, true) => {
                let hole = Value::String(IpNet::from(*to).to_string());
                match &mut block["except"] {
                    Value::Array(holes) => holes.push(hole),
                    none => *none = json!([hole]),
                }
            }
            _ => {}
        }
    }
    had
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Ipv4Addr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn pods_are_cut_in_two_where_both_halves_leave_room_for_a_gateway() {
        let ranges = halves(&addresses(&["10.20.1.10", "10.20.2.10", "10.20.3.30"])).unwrap();
        assert_eq!(ranges[0].to_string(), "10.20.0.0/23");
        assert_eq!(ranges[1].to_string(), "10.20.2.0/23");
        let tight = addresses(&["10.31.0.1", "10.31.0.15"]);
        assert_eq!(halves(&tight), None);
        assert_eq!(whole(&tight).unwrap()[0].to_string(), "10.30.0.0/15");
    }

    #[test]
    fn a_block_means_the_same_pods_after_they_moved() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let moves = Moves::from([
            (ip("10.40.1.10"), ip("10.41.0.2")),
            (ip("10.40.1.11"), ip("10.41.1.2")),
            (ip("10.40.9.9"), ip("10.41.1.3")),
        ]);
        let mut rule = json!({"from": [
            {"ipBlock": {"cidr": "10.40.1.0/24", "except": ["10.40.1.11/32"]}},
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.40.1.11/32"]}},
        ]});
        follow_blocks(&mut rule, &moves);
        let expected = json!({"from": [
            {"ipBlock": {"cidr": "10.40.1.0/24", "except": ["10.40.1.11/32"]}},
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.40.1.11/32", "10.41.1.2/32"]}},
            {"ipBlock": {"cidr": "10.41.0.2/32"}},
        ]});
        assert_eq!(rule, expected);
    }
}
