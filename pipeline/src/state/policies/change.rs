//! How groups, rules and Endpoints change.
//!
//! First rules go, then members and Endpoints come and go, then rules come: so every step finds
//! consistent what it needs. What begins and ceases to apply to whom is gathered on the way and
//! made at once, so a list is built once however many rules change in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::Policies;
use super::group::GroupId;
use super::subject::{Edit, InstalledRule, Subject, SubjectKey};
use crate::connection::RuleId;
use crate::limits::{FQDN_PATTERNS_MAX, MEMBERS_MAX, RULE_ENTRIES_MAX, RULES_MAX};
use crate::state::check::refuse;
use crate::state::epochs::Touched;
use crate::state::{Endpoint, Group, GroupDelta, Kind, Refusal, Rule};

/// What becomes of objects, by name; nothing means that they go.
#[derive(Default)]
pub(in crate::state) struct Changes<'a> {
    pub(in crate::state) endpoints: Vec<(&'a str, Option<&'a Endpoint>)>,
    pub(in crate::state) groups: Vec<(&'a str, Option<&'a Group>)>,
    pub(in crate::state) members: Vec<&'a GroupDelta>,
    pub(in crate::state) rules: Vec<(&'a str, Option<&'a Rule>)>,
}

impl Changes<'_> {
    fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
            && self.groups.is_empty()
            && self.members.is_empty()
            && self.rules.is_empty()
    }
}

/// What is to be done when all else is.
#[derive(Default)]
struct Work {
    edits: Vec<Edit>,
    /// Endpoints whose groups may be others now.
    moved: BTreeSet<Arc<str>>,
    /// Groups to which a reference is gone, once for each.
    released: Vec<GroupId>,
    /// Whose connections may be judged otherwise now.
    judged: Touched,
}

impl Policies {
    /// Makes all changes, or gives the reason why they cannot be. Says whose connections may be
    /// judged otherwise now.
    pub(in crate::state) fn apply(&mut self, changes: &Changes<'_>) -> Result<Touched, Refusal> {
        if changes.is_empty() {
            return Ok(Touched::default());
        }
        let mut work = Work::default();
        let mut known = Vec::with_capacity(changes.rules.len());
        for (name, next) in &changes.rules {
            known.push(self.take_rule(name, next.is_none(), &mut work));
        }
        for (name, next) in &changes.groups {
            self.define(name, *next, &mut work)?;
        }
        let names: BTreeSet<&str> = changes.members.iter().map(|it| it.name.as_str()).collect();
        for name in names {
            let deltas = changes.members.iter().filter(|delta| delta.name == name);
            self.change_members(name, deltas.copied(), &mut work)?;
        }
        for (name, next) in &changes.endpoints {
            self.place(name, *next, &mut work);
        }
        for name in std::mem::take(&mut work.moved) {
            self.regroup(&name, &mut work);
        }
        for ((_, next), known) in changes.rules.iter().zip(known) {
            if let Some(rule) = next {
                self.put_rule(rule, known, &mut work)?;
            }
        }
        self.edit(work.edits, &mut work.judged)?;
        for group in work.released {
            self.release(group);
        }
        Ok(work.judged)
    }

    /// Takes a rule out; gives its number, which is free if the rule is gone for good.
    fn take_rule(&mut self, name: &str, gone: bool, work: &mut Work) -> Option<RuleId> {
        let rule = self.rules.remove(name)?;
        self.rules_by_id.remove(&rule.id);
        if gone {
            self.slots.free(rule.id);
        }
        self.edit_rule(&rule, false, work);
        for group in &rule.applied {
            if let Some(group) = self.group_mut(*group) {
                group.rules.remove(&rule.id);
            }
        }
        work.released.extend(rule.applied.iter().chain(&rule.peers));
        Some(rule.id)
    }

