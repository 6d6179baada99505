//! Antrea's ClusterNetworkPolicy and NetworkPolicy.
//!
//! What admission would refuse is refused here, and by name what this version has no answer for
//! (external entities, cluster sets, policies of Nodes): a policy that is in force by half is worse
//! than none.

use std::net::Ipv4Addr;

use super::{Wrong, each, selector, traffic};
use crate::admission;
use crate::model::{
    DEFAULT_TIER, GroupName, NamespaceScope, Peer, PodSelector, Policy, PolicyKind, PolicyName,
    PolicyRule, Protocol, RuleAction, STATIC_TIERS, Subject, TierOf, Traffic,
};
use crate::watch::api::{Resource, antrea};

const PRIORITY_MIN: f64 = 1.0;
const PRIORITY_MAX: f64 = 10_000.0;

/// Makes a policy of the model.
pub(super) fn policy(
    policy: Resource<antrea::PolicySpec>,
    kind: PolicyKind,
) -> Result<Policy, Wrong> {
    let name = selector::name_of(&policy.metadata)?;
    let home = match kind {
        PolicyKind::AntreaClusterNetworkPolicy => Home(None),
        _ => Home(Some(selector::namespace_of(&policy.metadata)?)),
    };
    let spec = policy.spec;
    admission::validate_policy(&spec).map_err(|wrong| wrong.within("spec"))?;
    let priority = spec.priority.ok_or_else(|| Wrong::new("spec.priority", "is missing"))?;
    if !(PRIORITY_MIN..=PRIORITY_MAX).contains(&priority) {
        let reason = format!("{priority} is not between {PRIORITY_MIN} and {PRIORITY_MAX}");
        return Err(Wrong::new("spec.priority", reason));
    }
    Ok(Policy {
        name: PolicyName { kind, namespace: home.0.clone().unwrap_or_default(), name },
        tier: tier(&spec.tier),
        priority,
        applied_to: each("spec.appliedTo", &spec.applied_to, |one| home.subject(one))?,
        isolates_ingress: false,
        isolates_egress: false,
        ingress: each("spec.ingress", &spec.ingress, |one| home.rule(one, Direction::Ingress))?,
        egress: each("spec.egress", &spec.egress, |one| home.rule(one, Direction::Egress))?,
    })
}

