//! Policies of all six kinds become rules, and the groups that those name.
//!
//! A node gets the rules that apply to some Pod that is scheduled on it, with or without an address
//! yet, or to the NodePorts of some Service. A rule that Pods obey differently (a named port, the
//! subject's own namespace) becomes several, of one rank.

use std::collections::BTreeSet;

use seine_datapath_api::v1;

use super::group::{Groups, memberships};
use super::inhabitants::inhabitants;
use super::population::Population;
use super::rank::{self, Place};
use super::rule::{shown, template, word};
use super::service::Offers;
use super::source::{NamedPort, Source, same_labels, word as protocol_word};
use super::traffic::{Wanted, wanted};
use super::{Attached, Compiled};
use crate::model::{
    Cluster, NamespaceScope, ObjectName, Peer, PodSelector, Policy, PolicyRule, Subject,
};

/// What the default drop of Kubernetes' policies is called in audit lines.
const ISOLATION_POLICY: &str = "K8sNetworkPolicy";

/// The rules and groups of one node.
pub fn policies(cluster: &Cluster, node: &str) -> Compiled {
    let attached = Attached::default();
    let pods = inhabitants(cluster, node, &attached);
    policies_with(&Population::new(cluster, &pods, node), &Offers::of(cluster))
}

pub(super) fn policies_with<'a>(
    population: &'a Population<'a>,
    offers: &'a Offers<'a>,
) -> Compiled {
    let mut compiler = Compiler {
        population,
        offers,
        groups: Groups::new(population),
        isolated: BTreeSet::new(),
        rules: Vec::new(),
        refused: Vec::new(),
    };
    for policy in population.cluster.policies.values() {
        compiler.policy(policy);
    }
    compiler.finish()
}

struct Compiler<'a> {
    population: &'a Population<'a>,
    offers: &'a Offers<'a>,
    groups: Groups<'a>,
    /// Groups that Kubernetes' policies isolate, with their namespace, each once.
    isolated: BTreeSet<(v1::rule::Direction, String, String)>,
    rules: Vec<v1::Rule>,
    refused: Vec<String>,
}

/// One rule of a policy while it is compiled.
struct Draft<'r> {
    rule: &'r PolicyRule,
    subjects: &'r [Subject],
    direction: v1::rule::Direction,
    /// As it will be, but for its name, its groups and its traffic.
    template: v1::Rule,
}

/// Whom one rule of the datapath joins.
#[derive(Default)]
struct Ends {
    applied_to: Vec<Source>,
    applied_to_services: Vec<String>,
    /// `None`: anybody.
    peers: Option<Vec<Source>>,
    peer_services: Vec<String>,
}

