//! AdminNetworkPolicy, BaselineAdminNetworkPolicy and upstream's ClusterNetworkPolicy.

use super::{Wrong, each, selector, traffic};
use crate::model::{
    IpBlock, NamespaceScope, Peer, PodSelector, Policy, PolicyKind, PolicyName, PolicyRule, Port,
    Protocol, RuleAction, Subject, TierOf, Traffic,
};
use crate::watch::api::{Resource, admin};

/// AdminNetworkPolicy's place among Antrea's tiers.
const ADMIN_V1ALPHA1: u32 = 251;
/// ClusterNetworkPolicy's with `tier: Admin`.
const ADMIN_V1ALPHA2: u32 = 220;
/// That of both baselines.
const BASELINE: u32 = 254;
const PRIORITY_MAX: i64 = 1000;

/// Makes a policy of the model.
pub(super) fn policy(
    policy: Resource<admin::PolicySpec>,
    kind: PolicyKind,
) -> Result<Policy, Wrong> {
    let name = selector::name_of(&policy.metadata)?;
    let spec = policy.spec;
    let is_baseline = kind == PolicyKind::BaselineAdminNetworkPolicy;
    if is_baseline && name != "default" {
        return Err(Wrong::new("metadata.name", "there is but one, and it is called `default`"));
    }
    let tier = tier(kind, spec.tier.as_deref())?;
    let priority = match (spec.priority, is_baseline) {
        (None, true) => 0,
        (Some(priority), false) if (0..=PRIORITY_MAX).contains(&priority) => priority,
        (Some(_), true) => {
            return Err(Wrong::new("spec.priority", "is not a field of this kind"));
        }
        (_, false) => {
            let reason = format!("must be between 0 and {PRIORITY_MAX}");
            return Err(Wrong::new("spec.priority", reason));
        }
    };
    let subject = pods(&spec.subject).map_err(|wrong| wrong.within("spec.subject"))?;
    Ok(Policy {
        name: PolicyName { kind, namespace: String::new(), name },
        tier: TierOf::Fixed(tier),
        priority: priority as f64,
        applied_to: vec![Subject::Pods(subject)],
        isolates_ingress: false,
        isolates_egress: false,
        ingress: each("spec.ingress", &spec.ingress, |one| rule(one, kind, Direction::Ingress))?,
        egress: each("spec.egress", &spec.egress, |one| rule(one, kind, Direction::Egress))?,
    })
}

