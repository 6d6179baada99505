//! What the rule tables of both directions have in common.

use std::fmt;
use std::net::IpAddr;

use super::reevaluation::{self, Parties};
use crate::adjacency::AdjacencyTable;
use crate::audit::AuditRecord;
use crate::connection::{Connection, Decision, RuleId};
use crate::packet::{Denied, Packet, PacketSource, Tracking};
use crate::reject::{Rejection, reject};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{
    Action, Opening, PortRange, Rule, RuleDirection, RuleTable, State, Traffic, first_of,
};
use crate::tally::RuleCounts;
use crate::translate;
use crate::verdict::{DropReason, Verdict};

/// Holds a packet that opens a connection against one table of rules.
pub struct RuleJudge {
    id: TableId,
    direction: RuleDirection,
    table: RuleTable,
}

impl RuleJudge {
    pub(super) const fn new(id: TableId, direction: RuleDirection, table: RuleTable) -> RuleJudge {
        RuleJudge { id, direction, table }
    }

    /// Why no rule of this direction applies, if none does.
    fn exempts(&self, parties: &Parties, state: &State) -> Option<&'static str> {
        if self.direction != RuleDirection::Egress {
            return None;
        }
        // Kubernetes' policies cannot keep a Pod from itself; Antrea's can keep it from the Service
        // by which it would reach itself. An address that several may send from is none of itself.
        let itself = parties.source == parties.destination
            && state.owner(parties.destination).map(|(_, port)| port) == parties.sender;
        match (parties.sender, self.table) {
            (None, _) => Some("no Pod of this node sends it"),
            (_, RuleTable::NetworkPolicy) if itself => Some("a Pod may always reach itself"),
            _ => None,
        }
    }

    fn decide(
        &self,
        packet: &mut Packet<'_>,
        context: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let (state, direction, table) = (context.state, self.direction, self.table);
        let parties = Parties::of(packet)?;
        let (port, far) = match direction {
            RuleDirection::Egress => (parties.sender, parties.destination),
            RuleDirection::Ingress => (parties.receiver, parties.source),
        };
        if let Some(reason) = self.exempts(&parties, state) {
            context.note(format_args!("{reason}"));
            return Ok(Verdict::Goto(metric(direction)));
        }
        let to_node_port = direction == RuleDirection::Ingress
            && packet.facts.node_port
            && parties.opened_by == PacketSource::Gateway;
        let subject = port.and_then(|port| state.subject(port));
        let subject = subject.filter(|subject| subject.is_judged(direction, table));
        if subject.is_none() && !to_node_port {
            return Ok(Verdict::Next);
        }
        let asks_services = subject.is_some_and(|it| it.asks_services(direction, table));
        // Hardly any packet has to look for its Service here.
        let service = packet.facts.service.filter(|_| to_node_port || asks_services);
        let service = service.and_then(|id| state.services().by_id(id));
        let service = service.map(|installed| installed.service.name.as_str());
        let node_port =
            service.filter(|_| to_node_port).and_then(|it| state.policies().of_service(it));
        let node_port = node_port.filter(|subject| subject.is_judged(direction, table));
        if subject.is_none() && node_port.is_none() {
            return Ok(Verdict::Next);
        }
        let far_groups = state.policies().groups_of(far);
        let mut opening = Opening { far: far_groups, service, flow: Parties::flow(packet)? };
        if direction == RuleDirection::Egress
            && state.policies().know_names()
            && let Some(port) = port.and_then(|port| state.port(port))
        {
            let pod = (port.id, port.generation);
            opening.far.add_names(context.learned.fqdns.groups(pod, far, context.now_ms));
        }
        if let Some(own) = own_address(direction, &parties, far, context) {
            opening.far.add(state.policies().groups_of(own));
        }
        let whom = || {
            let endpoint = port.and_then(|port| state.sender(port)).map(|it| it.name.as_str());
            endpoint.or(service).unwrap_or_default()
        };
        let Some(rule) = first_of([subject, node_port], direction, table, &opening) else {
            if context.trace.is_some() {
                context.note(format_args!("none of the rules for {} means it", whom()));
            }
            return Ok(Verdict::Next);
        };
        if context.trace.is_some() {
            let Rule { name, policy, .. } = rule.rule();
            context.note(format_args!("{name} of {policy} for {}", whom()));
        }
        if rule.log && !context.dry && is_told(packet, direction, rule.id, rule.action) {
            let bytes = u16::try_from(packet.counted_bytes()?).unwrap_or(u16::MAX);
            let (decision, tuple) = ((self.id, rule.id, rule.action), Parties::tuple(packet)?);
            context.worker.audit.record(AuditRecord::new(context.now_ms, decision, tuple, bytes));
        }
        match rule.action {
            Action::Pass => return Ok(Verdict::Next),
            Action::Allow if direction == RuleDirection::Egress => {
                packet.facts.egress_rule = Some(rule.id);
            }
            Action::Allow => packet.facts.ingress_rule = Some(rule.id),
            action => packet.facts.denied = Some(Denied { rule: rule.id, action }),
        }
        Ok(Verdict::Goto(metric(direction)))
    }
}

