//! `policy.networking.k8s.io`: v1alpha1 AdminNetworkPolicy and BaselineAdminNetworkPolicy,
//! v1alpha2 ClusterNetworkPolicy. One shape holds all three; each fills its own part of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::antrea::list;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PolicySpec {
    /// v1alpha2 only.
    pub tier: Option<String>,
    /// Not of a baseline policy of v1alpha1.
    pub priority: Option<i64>,
    pub subject: Pods,
    #[serde(deserialize_with = "list")]
    pub ingress: Vec<Rule>,
    #[serde(deserialize_with = "list")]
    pub egress: Vec<Rule>,
}

/// Pods by their namespace alone, or by that and their own labels: one of the two.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pods {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPods>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NamespacedPods {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rule {
    pub name: String,
    pub action: String,
    #[serde(deserialize_with = "list")]
    pub from: Vec<Peer>,
    #[serde(deserialize_with = "list")]
    pub to: Vec<Peer>,
    /// v1alpha1 only.
    #[serde(deserialize_with = "list")]
    pub ports: Vec<Port>,
    /// v1alpha2 only.
    #[serde(deserialize_with = "list")]
    pub protocols: Vec<Protocol>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPods>,
    pub nodes: Option<LabelSelector>,
    #[serde(deserialize_with = "list")]
    pub networks: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub domain_names: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Port {
    pub port_number: Option<PortNumber>,
    pub port_range: Option<PortRange>,
    pub named_port: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortNumber {
    pub protocol: Option<String>,
    pub port: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortRange {
    pub protocol: Option<String>,
    pub start: i32,
    pub end: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Protocol {
    pub tcp: Option<PortedProtocol>,
    pub udp: Option<PortedProtocol>,
    pub sctp: Option<PortedProtocol>,
    pub destination_named_port: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PortedProtocol {
    pub destination_port: Option<DestinationPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DestinationPort {
    pub number: Option<i32>,
    pub range: Option<Range>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Range {
    pub start: i32,
    pub end: i32,
}
