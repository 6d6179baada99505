//! Groups and rules: as installed, and as packets ask for them.
//!
//! A packet's address is in a set of groups; an Endpoint has its own rules, by the groups of their
//! far ends. So a packet meets only rules that apply to its Endpoint and mean its peer, however
//! many others there are, and a group that gains an address changes no rule.

mod change;
mod check;
mod fqdn;
mod group;
mod names;
mod slots;
mod subject;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

pub(super) use change::Changes;
pub(super) use check::{group as check_group, rule as check_rule};
use fqdn::Names;
pub(crate) use group::{GroupId, GroupSets};
use group::{KnownGroup, Membership};
use slots::Slots;
pub(crate) use subject::{InstalledRule, Opening, Subject, first_of};

use super::{Group, Rule, RuleDirection, RuleTable};
use crate::connection::RuleId;
use crate::table::Exact;

/// Every group and rule, and what packets ask of them.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    seed: u64,
    group_ids: Exact<Arc<str>, GroupId>,
    groups: Exact<GroupId, Arc<KnownGroup>>,
    next_group: u32,
    /// Members of all groups together.
    members: usize,
    membership: Membership,
    names: Names,
    rules: Exact<Arc<str>, Arc<InstalledRule>>,
    rules_by_id: Exact<RuleId, Arc<InstalledRule>>,
    slots: Slots,
    endpoints: Exact<Arc<str>, Arc<Subject>>,
    /// The Endpoint of each address.
    homes: Exact<IpAddr, Arc<str>>,
    services: Exact<Arc<str>, Arc<Subject>>,
    /// Entries of all subjects' tables together.
    entries: usize,
}

impl Policies {
    pub(super) fn new(seed: u64) -> Policies {
        Policies {
            seed,
            group_ids: Exact::new(seed),
            groups: Exact::new(seed),
            next_group: 0,
            members: 0,
            membership: Membership::new(seed),
            names: Names::new(seed),
            rules: Exact::new(seed),
            rules_by_id: Exact::new(seed),
            slots: Slots::new(seed),
            endpoints: Exact::new(seed),
            homes: Exact::new(seed),
            services: Exact::new(seed),
            entries: 0,
        }
    }

    pub(super) fn group(&self, name: &str) -> Option<Group> {
        self.groups.get(self.group_ids.get(name)?)?.object()
    }

    pub(super) fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).map(|installed| &installed.rule)
    }

    pub(super) fn group_names(&self) -> impl Iterator<Item = &str> {
        let defined = self.groups.iter().filter(|(_, group)| group.defined);
        defined.map(|(_, group)| group.name.as_ref())
    }

    pub(super) fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(name, _)| name.as_ref())
    }
}

/// What packets, and those who read counters, ask.
impl Policies {
    /// Every rule in force.
    pub(crate) fn installed(&self) -> impl Iterator<Item = &InstalledRule> {
        self.rules.iter().map(|(_, rule)| rule.as_ref())
    }

    /// The rule of this number, while it is in force.
    pub(crate) fn installed_rule(&self, id: RuleId) -> Option<&InstalledRule> {
        self.rules_by_id.get(&id).map(Arc::as_ref)
    }

    /// The rules that apply to an Endpoint.
    pub(super) fn of_endpoint(&self, name: &str) -> Option<&Arc<Subject>> {
        self.endpoints.get(name)
    }

    /// The rules of every Endpoint for which `other` has not the same, and of few more.
    pub(super) fn differing<'a>(
        &'a self,
        other: &'a Policies,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Subject>)> {
        let differing = self.endpoints.differing(&other.endpoints);
        differing.map(|(name, subject)| (name.as_ref(), subject))
    }

    /// The rules that apply to a Service's NodePort traffic.
    pub(crate) fn of_service(&self, name: &str) -> Option<&Subject> {
        self.services.get(name).map(Arc::as_ref)
    }

    /// The groups of an address.
    pub(crate) fn groups_of(&self, address: IpAddr) -> GroupSets<'_> {
        self.membership.sets(address)
    }

    /// Whether any group is for a name.
    pub(crate) fn know_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The rules of an Endpoint, where some of them may be about names.
    pub(crate) fn asking_for_names(&self, endpoint: &str) -> Option<&Subject> {
        let subject = self.of_endpoint(endpoint).filter(|_| self.know_names())?;
        subject.sends_by_groups().then_some(subject)
    }

    /// The groups that are for a name in lower case, of those that these rules are about.
    pub(crate) fn groups_for(
        &self,
        name: &[u8],
        subject: &Subject,
    ) -> impl Iterator<Item = GroupId> {
        self.names.groups(name, |group| subject.sends_by(group))
    }

    /// Those of one table of one direction.
    pub(crate) fn rules_of(
        &self,
        direction: RuleDirection,
        table: RuleTable,
    ) -> impl Iterator<Item = &InstalledRule> {
        let mine = move |it: &&InstalledRule| it.rule.direction == direction;
        self.installed().filter(mine).filter(move |it| it.rule.table == table)
    }
}
