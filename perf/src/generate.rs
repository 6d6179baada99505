//! Clusters, policies, groups and Services as somebody might write them, and changes of them.
//!
//! Of the differential checks: what is generated here is held against a naive evaluator, and
//! against Open vSwitch.
//!
//! Few labels, few ports and few ranges, so that rules meet. No two policies stand at the same
//! place: which of them wins then is not documented, and has tests of its own.

pub mod parts;
pub mod random;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use parts::{
    APPS, NAMES, NAMESPACES, PORTS, PROTOCOLS, antrea_ports, are_pods, block, labels, namespace,
    namespace_selector, ports, selector, upstream_peer, upstream_pods,
};
use random::Random;

/// The tiers that policies name.
pub const TIERS: [&str; 7] =
    ["emergency", "securityops", "networkops", "platform", "application", "baseline", "own"];
/// Addresses outside of the cluster.
pub const OUTSIDERS: [&str; 3] = ["203.0.113.7", "203.0.113.8", "198.51.100.1"];

/// A cluster that changes.
pub struct Generator {
    /// What decides everything.
    pub random: Random,
    namespaces: Vec<Value>,
    pods: Vec<Value>,
    objects: Vec<Value>,
    taken: BTreeSet<usize>,
    count: usize,
}

impl Generator {
    /// A cluster that has six Pods and ten objects.
    pub fn new(seed: u64) -> Generator {
        let mut random = Random(seed);
        let namespaces = NAMESPACES.iter().map(|name| namespace(name, &mut random)).collect();
        let mut generator = Generator {
            random,
            namespaces,
            pods: Vec::new(),
            objects: vec![json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "Tier",
                "metadata": {"name": "own"}, "spec": {"priority": 40}})],
            taken: BTreeSet::new(),
            count: 0,
        };
        for _ in 0..6 {
            generator.add_pod();
        }
        for _ in 0..10 {
            generator.add_object();
        }
        generator
    }

    /// What a case file calls a cluster.
    pub fn cluster(&self) -> Value {
        let node = |index: usize| {
            json!({"name": format!("node-{index}"), "ip": format!("192.168.77.{}", 101 + index),
                "labels": {"zone": format!("zone-{index}")},
                "podCIDR": format!("10.1.{index}.0/24"), "gatewayIP": format!("10.1.{index}.1")})
        };
        json!({"namespaces": self.namespaces, "pods": self.pods, "nodes": [node(0), node(1)]})
    }

    /// What it calls objects.
    pub fn objects(&self) -> Value {
        Value::Array(self.objects.clone())
    }

    /// Something happens.
    pub fn change(&mut self) {
        match self.random.below(8) {
            0 if self.pods.len() < 12 => self.add_pod(),
            1 if self.pods.len() > 3 => {
                let gone = self.random.below(self.pods.len());
                self.pods.remove(gone);
            }
            2 => {
                let at = self.random.below(self.pods.len());
                self.pods[at]["labels"] = labels(&mut self.random);
            }
            3 => {
                let at = self.random.below(NAMESPACES.len());
                self.namespaces[at] = namespace(NAMESPACES[at], &mut self.random);
            }
            4 | 5 if self.objects.len() > 5 => {
                // Not the tier, which policies may name.
                let gone = 1 + self.random.below(self.objects.len() - 1);
                self.objects.remove(gone);
            }
            _ => self.add_object(),
        }
    }

    fn unique(&mut self, bound: usize) -> usize {
        loop {
            let number = 1 + self.random.below(bound);
            if self.taken.insert(number) {
                return number;
            }
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{}", self.count)
    }

    fn add_pod(&mut self) {
        let node = self.random.below(2);
        let used: Vec<String> = self.pods.iter().map(|pod| text(&pod["ip"]).to_owned()).collect();
        // An address that was given back is given out again.
        let address = loop {
            let address = format!("10.1.{node}.{}", 2 + self.random.below(14));
            if !used.contains(&address) {
                break address;
            }
        };
        let name = self.name("pod");
        let random = &mut self.random;
        let mut ports = Vec::new();
        for name in NAMES {
            if !random.once_in(4) {
                ports.push(json!({"name": name, "port": random.pick(&PORTS),
                    "protocol": random.pick(&PROTOCOLS)}));
            }
        }
        self.pods.push(json!({"namespace": random.pick(&NAMESPACES), "name": name,
            "labels": labels(random), "ip": address, "node": format!("node-{node}"),
            "serviceAccount": random.pick(&["default", "robot"]), "ports": ports}));
    }

    fn add_object(&mut self) {
        let object = match self.random.below(12) {
            0..=2 => self.network_policy(),
            3..=5 => self.antrea_policy(true),
            6 => self.antrea_policy(false),
            7 => self.admin_policy(),
            8 => self.cluster_network_policy(),
            9 => self.group(true),
            10 => self.group(false),
            _ => self.service(),
        };
        self.objects.push(object);
    }

    fn network_policy(&mut self) -> Value {
        let name = self.name("np");
        let random = &mut self.random;
        let peers = |random: &mut Random| {
            let peer = |random: &mut Random| match random.below(4) {
                0 => json!({"ipBlock": block(random)}),
                1 => json!({"podSelector": selector(random)}),
                2 => json!({"namespaceSelector": namespace_selector(random)}),
                _ => json!({"namespaceSelector": namespace_selector(random),
                    "podSelector": selector(random)}),
            };
            (0..random.below(3)).map(|_| peer(random)).collect::<Vec<_>>()
        };
        let rules = |random: &mut Random, end: &str| {
            let rule = |random: &mut Random| json!({end: peers(random), "ports": ports(random)});
            (0..random.below(3)).map(|_| rule(random)).collect::<Vec<_>>()
        };
        let types = *random.pick(&[&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]]);
        let (ingress, egress) = (rules(random, "from"), rules(random, "to"));
        let mut spec = json!({"podSelector": selector(random), "policyTypes": types});
        if types.contains(&"Ingress") {
            spec["ingress"] = json!(ingress);
        }
        if types.contains(&"Egress") {
            spec["egress"] = json!(egress);
        }
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": random.pick(&NAMESPACES)}, "spec": spec})
    }

    /// The names of groups that there are, by namespace; empty for those of the whole cluster.
    fn groups(&self, namespace: &str) -> Vec<String> {
        let of = |object: &&Value| {
            let kind = text(&object["kind"]);
            let own = text(&object["metadata"]["namespace"]);
            (kind == "ClusterGroup" || kind == "Group") && own == namespace
        };
        let name = |object: &Value| text(&object["metadata"]["name"]).to_owned();
        self.objects.iter().filter(of).map(name).collect()
    }

    fn antrea_policy(&mut self, of_cluster: bool) -> Value {
        let name = self.name(if of_cluster { "acnp" } else { "annp" });
        let namespace = if of_cluster { "" } else { *self.random.pick(&NAMESPACES) };
        let groups = self.groups(namespace);
        let tier = *self.random.pick(&TIERS);
        let priority = self.unique(9000) as f64 / 4.0 + 1.0;
        let random = &mut self.random;
        let subject = |random: &mut Random| match random.below(5) {
            0 if !groups.is_empty() => json!({"group": random.pick(&groups)}),
            1 if of_cluster => {
                json!({"serviceAccount": {"name": random.pick(&["default", "robot"]),
                "namespace": random.pick(&NAMESPACES)}})
            }
            2 if of_cluster => json!({"namespaceSelector": namespace_selector(random)}),
            3 if of_cluster => json!({"namespaceSelector": namespace_selector(random),
                "podSelector": selector(random)}),
            _ => json!({"podSelector": selector(random)}),
        };
        let peer = |random: &mut Random| match random.below(8) {
            0 if !groups.is_empty() => json!({"group": random.pick(&groups)}),
            1 => json!({"ipBlock": block(random)}),
            2 if of_cluster => json!({"namespaces": {"match": "Self"},
                "podSelector": selector(random)}),
            3 if of_cluster => json!({"namespaces": {"sameLabels": ["team"]}}),
            4 => {
                json!({"nodeSelector": {"matchLabels": {"zone": random.pick(&["zone-0", "zone-1"])}}})
            }
            5 => json!({"namespaceSelector": namespace_selector(random)}),
            _ => json!({"podSelector": selector(random)}),
        };
        let per_rule = random.once_in(4);
        let rules = |random: &mut Random, end: &str| {
            let rule = |random: &mut Random| {
                let peers: Vec<Value> = (0..random.below(3)).map(|_| peer(random)).collect();
                let actions: &[&str] = if tier == "baseline" {
                    &["Allow", "Drop", "Reject"]
                } else {
                    &["Allow", "Drop", "Reject", "Pass"]
                };
                let mut rule = json!({"action": random.pick(actions), end: peers});
                match random.below(4) {
                    0 => rule["protocols"] = json!([{"icmp": {}}]),
                    1 => {}
                    _ => rule["ports"] = antrea_ports(random),
                }
                if per_rule {
                    rule["appliedTo"] = json!([subject(random)]);
                }
                rule
            };
            (0..random.below(3)).map(|_| rule(random)).collect::<Vec<_>>()
        };
        let (ingress, egress) = (rules(random, "from"), rules(random, "to"));
        // Somebody must be meant.
        let per_policy = !per_rule || ingress.is_empty() && egress.is_empty();
        let mut spec =
            json!({"tier": tier, "priority": priority, "ingress": ingress, "egress": egress});
        if per_policy {
            let subjects: Vec<Value> = (0..=random.below(2)).map(|_| subject(random)).collect();
            spec["appliedTo"] = json!(subjects);
        }
        let kind = if of_cluster { "ClusterNetworkPolicy" } else { "NetworkPolicy" };
        let mut metadata = json!({"name": name});
        if !of_cluster {
            metadata["namespace"] = json!(namespace);
        }
        json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": kind, "metadata": metadata,
            "spec": spec})
    }

    fn admin_policy(&mut self) -> Value {
        let there =
            self.objects.iter().any(|object| object["kind"] == "BaselineAdminNetworkPolicy");
        let baseline = !there && self.random.once_in(3);
        let priority = self.unique(900);
        let name = if baseline { "default".to_owned() } else { self.name("anp") };
        let random = &mut self.random;
        let actions: &[&str] =
            if baseline { &["Allow", "Deny"] } else { &["Allow", "Deny", "Pass"] };
        let rules = |random: &mut Random, end: &str| {
            let rule = |random: &mut Random| {
                let mut rule = json!({"action": random.pick(actions),
                    end: [upstream_peer(random, end)]});
                if random.once_in(2) {
                    rule["ports"] = json!([match random.below(3) {
                        0 if are_pods(&rule[end][0]) => json!({"namedPort": random.pick(&NAMES)}),
                        1 => json!({"portRange": {"protocol": random.pick(&PROTOCOLS),
                            "start": 80, "end": 443}}),
                        _ => json!({"portNumber": {"protocol": random.pick(&PROTOCOLS),
                            "port": random.pick(&PORTS)}}),
                    }]);
                }
                rule
            };
            (0..random.below(3)).map(|_| rule(random)).collect::<Vec<_>>()
        };
        let mut spec = json!({"subject": upstream_pods(random),
            "ingress": rules(random, "from"), "egress": rules(random, "to")});
        if !baseline {
            spec["priority"] = json!(priority);
        }
        let kind = if baseline { "BaselineAdminNetworkPolicy" } else { "AdminNetworkPolicy" };
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec})
    }

    fn cluster_network_policy(&mut self) -> Value {
        let name = self.name("cnp");
        let priority = self.unique(900);
        let random = &mut self.random;
        let tier = *random.pick(&["Admin", "Baseline"]);
        let rules = |random: &mut Random, end: &str| {
            let rule = |random: &mut Random| {
                let mut rule = json!({"action": random.pick(&["Accept", "Deny", "Pass"]),
                    end: [upstream_peer(random, end)]});
                if random.once_in(2) {
                    rule["protocols"] = json!([match random.below(3) {
                        0 if are_pods(&rule[end][0]) =>
                            json!({"destinationNamedPort": random.pick(&NAMES)}),
                        1 => json!({"tcp": {"destinationPort": {"range": {"start": 80,
                            "end": 443}}}}),
                        _ => json!({"udp": {"destinationPort": {"number": random.pick(&PORTS)}}}),
                    }]);
                }
                rule
            };
            (0..random.below(3)).map(|_| rule(random)).collect::<Vec<_>>()
        };
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name}, "spec": {"tier": tier, "priority": priority,
            "subject": upstream_pods(random),
            "ingress": rules(random, "from"), "egress": rules(random, "to")}})
    }

    fn group(&mut self, of_cluster: bool) -> Value {
        let name = self.name("group");
        let namespace = if of_cluster { "" } else { *self.random.pick(&NAMESPACES) };
        let random = &mut self.random;
        let spec = match random.below(3) {
            0 if of_cluster => json!({"ipBlocks": [block(random)]}),
            1 if of_cluster => json!({"namespaceSelector": namespace_selector(random)}),
            _ => json!({"podSelector": selector(random)}),
        };
        let kind = if of_cluster { "ClusterGroup" } else { "Group" };
        let mut metadata = json!({"name": name});
        if !of_cluster {
            metadata["namespace"] = json!(namespace);
        }
        json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": kind, "metadata": metadata,
            "spec": spec})
    }

    fn service(&mut self) -> Value {
        let name = self.name("service");
        let last = self.count % 250 + 1;
        let random = &mut self.random;
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": random.pick(&NAMESPACES)},
            "spec": {"clusterIP": format!("10.96.0.{last}"),
                "selector": {"app": random.pick(&APPS)},
                "ports": [{"name": "p", "port": random.pick(&PORTS),
                    "protocol": random.pick(&PROTOCOLS), "targetPort": random.pick(&PORTS)}]}})
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
