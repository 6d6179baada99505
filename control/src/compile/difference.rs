//! What has to change so that one set of objects becomes another.
//!
//! A group that stays and only gains or loses members is told by those members alone: of ten
//! thousand addresses one comes or goes at a time. Differences can be put behind one another, so
//! that changes which wait for the same transaction travel as one.

use std::collections::{BTreeMap, BTreeSet};

use seine_datapath_api::v1;

/// Names an object.
pub type ObjectKey = (v1::object_id::Kind, String);

/// Objects by kind and name.
pub type Objects = BTreeMap<ObjectKey, v1::Object>;

/// What becomes of objects. Those that it does not name stay as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Difference {
    steps: BTreeMap<ObjectKey, Step>,
}

/// What becomes of one object.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly every step is the largest one")]
enum Step {
    /// It is this from now on.
    Put(v1::Object),
    /// It goes.
    Delete,
    /// Of a group: some members come, others go.
    Members { added: BTreeSet<String>, removed: BTreeSet<String> },
}

/// A difference as the datapath is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Objects to put in the place of those of their name.
    pub upserts: Vec<v1::Object>,
    /// Objects to delete.
    pub deletes: Vec<ObjectKey>,
    /// Groups of which only members change.
    pub group_deltas: Vec<v1::GroupDelta>,
}

/// The kind and name of an object.
pub fn identify(object: &v1::Object) -> ObjectKey {
    use v1::object_id::Kind;
    match &object.kind {
        Some(v1::object::Kind::Node(node)) => (Kind::Node, node.name.clone()),
        Some(v1::object::Kind::Peer(peer)) => (Kind::Peer, peer.name.clone()),
        Some(v1::object::Kind::Endpoint(endpoint)) => (Kind::Endpoint, endpoint.name.clone()),
        Some(v1::object::Kind::Group(group)) => (Kind::Group, group.name.clone()),
        Some(v1::object::Kind::Rule(rule)) => (Kind::Rule, rule.name.clone()),
        Some(v1::object::Kind::Service(service)) => (Kind::Service, service.name.clone()),
        None => (Kind::Unspecified, String::new()),
    }
}

/// Whether an object is a rule that names a certain group or Service.
pub fn names(object: &v1::Object, key: &ObjectKey) -> bool {
    use v1::object_id::Kind;
    let Some(v1::object::Kind::Rule(rule)) = &object.kind else {
        return false;
    };
    let names = match key.0 {
        Kind::Group => rule.applied_to_groups.iter().chain(&rule.peer_groups),
        Kind::Service => rule.applied_to_services.iter().chain(&rule.peer_services),
        _ => return false,
    };
    names.into_iter().any(|name| *name == key.1)
}

/// What makes `new` of `old`. Members of groups are sorted in both.
pub fn difference(old: &Objects, new: &Objects) -> Difference {
    let mut steps = BTreeMap::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        steps.insert(key.clone(), Step::Delete);
    }
    for (key, object) in new {
        match old.get(key) {
            Some(before) if before == object => {}
            Some(before) => {
                let step = members(before, object).unwrap_or_else(|| Step::Put(object.clone()));
                steps.insert(key.clone(), step);
            }
            None => {
                steps.insert(key.clone(), Step::Put(object.clone()));
            }
        }
    }
    Difference { steps }
}

/// The step from one version of a group to the next; `None` where sending it whole is as good.
fn members(before: &v1::Object, after: &v1::Object) -> Option<Step> {
    let (Some(v1::object::Kind::Group(before)), Some(v1::object::Kind::Group(after))) =
        (&before.kind, &after.kind)
    else {
        return None;
    };
    if before.fqdns != after.fqdns {
        return None;
    }
    let lacks = |group: &v1::Group, member: &String| group.members.binary_search(member).is_err();
    let added: BTreeSet<String> =
        after.members.iter().filter(|member| lacks(before, member)).cloned().collect();
    let removed: BTreeSet<String> =
        before.members.iter().filter(|member| lacks(after, member)).cloned().collect();
    (added.len() + removed.len() < after.members.len()).then_some(Step::Members { added, removed })
}

impl Difference {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether everything stays as it is.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many objects change.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Also puts an object in the place of what has its name.
    pub fn put(&mut self, object: v1::Object) {
        self.steps.insert(identify(&object), Step::Put(object));
    }

    /// Also deletes an object.
    pub fn delete(&mut self, key: ObjectKey) {
        self.steps.insert(key, Step::Delete);
    }

    /// Also lets a group gain and lose members.
    pub fn change_members(
        &mut self,
        group: &str,
        added: impl IntoIterator<Item = String>,
        removed: impl IntoIterator<Item = String>,
    ) {
        let step = Step::Members {
            added: added.into_iter().collect(),
            removed: removed.into_iter().collect(),
        };
        let key = (v1::object_id::Kind::Group, group.to_owned());
        merge(&mut self.steps, key, step);
    }

    /// This difference, and behind it another one.
    #[must_use]
    pub fn then(mut self, later: Difference) -> Difference {
        for (key, step) in later.steps {
            merge(&mut self.steps, key, step);
        }
        self
    }