fn tier(kind: PolicyKind, tier: Option<&str>) -> Result<u32, Wrong> {
    match (kind, tier) {
        (PolicyKind::ClusterNetworkPolicy, Some("Admin")) => Ok(ADMIN_V1ALPHA2),
        (PolicyKind::ClusterNetworkPolicy, Some("Baseline")) => Ok(BASELINE),
        (PolicyKind::ClusterNetworkPolicy, _) => {
            Err(Wrong::new("spec.tier", "must be Admin or Baseline"))
        }
        (_, Some(_)) => Err(Wrong::new("spec.tier", "is not a field of this kind")),
        (PolicyKind::BaselineAdminNetworkPolicy, None) => Ok(BASELINE),
        (_, None) => Ok(ADMIN_V1ALPHA1),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

fn rule(rule: &admin::Rule, kind: PolicyKind, direction: Direction) -> Result<PolicyRule, Wrong> {
    let (field, peers, other_field, other) = match direction {
        Direction::Ingress => ("from", &rule.from, "to", &rule.to),
        Direction::Egress => ("to", &rule.to, "from", &rule.from),
    };
    if !other.is_empty() {
        return Err(Wrong::new(other_field, format!("is not of this direction: {field}")));
    }
    if peers.is_empty() {
        return Err(Wrong::new(field, "must have at least one item"));
    }
    let action = action(kind, &rule.action)?;
    let mut far = Vec::new();
    for some in each(field, peers, |one| peer(one, direction, action))? {
        far.extend(some);
    }
    let is_v1alpha2 = kind == PolicyKind::ClusterNetworkPolicy;
    if is_v1alpha2 && !rule.ports.is_empty() {
        return Err(Wrong::new("ports", "is not a field of this kind; protocols is"));
    }
    if !is_v1alpha2 && !rule.protocols.is_empty() {
        return Err(Wrong::new("protocols", "is not a field of this kind; ports is"));
    }
    let mut traffic = each("ports", &rule.ports, port)?;
    traffic.extend(each("protocols", &rule.protocols, protocol)?);
    let is_named = |one: &Traffic| matches!(one.port, Some(Port::Named(_)));
    if traffic.iter().any(is_named) && far.iter().any(|peer| !matches!(peer, Peer::Pods(_))) {
        return Err(Wrong::new(field, "only Pods have named ports"));
    }
    Ok(PolicyRule {
        name: rule.name.clone(),
        action,
        applied_to: Vec::new(),
        peers: Some(far),
        traffic: (!traffic.is_empty()).then_some(traffic),
        log: false,
        log_label: String::new(),
    })
}

/// What is denied is dropped without an answer: that is what the API's own tests ask for.
fn action(kind: PolicyKind, action: &str) -> Result<RuleAction, Wrong> {
    use PolicyKind::{AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy};
    match (kind, action) {
        (AdminNetworkPolicy | BaselineAdminNetworkPolicy, "Allow")
        | (ClusterNetworkPolicy, "Accept") => Ok(RuleAction::Allow),
        (_, "Deny") => Ok(RuleAction::Drop),
        (AdminNetworkPolicy | ClusterNetworkPolicy, "Pass") => Ok(RuleAction::Pass),
        (_, other) => {
            let known = match kind {
                ClusterNetworkPolicy => "Accept, Deny, Pass",
                BaselineAdminNetworkPolicy => "Allow, Deny",
                _ => "Allow, Deny, Pass",
            };
            Err(Wrong::new("action", format!("`{other}` is none of {known}")))
        }
    }
}

fn pods(of: &admin::Pods) -> Result<PodSelector, Wrong> {
    match (&of.namespaces, &of.pods) {
        (Some(namespaces), None) => {
            let namespaces =
                selector::labels(namespaces).map_err(|wrong| wrong.within("namespaces"))?;
            selector::pods(NamespaceScope::Matching(namespaces), None)
        }
        (None, Some(pods)) => {
            let namespaces = selector::labels(&pods.namespace_selector)
                .map_err(|wrong| wrong.within("pods.namespaceSelector"))?;
            selector::pods(NamespaceScope::Matching(namespaces), Some(&pods.pod_selector))
                .map_err(|wrong| wrong.within("pods"))
        }
        _ => Err(Wrong::new(".", "must have either namespaces or pods")),
    }
}

fn peer(one: &admin::Peer, direction: Direction, action: RuleAction) -> Result<Vec<Peer>, Wrong> {
    let has_pods = one.namespaces.is_some() || one.pods.is_some();
    let kinds =
        [has_pods, one.nodes.is_some(), !one.networks.is_empty(), !one.domain_names.is_empty()];
    if kinds.iter().filter(|is_set| **is_set).count() != 1 {
        // Also what a field of a later version looks like: it must not widen the rule.
        return Err(Wrong::new(".", "must have exactly one field that this version knows"));
    }
    if has_pods {
        let of = admin::Pods { namespaces: one.namespaces.clone(), pods: one.pods.clone() };
        return Ok(vec![Peer::Pods(pods(&of)?)]);
    }
    if direction == Direction::Ingress {
        return Err(Wrong::new(".", "ingress rules are for Pods only"));
    }
    if let Some(nodes) = &one.nodes {
        let nodes = selector::labels(nodes).map_err(|wrong| wrong.within("nodes"))?;
        return Ok(vec![Peer::Nodes(nodes)]);
    }
    if !one.domain_names.is_empty() && action != RuleAction::Allow {
        return Err(Wrong::new("domainNames", "can be allowed only"));
    }
    let mut peers = each("networks", &one.networks, |text| {
        let cidr = traffic::range(text).map_err(|reason| Wrong::new(".", reason))?;
        Ok(Peer::IpBlock(IpBlock { cidr, except: Vec::new() }))
    })?;
    peers.extend(each("domainNames", &one.domain_names, |name| {
        traffic::domain_name(name).map(Peer::Fqdn)
    })?);
    Ok(peers)
}

/// A port of v1alpha1.
fn port(port: &admin::Port) -> Result<Traffic, Wrong> {
    match (&port.port_number, &port.port_range, &port.named_port) {
        (Some(one), None, None) => {
            let number = traffic::number("portNumber.port", i64::from(one.port))?;
            ranged(one.protocol.as_deref(), (number, number), "portNumber")
        }
        (None, Some(range), None) => {
            let interval =
                traffic::interval(("start", i64::from(range.start)), ("end", i64::from(range.end)));
            let interval = interval.map_err(|wrong| wrong.within("portRange"))?;
            ranged(range.protocol.as_deref(), interval, "portRange")
        }
        (None, None, Some(name)) => named("namedPort", name),
        _ => Err(Wrong::new(".", "must have one of portNumber, portRange, namedPort")),
    }
}

fn ranged(protocol: Option<&str>, ports: (u16, u16), field: &str) -> Result<Traffic, Wrong> {
    let protocol = traffic::protocol(protocol).map_err(|wrong| wrong.within(field))?;
    Ok(Traffic { port: Some(Port::Range(ports.0, ports.1)), ..Traffic::of(protocol) })
}

/// Of whichever protocol the Pod declares the port for.
fn named(field: &str, name: &str) -> Result<Traffic, Wrong> {
    Ok(Traffic { port: Some(traffic::named(field, name)?), ..Traffic::default() })
}

/// A protocol of v1alpha2.
fn protocol(one: &admin::Protocol) -> Result<Traffic, Wrong> {
    let ported = [
        ("tcp", Protocol::Tcp, &one.tcp),
        ("udp", Protocol::Udp, &one.udp),
        ("sctp", Protocol::Sctp, &one.sctp),
    ];
    let mut set = ported.iter().filter_map(|(field, protocol, ports)| {
        ports.as_ref().map(|ports| (*field, *protocol, ports))
    });
    match (set.next(), set.next(), &one.destination_named_port) {
        (Some((field, protocol, ports)), None, None) => {
            let port = ports.destination_port.as_ref().map(destination).transpose();
            let port = port.map_err(|wrong| wrong.within(&format!("{field}.destinationPort")))?;
            Ok(Traffic { port, ..Traffic::of(protocol) })
        }
        (None, None, Some(name)) => named("destinationNamedPort", name),
        _ => Err(Wrong::new(".", "must have one of tcp, udp, sctp, destinationNamedPort")),
    }
}

fn destination(port: &admin::DestinationPort) -> Result<Port, Wrong> {
    match (port.number, &port.range) {
        (Some(number), None) => {
            let number = traffic::number("number", i64::from(number))?;
            Ok(Port::Range(number, number))
        }
        (None, Some(range)) => {
            let (first, last) =
                traffic::interval(("start", i64::from(range.start)), ("end", i64::from(range.end)))
                    .map_err(|wrong| wrong.within("range"))?;
            Ok(Port::Range(first, last))
        }
        _ => Err(Wrong::new(".", "must have either number or range")),
    }
}
