//! Rules as conjunctive matches: whom they apply to, the far end and the traffic are a part each.

use std::collections::BTreeMap;

use seine_pipeline::state::{Action, PortRange, Rule, RuleDirection, RuleTable, Traffic};

use super::FlowError;
use super::flow::{FAMILIES, Family, Writer, goto, resubmit, set};
use super::service::ServiceGroups;
use super::subject::Subject;
use super::table::Table;

/// Of connections under way.
const BYPASS_PRIORITY: u16 = 64990;
/// Of rules of Antrea's tiers.
const ANTREA_PRIORITIES: (u16, u16) = (100, 64989);
/// Of rules of the baseline tiers, below isolation.
const BASELINE_PRIORITIES: (u16, u16) = (10, 180);
/// Of the parts and of the actions of Kubernetes' rules, which only allow.
const KUBERNETES_PRIORITIES: (u16, u16) = (200, 190);

/// Rules with the priorities of their parts and of their actions.
type Placed<'a> = Vec<(&'a Rule, (u16, u16))>;

/// One direction's tables, marks and fields.
struct Side {
    direction: RuleDirection,
    tables: [Table; 3],
    metric: Table,
    /// What rejects: the metric table, and the agent.
    reject: u32,
}

/// Writes the flows of all rules.
pub fn write(
    subject: &Subject<'_>,
    services: &ServiceGroups<'_>,
    to: &mut Writer,
) -> Result<(), FlowError> {
    use Table::*;
    let egress = [AntreaPolicyEgressRule, EgressRule, EgressDefaultRule];
    let ingress = [AntreaPolicyIngressRule, IngressRule, IngressDefaultRule];
    let sides = [
        (RuleDirection::Egress, egress, EgressMetric, L3Forwarding),
        (RuleDirection::Ingress, ingress, IngressMetric, ConntrackCommit),
    ];
    let mut id = 0;
    for (direction, tables, metric, next) in sides {
        let agent = format!("{},{}", set::TO_AGENT, resubmit(Output));
        let reject = to.group("all", &[resubmit(metric), agent]);
        let side = Side { direction, tables, metric, reject };
        for Family { ip, .. } in FAMILIES {
            for state in ["est", "rel"] {
                let known = format!("ct_state=-new+{state},{ip}");
                to.flow(tables[0], BYPASS_PRIORITY, known, goto(metric));
            }
        }
        for table in [RuleTable::AntreaPolicy, RuleTable::NetworkPolicy, RuleTable::Default] {
            let rules = subject.rules.iter().copied();
            let rules = rules.filter(|it| it.direction == direction && it.table == table);
            for (rule, priorities) in placed(rules.collect(), &side, table)? {
                id += 1;
                side.write_rule(subject, services, rule, (id, priorities), to);
                if rule.action == Action::Allow {
                    side.count(id, next, to);
                }
            }
        }
    }
    Ok(())
}

/// Rules with the priorities of their parts and of their actions, by rank: what is of one rank and
/// one action shares a priority.
fn placed<'a>(
    rules: Vec<&'a Rule>,
    side: &Side,
    table: RuleTable,
) -> Result<Placed<'a>, FlowError> {
    let (lowest, highest) = match table {
        RuleTable::AntreaPolicy => ANTREA_PRIORITIES,
        RuleTable::NetworkPolicy => {
            return Ok(rules.into_iter().map(|rule| (rule, KUBERNETES_PRIORITIES)).collect());
        }
        RuleTable::Default => BASELINE_PRIORITIES,
    };
    let mut places = BTreeMap::new();
    let (mut last, mut place) = (None, 0);
    for rule in rules.iter().filter(|rule| rule.action != Action::Isolate) {
        let key = (rule.rank, rule.action);
        if last.replace(key).is_some_and(|last| last != key) {
            place += 1;
        }
        places.insert(rule.name.as_str(), place);
    }
    let room = usize::from(highest - lowest) + 1;
    if place >= room {
        let table = side.table(table).name();
        return Err(FlowError::NoPriority { rules: place + 1, room, table });
    }
    let priority = |rule: &Rule| {
        // Below the room, which has 16 bits.
        let priority = places.get(rule.name.as_str()).map_or(0, |place| highest - *place as u16);
        (priority, priority)
    };
    Ok(rules.into_iter().map(|rule| (rule, priority(rule))).collect())
}

