//! Groups and rules as installed.

use std::sync::Arc;

use super::check::refuse;
use super::rule::{Group, GroupDelta, Rule};
use super::{Kind, Refusal};
use crate::limits::{GROUPS_MAX, RULES_MAX};
use crate::table::Exact;

/// Every group and rule, and what packets ask of them.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    groups: Exact<Arc<str>, Arc<Group>>,
    rules: Exact<Arc<str>, Arc<Rule>>,
}

impl Policies {
    pub(super) fn new(seed: u64) -> Policies {
        Policies { groups: Exact::new(seed), rules: Exact::new(seed) }
    }

    pub(super) fn group(&self, name: &str) -> Option<Group> {
        self.groups.get(name).map(|group| Group::clone(group))
    }

    pub(super) fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).map(Arc::as_ref)
    }

    pub(super) fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn remove_group(&mut self, name: &str) {
        self.groups.remove(name);
    }

    pub(super) fn remove_rule(&mut self, name: &str) {
        self.rules.remove(name);
    }

    pub(super) fn put_group(&mut self, group: &Group) -> Result<(), Refusal> {
        if self.groups.len() >= GROUPS_MAX {
            let reason = format!("there are {GROUPS_MAX} groups, the most there can be");
            return refuse(Kind::Group, &group.name, "name", reason);
        }
        self.groups.insert(group.name.as_str().into(), Arc::new(group.clone()));
        Ok(())
    }

    pub(super) fn put_rule(&mut self, rule: &Rule) -> Result<(), Refusal> {
        if self.rules.len() >= RULES_MAX {
            let reason = format!("there are {RULES_MAX} rules, the most there can be");
            return refuse(Kind::Rule, &rule.name, "name", reason);
        }
        self.rules.insert(rule.name.as_str().into(), Arc::new(rule.clone()));
        Ok(())
    }

    pub(super) fn change_members(&mut self, delta: &GroupDelta) -> Result<(), Refusal> {
        let Some(known) = self.groups.get(delta.name.as_str()) else {
            return refuse(Kind::Group, &delta.name, "name", "there is no such group");
        };
        let mut group = Group::clone(known);
        group.members.retain(|member| !delta.removed.contains(member));
        group.members.extend(&delta.added);
        group.members.sort();
        group.members.dedup();
        self.groups.insert(delta.name.as_str().into(), Arc::new(group));
        Ok(())
    }
}
