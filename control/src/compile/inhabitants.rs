//! Who has which address: what the cluster says of Pods, corrected by what is attached here.
//!
//! The cluster learns of an address after its Pod has it, and forgets it after the Pod has lost it.
//! For addresses of this node's own ranges that is not good enough: the next Pod may have one by
//! then. Those count for nobody but the Pod that they are attached to.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Cluster, Pod, PodName};

/// What is attached to this node.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    /// The Pod ranges of this node: in them only what is attached counts.
    pub ranges: Vec<IpNet>,
    /// Addresses and the Pods that have them; some belong to no Pod of the cluster.
    pub owners: BTreeMap<IpAddr, Option<PodName>>,
    /// Pods that run here, whatever the cluster says, as the cluster knew them last. One that it
    /// never knew has no labels.
    pub pods: BTreeMap<PodName, Pod>,
}

impl Attached {
    /// Somebody of that name, of whom nothing else is known.
    pub fn stranger(name: &PodName) -> Pod {
        Pod {
            name: name.clone(),
            labels: BTreeMap::new(),
            node: None,
            host_network: false,
            addresses: Vec::new(),
            service_account: String::new(),
            ports: Vec::new(),
            port_annotations: BTreeMap::new(),
        }
    }
}

/// All Pods in the order of their names, with the addresses that are theirs as far as this node
/// knows.
pub(super) fn inhabitants<'a>(
    cluster: &'a Cluster,
    node: &str,
    attached: &'a Attached,
) -> Vec<Cow<'a, Pod>> {
    let mut own: BTreeMap<&PodName, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, pod) in &attached.owners {
        if let Some(pod) = pod {
            own.entry(pod).or_default().insert(*address);
        }
    }
    let is_ours = |address: &IpAddr| attached.ranges.iter().any(|range| range.contains(address));
    let settle = |pod: &'a Pod| {
        let own = own.get(&pod.name);
        let is_here = own.is_some() || attached.pods.contains_key(&pod.name);
        if !is_here && (pod.host_network || !pod.addresses.iter().any(is_ours)) {
            return Cow::Borrowed(pod);
        }
        let mut pod = pod.clone();
        if is_here {
            // What else the cluster tells of it is of an earlier life.
            if pod.node.as_deref() == Some(node) {
                pod.addresses.clear();
            }
            pod.node = Some(node.to_owned());
            // Something is attached, whatever it was meant to be.
            pod.host_network = false;
        }
        pod.addresses.retain(|address| !is_ours(address));
        pod.addresses.extend(own.into_iter().flatten());
        Cow::Owned(pod)
    };
    let gone = attached.pods.values().filter(|pod| !cluster.pods.contains_key(&pod.name));
    let mut pods: Vec<Cow<'a, Pod>> = cluster.pods.values().chain(gone).map(settle).collect();
    if !attached.pods.is_empty() {
        pods.sort_by(|a, b| a.name.cmp(&b.name));
    }
    pods
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::compile::testbed::{NODE, cluster, pod_name};

    fn attached(owners: &[(&str, &str)]) -> Attached {
        let mut attached =
            Attached { ranges: vec!["10.0.1.0/24".parse().unwrap()], ..Attached::default() };
        for (address, pod) in owners {
            let pod = pod_name(pod);
            attached.owners.insert(address.parse().unwrap(), Some(pod.clone()));
            attached.pods.insert(pod.clone(), Attached::stranger(&pod));
        }
        attached
    }

    fn addresses(pods: &[Cow<'_, Pod>], name: &str) -> Vec<String> {
        let pod = pods.iter().find(|pod| pod.name == pod_name(name)).unwrap();
        pod.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn an_address_of_this_node_is_only_that_of_the_pod_it_is_attached_to() {
        let cluster = cluster();
        let attached = attached(&[("10.0.1.1", "x/new"), ("10.0.1.9", "x/b")]);
        let pods = inhabitants(&cluster, NODE, &attached);
        assert_eq!(addresses(&pods, "x/a"), [""; 0], "its address has a new owner");
        assert_eq!(addresses(&pods, "x/b"), ["10.0.1.9"], "the cluster tells an older one");
        assert_eq!(addresses(&pods, "x/c"), [""; 0], "nothing of that address is attached");
        assert_eq!(addresses(&pods, "x/new"), ["10.0.1.1"], "the cluster does not know it");
        assert_eq!(addresses(&pods, "y/a"), ["10.0.2.1"], "of another range");
        assert!(pods.iter().map(|pod| &pod.name).is_sorted());
    }

    #[test]
    fn a_pod_that_moved_on_still_has_what_is_attached_here() {
        let mut cluster = cluster();
        let moved = cluster.pods.get_mut(&pod_name("x/a")).unwrap();
        (moved.node, moved.addresses) = (Some("n2".into()), vec!["10.0.9.1".parse().unwrap()]);
        let attached = attached(&[("10.0.1.1", "x/a")]);
        let pods = inhabitants(&cluster, NODE, &attached);
        assert_eq!(addresses(&pods, "x/a"), ["10.0.9.1", "10.0.1.1"]);
        assert!(pods.iter().all(|pod| pod.node.as_deref() == Some(NODE)));
    }

    #[test]
    fn what_is_attached_is_not_on_the_network_of_its_node() {
        let mut cluster = cluster();
        cluster.pods.get_mut(&pod_name("x/a")).unwrap().host_network = true;
        let attached = attached(&[("10.0.1.1", "x/a")]);
        let pods = inhabitants(&cluster, NODE, &attached);
        assert!(pods.iter().all(|pod| !pod.host_network));
    }

    #[test]
    fn who_knows_of_no_attachment_believes_the_cluster() {
        let cluster = cluster();
        let nothing = Attached::default();
        let pods = inhabitants(&cluster, NODE, &nothing);
        assert!(pods.iter().all(|pod| matches!(pod, Cow::Borrowed(_))));
    }
}
