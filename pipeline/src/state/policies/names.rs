//! Names of groups, and the numbers that stand for them while somebody uses them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Policies;
use super::group::{GroupId, KnownGroup};
use crate::limits::GROUPS_MAX;
use crate::state::check::refuse;
use crate::state::{Kind, Refusal, Rule};

impl Policies {
    /// The groups that a rule names, each once and in order, with a reference to each.
    pub(super) fn refer(
        &mut self,
        rule: &Rule,
        field: &'static str,
        names: &[String],
    ) -> Result<Box<[GroupId]>, Refusal> {
        let mut groups = BTreeSet::new();
        for name in names {
            let known = self.group_ids.get(name.as_str()).copied();
            groups.insert(match known {
                Some(id) => id,
                None => self.acquire(name, Kind::Rule, &rule.name, field)?,
            });
        }
        for group in &groups {
            if let Some(group) = self.group_mut(*group) {
                group.references += 1;
            }
        }
        Ok(groups.into_iter().collect())
    }

    /// A number for a name that has none.
    pub(super) fn acquire(
        &mut self,
        name: &str,
        kind: Kind,
        object: &str,
        field: &'static str,
    ) -> Result<GroupId, Refusal> {
        if self.groups.len() >= GROUPS_MAX {
            let reason = format!("there are {GROUPS_MAX} groups, the most there can be");
            return refuse(kind, object, field, reason);
        }
        while self.groups.get(&GroupId(self.next_group)).is_some() {
            self.next_group = self.next_group.wrapping_add(1);
        }
        let id = GroupId(self.next_group);
        self.next_group = self.next_group.wrapping_add(1);
        let name: Arc<str> = name.into();
        self.groups.insert(id, Arc::new(KnownGroup::new(name.clone(), self.seed)));
        self.group_ids.insert(name, id);
        Ok(id)
    }

    /// Takes a reference back; a name that means nothing any more is forgotten.
    pub(super) fn release(&mut self, id: GroupId) {
        let Some(group) = self.group_mut(id) else { return };
        group.references -= 1;
        if group.references == 0 && !group.defined {
            let name = group.name.clone();
            self.group_ids.remove(&name);
            self.groups.remove(&id);
        }
    }

    pub(super) fn group_mut(&mut self, id: GroupId) -> Option<&mut KnownGroup> {
        self.groups.get_mut(&id).map(Arc::make_mut)
    }
}