/// An address of its own of the Pod at the far end, where it speaks or is spoken to by an allowed
/// one: rules that mean the Pod mean it by that as well.
fn own_address(
    direction: RuleDirection,
    parties: &Parties,
    far: IpAddr,
    context: &Context<'_>,
) -> Option<IpAddr> {
    let state = context.state;
    match (direction, parties.sender, parties.receiver) {
        (RuleDirection::Ingress, Some(port), _) | (RuleDirection::Egress, _, Some(port)) => {
            state.own_address_beside(port, far)
        }
        (RuleDirection::Egress, _, None) => {
            state.holder(far, &context.learned.announcements)?.endpoint.address_like(far)
        }
        (RuleDirection::Ingress, None, _) => None,
    }
}

impl RuleDirection {
    /// The rule that let a connection.
    fn rule(self, decision: &Decision) -> Option<RuleId> {
        match self {
            RuleDirection::Egress => decision.egress_rule,
            RuleDirection::Ingress => decision.ingress_rule,
        }
    }
}

/// Whether a rule that logs tells of this packet: of each that it denies, and of what it lets
/// through when it does so first.
fn is_told(packet: &Packet<'_>, direction: RuleDirection, rule: RuleId, action: Action) -> bool {
    let again = match packet.facts.tracking {
        Tracking::Known { connection: Connection { decision, .. }, .. } => {
            direction.rule(&decision) == Some(rule)
                || packet.facts.opens_again
                || decision.from_node
        }
        Tracking::New | Tracking::Untracked => false,
    };
    match action {
        Action::Pass => false,
        Action::Allow => !again,
        Action::Drop | Action::Reject | Action::Isolate => true,
    }
}

/// The table that counts what was decided.
pub(super) const fn metric(direction: RuleDirection) -> TableId {
    match direction {
        RuleDirection::Egress => TableId::EgressMetric,
        RuleDirection::Ingress => TableId::IngressMetric,
    }
}

impl Table for RuleJudge {
    fn id(&self) -> TableId {
        self.id
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(self.decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["rank", "rule", "policy", "action", "applied to", "peers", "traffic"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let rules = state.policies().rules_of(self.direction, self.table);
        let rows = rules.map(|installed| {
            let rule = &installed.rule;
            let applied = rule.applied_to_groups.iter().chain(&rule.applied_to_services);
            let peers = rule.peer_groups.iter().chain(&rule.peer_services);
            let traffic: Vec<String> = rule.traffic.iter().map(Traffic::to_string).collect();
            let action = format!("{:?}", rule.action);
            row([
                &rule.rank,
                &rule.name,
                &rule.policy,
                &action,
                &List(applied.cloned().collect()),
                &List(peers.cloned().collect()),
                &List(traffic),
            ])
        });
        rows.collect()
    }

    fn entries(&self, state: &State) -> usize {
        state.policies().rules_of(self.direction, self.table).count()
    }
}

/// "web, db"; "any" where there is nothing.
struct List(Vec<String>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("any"),
            list => f.write_str(&list.join(", ")),
        }
    }
}