impl Side {
    fn table(&self, table: RuleTable) -> Table {
        let [antrea, kubernetes, default] = self.tables;
        match table {
            RuleTable::AntreaPolicy => antrea,
            RuleTable::NetworkPolicy => kubernetes,
            RuleTable::Default => default,
        }
    }

    fn write_rule(
        &self,
        subject: &Subject<'_>,
        services: &ServiceGroups<'_>,
        rule: &Rule,
        (id, (parts, action)): (u32, (u16, u16)),
        to: &mut Writer,
    ) {
        if rule.log {
            to.leave_out("audit records");
        }
        if !rule.applied_to_services.is_empty() {
            to.leave_out("rules for NodePorts");
        }
        let named = rule.applied_to_groups.iter().chain(&rule.peer_groups);
        let mut named = named.filter_map(|name| subject.groups.get(name.as_str()));
        if named.any(|group| !group.fqdns.is_empty()) {
            to.leave_out("names in DNS");
        }
        let table = self.table(rule.table);
        if rule.action == Action::Isolate {
            for whom in self.whom(subject, rule) {
                to.flow(table, 200, whom, "drop");
            }
            return;
        }
        let mut clauses = vec![self.whom(subject, rule)];
        let any_peer = rule.peer_groups.is_empty() && rule.peer_services.is_empty();
        if !any_peer || rule.traffic.is_empty() {
            clauses.push(self.peers(subject, services, rule));
        }
        if !rule.traffic.is_empty() {
            clauses.push(rule.traffic.iter().flat_map(traffic).collect());
        }
        // At most three.
        let count = clauses.len() as u8;
        for (index, matches) in clauses.into_iter().enumerate() {
            for matched in matches {
                to.conjunction((table, parts), matched, (id, index as u8 + 1, count));
            }
        }
        self.act(rule, table, (id, action), to);
    }

    /// Whom it applies to: senders by address, receivers by port.
    fn whom(&self, subject: &Subject<'_>, rule: &Rule) -> Vec<String> {
        let members = subject.local_members(&rule.applied_to_groups).into_iter();
        let matched = members.map(|(address, port)| match self.direction {
            RuleDirection::Egress => {
                let Family { ip, source, .. } = Family::of(address);
                format!("{ip},{source}={address}")
            }
            RuleDirection::Ingress => format!("{},reg1={port:#x}", Family::of(address).ip),
        });
        matched.collect()
    }

    /// The far end; anybody where the rule names nobody.
    fn peers(
        &self,
        subject: &Subject<'_>,
        services: &ServiceGroups<'_>,
        rule: &Rule,
    ) -> Vec<String> {
        if rule.peer_groups.is_empty() && rule.peer_services.is_empty() {
            return FAMILIES.iter().map(|family| family.ip.to_owned()).collect();
        }
        let members = subject.members(&rule.peer_groups).into_iter().map(|range| {
            let Family { ip, source, destination, .. } = Family::of(range.addr());
            let field = match self.direction {
                RuleDirection::Egress => destination,
                RuleDirection::Ingress => source,
            };
            format!("{ip},{field}={range}")
        });
        let groups = rule.peer_services.iter().filter_map(|name| services.get(name.as_str()));
        let groups = groups.flatten().map(|group| format!("reg7={group:#x}"));
        members.chain(groups).collect()
    }

