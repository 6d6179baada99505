//! What is in the cluster already, as far as it decides whether something else may be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Features, group::Kind, read, tier};
use crate::model::{GroupName, Object, ObjectKey, PolicyKind, STATIC_TIERS, TierOf};
use crate::watch::api::{Resource, antrea};
use crate::watch::object::Wrong;

/// Tiers, who uses them, and which groups are made of which.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Existing {
    /// Beside the static ones.
    tiers: BTreeMap<String, i64>,
    cluster_policies_by_tier: BTreeMap<String, usize>,
    policies_by_tier: BTreeMap<String, usize>,
    children: BTreeMap<GroupName, Vec<GroupName>>,
    /// How many groups name this one as their child.
    parents: BTreeMap<GroupName, usize>,
}

impl Existing {
    /// Of objects that were accepted already: what cannot be read of them does not count.
    pub(super) fn of(objects: &[Value]) -> Self {
        let mut existing = Self::default();
        for value in objects {
            let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
            let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if version != "crd.antrea.io/v1beta1" {
                continue;
            }
            match kind {
                "Tier" => {
                    if let Ok(tier) = read::<Resource<antrea::TierSpec>>(value) {
                        existing.add_tier(tier.name(), i64::from(tier.spec.priority));
                    }
                }
                "ClusterGroup" | "Group" => {
                    let kind = if kind == "Group" { Kind::Group } else { Kind::ClusterGroup };
                    if let Ok(group) = read::<Resource<antrea::GroupSpec>>(value) {
                        existing.add_group(group_name(&group, kind), children(&group, kind));
                    }
                }
                "ClusterNetworkPolicy" | "NetworkPolicy" => {
                    if let Ok(policy) = read::<Resource<antrea::PolicySpec>>(value) {
                        existing.add_policy(kind == "NetworkPolicy", &policy.spec.tier);
                    }
                }
                _ => {}
            }
        }
        existing
    }

    /// Takes an object of the model in, unless it does not go with what is there. Tiers and groups
    /// come before the policies that name them, whatever order they were written in: this is what
    /// a folder of manifests is, where nothing is created before anything else.
    pub(crate) fn admit(&mut self, object: &Object) -> Result<(), Wrong> {
        match object {
            Object::Tier(tier) => {
                let priority = i64::from(tier.priority);
                let own = STATIC_TIERS.iter().find(|(name, _)| *name == tier.name);
                match own {
                    // A listing of a cluster's tiers has those as well.
                    Some((_, fixed)) if *fixed == tier.priority => return Ok(()),
                    Some((_, fixed)) => {
                        let reason = format!("this tier is Antrea's own and stands at {fixed}");
                        return Err(Wrong::new("spec.priority", reason));
                    }
                    None => tier::admit(&tier.name, priority, self, Features::default())?,
                }
                self.add_tier(&tier.name, priority);
            }
            Object::Group(group) => {
                self.check_nesting(&group.name, &group.child_groups)?;
                self.add_group(group.name.clone(), group.child_groups.clone());
            }
            Object::Policy(policy) => {
                if let TierOf::Named(tier) = &policy.tier {
                    self.check_tier_exists(tier)?;
                    self.add_policy(policy.name.kind == PolicyKind::AntreaNetworkPolicy, tier);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add_tier(&mut self, name: &str, priority: i64) {
        self.tiers.insert(name.to_owned(), priority);
    }

    fn add_policy(&mut self, is_namespaced: bool, tier: &str) {
        let by_tier = match is_namespaced {
            true => &mut self.policies_by_tier,
            false => &mut self.cluster_policies_by_tier,
        };
        *by_tier.entry(tier.to_owned()).or_default() += 1;
    }

    fn add_group(&mut self, name: GroupName, children: Vec<GroupName>) {
        for child in &children {
            *self.parents.entry(child.clone()).or_default() += 1;
        }
        self.children.insert(name, children);
    }

    /// How many tiers there are, Antrea's own among them.
    pub(super) fn tier_count(&self) -> usize {
        let is_listed = |name: &str| self.tiers.contains_key(name);
        let unlisted = STATIC_TIERS.iter().filter(|(name, _)| !is_listed(name)).count();
        self.tiers.len() + unlisted
    }

    /// Whether a tier other than the static one of this name has the priority.
    pub(super) fn has_tier_at(&self, priority: i64, name: &str) -> bool {
        self.tiers.values().any(|other| *other == priority)
            || STATIC_TIERS
                .iter()
                .any(|(other, fixed)| *other != name && i64::from(*fixed) == priority)
    }

    /// A policy that names no tier stands in the default one.
    pub(super) fn check_tier_exists(&self, name: &str) -> Result<(), Wrong> {
        let is_static = STATIC_TIERS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        match name.is_empty() || is_static || self.tiers.contains_key(name) {
            true => Ok(()),
            false => Err(Wrong::new("spec.tier", format!("tier {name} does not exist"))),
        }
    }

    /// A tier that policies stand in cannot go.
    pub(super) fn check_tier_unused(&self, name: &str) -> Result<(), Wrong> {
        let users = [
            (&self.cluster_policies_by_tier, "ClusterNetworkPolicies"),
            (&self.policies_by_tier, "NetworkPolicies"),
        ];
        for (by_tier, kind) in users {
            if let Some(count) = by_tier.get(name) {
                let reason = format!("tier {name} is referenced by {count} Antrea {kind}");
                return Err(Wrong::new(".", reason));
            }
        }
        Ok(())
    }

    /// Groups are made of groups one level deep.
    pub(super) fn check_nesting(
        &self,
        name: &GroupName,
        children: &[GroupName],
    ) -> Result<(), Wrong> {
        if children.is_empty() {
            return Ok(());
        }
        let shown = ObjectKey::Group(name.clone());
        let wrong = |reason: String| Err(Wrong::new("spec.childGroups", reason));
        if children.contains(name) {
            return wrong(format!("cannot set {shown} as its own childGroup"));
        }
        match self.parents.get(name) {
            Some(count) if *count > 0 => {
                return wrong(format!(
                    "cannot set childGroups for {shown}, who has {count} parents"
                ));
            }
            _ => {}
        }
        for child in children {
            let count = self.children.get(child).map_or(0, Vec::len);
            if count > 0 {
                let child = ObjectKey::Group(child.clone());
                return wrong(format!(
                    "cannot set {child} as childGroup, who has {count} childGroups itself"
                ));
            }
        }
        Ok(())
    }
}

/// What a group is known by.
pub(super) fn group_name(group: &Resource<antrea::GroupSpec>, kind: Kind) -> GroupName {
    let namespace = match kind {
        Kind::ClusterGroup => String::new(),
        Kind::Group => group.namespace().to_owned(),
    };
    GroupName { namespace, name: group.name().to_owned() }
}

/// The groups that it is made of: of its own namespace, if it has one.
pub(super) fn children(group: &Resource<antrea::GroupSpec>, kind: Kind) -> Vec<GroupName> {
    let namespace = group_name(group, kind).namespace;
    let children = group.spec.child_groups.iter();
    children.map(|name| GroupName { namespace: namespace.clone(), name: name.clone() }).collect()
}
