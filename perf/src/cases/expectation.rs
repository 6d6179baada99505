//! What the cases of a file expect: matrices, probes, decisions, lines of audit, admissions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::file::Protocol;

/// What becomes of every Pod's attempt to reach every other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which port.
    pub port: u16,
    /// Rows and columns: `namespace/name`.
    pub pods: Vec<String>,
    /// What a new connection meets.
    pub combined: Vec<String>,
    /// What the policies at the destination alone say.
    pub ingress: Option<Vec<String>>,
    /// What the policies at the source alone say.
    pub egress: Option<Vec<String>>,
    /// Who says so.
    #[serde(default)]
    pub source: String,
}

/// One attempt.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    /// Whose.
    pub from: Source,
    /// At whom.
    pub to: Target,
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which port.
    pub port: Option<u16>,
    /// ICMP's type.
    pub icmp_type: Option<u8>,
    /// ICMP's code.
    pub icmp_code: Option<u8>,
    /// IGMP's type.
    pub igmp_type: Option<u8>,
    /// IGMP's group.
    pub group_address: Option<IpAddr>,
    /// From which port.
    pub source_port: Option<u16>,
    /// What becomes of it.
    pub expect: Expected,
    /// Whether the policies alone cannot tell.
    #[serde(default)]
    pub noeval: bool,
}

/// Who makes an attempt.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Source {
    /// A Pod.
    Pod {
        /// `namespace/name`.
        pod: String,
    },
    /// A process of a node, or a Pod in its network.
    Node {
        /// Its name.
        node: String,
        /// The address it speaks from.
        ip: IpAddr,
    },
    /// Somebody outside of the cluster.
    External {
        /// Its address.
        external: IpAddr,
    },
}

/// Whom an attempt is to reach.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Target {
    /// A Pod.
    Pod {
        /// `namespace/name`.
        pod: String,
    },
    /// A Service, by its cluster address.
    Service {
        /// `namespace/name`.
        service: String,
        /// The Pod that answers.
        backend: String,
    },
    /// A Service, by a node's address.
    NodePort {
        /// The port there.
        node_port: u16,
        /// Which node.
        node: String,
        /// `namespace/name`.
        service: String,
    },
    /// A name outside of the cluster, which the client resolves first.
    Name {
        /// The name.
        fqdn: String,
        /// What it resolves to.
        ip: IpAddr,
        /// `TCP`, or `UDP` if it is not given.
        dns_transport: Option<Protocol>,
    },
    /// Receivers of a multicast group.
    Group {
        /// Its address.
        group: IpAddr,
        /// The same.
        ip: IpAddr,
        /// Pods that have joined.
        receivers: Vec<String>,
    },
    /// An address.
    Address {
        /// The address.
        ip: IpAddr,
        /// The node that has it, if one does.
        node: Option<String>,
    },
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// It arrives, and so does the reply.
    Allow,
    /// Nothing comes back.
    Drop,
    /// A refusal comes back.
    Reject,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Expected::Allow => "allow",
            Expected::Drop => "drop",
            Expected::Reject => "reject",
        })
    }
}

/// Which policy decides.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The sender: `namespace/name`.
    pub from: String,
    /// The receiver: `namespace/name`.
    pub to: String,
    /// The policy's name, or `<NONE>`.
    pub policy: String,
    /// `Allow`, `Drop`, `Reject`, `Isolate` or `<NONE>`.
    pub action: String,
}

/// A line that the audit log must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// For which probe of the step.
    pub probe: usize,
    /// On which node.
    pub node: String,
    /// What it must match.
    pub regex: String,
}

/// What the API server must say to a change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Admission {
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub operation: String,
    /// The new state; null for a deletion.
    #[serde(default)]
    pub object: Value,
    /// The old state; null for a creation.
    #[serde(default)]
    pub old_object: Value,
    /// What there is already.
    #[serde(default)]
    pub existing: Option<Vec<Value>>,
    /// Which features are on.
    #[serde(default)]
    pub feature_gates: Option<BTreeMap<String, bool>>,
    /// Who asks.
    #[serde(default)]
    pub user: Option<String>,
    /// `allow` or `deny`.
    pub expect: AdmissionExpected,
    /// Upstream's text, for the reader.
    #[serde(default)]
    pub reason: Option<String>,
    /// Upstream's warnings.
    #[serde(default)]
    pub warnings: Option<Vec<String>>,
}

/// Whether a change is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionExpected {
    /// It is.
    Allow,
    /// It is not.
    Deny,
}
