//! How flows and groups are written, and the registers that they speak by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::FlowSet;
use super::table::Table;

/// Marks of registers, as actions. The names say what Antrea's do.
pub mod set {
    /// The packet comes by the tunnel.
    pub const FROM_TUNNEL: &str = "set_field:0x1/0xf->reg0";
    /// It comes by the gateway.
    pub const FROM_GATEWAY: &str = "set_field:0x2/0xf->reg0";
    /// It comes from a Pod of this node.
    pub const FROM_POD: &str = "set_field:0x3/0xf->reg0";
    /// It goes into the tunnel.
    pub const TO_TUNNEL: &str = "set_field:0x10/0xf0->reg0";
    /// It goes to the gateway.
    pub const TO_GATEWAY: &str = "set_field:0x20/0xf0->reg0";
    /// Both MAC addresses are to be written anew.
    pub const REWRITE_MAC: &str = "set_field:0x200/0x200->reg0";
    /// A rule denies it.
    pub const DENIED: &str = "set_field:0x400/0x400->reg0";
    /// The rule is one that rejects.
    pub const REJECT: &str = "set_field:0x1000/0x1800->reg0";
    /// The Service has no endpoint.
    pub const NO_ENDPOINT: &str = "set_field:0x4000/0x4000->reg0";
    /// It leaves by the port in reg1.
    pub const TO_PORT: &str = "set_field:0x200000/0x600000->reg0";
    /// It leaves to the agent, which is to reject it.
    pub const TO_AGENT: &str =
        "set_field:0x400000/0x600000->reg0,set_field:0x4000000/0xfe000000->reg0";
    /// An endpoint is to be selected.
    pub const SELECT: &str = "set_field:0x10000/0x70000->reg4";
    /// One is selected.
    pub const SELECTED: &str = "set_field:0x20000/0x70000->reg4";
    /// One is selected, and the client is to keep it.
    pub const LEARN: &str = "set_field:0x30000/0x70000->reg4";
    /// The destination is an address of NodePorts.
    pub const NODE_PORT: &str = "set_field:0x80000/0x80000->reg4";
    /// The destination is an external address of a Service.
    pub const EXTERNAL: &str = "set_field:0x200000/0x200000->reg4";
    /// The endpoint is on another node.
    pub const REMOTE: &str = "set_field:0x4000000/0x4000000->reg4";
    /// The source is outside of this node.
    pub const FROM_EXTERNAL: &str = "set_field:0x8000000/0x8000000->reg4";
    /// The source is a Pod of this node, or the node.
    pub const FROM_LOCAL: &str = "set_field:0x10000000/0x10000000->reg4";
}

/// What differs between IPv4 and IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    pub v6: bool,
    /// The match on the protocol.
    pub ip: &'static str,
    pub source: &'static str,
    pub destination: &'static str,
    pub tunnel: &'static str,
    /// The zone of connections, and that of translated sources.
    pub zone: u16,
    pub snat_zone: u16,
    /// In which register an endpoint's address stands.
    pub endpoint: &'static str,
}

pub const FAMILIES: [Family; 2] = [
    Family {
        v6: false,
        ip: "ip",
        source: "nw_src",
        destination: "nw_dst",
        tunnel: "tun_dst",
        zone: 65520,
        snat_zone: 65521,
        endpoint: "reg3",
    },
    Family {
        v6: true,
        ip: "ipv6",
        source: "ipv6_src",
        destination: "ipv6_dst",
        tunnel: "tun_ipv6_dst",
        zone: 65510,
        snat_zone: 65511,
        endpoint: "xxreg3",
    },
];

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Family {
        let [v4, v6] = FAMILIES;
        if address.is_ipv4() { v4 } else { v6 }
    }

    /// The match on an upper layer.
    pub fn protocol(self, number: u8) -> String {
        let suffix = if self.v6 { "6" } else { "" };
        match number {
            1 | 58 => format!("icmp{suffix}"),
            6 => format!("tcp{suffix}"),
            17 => format!("udp{suffix}"),
            132 => format!("sctp{suffix}"),
            other => format!("{},nw_proto={other}", self.ip),
        }
    }
}

/// The number of an address, as a register holds it.
pub fn number(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:#x}", address.to_bits()),
        IpAddr::V6(address) => format!("{:#x}", address.to_bits()),
    }
}

/// An address as ct's nat takes it in front of a port.
pub fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Where a flow stands, and what it matches.
type Place = (Table, u16, String);

/// A rule, and which part of how many of it a match is.
type Clause = (u32, u8, u8);

/// Gathers flows: one of each table, priority and match, as a switch has them.
#[derive(Debug, Default)]
pub struct Writer {
    flows: BTreeMap<Place, String>,
    /// The conjunctions that share a match.
    shared: BTreeMap<Place, BTreeSet<Clause>>,
    groups: Vec<String>,
    left_out: BTreeMap<&'static str, usize>,
}

impl Writer {
    /// A flow; one of the same place and match is written over.
    pub fn flow(
        &mut self,
        table: Table,
        priority: u16,
        matched: impl fmt::Display,
        actions: impl fmt::Display,
    ) {
        self.flows.insert((table, priority, matched.to_string()), actions.to_string());
    }

    /// A match that is part of a rule.
    pub fn conjunction(
        &mut self,
        (table, priority): (Table, u16),
        matched: String,
        clause: Clause,
    ) {
        self.shared.entry((table, priority, matched)).or_default().insert(clause);
    }

    /// A group; gives its number.
    pub fn group(&mut self, kind: &str, buckets: &[String]) -> u32 {
        let id = self.groups.len() as u32 + 1;
        let mut text = format!("group_id={id},type={kind}");
        for (index, actions) in buckets.iter().enumerate() {
            let weight = if kind == "select" { "weight:100," } else { "" };
            text += &format!(",bucket=bucket_id:{index},{weight}actions={actions}");
        }
        self.groups.push(text);
        id
    }

    /// Something of the objects that flows do not express.
    pub fn leave_out(&mut self, feature: &'static str) {
        *self.left_out.entry(feature).or_default() += 1;
    }

    /// Everything, with where packets go that nothing matches.
    pub fn finish(mut self) -> FlowSet {
        for table in Table::ALL {
            if let Some(next) = table.miss() {
                let miss = (*table, 0, String::new());
                self.flows.entry(miss).or_insert_with(|| goto(next));
            }
        }
        for ((table, priority, matched), rules) in self.shared {
            let actions: Vec<String> = rules
                .into_iter()
                .map(|(rule, clause, clauses)| format!("conjunction({rule},{clause}/{clauses})"))
                .collect();
            self.flows.insert((table, priority, matched), actions.join(","));
        }
        let line = |((table, priority, matched), actions): (&Place, &String)| {
            let comma = if matched.is_empty() { "" } else { "," };
            let table = table.id();
            format!("table={table},priority={priority}{comma}{matched},actions={actions}")
        };
        let flows = self.flows.iter().map(line).collect();
        FlowSet { flows, groups: self.groups, left_out: self.left_out }
    }
}

/// The action that goes on in a table.
pub fn goto(table: Table) -> String {
    format!("goto_table:{}", table.id())
}

/// The action that looks into a table and comes back.
pub fn resubmit(table: Table) -> String {
    format!("resubmit(,{})", table.id())
}