    fn put_rule(
        &mut self,
        rule: &Rule,
        known: Option<RuleId>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let id = known.or_else(|| self.slots.take());
        let Some(id) = id.filter(|_| self.rules.len() < RULES_MAX) else {
            let reason = format!("there are {RULES_MAX} rules, the most there can be");
            return refuse(Kind::Rule, &rule.name, "name", reason);
        };
        let applied = self.refer(rule, "applied_to_groups", &rule.applied_to_groups)?;
        let peers = self.refer(rule, "peer_groups", &rule.peer_groups)?;
        let installed = Arc::new(InstalledRule { id, rule: rule.clone(), applied, peers });
        for group in &installed.applied {
            if let Some(group) = self.group_mut(*group) {
                group.rules.insert(id, ());
            }
        }
        self.edit_rule(&installed, true, work);
        self.rules_by_id.insert(id, installed.clone());
        self.rules.insert(rule.name.as_str().into(), installed);
        Ok(())
    }

    /// Whom a rule applies to, as things are, gains or loses it.
    fn edit_rule(&self, rule: &Arc<InstalledRule>, add: bool, work: &mut Work) {
        let groups = rule.applied.iter().filter_map(|group| self.groups.get(group));
        let endpoints: BTreeSet<&Arc<str>> =
            groups.flat_map(|group| group.endpoints.iter().map(|(name, ())| name)).collect();
        for name in endpoints {
            work.edit(SubjectKey::Endpoint(name.clone()), rule, add);
        }
        let services: BTreeSet<&str> =
            rule.rule.applied_to_services.iter().map(String::as_str).collect();
        for name in services {
            work.edit(SubjectKey::Service(name.into()), rule, add);
        }
    }

    /// Installs a group, or takes it away.
    fn define(&mut self, name: &str, next: Option<&Group>, work: &mut Work) -> Result<(), Refusal> {
        let id = match (self.group_ids.get(name), next) {
            (Some(id), _) => *id,
            (None, None) => return Ok(()),
            (None, Some(_)) => self.acquire(name, Kind::Group, name, "name")?,
        };
        let Some(known) = self.group_mut(id) else { return Ok(()) };
        known.defined = next.is_some();
        let fqdns: Arc<[String]> = next.map(|it| it.fqdns.as_slice().into()).unwrap_or_default();
        let old = std::mem::replace(&mut known.fqdns, fqdns.clone());
        let members = next.map(|group| group.members.as_slice()).unwrap_or_default();
        let gone = known.members.iter().map(|(member, ())| *member);
        let gone: Vec<IpNet> =
            gone.filter(|member| members.binary_search(member).is_err()).collect();
        let new = members.iter().copied().filter(|member| known.members.get(member).is_none());
        let new: Vec<IpNet> = new.collect();
        if old != fqdns {
            self.judge_by(id, work);
        }
        self.names.remove(&old, id);
        fqdns.iter().for_each(|fqdn| self.names.add(fqdn, id));
        if self.names.patterns() > FQDN_PATTERNS_MAX {
            let reason = format!("there are more than {FQDN_PATTERNS_MAX} with an asterisk");
            return refuse(Kind::Group, name, "fqdns", reason);
        }
        self.change(id, &gone, &new, work);
        self.check_members(name)?;
        if next.is_none() {
            // Nobody may refer to it any more.
            work.released.push(id);
            if let Some(known) = self.group_mut(id) {
                known.references += 1;
            }
        }
        Ok(())
    }