/// Antrea's own tiers are known in whichever case they are written.
fn tier(name: &str) -> TierOf {
    let lower = name.to_lowercase();
    if lower.is_empty() {
        TierOf::Named(DEFAULT_TIER.to_owned())
    } else if STATIC_TIERS.iter().any(|(known, _)| *known == lower) {
        TierOf::Named(lower)
    } else {
        TierOf::Named(name.to_owned())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// The namespace of a policy, if it has one: names and selectors without one are meant there.
struct Home(Option<String>);

impl Home {
    fn subject(&self, one: &antrea::AppliedTo) -> Result<Subject, Wrong> {
        let kinds = [
            ("group", !one.group.is_empty()),
            ("serviceAccount", one.service_account.is_some()),
            ("service", one.service.is_some()),
            ("nodeSelector", one.node_selector.is_some()),
            ("externalEntitySelector", one.external_entity_selector.is_some()),
            ("podSelector", one.pod_selector.is_some() || one.namespace_selector.is_some()),
        ];
        match only(&kinds)? {
            Some("group") => Ok(Subject::Group(self.group(&one.group))),
            Some("serviceAccount") => {
                let (namespace, name) = named("serviceAccount", one.service_account.as_ref())?;
                Ok(Subject::ServiceAccount { namespace, name })
            }
            Some("service") => {
                let (namespace, name) = named("service", one.service.as_ref())?;
                Ok(Subject::Service { namespace, name })
            }
            Some(field @ ("nodeSelector" | "externalEntitySelector")) => {
                Err(Wrong::new(field, "this version applies policies to Pods and Services only"))
            }
            _ if one.namespace_selector.is_some() && self.0.is_some() => Err(Wrong::new(
                "namespaceSelector",
                "a NetworkPolicy applies to its own namespace; a ClusterNetworkPolicy is meant",
            )),
            _ => Ok(Subject::Pods(
                self.pods(one.pod_selector.as_ref(), one.namespace_selector.as_ref())?,
            )),
        }
    }

    fn rule(&self, rule: &antrea::Rule, direction: Direction) -> Result<PolicyRule, Wrong> {
        let is_ingress = direction == Direction::Ingress;
        let (peers_field, peers) = if is_ingress { ("from", &rule.from) } else { ("to", &rule.to) };
        let (other_field, other) = if is_ingress { ("to", &rule.to) } else { ("from", &rule.from) };
        if !other.is_empty() {
            return Err(Wrong::new(
                other_field,
                format!("is not of this direction: {peers_field}"),
            ));
        }
        let services = rule.to_services.as_deref().unwrap_or_default();
        if is_ingress && !services.is_empty() {
            return Err(Wrong::new("toServices", "is for egress rules only"));
        }
        let mut far = each(peers_field, peers, |one| self.peer(one, direction))?;
        far.extend(each("toServices", services, service)?);
        let traffic = traffic_of(rule)?;
        Ok(PolicyRule {
            name: rule.name.clone(),
            action: match rule.action {
                Some(antrea::Action::Allow) => RuleAction::Allow,
                Some(antrea::Action::Drop) => RuleAction::Drop,
                Some(antrea::Action::Reject) => RuleAction::Reject,
                Some(antrea::Action::Pass) => RuleAction::Pass,
                None => return Err(Wrong::new("action", "is missing")),
            },
            applied_to: each("appliedTo", &rule.applied_to, |one| self.subject(one))?,
            // Without a peer the rule is for everybody.
            peers: (!far.is_empty()).then_some(far),
            traffic: (!traffic.is_empty()).then_some(traffic),
            log: rule.enable_logging,
            log_label: rule.log_label.clone(),
        })
    }

    fn peer(&self, one: &antrea::Peer, direction: Direction) -> Result<Peer, Wrong> {
        if one.scope == "ClusterSet" {
            return Err(Wrong::new("scope", "this version knows one cluster only"));
        }
        let has_pods = one.pod_selector.is_some()
            || one.namespace_selector.is_some()
            || one.namespaces.is_some();
        let kinds = [
            ("group", !one.group.is_empty()),
            ("serviceAccount", one.service_account.is_some()),
            ("nodeSelector", one.node_selector.is_some()),
            ("ipBlock", one.ip_block.is_some()),
            ("fqdn", !one.fqdn.is_empty()),
            ("externalEntitySelector", one.external_entity_selector.is_some()),
            ("podSelector", has_pods),
        ];
        match (only(&kinds)?, &one.node_selector, &one.ip_block) {
            (Some("group"), ..) => Ok(Peer::Group(self.group(&one.group))),
            (Some("serviceAccount"), ..) => {
                let (namespace, name) = named("serviceAccount", one.service_account.as_ref())?;
                Ok(Peer::ServiceAccount { namespace, name })
            }
            (_, Some(nodes), _) => selector::labels(nodes)
                .map(Peer::Nodes)
                .map_err(|wrong| wrong.within("nodeSelector")),
            (_, _, Some(block)) => traffic::ip_block(&block.cidr, &block.except)
                .map(Peer::IpBlock)
                .map_err(|wrong| wrong.within("ipBlock")),
            (Some("fqdn"), ..) if direction == Direction::Egress => traffic::domain_name(&one.fqdn)
                .map(Peer::Fqdn)
                .map_err(|wrong| wrong.within("fqdn")),
            (Some("fqdn"), ..) => Err(Wrong::new("fqdn", "is for egress rules only")),
            (Some("externalEntitySelector"), ..) => {
                Err(Wrong::new("externalEntitySelector", "this version knows no external entities"))
            }
            _ => match &one.namespaces {
                Some(namespaces) if one.namespace_selector.is_none() => {
                    let scope = relative(namespaces).map_err(|wrong| wrong.within("namespaces"))?;
                    Ok(Peer::Pods(selector::pods(scope, one.pod_selector.as_ref())?))
                }
                Some(_) => Err(Wrong::new(
                    "namespaces",
                    "namespaces and namespaceSelector cannot be set at the same time",
                )),
                None => Ok(Peer::Pods(
                    self.pods(one.pod_selector.as_ref(), one.namespace_selector.as_ref())?,
                )),
            },
        }
    }

    fn pods(
        &self,
        pods: Option<&antrea::LabelSelector>,
        namespaces: Option<&antrea::LabelSelector>,
    ) -> Result<PodSelector, Wrong> {
        pods_within(self.0.as_deref(), pods, namespaces)
    }

    fn group(&self, name: &str) -> GroupName {
        GroupName { namespace: self.0.clone().unwrap_or_default(), name: name.to_owned() }
    }
}

/// Pods by selectors, without one for namespaces those of `namespace`, or of all.
pub(super) fn pods_within(
    namespace: Option<&str>,
    pods: Option<&antrea::LabelSelector>,
    namespaces: Option<&antrea::LabelSelector>,
) -> Result<PodSelector, Wrong> {
    let scope = match (namespaces, namespace) {
        (None, Some(namespace)) => NamespaceScope::Named(namespace.to_owned()),
        (namespaces, _) => NamespaceScope::Matching(
            selector::or_all(namespaces).map_err(|wrong| wrong.within("namespaceSelector"))?,
        ),
    };
    selector::pods(scope, pods)
}

/// The one field that is set, if any is.
fn only<'a>(kinds: &[(&'a str, bool)]) -> Result<Option<&'a str>, Wrong> {
    let mut set = kinds.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| *field);
    match (set.next(), set.next()) {
        (Some(one), Some(other)) => {
            Err(Wrong::new(one, format!("cannot be set with {other} in one entry")))
        }
        (one, _) => Ok(one),
    }
}