    fn act(&self, rule: &Rule, table: Table, (id, priority): (u32, u16), to: &mut Writer) {
        let denied = format!("set_field:{id:#x}->reg3,{}", set::DENIED);
        let metric = goto(self.metric);
        let all = format!("conj_id={id}");
        match rule.action {
            Action::Allow => {
                for Family { ip, zone, .. } in FAMILIES {
                    let (register, label) = self.marks(id);
                    let commit = format!(
                        "set_field:{id:#x}->{register},ct(commit,table={},zone={zone},\
                         exec(set_field:{label}->ct_label))",
                        self.metric.id()
                    );
                    to.flow(table, priority, format!("{all},{ip}"), commit);
                }
                return;
            }
            Action::Pass => {
                let (register, _) = self.marks(id);
                // The last of a direction's rule tables is in front of the one that counts.
                let next = table.miss().unwrap_or(self.metric);
                let pass = format!("set_field:{id:#x}->{register},{}", goto(next));
                to.flow(table, priority, all, pass);
                return;
            }
            Action::Reject => {
                let reject = format!("{denied},{},group:{}", set::REJECT, self.reject);
                to.flow(table, priority, all, reject);
            }
            Action::Drop | Action::Isolate => {
                to.flow(table, priority, all, format!("{denied},{metric}"));
            }
        }
        to.flow(self.metric, 200, format!("reg0=0x400/0x400,reg3={id:#x}"), "drop");
    }

    /// The register that remembers the rule for traces, and the label that does for connections.
    fn marks(&self, id: u32) -> (&'static str, String) {
        match self.direction {
            RuleDirection::Egress => ("reg5", format!("{id:#x}00000000/0xffffffff00000000")),
            RuleDirection::Ingress => ("reg6", format!("{id:#x}/0xffffffff")),
        }
    }

    /// Counts what a rule has allowed: sessions, and all packets.
    fn count(&self, id: u32, next: Table, to: &mut Writer) {
        let (_, label) = self.marks(id);
        for Family { ip, .. } in FAMILIES {
            for state in ["+new", "-new"] {
                let matched = format!("ct_state={state},ct_label={label},{ip}");
                to.flow(self.metric, 200, matched, goto(next));
            }
        }
    }
}

/// One of a rule's kinds of traffic, in both families.
fn traffic(traffic: &Traffic) -> Vec<String> {
    let mut matches = Vec::new();
    for family in FAMILIES {
        let protocol = family.protocol(traffic.protocol);
        let icmp = [("icmp_type", traffic.icmp_type), ("icmp_code", traffic.icmp_code)];
        let icmp =
            icmp.iter().filter_map(|(field, value)| value.map(|it| format!(",{field}={it}")));
        let icmp: String = icmp.collect();
        for source in fields("tp_src", traffic.source_ports) {
            for destination in fields("tp_dst", traffic.ports) {
                matches.push(format!("{protocol}{icmp}{source}{destination}"));
            }
        }
    }
    matches
}

/// A range of ports as matches on their bits; one that matches everything where there is none.
fn fields(field: &str, range: Option<PortRange>) -> Vec<String> {
    let Some(range) = range else { return vec![String::new()] };
    let shown = |(value, mask): (u16, u16)| match mask {
        u16::MAX => format!(",{field}={value}"),
        _ => format!(",{field}={value:#x}/{mask:#x}"),
    };
    masks(range).into_iter().map(shown).collect()
}

/// The fewest values and masks that are a range together.
pub(super) fn masks(range: PortRange) -> Vec<(u16, u16)> {
    let (mut first, last) = (u32::from(range.first), u32::from(range.last));
    let mut masks = Vec::new();
    while first <= last {
        let aligned = if first == 0 { 16 } else { first.trailing_zeros().min(16) };
        let fitting = (last - first + 1).ilog2();
        let size = 1u32 << aligned.min(fitting);
        // Both are below 65536.
        masks.push((first as u16, !(size - 1) as u16));
        first += size;
    }
    masks
}
