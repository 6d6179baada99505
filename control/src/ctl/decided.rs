//! `seinectl connection`, `policy` and `rule`: what is known of connections, and what rules have
//! decided; as data and as text.

use std::collections::BTreeMap;

use seine_datapath_api::v1;
use serde::Serialize;

use super::columns::Columns;
use super::quantity::{bytes, duration};
use super::render::Render;

/// `seinectl connection list`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionList {
    /// Those that are shown.
    pub connections: Vec<ConnectionReport>,
    /// How many there are.
    pub found: u64,
}

/// One connection.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionReport {
    /// "tcp", "udp", "icmp", "sctp", or a number.
    pub protocol: String,
    /// As its first packet came in: "10.10.1.2:40000 > 10.96.0.10:80".
    pub original: String,
    /// As answers come in.
    pub reply: String,
    /// "Established".
    pub progress: String,
    /// "pod", "gateway" or "tunnel".
    pub source: String,
    /// "default/web:http", or empty.
    pub service: String,
    /// The rule that let the sender send, or empty.
    pub egress_rule: String,
    /// The rule that let the receiver receive, or empty.
    pub ingress_rule: String,
    /// From who began it, with the next.
    pub original_packets: u64,
    /// Bytes without Ethernet headers.
    pub original_bytes: u64,
    /// Answers, with the next.
    pub reply_packets: u64,
    /// Bytes without Ethernet headers.
    pub reply_bytes: u64,
    /// Since its first packet.
    pub age_ms: u64,
    /// Since its last packet.
    pub idle_ms: u64,
}

impl From<v1::Connection> for ConnectionReport {
    fn from(connection: v1::Connection) -> Self {
        ConnectionReport {
            protocol: match connection.protocol {
                1 | 58 => "icmp".into(),
                6 => "tcp".into(),
                17 => "udp".into(),
                132 => "sctp".into(),
                other => other.to_string(),
            },
            original: connection.original,
            reply: connection.reply,
            progress: connection.progress,
            source: connection.source,
            service: connection.service,
            egress_rule: connection.egress_rule,
            ingress_rule: connection.ingress_rule,
            original_packets: connection.original_packets,
            original_bytes: connection.original_bytes,
            reply_packets: connection.reply_packets,
            reply_bytes: connection.reply_bytes,
            age_ms: connection.age_ms,
            idle_ms: connection.idle_ms,
        }
    }
}

impl Render for ConnectionList {
    fn text(&self) -> String {
        let mut columns = Columns::new([
            "PROTOCOL", "ORIGINAL", "REPLY", "STATE", "SERVICE", "EGRESS", "INGRESS", "SENT",
            "ANSWERED", "AGE", "IDLE",
        ])
        .right(&["SENT", "ANSWERED", "AGE", "IDLE"]);
        for it in &self.connections {
            columns.row([
                it.protocol.clone(),
                it.original.clone(),
                it.reply.clone(),
                it.progress.clone(),
                it.service.clone(),
                it.egress_rule.clone(),
                it.ingress_rule.clone(),
                bytes(it.original_bytes),
                bytes(it.reply_bytes),
                duration(it.age_ms / 1000),
                duration(it.idle_ms / 1000),
            ]);
        }
        let shown = self.connections.len() as u64;
        match (self.found, shown) {
            (0, _) => "No connection is known.\n".into(),
            (found, shown) if found > shown => {
                format!("{columns}{shown} of {found} connections; --limit shows more\n")
            }
            _ => columns.to_string(),
        }
    }
}

/// `seinectl connection count`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionCount {
    /// How many there are.
    pub connections: u64,
}

impl Render for ConnectionCount {
    fn text(&self) -> String {
        format!("{}\n", self.connections)
    }
}

/// `seinectl rule stats`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RuleList {
    /// By table, in the order in which they are asked.
    pub rules: Vec<RuleReport>,
}

/// One rule.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RuleReport {
    /// Unique: "acnp/drop-web/ingress/0".
    pub name: String,
    /// "AntreaClusterNetworkPolicy:drop-web".
    pub policy: String,
    /// Its own name within the policy, or empty.
    pub rule: String,
    /// "egress" or "ingress".
    pub direction: &'static str,
    /// "antrea-policy", "network-policy" or "default".
    pub table: &'static str,
    /// The lowest that matches decides.
    pub rank: u64,
    /// "allow", "drop", "reject", "pass" or "isolate".
    pub action: &'static str,
    /// Connections that it let open, and packets that it denied.
    pub sessions: u64,
    /// Packets of either direction.
    pub packets: u64,
    /// Their bytes, without Ethernet headers.
    pub bytes: u64,
}