/// Namespace and name of what must have both.
pub(super) fn named(
    field: &str,
    of: Option<&antrea::NamespacedName>,
) -> Result<(String, String), Wrong> {
    match of {
        Some(of) if !of.namespace.is_empty() && !of.name.is_empty() => {
            Ok((of.namespace.clone(), of.name.clone()))
        }
        _ => Err(Wrong::new(field, "needs a namespace and a name")),
    }
}

fn service(of: &antrea::PeerService) -> Result<Peer, Wrong> {
    if of.scope == "ClusterSet" {
        return Err(Wrong::new("scope", "this version knows one cluster only"));
    }
    let name = antrea::NamespacedName { name: of.name.clone(), namespace: of.namespace.clone() };
    let (namespace, name) = named(".", Some(&name))?;
    Ok(Peer::Service { namespace, name })
}

fn relative(namespaces: &antrea::PeerNamespaces) -> Result<NamespaceScope, Wrong> {
    match (namespaces.matching.as_str(), namespaces.same_labels.as_slice()) {
        ("Self", []) => Ok(NamespaceScope::OfSubject),
        ("", keys @ [_, ..]) => {
            let keys = each("sameLabels", keys, |key| {
                selector::check_key(key).map_err(|reason| Wrong::new(".", reason))?;
                Ok(key.clone())
            })?;
            Ok(NamespaceScope::SameLabels(keys))
        }
        _ => Err(Wrong::new(".", "is either `match: Self` or `sameLabels`")),
    }
}

fn traffic_of(rule: &antrea::Rule) -> Result<Vec<Traffic>, Wrong> {
    let mut traffic = each("ports", rule.ports.as_deref().unwrap_or_default(), port)?;
    let protocols = rule.protocols.as_deref().unwrap_or_default();
    for both in each("protocols", protocols, message)? {
        traffic.extend(both);
    }
    Ok(traffic)
}

fn port(port: &antrea::Port) -> Result<Traffic, Wrong> {
    let source_ports = match (port.source_port, port.source_end_port) {
        (None, None) => None,
        (None, Some(_)) => {
            let reason = "if `sourceEndPort` is specified `sourcePort` must be specified";
            return Err(Wrong::new("sourceEndPort", reason));
        }
        (Some(first), last) => Some(traffic::interval(
            ("sourcePort", i64::from(first)),
            ("sourceEndPort", i64::from(last.unwrap_or(first))),
        )?),
    };
    Ok(Traffic {
        port: traffic::destination(port.port.as_ref(), port.end_port)?,
        source_ports,
        ..Traffic::of(traffic::protocol(port.protocol.as_deref())?)
    })
}

/// What an entry of `protocols` says: of ICMP, of IGMP, or of both.
fn message(protocol: &antrea::Protocol) -> Result<Vec<Traffic>, Wrong> {
    let byte = |field: &str, value: Option<i32>| {
        value
            .map(u8::try_from)
            .transpose()
            .map_err(|_| Wrong::new(field, "is not between 0 and 255"))
    };
    let mut traffic = Vec::new();
    if let Some(icmp) = &protocol.icmp {
        if icmp.icmp_code.is_some() && icmp.icmp_type.is_none() {
            return Err(Wrong::new(
                "icmp.icmpType",
                "is missing, and icmpCode means nothing alone",
            ));
        }
        traffic.push(Traffic {
            icmp_type: byte("icmp.icmpType", icmp.icmp_type)?,
            icmp_code: byte("icmp.icmpCode", icmp.icmp_code)?,
            ..Traffic::of(Protocol::Icmp)
        });
    }
    if let Some(igmp) = &protocol.igmp {
        let group = match igmp.group_address.as_str() {
            "" => None,
            text => Some(text.parse().ok().filter(Ipv4Addr::is_multicast).ok_or_else(|| {
                Wrong::new("igmp.groupAddress", format!("`{text}` is not multicast address"))
            })?),
        };
        traffic.push(Traffic {
            igmp_type: byte("igmp.igmpType", igmp.igmp_type)?,
            igmp_group: group,
            ..Traffic::of(Protocol::Igmp)
        });
    }
    match traffic.is_empty() {
        true => Err(Wrong::new(".", "either icmp or igmp is needed")),
        false => Ok(traffic),
    }
}
