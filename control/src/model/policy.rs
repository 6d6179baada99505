//! Policies in one form, whichever of the six kinds they are written in.
//!
//! Names are not resolved here: a policy may come before the tier, group or Service that it names.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::LabelSelector;

/// Which API a policy is written in. The order is that of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 NetworkPolicy.
    K8sNetworkPolicy,
    /// crd.antrea.io/v1beta1 ClusterNetworkPolicy.
    AntreaClusterNetworkPolicy,
    /// crd.antrea.io/v1beta1 NetworkPolicy.
    AntreaNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::K8sNetworkPolicy,
        Self::AntreaClusterNetworkPolicy,
        Self::AntreaNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];

    /// Whether its policies live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::K8sNetworkPolicy | Self::AntreaNetworkPolicy)
    }

    /// Group, version and kind, as a manifest names them.
    pub const fn api(self) -> (&'static str, &'static str) {
        match self {
            Self::K8sNetworkPolicy => ("networking.k8s.io/v1", "NetworkPolicy"),
            Self::AntreaClusterNetworkPolicy => ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
            Self::AntreaNetworkPolicy => ("crd.antrea.io/v1beta1", "NetworkPolicy"),
            Self::AdminNetworkPolicy => ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
            Self::BaselineAdminNetworkPolicy => {
                ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy")
            }
            Self::ClusterNetworkPolicy => {
                ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy")
            }
        }
    }
}

/// Names a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// In which API.
    pub kind: PolicyKind,
    /// Empty for policies of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// Where it stands before or after others.
    pub tier: TierOf,
    /// Within its tier, the lowest first.
    pub priority: f64,
    /// Whom it applies to, unless its rules say so themselves.
    pub applied_to: Vec<Subject>,
    /// Whether those are isolated for what they receive: Kubernetes' policies only.
    pub isolates_ingress: bool,
    /// Whether those are isolated for what they send.
    pub isolates_egress: bool,
    /// In order.
    pub ingress: Vec<PolicyRule>,
    /// In order.
    pub egress: Vec<PolicyRule>,
}

/// Antrea's tiers that are always there, with their priorities.
pub const STATIC_TIERS: [(&str, u32); 6] = [
    ("emergency", 50),
    ("securityops", 100),
    ("networkops", 150),
    ("platform", 200),
    ("application", 250),
    ("baseline", 253),
];

/// The tier of an Antrea policy that names none.
pub const DEFAULT_TIER: &str = "application";

/// An Antrea tier, beside those that are always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// The lowest first.
    pub priority: u32,
}

/// The tier of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierOf {
    /// An Antrea tier, by name.
    Named(String),
    /// A place that the API itself fixes: AdminNetworkPolicy 251, its baseline 254,
    /// ClusterNetworkPolicy 220 and 254.
    Fixed(u32),
    /// Between the tiers and the baseline: Kubernetes' own.
    NetworkPolicy,
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// As written; may be empty.
    pub name: String,
    /// What becomes of a match.
    pub action: RuleAction,
    /// Whom it applies to, in place of the policy's.
    pub applied_to: Vec<Subject>,
    /// The far end. `None`: anybody; an empty list: nobody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: anything; an empty list: nothing.
    pub traffic: Option<Vec<Traffic>>,
    /// Whether decisions are logged.
    pub log: bool,
    /// Added to log lines; may be empty.
    pub log_label: String,
}

/// What becomes of what a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// It passes.
    Allow,
    /// It is dropped.
    Drop,
    /// It is dropped, and answered.
    Reject,
    /// Later tiers decide.
    Pass,
}

/// Whom a policy or rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Pods by their labels.
    Pods(PodSelector),
    /// A Group or ClusterGroup.
    Group(GroupName),
    /// The Pods that run under a service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The NodePort traffic of a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A far end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods by their labels.
    Pods(PodSelector),
    /// Addresses.
    IpBlock(IpBlock),
    /// A Group or ClusterGroup.
    Group(GroupName),
    /// Nodes by their labels: all addresses that they speak from.
    Nodes(LabelSelector),
    /// The Pods that run under a service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A name, possibly with asterisks.
    Fqdn(String),
    /// Whatever is reached by way of a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A range of addresses with holes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNet,
    /// Ranges within it that do not count.
    pub except: Vec<IpNet>,
}

/// Pods of some namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSelector {
    /// In which namespaces.
    pub namespaces: NamespaceScope,
    /// Which of them; one without requirements selects all.
    pub pods: LabelSelector,
}

/// In which namespaces Pods are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceScope {
    /// This one.
    Named(String),
    /// Those that the selector matches; one without requirements matches all.
    Matching(LabelSelector),
    /// That of each Pod the rule applies to (Antrea's `namespaces.match: Self`).
    OfSubject,
    /// Those with the same values of these labels as that of each Pod the rule applies to (Antrea's
    /// `namespaces.sameLabels`).
    SameLabels(Vec<String>),
}

/// Names a Group, or a ClusterGroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    /// Empty for a ClusterGroup.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A Group or ClusterGroup. Its members are those of all its parts together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Pods by their labels.
    pub pods: Option<PodSelector>,
    /// Nodes by their labels: all addresses that they speak from.
    pub nodes: Option<LabelSelector>,
    /// Addresses.
    pub ip_blocks: Vec<IpBlock>,
    /// The Pods that a Service selects: its namespace and name.
    pub service: Option<(String, String)>,
    /// Other groups, one level deep.
    pub child_groups: Vec<GroupName>,
}

/// What a rule says of protocol and ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Of which protocol; `None`: any.
    pub protocol: Option<Protocol>,
    /// The destination's port.
    pub port: Option<Port>,
    /// The sender's ports, both included.
    pub source_ports: Option<(u16, u16)>,
    /// ICMP only.
    pub icmp_type: Option<u8>,
    /// ICMP only.
    pub icmp_code: Option<u8>,
    /// IGMP only.
    pub igmp_type: Option<u8>,
    /// IGMP only: the group that the message is about.
    pub igmp_group: Option<Ipv4Addr>,
}

impl Traffic {
    /// Everything of one protocol.
    pub fn of(protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..Self::default() }
    }
}

/// A destination's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// From the first to the last, both included.
    Range(u16, u16),
    /// What the destination Pod calls so.
    Named(String),
}

/// An upper-layer protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP, and ICMPv6 in IPv6.
    Icmp,
    /// IGMP.
    Igmp,
}

impl Protocol {
    /// Its number in IP (ICMP's and IGMP's those of IPv4).
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Icmp => 1,
            Protocol::Igmp => 2,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}
