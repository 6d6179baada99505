//! Case files of format `conf-case/1`, read into types.
//!
//! perf/cases/README.md says what the words mean. A field that is not known here is refused: it
//! could be an expectation that nobody checks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::expectation::{Admission, Audit, Decision, Matrix, Probe};

/// A file of cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// `conf-case/1`.
    pub format: String,
    /// Where they come from.
    pub suite: String,
    /// By the names that steps use.
    #[serde(default)]
    pub clusters: BTreeMap<String, Cluster>,
    /// In order.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique.
    pub id: String,
    /// Project, commit and place.
    #[serde(default)]
    pub source: String,
    /// What it shows.
    #[serde(default)]
    pub description: String,
    /// Class of feature.
    #[serde(default)]
    pub class: String,
    /// From upstream.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What one must have to play it.
    #[serde(default)]
    pub features: Vec<String>,
    /// What happens.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What the API server must say, in place of steps.
    pub admission: Option<Admission>,
}

/// A state of the cluster, whole, and what holds in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// As upstream calls it.
    #[serde(default)]
    pub name: String,
    /// What changed since the step before, for the reader.
    #[serde(default, rename = "actions")]
    _actions: Value,
    /// Which cluster.
    pub cluster: String,
    /// All objects in force, in order of creation.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// Everybody to everybody.
    #[serde(default)]
    pub matrices: Vec<Matrix>,
    /// Single attempts.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Which policy decides, for the protocol and port of the first matrix.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// What must be written down.
    #[serde(default)]
    pub audit: Vec<Audit>,
    /// The zone that clients ask.
    #[serde(default)]
    pub dns: BTreeMap<String, Vec<IpAddr>>,
    /// How upstream named the port, for the reader.
    #[serde(default, rename = "probedAs")]
    _probed_as: Value,
}

/// The cluster that a step plays in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its namespaces.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Its Pods.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// Its nodes; none where they do not matter.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// A namespace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A Pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: IpAddr,
    /// Where it runs.
    pub node: Option<String>,
    /// Whether it has its node's network.
    #[serde(default)]
    pub host_network: bool,
    /// Under which account.
    #[serde(default = "default_account")]
    pub service_account: String,
    /// What its containers declare.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// Where a server listens, if that is not what is declared.
    pub listens: Option<Vec<Listener>>,
}

fn default_account() -> String {
    "default".to_owned()
}

/// A declared port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPort {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Of which protocol.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// Of which container, for the reader.
    #[serde(default, rename = "container")]
    _container: Value,
}

/// A port with a server behind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its number.
    pub port: u16,
    /// Of which protocol.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// A machine of the cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where its Pods have their addresses from.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: ipnet::IpNet,
    /// Its address among them.
    #[serde(rename = "gatewayIP")]
    pub gateway_ip: Option<IpAddr>,
}

/// What attempts are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An INIT.
    Sctp,
    /// A message of ICMP or ICMPv6.
    Icmp,
    /// A query or report of group members.
    Igmp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Icmp => "ICMP",
            Protocol::Igmp => "IGMP",
        })
    }
}