    /// Changes objects accordingly. Members of groups that are not there are left out, here and in
    /// what remains of the difference.
    pub fn apply(&mut self, objects: &mut Objects) {
        self.steps.retain(|key, step| match step {
            Step::Put(object) => {
                objects.insert(key.clone(), object.clone());
                true
            }
            Step::Delete => {
                objects.remove(key);
                true
            }
            Step::Members { added, removed } => match objects.get_mut(key) {
                Some(v1::Object { kind: Some(v1::object::Kind::Group(group)) }) => {
                    change_members(group, added, removed);
                    true
                }
                _ => false,
            },
        });
    }

    /// As the datapath is told.
    pub fn into_changes(self) -> Changes {
        let mut changes = Changes::default();
        for (key, step) in self.steps {
            match step {
                Step::Put(object) => changes.upserts.push(object),
                Step::Delete => changes.deletes.push(key),
                Step::Members { added, removed } => changes.group_deltas.push(v1::GroupDelta {
                    name: key.1,
                    added: added.into_iter().collect(),
                    removed: removed.into_iter().collect(),
                }),
            }
        }
        changes
    }
}

/// Puts one step behind what is there already for the same object.
fn merge(steps: &mut BTreeMap<ObjectKey, Step>, key: ObjectKey, later: Step) {
    let Step::Members { added: later_added, removed: later_removed } = &later else {
        steps.insert(key, later);
        return;
    };
    match steps.get_mut(&key) {
        None => {
            steps.insert(key, later);
        }
        Some(Step::Put(v1::Object { kind: Some(v1::object::Kind::Group(group)) })) => {
            change_members(group, later_added, later_removed);
        }
        // Nothing is left whose members could change.
        Some(Step::Put(_) | Step::Delete) => {}
        Some(Step::Members { added, removed }) => {
            added.retain(|member| !later_removed.contains(member));
            removed.retain(|member| !later_added.contains(member));
            added.extend(later_added.iter().cloned());
            removed.extend(later_removed.iter().filter(|m| !later_added.contains(*m)).cloned());
        }
    }
}

/// Members stay sorted. One that is both added and removed is there afterwards.
fn change_members(group: &mut v1::Group, added: &BTreeSet<String>, removed: &BTreeSet<String>) {
    for member in removed.iter().filter(|member| !added.contains(*member)) {
        if let Ok(place) = group.members.binary_search(member) {
            group.members.remove(place);
        }
    }
    for member in added {
        if let Err(place) = group.members.binary_search(member) {
            group.members.insert(place, member.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(name: &str, members: &[&str]) -> v1::Object {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        let group = v1::Group { name: name.to_owned(), members, fqdns: Vec::new() };
        v1::Object { kind: Some(v1::object::Kind::Group(group)) }
    }

    fn objects(list: impl IntoIterator<Item = v1::Object>) -> Objects {
        list.into_iter().map(|object| (identify(&object), object)).collect()
    }

    fn applied(mut difference: Difference, to: &Objects) -> Objects {
        let mut objects = to.clone();
        difference.apply(&mut objects);
        objects
    }

    #[test]
    fn a_group_that_gains_one_address_is_told_by_that_address() {
        let old = objects([group("g", &["10.0.0.1", "10.0.0.2"])]);
        let new = objects([group("g", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);
        let changes = difference(&old, &new).into_changes();
        assert!(changes.upserts.is_empty() && changes.deletes.is_empty());
        assert_eq!(changes.group_deltas[0].added, ["10.0.0.3"]);
        assert!(changes.group_deltas[0].removed.is_empty());
    }

    #[test]
    fn members_of_a_group_that_is_not_there_are_left_out() {
        let mut difference = Difference::new();
        difference.change_members("gone", ["10.0.0.1".to_owned()], []);
        let mut objects = Objects::new();
        difference.apply(&mut objects);
        assert!(objects.is_empty() && difference.is_empty());
    }

    fn rule(name: &str, rank: u64) -> v1::Object {
        let rule = v1::Rule { name: name.to_owned(), rank, ..v1::Rule::default() };
        v1::Object { kind: Some(v1::object::Kind::Rule(rule)) }
    }

    fn some_objects() -> impl Strategy<Value = Objects> {
        let members = proptest::collection::btree_set("[a-h]", 0..8);
        let groups = proptest::collection::btree_map("[gh]", members, 0..3);
        let rules = proptest::collection::btree_map("[rs]", 0u64..3, 0..3);
        (groups, rules).prop_map(|(groups, rules)| {
            let groups = groups.iter().map(|(name, members)| {
                group(name, &members.iter().map(String::as_str).collect::<Vec<_>>())
            });
            objects(groups.chain(rules.iter().map(|(name, rank)| rule(name, *rank))))
        })
    }

    proptest! {
        #[test]
        fn the_difference_makes_the_new_of_the_old(old in some_objects(), new in some_objects()) {
            prop_assert_eq!(applied(difference(&old, &new), &old), new.clone());
            prop_assert!(difference(&new, &new).is_empty());
        }

        #[test]
        fn differences_that_travel_together_come_to_the_same(
            first in some_objects(), second in some_objects(), third in some_objects(),
        ) {
            let both = difference(&first, &second).then(difference(&second, &third));
            prop_assert_eq!(applied(both, &first), third);
        }
    }
}
