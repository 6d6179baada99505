//! One object of the cluster, of whichever kind, and what it is known by.

use std::fmt;

use super::{
    Cluster, EndpointSlice, Group, GroupName, Namespace, Node, ObjectName, Pod, PodName, Policy,
    PolicyName, Service, Tier,
};

/// One object that the model is made of.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the type that it holds")]
pub enum Object {
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Policy(Policy),
    Tier(Tier),
    Group(Group),
}

/// What one object is told from all others by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is the name of the object that is called so")]
pub enum ObjectKey {
    Node(String),
    Namespace(String),
    Pod(PodName),
    Service(ObjectName),
    EndpointSlice(ObjectName),
    Policy(PolicyName),
    Tier(String),
    Group(GroupName),
}

impl Object {
    /// What it is known by.
    pub fn key(&self) -> ObjectKey {
        match self {
            Object::Node(node) => ObjectKey::Node(node.name.clone()),
            Object::Namespace(namespace) => ObjectKey::Namespace(namespace.name.clone()),
            Object::Pod(pod) => ObjectKey::Pod(pod.name.clone()),
            Object::Service(service) => ObjectKey::Service(service.name.clone()),
            Object::EndpointSlice(slice) => ObjectKey::EndpointSlice(slice.name.clone()),
            Object::Policy(policy) => ObjectKey::Policy(policy.name.clone()),
            Object::Tier(tier) => ObjectKey::Tier(tier.name.clone()),
            Object::Group(group) => ObjectKey::Group(group.name.clone()),
        }
    }
}

impl Cluster {
    /// Takes the object in, in place of one of the same name. True if anything changed by it.
    pub fn insert(&mut self, object: Object) -> bool {
        match object {
            Object::Node(node) => put(&mut self.nodes, node.name.clone(), node),
            Object::Namespace(namespace) => {
                put(&mut self.namespaces, namespace.name.clone(), namespace)
            }
            Object::Pod(pod) => put(&mut self.pods, pod.name.clone(), pod),
            Object::Service(service) => put(&mut self.services, service.name.clone(), service),
            Object::EndpointSlice(slice) => {
                put(&mut self.endpoint_slices, slice.name.clone(), slice)
            }
            Object::Policy(policy) => put(&mut self.policies, policy.name.clone(), policy),
            Object::Tier(tier) => put(&mut self.tiers, tier.name, tier.priority),
            Object::Group(group) => put(&mut self.groups, group.name.clone(), group),
        }
    }

    /// Takes the object out. True if it was there.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        match key {
            ObjectKey::Node(name) => self.nodes.remove(name).is_some(),
            ObjectKey::Namespace(name) => self.namespaces.remove(name).is_some(),
            ObjectKey::Pod(name) => self.pods.remove(name).is_some(),
            ObjectKey::Service(name) => self.services.remove(name).is_some(),
            ObjectKey::EndpointSlice(name) => self.endpoint_slices.remove(name).is_some(),
            ObjectKey::Policy(name) => self.policies.remove(name).is_some(),
            ObjectKey::Tier(name) => self.tiers.remove(name).is_some(),
            ObjectKey::Group(name) => self.groups.remove(name).is_some(),
        }
    }

    /// The object of this name.
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::Node(name) => self.nodes.get(name).cloned().map(Object::Node),
            ObjectKey::Namespace(name) => self.namespaces.get(name).cloned().map(Object::Namespace),
            ObjectKey::Pod(name) => self.pods.get(name).cloned().map(Object::Pod),
            ObjectKey::Service(name) => self.services.get(name).cloned().map(Object::Service),
            ObjectKey::EndpointSlice(name) => {
                self.endpoint_slices.get(name).cloned().map(Object::EndpointSlice)
            }
            ObjectKey::Policy(name) => self.policies.get(name).cloned().map(Object::Policy),
            ObjectKey::Tier(name) => {
                let tier = |priority: &u32| Tier { name: name.clone(), priority: *priority };
                self.tiers.get(name).map(tier).map(Object::Tier)
            }
            ObjectKey::Group(name) => self.groups.get(name).cloned().map(Object::Group),
        }
    }

    /// Whether an object of this name is there.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        match key {
            ObjectKey::Node(name) => self.nodes.contains_key(name),
            ObjectKey::Namespace(name) => self.namespaces.contains_key(name),
            ObjectKey::Pod(name) => self.pods.contains_key(name),
            ObjectKey::Service(name) => self.services.contains_key(name),
            ObjectKey::EndpointSlice(name) => self.endpoint_slices.contains_key(name),
            ObjectKey::Policy(name) => self.policies.contains_key(name),
            ObjectKey::Tier(name) => self.tiers.contains_key(name),
            ObjectKey::Group(name) => self.groups.contains_key(name),
        }
    }
}

fn put<K: Ord, V: PartialEq>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, namespace, name) = match self {
            ObjectKey::Node(name) => ("Node", "", name),
            ObjectKey::Namespace(name) => ("Namespace", "", name),
            ObjectKey::Pod(pod) => ("Pod", pod.namespace.as_str(), &pod.name),
            ObjectKey::Service(name) => ("Service", name.namespace.as_str(), &name.name),
            ObjectKey::EndpointSlice(name) => {
                ("EndpointSlice", name.namespace.as_str(), &name.name)
            }
            ObjectKey::Policy(policy) => {
                (policy.kind.api().1, policy.namespace.as_str(), &policy.name)
            }
            ObjectKey::Tier(name) => ("Tier", "", name),
            ObjectKey::Group(group) if group.namespace.is_empty() => {
                ("ClusterGroup", "", &group.name)
            }
            ObjectKey::Group(group) => ("Group", group.namespace.as_str(), &group.name),
        };
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "{kind} {namespace}{slash}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(priority: u32) -> Object {
        Object::Tier(Tier { name: "gold".into(), priority })
    }

    #[test]
    fn an_object_replaces_its_namesake_and_goes_by_its_key() {
        let mut cluster = Cluster::default();
        assert!(cluster.insert(tier(7)));
        assert!(!cluster.insert(tier(7)), "nothing changed");
        assert!(cluster.insert(tier(8)));
        assert_eq!(cluster.tiers["gold"], 8);
        let key = tier(8).key();
        assert_eq!(key.to_string(), "Tier gold");
        assert_eq!(cluster.get(&key), Some(tier(8)));
        assert!(cluster.contains(&key) && cluster.remove(&key));
        assert!(!cluster.contains(&key) && !cluster.remove(&key));
    }

    #[test]
    fn a_cluster_group_and_a_group_are_told_apart() {
        let key = |namespace: &str| {
            ObjectKey::Group(GroupName { namespace: namespace.into(), name: "g".into() })
        };
        assert_eq!(key("").to_string(), "ClusterGroup g");
        assert_eq!(key("x").to_string(), "Group x/g");
    }
}