/// "tcp 80-90 from 1024-65535", "icmp 8/0", "protocol 47".
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 => f.write_str("icmp")?,
            6 => f.write_str("tcp")?,
            17 => f.write_str("udp")?,
            132 => f.write_str("sctp")?,
            other => write!(f, "protocol {other}")?,
        }
        let range = |f: &mut fmt::Formatter<'_>, PortRange { first, last }| match last - first {
            0 => write!(f, "{first}"),
            _ => write!(f, "{first}-{last}"),
        };
        if let Some(ports) = self.ports {
            f.write_str(" ")?;
            range(f, ports)?;
        }
        if let Some(ports) = self.source_ports {
            f.write_str(" from ")?;
            range(f, ports)?;
        }
        match (self.icmp_type, self.icmp_code) {
            (Some(kind), Some(code)) => write!(f, " {kind}/{code}"),
            (Some(kind), None) => write!(f, " {kind}"),
            _ => Ok(()),
        }
    }
}

/// Counts what the rules of one direction decided, and ends what they denied.
pub struct RuleMetric {
    id: TableId,
    direction: RuleDirection,
}

impl RuleMetric {
    pub(super) const fn new(id: TableId, direction: RuleDirection) -> RuleMetric {
        RuleMetric { id, direction }
    }

    fn allowed(&self, packet: &Packet<'_>) -> Option<RuleId> {
        match self.direction {
            RuleDirection::Egress => packet.facts.egress_rule,
            RuleDirection::Ingress => packet.facts.ingress_rule,
        }
    }

    /// Whether a connection passes by this rule for the first time.
    fn is_first(&self, packet: &Packet<'_>, rule: RuleId) -> bool {
        match packet.facts.tracking {
            Tracking::New => true,
            Tracking::Known { connection: Connection { decision, .. }, .. } => {
                packet.facts.stale && self.direction.rule(&decision) != Some(rule)
            }
            Tracking::Untracked => false,
        }
    }

    fn decide(
        &self,
        packet: &mut Packet<'_>,
        context: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let Some(denied) = packet.facts.denied else {
            if let Some(rule) = self.allowed(packet).filter(|rule| self.is_first(packet, *rule)) {
                count(context, rule, RuleCounts { sessions: 1, packets: 0, bytes: 0 });
            }
            return Ok(Verdict::Next);
        };
        reevaluation::revoke(packet, context)?;
        let bytes = packet.counted_bytes()?;
        count(context, denied.rule, RuleCounts { sessions: 1, packets: 1, bytes });
        if let Some(rule) = packet.facts.egress_rule {
            // It passed that rule, but no connection will account for it.
            count(context, rule, RuleCounts { sessions: 0, packets: 1, bytes });
        }
        let reason = match (self.direction, denied.action) {
            (RuleDirection::Egress, Action::Isolate) => DropReason::EgressIsolation,
            (RuleDirection::Egress, _) => DropReason::EgressPolicy,
            (RuleDirection::Ingress, Action::Isolate) => DropReason::IngressIsolation,
            (RuleDirection::Ingress, _) => DropReason::IngressPolicy,
        };
        if denied.action != Action::Reject {
            return Err(reason);
        }
        // Whom the sender sent it to is whom the refusal has to come from.
        if let Some(original) = packet.facts.original {
            translate::both(packet, original)?;
        }
        Ok(reject(packet, context, Rejection::Prohibited, reason))
    }
}

fn count(context: &mut Context<'_>, rule: RuleId, counts: RuleCounts) {
    if !context.dry {
        context.worker.tallies.add(rule, counts);
    }
}

impl Table for RuleMetric {
    fn id(&self) -> TableId {
        self.id
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(self.decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["rule", "policy", "action"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let rules = state.policies().installed();
        let mine = rules.filter(|installed| installed.rule.direction == self.direction);
        let rows = mine.map(|installed| {
            let rule = &installed.rule;
            row([&rule.name, &rule.policy, &format!("{:?}", rule.action)])
        });
        rows.collect()
    }

    fn entries(&self, state: &State) -> usize {
        let rules = state.policies().installed();
        rules.filter(|installed| installed.rule.direction == self.direction).count()
    }
}
