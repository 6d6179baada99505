//! crd.antrea.io/v1beta1 ClusterNetworkPolicy and NetworkPolicy, with tiers and groups, by
//! docs/antrea-network-policy.md of Antrea.

use std::net::IpAddr;

use serde_json::Value;

use super::traffic::{port, protocol};
use super::{
    Action, Cluster, Direction, Pod, Query, Ranked, in_block, list, selector, some_list, text,
};

/// The API of all these kinds.
const API: &str = "crd.antrea.io/v1beta1";

/// Adds the rules of one policy.
pub(super) fn rules<'a>(
    cluster: &'a Cluster,
    policy: &'a Value,
    direction: Direction,
    ranked: &mut Vec<Ranked<'a>>,
) {
    let spec = &policy["spec"];
    // Empty for a ClusterNetworkPolicy.
    let namespace = text(&policy["metadata"]["namespace"]);
    let key = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    for (index, rule) in list(&spec[key]).iter().enumerate() {
        let action = match text(&rule["action"]) {
            "Drop" => Action::Drop,
            "Reject" => Action::Reject,
            "Pass" => Action::Pass,
            _ => Action::Allow,
        };
        let subjects = some_list(&rule["appliedTo"]).unwrap_or(list(&spec["appliedTo"]));
        let view = View { cluster, namespace, direction };
        ranked.push(Ranked {
            tier: cluster.tier(text(&spec["tier"])),
            priority: spec["priority"].as_f64().unwrap_or_default(),
            index,
            policy: text(&policy["metadata"]["name"]).to_owned(),
            action,
            decides: Box::new(move |subject, query| {
                subjects.iter().any(|wanted| view.is_subject(wanted, subject))
                    && view.is_peer(rule, subject, query)
                    && is_traffic(cluster, rule, query)
            }),
        });
    }
}

/// From where a rule looks.
#[derive(Clone, Copy)]
struct View<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    direction: Direction,
}

impl View<'_> {
    fn is_subject(self, wanted: &Value, pod: &Pod) -> bool {
        if let Some(name) = wanted["group"].as_str() {
            return self.group_selects(name, pod);
        }
        if !wanted["service"].is_null() {
            return false;
        }
        if !wanted["serviceAccount"].is_null() {
            return is_account(&wanted["serviceAccount"], pod);
        }
        self.selects(wanted, pod)
    }

    /// `podSelector` and `namespaceSelector`. Without the second one a ClusterNetworkPolicy means
    /// all namespaces, a NetworkPolicy its own.
    fn selects(self, wanted: &Value, pod: &Pod) -> bool {
        let in_namespace = match &wanted["namespaceSelector"] {
            Value::Null => self.namespace.is_empty() || pod.namespace == self.namespace,
            wanted => selector::matches(wanted, self.cluster.labels_of(&pod.namespace)),
        };
        in_namespace && selector::matches(&wanted["podSelector"], &pod.labels)
    }

    fn is_peer(self, rule: &Value, subject: &Pod, query: &Query) -> bool {
        let address = query.peer(self.direction);
        let ends = match self.direction {
            Direction::Ingress => &rule["from"],
            Direction::Egress => &rule["to"],
        };
        let services = some_list(&rule["toServices"]);
        if let (Some(services), Direction::Egress) = (services, self.direction) {
            return services.iter().any(|service| {
                let namespace = service["namespace"].as_str().unwrap_or(self.namespace);
                let name = format!("{namespace}/{}", text(&service["name"]));
                query.service.as_ref() == Some(&name)
            });
        }
        some_list(ends)
            .is_none_or(|peers| peers.iter().any(|peer| self.is_one_peer(peer, address, subject)))
    }

    fn is_one_peer(self, peer: &Value, address: IpAddr, subject: &Pod) -> bool {
        let cluster = self.cluster;
        if !peer["ipBlock"].is_null() {
            return in_block(&peer["ipBlock"], address);
        }
        if let Some(name) = peer["group"].as_str() {
            return self.group_contains(name, address);
        }
        if let Some(pattern) = peer["fqdn"].as_str() {
            return cluster.resolves(pattern, address);
        }
        if !peer["nodeSelector"].is_null() {
            return cluster.has_node(&peer["nodeSelector"], address);
        }
        let Some(pod) = cluster.pod_at(address) else { return false };
        if !peer["serviceAccount"].is_null() {
            return is_account(&peer["serviceAccount"], pod);
        }
        if peer["namespaces"].is_null() {
            return self.selects(peer, pod);
        }
        let labels = some_list(&peer["namespaces"]["sameLabels"]);
        let in_namespace = match labels {
            None => pod.namespace == subject.namespace,
            Some(keys) => keys.iter().all(|key| {
                let own = cluster.labels_of(&subject.namespace).get(text(key));
                own.is_some() && own == cluster.labels_of(&pod.namespace).get(text(key))
            }),
        };
        in_namespace && selector::matches(&peer["podSelector"], &pod.labels)
    }

    fn group(&self, name: &str) -> Option<&Value> {
        let kind = if self.namespace.is_empty() { "ClusterGroup" } else { "Group" };
        self.cluster.object(API, kind, self.namespace, name).map(|group| &group["spec"])
    }

    /// As a subject a group means its Pods: addresses are ignored.
    fn group_selects(self, name: &str, pod: &Pod) -> bool {
        self.group(name).is_some_and(|spec| {
            let children = list(&spec["childGroups"]);
            if children.iter().any(|child| self.group_selects(text(child), pod)) {
                return true;
            }
            let service = &spec["serviceReference"];
            if !service.is_null() {
                return self.cluster.service_selects(service, self.namespace, pod);
            }
            let by_labels = !spec["podSelector"].is_null() || !spec["namespaceSelector"].is_null();
            by_labels && self.selects(spec, pod)
        })
    }

    fn group_contains(self, name: &str, address: IpAddr) -> bool {
        if self.cluster.pod_at(address).is_some_and(|pod| self.group_selects(name, pod)) {
            return true;
        }
        self.group(name).is_some_and(|spec| {
            list(&spec["ipBlocks"]).iter().any(|block| in_block(block, address))
                || !spec["nodeSelector"].is_null()
                    && self.cluster.has_node(&spec["nodeSelector"], address)
                || list(&spec["childGroups"])
                    .iter()
                    .any(|child| self.group_contains(text(child), address))
        })
    }
}

