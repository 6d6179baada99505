//! Groups and rules: what policies are made of.

use ipnet::IpNet;

/// A set of addresses: whom rules apply to, or with whom they let speak.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Chosen by the agent; rules name groups by it.
    pub name: String,
    /// Addresses and ranges, sorted, each once. An address is a range of its whole length.
    pub members: Vec<IpNet>,
    /// Names whose addresses are members while DNS answers say so: "*.example.com".
    pub fqdns: Vec<String>,
}

/// Members that a group gains and loses; all others stay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupDelta {
    /// The group's name.
    pub name: String,
    /// Those to be there afterwards.
    pub added: Vec<IpNet>,
    /// Those to be gone afterwards.
    pub removed: Vec<IpNet>,
}

/// One rule of one policy, for one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Unique: "acnp/drop-web/ingress/0".
    pub name: String,
    /// The policy it belongs to: "AntreaClusterNetworkPolicy:drop-web".
    pub policy: String,
    /// Its own name within the policy; may be empty.
    pub rule_name: String,
    /// Of the traffic it judges, seen from whom it applies to.
    pub direction: RuleDirection,
    /// Which of the three tables of that direction holds it.
    pub table: RuleTable,
    /// Order within the table: the lowest decides, then the name.
    pub rank: u64,
    /// What becomes of a match.
    pub action: Action,
    /// Groups whose members it applies to.
    pub applied_to_groups: Vec<String>,
    /// Services whose NodePort traffic it applies to.
    pub applied_to_services: Vec<String>,
    /// The far end; with `peer_services` empty as well: anybody.
    pub peer_groups: Vec<String>,
    /// Services by which the receiver is reached.
    pub peer_services: Vec<String>,
    /// Empty: anything.
    pub traffic: Vec<Traffic>,
    /// Whether each decision is told by an audit record.
    pub log: bool,
    /// Added to its audit lines; may be empty.
    pub log_label: String,
    /// The policy's priority as audit lines show it; may be empty.
    pub priority: String,
}

/// Of the traffic that a rule judges, seen from whom it applies to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleDirection {
    /// What they send.
    Egress,
    /// What they receive.
    Ingress,
}

/// The tables of one direction, in the order in which a packet meets them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleTable {
    /// `AntreaPolicyEgressRule`, `AntreaPolicyIngressRule`: all tiers before Kubernetes' policies.
    AntreaPolicy,
    /// `EgressRule`, `IngressRule`: what Kubernetes' policies allow.
    NetworkPolicy,
    /// `EgressDefaultRule`, `IngressDefaultRule`: what they isolate, then the baseline tiers.
    Default,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// It passes this direction's tables.
    Allow,
    /// It is dropped.
    Drop,
    /// It is dropped, and answered.
    Reject,
    /// The next table decides.
    Pass,
    /// It is dropped, as Kubernetes' isolation does.
    Isolate,
}

/// What a rule says of protocol and ports; `None` matches anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Traffic {
    /// IP protocol number; ICMP's stands for ICMPv6 as well.
    pub protocol: u8,
    /// Destination ports.
    pub ports: Option<PortRange>,
    /// Source ports.
    pub source_ports: Option<PortRange>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest, not below it.
    pub last: u16,
}

impl PortRange {
    /// Whether the port is within.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}
