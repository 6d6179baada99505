//! What groups of the datapath are made of, and the names that follow from it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::{
    GroupName, IpBlock, LabelSelector, NamespaceScope, Operator, Pod, PodSelector, Protocol,
    Requirement,
};

/// Longer names end with a hash in place of the rest.
const NAME_BYTES_MAX: usize = 120;

/// What a group is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Pods by their labels.
    Pods { namespaces: Namespaces, pods: LabelSelector },
    /// Pods by the account they run under.
    ServiceAccount { namespace: String, name: String },
    /// All addresses that Nodes speak from.
    Nodes(LabelSelector),
    /// Addresses.
    Blocks(Vec<IpBlock>),
    /// What DNS answers say.
    Names(Vec<String>),
    /// A Group or ClusterGroup; of one that rules apply to only the Pods count.
    Group { name: GroupName, pods_only: bool },
    /// Those Pods of a source that are in one namespace.
    Within { source: Box<Source>, namespace: String },
    /// Those Pods of a source that call one of their ports so.
    Serving { source: Box<Source>, port: String, protocol: Protocol, number: u16 },
}

/// In which namespaces Pods are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    Named(String),
    Matching(LabelSelector),
}

/// What a container calls a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NamedPort {
    pub(super) name: String,
    /// `None`: any.
    pub(super) protocol: Option<Protocol>,
}

impl NamedPort {
    /// The protocols and numbers it stands for in a Pod.
    pub(super) fn numbers(&self, pod: &Pod) -> impl Iterator<Item = (Protocol, u16)> {
        pod.ports
            .iter()
            .filter(|port| port.name == self.name)
            .filter(|port| self.protocol.is_none_or(|protocol| protocol == port.protocol))
            .map(|port| (port.protocol, port.port))
    }
}

impl Source {
    /// The Pods that a selector selects; `None` where that depends on the subject of the rule.
    pub(super) fn pods(selector: &PodSelector) -> Option<Self> {
        let namespaces = match &selector.namespaces {
            NamespaceScope::Named(name) => Namespaces::Named(name.clone()),
            NamespaceScope::Matching(labels) => Namespaces::Matching(normal(labels)),
            NamespaceScope::OfSubject | NamespaceScope::SameLabels(_) => return None,
        };
        Some(Source::Pods { namespaces, pods: normal(&selector.pods) })
    }

    /// Nodes by their labels.
    pub(super) fn nodes(labels: &LabelSelector) -> Self {
        Source::Nodes(normal(labels))
    }

    /// The addresses of blocks, if there are any.
    pub(super) fn blocks(mut blocks: Vec<IpBlock>) -> Option<Self> {
        for block in &mut blocks {
            block.except.sort_unstable();
            block.except.dedup();
        }
        blocks.sort_unstable_by(|a, b| (a.cidr, &a.except).cmp(&(b.cidr, &b.except)));
        blocks.dedup();
        (!blocks.is_empty()).then_some(Source::Blocks(blocks))
    }

    /// The addresses that names stand for, if there are any names.
    pub(super) fn names(mut names: Vec<String>) -> Option<Self> {
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(Source::Names(names))
    }

    /// All Pods.
    pub(super) fn everyone() -> Self {
        let all = LabelSelector::default;
        Source::Pods { namespaces: Namespaces::Matching(all()), pods: all() }
    }

    /// The same without Pods of other namespaces.
    pub(super) fn within(self, namespace: &str) -> Self {
        match self {
            Source::Pods { namespaces: Namespaces::Matching(all), pods }
                if all.requirements.is_empty() =>
            {
                Source::Pods { namespaces: Namespaces::Named(namespace.to_owned()), pods }
            }
            Source::Pods { namespaces: Namespaces::Named(ref name), .. } if name == namespace => {
                self
            }
            other => Source::Within { source: Box::new(other), namespace: namespace.to_owned() },
        }
    }

    fn describe(&self, text: &mut String) {
        // Writing to a String does not fail.
        let _ = match self {
            Source::Pods { namespaces: Namespaces::Named(name), pods } => {
                write!(text, "pods {name}/{{{}}}", Shown(pods))
            }
            Source::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
                write!(text, "pods {{{}}}/{{{}}}", Shown(namespaces), Shown(pods))
            }
            Source::ServiceAccount { namespace, name } => {
                write!(text, "serviceaccount {namespace}/{name}")
            }
            Source::Nodes(labels) => write!(text, "nodes {{{}}}", Shown(labels)),
            Source::Blocks(blocks) => {
                text.push_str("blocks");
                blocks.iter().try_for_each(|block| {
                    write!(text, " {}", block.cidr)?;
                    block.except.iter().try_for_each(|hole| write!(text, "-{hole}"))
                })
            }
            Source::Names(names) => write!(text, "names {}", names.join(" ")),
            Source::Group { name, pods_only } => {
                let pods = if *pods_only { " pods" } else { "" };
                match name.namespace.as_str() {
                    "" => write!(text, "clustergroup {}{pods}", name.name),
                    namespace => write!(text, "group {namespace}/{}{pods}", name.name),
                }
            }
            Source::Within { source, namespace } => {
                source.describe(text);
                write!(text, " in {namespace}")
            }
            Source::Serving { source, port, protocol, number } => {
                source.describe(text);
                write!(text, " with {port}={number}/{}", word(*protocol))
            }
        };
    }

    /// What it is known by: the same text for the same source, at any time.
    pub(super) fn name(&self) -> String {
        let mut text = String::new();
        self.describe(&mut text);
        if text.len() > NAME_BYTES_MAX {
            let hash = hash(&text);
            let end = (0..=NAME_BYTES_MAX - 20).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            // Writing to a String does not fail.
            let _ = write!(text, "... #{hash:016x}");
        }
        text
    }
}

/// The same selector, written in the one way that all selectors of its meaning share.
fn normal(selector: &LabelSelector) -> LabelSelector {
    let mut requirements = selector.requirements.clone();
    for requirement in &mut requirements {
        if let Operator::In(values) | Operator::NotIn(values) = &mut requirement.operator {
            values.sort_unstable();
            values.dedup();
        }
    }
    requirements.sort_unstable();
    requirements.dedup();
    LabelSelector { requirements }
}

/// Those namespaces that have the same values of the same labels; `None` where one is missing.
pub(super) fn same_labels(
    keys: &[String],
    labels: &BTreeMap<String, String>,
) -> Option<LabelSelector> {
    let requirements = keys.iter().map(|key| {
        let values = vec![labels.get(key)?.clone()];
        Some(Requirement { key: key.clone(), operator: Operator::In(values) })
    });
    Some(LabelSelector { requirements: requirements.collect::<Option<_>>()? })
}

/// A protocol as Kubernetes writes it.
pub(super) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
        Protocol::Igmp => "IGMP",
    }
}

/// FNV-1a, 64 bit: it only has to spread; of two equal names one is changed.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A selector as `kubectl` takes it.
struct Shown<'a>(&'a LabelSelector);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, requirement) in self.0.requirements.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) => match values.as_slice() {
                    [value] => write!(f, "{comma}{key}={value}")?,
                    _ => write!(f, "{comma}{key} in ({})", values.join(","))?,
                },
                Operator::NotIn(values) => {
                    write!(f, "{comma}{key} notin ({})", values.join(","))?;
                }
                Operator::Exists => write!(f, "{comma}{key}")?,
                Operator::DoesNotExist => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}