    /// Makes all changes of one group's members. What one adds and another removes is there
    /// afterwards, whatever their order.
    fn change_members<'a>(
        &mut self,
        name: &str,
        deltas: impl Iterator<Item = &'a GroupDelta>,
        work: &mut Work,
    ) -> Result<(), Refusal> {
        let refuse = |field, reason| refuse(Kind::Group, name, field, reason);
        let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
        for delta in deltas {
            for (field, members) in [("added", &delta.added), ("removed", &delta.removed)] {
                if let Some(member) = members.iter().find(|member| member.trunc() != **member) {
                    return refuse(field, format!("{member} has bits set behind its length"));
                }
            }
            added.extend(delta.added.iter().copied());
            removed.extend(delta.removed.iter().copied());
        }
        let id = self.group_ids.get(name).copied();
        let known = id.and_then(|id| self.groups.get(&id)).filter(|group| group.defined);
        let (Some(id), Some(known)) = (id, known) else {
            return refuse("name", "there is no such group".to_owned());
        };
        let is_member = |member: &IpNet| known.members.get(member).is_some();
        let gone: Vec<IpNet> =
            removed.difference(&added).copied().filter(|member| is_member(member)).collect();
        let new: Vec<IpNet> = added.into_iter().filter(|member| !is_member(member)).collect();
        self.change(id, &gone, &new, work);
        self.check_members(name)
    }

    fn check_members(&self, name: &str) -> Result<(), Refusal> {
        if self.members > MEMBERS_MAX {
            let reason = format!("all groups have more than {MEMBERS_MAX} members together");
            return refuse(Kind::Group, name, "members", reason);
        }
        Ok(())
    }

    /// Takes members from a group and gives it others, all of which it has, or has not.
    fn change(&mut self, id: GroupId, gone: &[IpNet], new: &[IpNet], work: &mut Work) {
        let Some(group) = self.group_mut(id) else { return };
        for member in gone {
            group.members.remove(member);
        }
        for member in new {
            group.members.insert(*member, ());
        }
        self.members = self.members + new.len() - gone.len();
        for member in gone {
            self.membership.remove(*member, id);
        }
        for member in new {
            self.membership.add(*member, id);
        }
        for member in gone.iter().chain(new) {
            if member.prefix_len() == member.max_prefix_len() {
                work.judged.addresses.push(member.addr());
                work.moved.extend(self.homes.get(&member.addr()).cloned());
            } else {
                let within =
                    |subject: &Subject| subject.addresses.iter().any(|it| member.contains(it));
                let endpoints = self.endpoints.iter().filter(|(_, subject)| within(subject));
                work.moved.extend(endpoints.map(|(name, _)| name.clone()));
            }
        }
        if gone.iter().chain(new).any(|member| member.prefix_len() < member.max_prefix_len()) {
            self.judge_by(id, work);
        }
    }

    /// Anybody may be in the group now, or no more: whoever has rules about it judges otherwise.
    fn judge_by(&self, id: GroupId, work: &mut Work) {
        let known = self.groups.get(&id);
        if known.is_none_or(|group| group.references == group.rules.len()) {
            // No rule's far end.
            return;
        }
        let endpoints = self.endpoints.iter().filter(|(_, subject)| subject.means(id));
        work.judged.addresses.extend(endpoints.flat_map(|(_, it)| it.addresses.iter().copied()));
        work.judged.all |= self.services.iter().any(|(_, subject)| subject.means(id));
    }

    /// An Endpoint comes, goes, or has other addresses.
    fn place(&mut self, name: &str, next: Option<&Endpoint>, work: &mut Work) {
        let addresses = next.map(|endpoint| endpoint.addresses.as_slice());
        if let Some(known) = self.endpoints.get(name).cloned() {
            if addresses == Some(&known.addresses) {
                return;
            }
            work.judged.addresses.extend(known.addresses.iter().copied());
            for address in known.addresses.iter() {
                // Another Endpoint may have it already.
                if self.homes.get(address).is_some_and(|home| home.as_ref() == name) {
                    self.homes.remove(address);
                }
            }
            if addresses.is_none() {
                for group in known.groups.iter() {
                    if let Some(group) = self.group_mut(*group) {
                        group.endpoints.remove(name);
                    }
                }
                self.entries -= known.entries();
                self.endpoints.remove(name);
                return;
            }
        }
        let Some(addresses) = addresses else { return };
        let name: Arc<str> = name.into();
        work.judged.addresses.extend(addresses);
        for address in addresses {
            self.homes.insert(*address, name.clone());
        }
        if let Some(known) = self.endpoints.get_mut(&name) {
            Arc::make_mut(known).addresses = addresses.into();
        } else {
            let subject = Subject::new(addresses.into(), self.seed);
            self.endpoints.insert(name.clone(), Arc::new(subject));
        }
        work.moved.insert(name);
    }

    /// Finds an Endpoint's groups anew, and which rules apply to it by them.
    fn regroup(&mut self, name: &Arc<str>, work: &mut Work) {
        let Some(subject) = self.endpoints.get(name) else { return };
        let old = subject.groups.clone();
        let mut new = BTreeSet::new();
        for address in subject.addresses.iter() {
            new.extend(self.membership.sets(*address).groups());
        }
        let new: Arc<[GroupId]> = new.into_iter().collect();
        let is_in = |groups: &[GroupId], group: &GroupId| groups.binary_search(group).is_ok();
        let lost: Vec<GroupId> = old.iter().copied().filter(|it| !is_in(&new, it)).collect();
        let gained: Vec<GroupId> = new.iter().copied().filter(|it| !is_in(&old, it)).collect();
        let mut rules = BTreeSet::new();
        for group in lost.iter().chain(&gained).filter_map(|group| self.groups.get(group)) {
            rules.extend(group.rules.iter().map(|(id, ())| *id));
        }
        for rule in rules.iter().filter_map(|id| self.rules_by_id.get(id)) {
            let applies = |groups| rule.applied.iter().any(|group| is_in(groups, group));
            match (applies(&old), applies(&new)) {
                (false, true) => work.edit(SubjectKey::Endpoint(name.clone()), rule, true),
                (true, false) => work.edit(SubjectKey::Endpoint(name.clone()), rule, false),
                _ => {}
            }
        }
        for group in &lost {
            if let Some(group) = self.group_mut(*group) {
                group.endpoints.remove(name);
            }
        }
        for group in &gained {
            if let Some(group) = self.group_mut(*group) {
                group.endpoints.insert(name.clone(), ());
            }
        }
        if let Some(subject) = self.endpoints.get_mut(name) {
            Arc::make_mut(subject).groups = new;
        }
    }

    /// Makes all edits, each subject's together.
    fn edit(&mut self, mut edits: Vec<Edit>, judged: &mut Touched) -> Result<(), Refusal> {
        let order = |edit: &Edit| (edit.subject.clone(), edit.key().0, edit.peer.clone());
        edits.sort_by_cached_key(order);
        for edits in edits.chunk_by(|one, other| one.subject == other.subject) {
            let Some(edit) = edits.first() else { continue };
            let subject = match &edit.subject {
                SubjectKey::Endpoint(name) => self.endpoints.get_mut(name),
                SubjectKey::Service(name) => {
                    if self.services.get(name).is_none() {
                        let subject = Subject::new(Arc::default(), self.seed);
                        self.services.insert(name.clone(), Arc::new(subject));
                    }
                    self.services.get_mut(name)
                }
            };
            // An Endpoint that is gone has taken its entries with it.
            let Some(subject) = subject else { continue };
            let subject = Arc::make_mut(subject);
            judged.addresses.extend(subject.addresses.iter().copied());
            judged.all |= matches!(edit.subject, SubjectKey::Service(_));
            let (before, after) = subject.edit(edits);
            let empty = subject.has_no_rules();
            self.entries = self.entries + after - before;
            if let (SubjectKey::Service(name), true) = (&edit.subject, empty) {
                self.services.remove(name);
            }
            if self.entries > RULE_ENTRIES_MAX {
                let reason = format!(
                    "rules, times whom they apply to, peers and traffic, are more than \
                     {RULE_ENTRIES_MAX}"
                );
                return refuse(Kind::Rule, &edit.rule.rule.name, "applied_to_groups", reason);
            }
        }
        Ok(())
    }
}

impl Work {
    fn edit(&mut self, subject: SubjectKey, rule: &Arc<InstalledRule>, add: bool) {
        self.edits.extend(rule.peer_keys().map(|peer| Edit {
            subject: subject.clone(),
            peer,
            rule: rule.clone(),
            add,
        }));
    }
}
