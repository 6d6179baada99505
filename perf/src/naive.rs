//! A second opinion: what the documentation of Kubernetes and Antrea says becomes of a connection.
//!
//! From the objects as they are written to a verdict, one rule after the other, with nothing
//! compiled, cached or indexed. It imports nothing of `control` and nothing of the pipeline, so
//! that what both say alike is not the same mistake. Its own check are the matrices of the case
//! files; then it judges the compiled tables over generated clusters.

mod antrea;
mod kubernetes;
mod selector;
mod traffic;
mod upstream;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

/// A cluster, as far as policies look at it.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Labels of namespaces by their names.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Its Pods.
    pub pods: Vec<Pod>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Policies, tiers, groups and Services, as they are written.
    pub objects: Vec<Value>,
    /// What names outside of the cluster resolve to.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

/// A Pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it has its node's network: then no policy knows it.
    pub host_network: bool,
    /// Under which account it runs.
    pub service_account: String,
    /// Name, protocol and number of what it declares.
    pub ports: Vec<(String, u8, u16)>,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The addresses it speaks from.
    pub addresses: Vec<IpAddr>,
}

/// The first packet of a connection, after a Service has chosen its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Who sends.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// IP protocol number; ICMP's is 1 in both families.
    pub protocol: u8,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub port: u16,
    /// Type and code of ICMP.
    pub icmp: (u8, u8),
    /// By which Service it is reached: `namespace/name`.
    pub service: Option<String>,
}

/// Which of a connection's ends is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The sender.
    Egress,
    /// The receiver.
    Ingress,
}

/// What policies do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No policy says anything, so it passes.
    None,
    /// It passes.
    Allow,
    /// It is dropped.
    Drop,
    /// It is dropped and answered.
    Reject,
    /// It is dropped, as Kubernetes isolates.
    Isolate,
    /// Those after decide.
    Pass,
}

impl Action {
    /// Whether it passes.
    pub fn passes(self) -> bool {
        matches!(self, Action::None | Action::Allow)
    }
}

/// What policies do, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// The names of the policies that decide; of Kubernetes' there can be several.
    pub policies: Vec<String>,
}

/// A rule of a policy that stands in an order.
struct Ranked<'a> {
    tier: u64,
    priority: f64,
    index: usize,
    policy: String,
    action: Action,
    decides: Decides<'a>,
}

/// Whether a rule applies to a Pod and matches a connection of it.
type Decides<'a> = Box<dyn Fn(&Pod, &Query) -> bool + 'a>;

/// The place of Kubernetes' own policies among the tiers: after 251, before 253.
const NETWORK_POLICY_TIER: u64 = 252;

impl Cluster {
    /// What becomes of a connection: egress first, then ingress.
    pub fn judge(&self, query: &Query) -> Decision {
        let egress = self.decide(Direction::Egress, query);
        if !egress.action.passes() {
            return egress;
        }
        let ingress = self.decide(Direction::Ingress, query);
        if ingress.action == Action::None { egress } else { ingress }
    }

    /// What the policies of one end say.
    pub fn decide(&self, direction: Direction, query: &Query) -> Decision {
        let address = match direction {
            Direction::Egress => query.source,
            Direction::Ingress => query.destination,
        };
        let Some(subject) = self.pod_at(address) else {
            return Decision { action: Action::None, policies: Vec::new() };
        };
        let mut ranked = self.ranked(direction);
        ranked.sort_by(|a, b| {
            let (one, other) = ((a.tier, a.priority), (b.tier, b.priority));
            let order = one.partial_cmp(&other).unwrap_or(std::cmp::Ordering::Equal);
            order.then_with(|| a.policy.cmp(&b.policy)).then(a.index.cmp(&b.index))
        });
        let (before, after): (Vec<_>, Vec<_>) =
            ranked.into_iter().partition(|rule| rule.tier < NETWORK_POLICY_TIER);
        let first = |rules: &[Ranked<'_>]| {
            let rule = rules.iter().find(|rule| (rule.decides)(subject, query))?;
            Some(Decision { action: rule.action, policies: vec![rule.policy.clone()] })
        };
        first(&before)
            .filter(|decision| decision.action != Action::Pass)
            .or_else(|| kubernetes::decide(self, direction, subject, query))
            .or_else(|| first(&after).filter(|decision| decision.action != Action::Pass))
            .unwrap_or(Decision { action: Action::None, policies: Vec::new() })
    }

    fn ranked(&self, direction: Direction) -> Vec<Ranked<'_>> {
        let mut ranked = Vec::new();
        for object in &self.objects {
            match (text(&object["apiVersion"]), text(&object["kind"])) {
                ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy" | "NetworkPolicy") => {
                    antrea::rules(self, object, direction, &mut ranked);
                }
                (
                    "policy.networking.k8s.io/v1alpha1" | "policy.networking.k8s.io/v1alpha2",
                    "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" | "ClusterNetworkPolicy",
                ) => upstream::rules(self, object, direction, &mut ranked),
                _ => {}
            }
        }
        ranked
    }

    /// The Pod with this address; not one in its node's network, which no policy knows.
    fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network && pod.addresses.contains(&address))
    }

    fn labels_of(&self, namespace: &str) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// An object by kind, namespace (empty for the whole cluster) and name.
    fn object(&self, api: &str, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| {
            object["apiVersion"] == api
                && object["kind"] == kind
                && text(&object["metadata"]["namespace"]) == namespace
                && object["metadata"]["name"] == name
        })
    }
}

impl Query {
    /// The far end, seen from the one that is asked for.
    fn peer(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }
}

/// A string of a manifest; empty where there is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A list of a manifest; empty where there is none.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A list that says something, or nothing at all where it is missing or empty.
fn some_list(value: &Value) -> Option<&[Value]> {
    Some(list(value)).filter(|list| !list.is_empty())
}

/// Whether an address is in a range that is written down.
fn within(range: &Value, address: IpAddr) -> bool {
    text(range).parse::<ipnet::IpNet>().is_ok_and(|range| range.contains(&address))
}

/// An `ipBlock`: a range with holes.
fn in_block(block: &Value, address: IpAddr) -> bool {
    within(&block["cidr"], address)
        && !list(&block["except"]).iter().any(|hole| within(hole, address))
}