impl Cluster {
    /// The priority of a tier by its name: those that are always there, and those that are written.
    fn tier(&self, name: &str) -> u64 {
        match name.to_lowercase().as_str() {
            "emergency" => 50,
            "securityops" => 100,
            "networkops" => 150,
            "platform" => 200,
            "" | "application" => 250,
            "baseline" => 253,
            _ => {
                let tier = self.object(API, "Tier", "", name);
                tier.and_then(|tier| tier["spec"]["priority"].as_u64()).unwrap_or(u64::MAX)
            }
        }
    }

    fn has_node(&self, wanted: &Value, address: IpAddr) -> bool {
        self.nodes.iter().any(|node| {
            node.addresses.contains(&address) && selector::matches(wanted, &node.labels)
        })
    }

    /// The Pods of a Service are those of its namespace that its selector matches.
    fn service_selects(&self, reference: &Value, namespace: &str, pod: &Pod) -> bool {
        let namespace = reference["namespace"].as_str().unwrap_or(namespace);
        let service = self.object("v1", "Service", namespace, text(&reference["name"]));
        let wanted = service.and_then(|service| service["spec"]["selector"].as_object());
        pod.namespace == namespace
            && wanted.is_some_and(|wanted| {
                !wanted.is_empty()
                    && wanted
                        .iter()
                        .all(|(key, value)| pod.labels.get(key).is_some_and(|l| value == l))
            })
    }

    /// Whether a name that a pattern matches resolves to an address. An asterisk stands for any
    /// characters; case means nothing.
    pub(super) fn resolves(&self, pattern: &str, address: IpAddr) -> bool {
        let pattern = pattern.to_lowercase();
        self.names.iter().any(|(name, addresses)| {
            addresses.contains(&address) && glob(pattern.as_bytes(), name.to_lowercase().as_bytes())
        })
    }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], name) => {
            (0..=name.len()).any(|skipped| glob(rest, name.get(skipped..).unwrap_or_default()))
        }
        ([p, pattern @ ..], [n, name @ ..]) => p == n && glob(pattern, name),
        _ => false,
    }
}

fn is_account(wanted: &Value, pod: &Pod) -> bool {
    wanted["namespace"] == pod.namespace.as_str() && wanted["name"] == pod.service_account.as_str()
}

/// `ports`, or `protocols`, or anything.
fn is_traffic(cluster: &Cluster, rule: &Value, query: &Query) -> bool {
    let (ports, protocols) = (some_list(&rule["ports"]), some_list(&rule["protocols"]));
    if ports.is_none() && protocols.is_none() {
        return true;
    }
    let by_port = |wanted: &Value| {
        let number = protocol(&wanted["protocol"]);
        let from = wanted["sourcePort"].as_u64();
        let to = wanted["sourceEndPort"].as_u64().or(from);
        let source = from.zip(to);
        port(cluster, &wanted["port"], &wanted["endPort"], number, query)
            && source.is_none_or(|(first, last)| (first..=last).contains(&query.source_port.into()))
    };
    let by_protocol = |wanted: &Value| {
        let icmp = &wanted["icmp"];
        let (kind, code) = query.icmp;
        !icmp.is_null()
            && query.protocol == 1
            && (icmp["icmpType"].is_null() || icmp["icmpType"] == kind)
            && (icmp["icmpCode"].is_null() || icmp["icmpCode"] == code)
    };
    ports.is_some_and(|ports| ports.iter().any(by_port))
        || protocols.is_some_and(|list| list.iter().any(by_protocol))
}
