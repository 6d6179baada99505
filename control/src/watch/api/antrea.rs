//! `crd.antrea.io/v1beta1`: policies, tiers and groups.
//!
//! Absent and empty are the same to Antrea wherever these have a default.

pub(crate) use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Deserializer};

/// A list that may be `null`, which is what an empty one is written as, too.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What both kinds of policy hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PolicySpec {
    pub tier: String,
    pub priority: Option<f64>,
    #[serde(deserialize_with = "list")]
    pub applied_to: Vec<AppliedTo>,
    #[serde(deserialize_with = "list")]
    pub ingress: Vec<Rule>,
    #[serde(deserialize_with = "list")]
    pub egress: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Action {
    Allow,
    Drop,
    Reject,
    Pass,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub action: Option<Action>,
    pub ports: Option<Vec<Port>>,
    pub protocols: Option<Vec<Protocol>>,
    #[serde(deserialize_with = "list")]
    pub l7_protocols: Vec<L7Protocol>,
    #[serde(deserialize_with = "list")]
    pub from: Vec<Peer>,
    #[serde(deserialize_with = "list")]
    pub to: Vec<Peer>,
    pub to_services: Option<Vec<PeerService>>,
    pub name: String,
    pub enable_logging: bool,
    pub log_label: String,
    #[serde(deserialize_with = "list")]
    pub applied_to: Vec<AppliedTo>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AppliedTo {
    pub pod_selector: Option<LabelSelector>,
    pub namespace_selector: Option<LabelSelector>,
    pub external_entity_selector: Option<LabelSelector>,
    pub group: String,
    pub service_account: Option<NamespacedName>,
    pub service: Option<NamespacedName>,
    pub node_selector: Option<LabelSelector>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    pub ip_block: Option<IpBlock>,
    pub pod_selector: Option<LabelSelector>,
    pub namespace_selector: Option<LabelSelector>,
    pub namespaces: Option<PeerNamespaces>,
    pub external_entity_selector: Option<LabelSelector>,
    pub group: String,
    pub fqdn: String,
    pub service_account: Option<NamespacedName>,
    pub node_selector: Option<LabelSelector>,
    pub scope: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PeerNamespaces {
    #[serde(rename = "match")]
    pub matching: String,
    #[serde(deserialize_with = "list")]
    pub same_labels: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespacedName {
    pub name: String,
    pub namespace: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PeerService {
    pub name: String,
    pub namespace: String,
    pub scope: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct IpBlock {
    pub cidr: String,
    #[serde(deserialize_with = "list")]
    pub except: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Port {
    pub protocol: Option<String>,
    pub port: Option<IntOrString>,
    pub end_port: Option<i32>,
    pub source_port: Option<i32>,
    pub source_end_port: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Protocol {
    pub icmp: Option<Icmp>,
    pub igmp: Option<Igmp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Icmp {
    pub icmp_type: Option<i32>,
    pub icmp_code: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Igmp {
    pub igmp_type: Option<i32>,
    pub group_address: String,
}

/// What is above TCP: admission looks at it, but no rule with one is taken into the model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct L7Protocol {
    pub http: Option<serde_json::Value>,
    #[allow(dead_code, reason = "named so that it is not taken for an unknown field")]
    pub tls: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TierSpec {
    pub priority: i32,
    #[allow(dead_code, reason = "named so that it is not taken for an unknown field")]
    pub description: String,
}

/// Of a Group and of a ClusterGroup.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct GroupSpec {
    pub pod_selector: Option<LabelSelector>,
    pub namespace_selector: Option<LabelSelector>,
    pub external_entity_selector: Option<LabelSelector>,
    pub node_selector: Option<LabelSelector>,
    #[serde(deserialize_with = "list")]
    pub ip_blocks: Vec<IpBlock>,
    pub service_reference: Option<NamespacedName>,
    #[serde(deserialize_with = "list")]
    pub child_groups: Vec<String>,
}