impl From<v1::RuleCounts> for RuleReport {
    fn from(rule: v1::RuleCounts) -> Self {
        RuleReport {
            direction: match rule.direction() {
                v1::rule::Direction::Egress => "egress",
                v1::rule::Direction::Ingress => "ingress",
                v1::rule::Direction::Unspecified => "unknown",
            },
            table: match rule.table() {
                v1::rule::Table::AntreaPolicy => "antrea-policy",
                v1::rule::Table::NetworkPolicy => "network-policy",
                v1::rule::Table::Default => "default",
                v1::rule::Table::Unspecified => "unknown",
            },
            action: match rule.action() {
                v1::rule::Action::Allow => "allow",
                v1::rule::Action::Drop => "drop",
                v1::rule::Action::Reject => "reject",
                v1::rule::Action::Pass => "pass",
                v1::rule::Action::Isolate => "isolate",
                v1::rule::Action::Unspecified => "unknown",
            },
            name: rule.name,
            policy: rule.policy,
            rule: rule.rule_name,
            rank: rule.rank,
            sessions: rule.sessions,
            packets: rule.packets,
            bytes: rule.bytes,
        }
    }
}

impl RuleList {
    /// In the order in which a packet meets them.
    pub fn new(rules: Vec<v1::RuleCounts>) -> Self {
        let mut sorted = rules;
        sorted.sort_by(|a, b| {
            let key = |it: &v1::RuleCounts| (it.direction, it.table, it.rank);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        RuleList { rules: sorted.into_iter().map(RuleReport::from).collect() }
    }
}

impl Render for RuleList {
    fn text(&self) -> String {
        if self.rules.is_empty() {
            return "No rule is installed.\n".into();
        }
        let mut columns = Columns::new([
            "RULE",
            "POLICY",
            "DIRECTION",
            "TABLE",
            "RANK",
            "ACTION",
            "SESSIONS",
            "PACKETS",
            "BYTES",
        ])
        .right(&["RANK", "SESSIONS", "PACKETS", "BYTES"]);
        for it in &self.rules {
            columns.row([
                it.name.clone(),
                it.policy.clone(),
                it.direction.into(),
                it.table.into(),
                it.rank.to_string(),
                it.action.into(),
                it.sessions.to_string(),
                it.packets.to_string(),
                bytes(it.bytes),
            ]);
        }
        columns.to_string()
    }
}

/// `seinectl policy list`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PolicyList {
    /// By name.
    pub policies: Vec<PolicyReport>,
}

/// One policy: its rules on this node together.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct PolicyReport {
    /// "AntreaClusterNetworkPolicy:drop-web"; empty: rules that belong to none.
    pub policy: String,
    /// How many of its rules are installed on this node.
    pub rules: usize,
    /// As those of its rules, together.
    pub sessions: u64,
    /// Packets of either direction.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PolicyList {
    /// Sums up what rules have decided.
    pub fn new(rules: &RuleList) -> Self {
        let mut policies = BTreeMap::<String, PolicyReport>::new();
        for rule in &rules.rules {
            let sum = policies.entry(rule.policy.clone()).or_default();
            sum.policy.clone_from(&rule.policy);
            sum.rules += 1;
            sum.sessions += rule.sessions;
            sum.packets += rule.packets;
            sum.bytes += rule.bytes;
        }
        PolicyList { policies: policies.into_values().collect() }
    }
}

impl Render for PolicyList {
    fn text(&self) -> String {
        if self.policies.is_empty() {
            return "No policy applies to this node.\n".into();
        }
        let mut columns = Columns::new(["POLICY", "RULES", "SESSIONS", "PACKETS", "BYTES"])
            .right(&["RULES", "SESSIONS", "PACKETS", "BYTES"]);
        for it in &self.policies {
            columns.row([
                it.policy.clone(),
                it.rules.to_string(),
                it.sessions.to_string(),
                it.packets.to_string(),
                bytes(it.bytes),
            ]);
        }
        columns.to_string()
    }
}