impl Compiler<'_> {
    fn policy(&mut self, policy: &Policy) {
        use v1::rule::Direction::{Egress, Ingress};
        let place = match Place::of(policy, self.population.cluster) {
            Ok(place) => place,
            Err(reason) => {
                self.refused.push(format!("{}: {reason}", shown(&policy.name)));
                return;
            }
        };
        let directions = [
            (Ingress, policy.isolates_ingress, &policy.ingress),
            (Egress, policy.isolates_egress, &policy.egress),
        ];
        for (direction, isolates, rules) in directions {
            if isolates {
                self.isolate(policy, direction);
            }
            for (index, rule) in rules.iter().enumerate() {
                let subjects = match rule.applied_to.as_slice() {
                    [] => policy.applied_to.as_slice(),
                    subjects => subjects,
                };
                match template(policy, place, direction, index, rule) {
                    Ok(mut template) => {
                        // Kubernetes' policies log where their namespace wants it.
                        template.log |= place.is_none() && self.logs(&policy.name.namespace);
                        self.rule(&Draft { rule, subjects, direction, template });
                    }
                    Err(reason) => {
                        let policy = shown(&policy.name);
                        self.refused.push(format!("{policy}: rule {index}: {reason}"));
                    }
                }
            }
        }
    }

    /// Drops what no policy allows the subjects. One rule serves all policies that select alike.
    fn isolate(&mut self, policy: &Policy, direction: v1::rule::Direction) {
        for source in policy.applied_to.iter().filter_map(applied_source) {
            if self.groups.look_up(&source).has_local_pods {
                let group = self.groups.name(&source);
                self.isolated.insert((direction, policy.name.namespace.clone(), group));
            }
        }
    }

    fn rule(&mut self, draft: &Draft<'_>) {
        let is_nobodys = draft.rule.peers.as_ref().is_some_and(Vec::is_empty);
        let is_nothings = draft.rule.traffic.as_ref().is_some_and(Vec::is_empty);
        if is_nobodys || is_nothings {
            return;
        }
        let mut applied_to: Vec<Source> =
            draft.subjects.iter().filter_map(applied_source).collect();
        applied_to.retain(|source| self.groups.look_up(source).has_local_pods);
        let applied_to_services = self.applied_services(draft);
        if !is_relative(draft.rule) {
            if let Some((peers, peer_services)) = self.peers(draft.rule, None) {
                let ends = Ends { applied_to, applied_to_services, peers, peer_services };
                self.join(draft, &ends, "");
            }
            return;
        }
        for namespace in self.local_namespaces(&applied_to) {
            let Some((peers, peer_services)) = self.peers(draft.rule, Some(&namespace)) else {
                continue;
            };
            let mut applied_to: Vec<Source> =
                applied_to.iter().map(|source| source.clone().within(&namespace)).collect();
            applied_to.retain(|source| self.groups.look_up(source).has_local_pods);
            let ends = Ends { applied_to, applied_to_services: Vec::new(), peers, peer_services };
            self.join(draft, &ends, &format!("@{namespace}"));
        }
    }

    /// Makes the rules that join these ends: one for traffic that means the same everywhere, and
    /// one for each number that a named port stands for.
    fn join(&mut self, draft: &Draft<'_>, ends: &Ends, suffix: &str) {
        if ends.applied_to.is_empty() && ends.applied_to_services.is_empty() {
            return;
        }
        let Wanted { everywhere, named } = wanted(draft.rule.traffic.as_deref());
        if let Some(traffic) = everywhere {
            self.emit(draft, ends, suffix, traffic);
        }
        for (port, source_ports) in named {
            self.join_named(draft, ends, suffix, &port, &source_ports);
        }
    }

    fn join_named(
        &mut self,
        draft: &Draft<'_>,
        ends: &Ends,
        suffix: &str,
        port: &NamedPort,
        source_ports: &[Option<v1::PortRange>],
    ) {
        use v1::rule::Direction::Egress;
        // The receivers: only their names for ports count.
        let receivers = match (draft.direction, &ends.peers) {
            (Egress, Some(peers)) => peers.clone(),
            (Egress, None) => vec![Source::everyone()],
            _ => ends.applied_to.clone(),
        };
        let mut numbers = BTreeSet::new();
        for source in &receivers {
            for index in self.groups.pods_at(source) {
                let pod = self.population.pod(index);
                if draft.direction == Egress || self.population.is_local(pod) {
                    numbers.extend(port.numbers(pod));
                }
            }
        }
        for (protocol, number) in numbers {
            let serving = receivers.iter().map(|source| Source::Serving {
                source: Box::new(source.clone()),
                port: port.name.clone(),
                protocol,
                number,
            });
            let serving: Vec<Source> = serving.collect();
            let (mut applied_to, mut peers) = (ends.applied_to.clone(), ends.peers.clone());
            match draft.direction {
                Egress => peers = Some(serving),
                _ => applied_to = serving,
            }
            let only =
                Ends { applied_to, peers, applied_to_services: Vec::new(), ..Ends::default() };
            let range = v1::PortRange { first: number.into(), last: number.into() };
            let traffic = source_ports.iter().map(|source_ports| v1::Traffic {
                protocol: protocol.number().into(),
                ports: Some(range),
                source_ports: *source_ports,
                ..v1::Traffic::default()
            });
            let suffix = format!("{suffix}:{}={number}/{}", port.name, protocol_word(protocol));
            self.emit(draft, &only, &suffix, traffic.collect());
        }
    }

    fn emit(&mut self, draft: &Draft<'_>, ends: &Ends, suffix: &str, traffic: Vec<v1::Traffic>) {
        let mut applied_to_groups: Vec<String> = Vec::new();
        for source in &ends.applied_to {
            if self.groups.look_up(source).has_local_pods {
                applied_to_groups.push(self.groups.name(source));
            }
        }
        if applied_to_groups.is_empty() && ends.applied_to_services.is_empty() {
            return;
        }
        let peers = ends.peers.iter().flatten();
        let mut peer_groups: Vec<String> = peers.map(|source| self.groups.name(source)).collect();
        if ends.peers.is_some() && peer_groups.is_empty() && ends.peer_services.is_empty() {
            // Two empty lists would mean anybody.
            return;
        }
        for groups in [&mut applied_to_groups, &mut peer_groups] {
            groups.sort_unstable();
            groups.dedup();
        }
        self.rules.push(v1::Rule {
            name: format!("{}{suffix}", draft.template.name),
            applied_to_groups,
            applied_to_services: ends.applied_to_services.clone(),
            peer_groups,
            peer_services: ends.peer_services.clone(),
            traffic,
            ..draft.template.clone()
        });
    }

    /// The far ends of a rule for subjects of one namespace; `None` where there is nobody.
    fn peers(
        &self,
        rule: &PolicyRule,
        namespace: Option<&str>,
    ) -> Option<(Option<Vec<Source>>, Vec<String>)> {
        let Some(peers) = &rule.peers else {
            return Some((None, Vec::new()));
        };
        let (mut sources, mut services) = (Vec::new(), Vec::new());
        let (mut blocks, mut names) = (Vec::new(), Vec::new());
        for peer in peers {
            match peer {
                Peer::Pods(selector) => {
                    let absolute = self.absolute(&selector.namespaces, namespace);
                    sources.extend(absolute.and_then(|namespaces| {
                        let pods = selector.pods.clone();
                        Source::pods(&PodSelector { namespaces, pods })
                    }));
                }
                Peer::IpBlock(block) => blocks.push(block.clone()),
                Peer::Group(name) => {
                    sources.push(Source::Group { name: name.clone(), pods_only: false });
                }
                Peer::Nodes(labels) => sources.push(Source::nodes(labels)),
                Peer::ServiceAccount { namespace, name } => sources.push(Source::ServiceAccount {
                    namespace: namespace.clone(),
                    name: name.clone(),
                }),
                Peer::Fqdn(name) => names.push(name.to_lowercase()),
                Peer::Service { namespace, name } => {
                    let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
                    services.extend(self.offers.ports_of(&name));
                }
            }
        }
        sources.extend(Source::blocks(blocks));
        sources.extend(Source::names(names));
        (!sources.is_empty() || !services.is_empty()).then_some((Some(sources), services))
    }

    /// What a scope means for subjects of one namespace; `None` where it means no namespace.
    fn absolute(&self, scope: &NamespaceScope, subject: Option<&str>) -> Option<NamespaceScope> {
        match (scope, subject) {
            (NamespaceScope::OfSubject, Some(subject)) => {
                Some(NamespaceScope::Named(subject.to_owned()))
            }
            (NamespaceScope::SameLabels(keys), Some(subject)) => {
                let labels = self.population.labels_of(subject)?;
                same_labels(keys, labels).map(NamespaceScope::Matching)
            }
            (NamespaceScope::OfSubject | NamespaceScope::SameLabels(_), None) => None,
            (scope, _) => Some(scope.clone()),
        }
    }

    fn local_namespaces(&mut self, sources: &[Source]) -> BTreeSet<String> {
        let mut namespaces = BTreeSet::new();
        for source in sources {
            for index in &self.groups.look_up(source).members.pods {
                let pod = self.population.pod(*index);
                if self.population.is_local(pod) && !namespaces.contains(&pod.name.namespace) {
                    namespaces.insert(pod.name.namespace.clone());
                }
            }
        }
        namespaces
    }

    fn applied_services(&self, draft: &Draft<'_>) -> Vec<String> {
        if draft.direction != v1::rule::Direction::Ingress {
            return Vec::new();
        }
        let mut services = Vec::new();
        for subject in draft.subjects {
            if let Subject::Service { namespace, name } = subject {
                let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
                services.extend(self.offers.node_ports_of(&name));
            }
        }
        services.sort_unstable();
        services.dedup();
        services
    }

    fn logs(&self, namespace: &str) -> bool {
        let namespace = self.population.cluster.namespaces.get(namespace);
        namespace.is_some_and(|namespace| namespace.log_policies)
    }

    fn finish(mut self) -> Compiled {
        for (direction, namespace, group) in &self.isolated {
            self.rules.push(v1::Rule {
                name: format!("isolate/{namespace}/{}/{group}", word(*direction)),
                policy: ISOLATION_POLICY.to_owned(),
                direction: (*direction).into(),
                table: v1::rule::Table::Default.into(),
                rank: rank::ISOLATION,
                action: v1::rule::Action::Isolate.into(),
                applied_to_groups: vec![group.clone()],
                log: self.logs(namespace),
                ..v1::Rule::default()
            });
        }
        let groups = self.groups.into_named();
        let memberships = memberships(self.population, &groups);
        let groups = groups.iter().map(|group| group.object(self.population));
        let rules = self.rules.into_iter().map(v1::object::Kind::Rule);
        let rules = rules.map(|kind| v1::Object { kind: Some(kind) });
        Compiled {
            objects: groups.chain(rules).collect(),
            refused: self.refused,
            memberships,
            ..Compiled::default()
        }
    }
}

/// The Pods that a subject stands for; `None` for the NodePorts of a Service.
fn applied_source(subject: &Subject) -> Option<Source> {
    match subject {
        Subject::Pods(selector) => Source::pods(selector),
        Subject::Group(name) => Some(Source::Group { name: name.clone(), pods_only: true }),
        Subject::ServiceAccount { namespace, name } => {
            Some(Source::ServiceAccount { namespace: namespace.clone(), name: name.clone() })
        }
        Subject::Service { .. } => None,
    }
}

/// Whether the far end depends on whom the rule applies to.
fn is_relative(rule: &PolicyRule) -> bool {
    rule.peers.iter().flatten().any(|peer| match peer {
        Peer::Pods(selector) => {
            matches!(selector.namespaces, NamespaceScope::OfSubject | NamespaceScope::SameLabels(_))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
