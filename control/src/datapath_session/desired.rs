//! What shall be in force: objects and ports, and what the datapath has refused of them.
//!
//! What is left out must not let anything pass that it denied. A rule that denies gives way to one
//! that denies all of whom it applies to; where whom it applies to is itself at fault, nothing is
//! left out, and what was in force stays.

use std::collections::BTreeMap;

use seine_datapath_api::v1;

use crate::compile::{Difference, ObjectKey, Objects, difference, identify, names};

/// All that the datapath shall have.
#[derive(Default)]
pub(super) struct Desired {
    objects: Objects,
    /// By name; how each is opened.
    pub(super) ports: BTreeMap<String, v1::OpenPortRequest>,
    /// By the name of their port; which sockets are lent on it.
    pub(super) loans: BTreeMap<String, v1::LendSocketsRequest>,
    /// Rises with every change that somebody makes.
    version: u64,
    /// What the datapath did not take: it is not sent again before it changes.
    refused: BTreeMap<ObjectKey, Refused>,
}

/// An object that the datapath did not take.
struct Refused {
    /// As it was.
    was: v1::Object,
    /// What is in force in its place.
    stand_in: Option<v1::Object>,
}

impl Desired {
    /// The same for as long as nobody changes an object.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn add(
        &mut self,
        endpoint: v1::Object,
        port: v1::OpenPortRequest,
        loan: Option<v1::LendSocketsRequest>,
    ) {
        self.version += 1;
        self.objects.insert(identify(&endpoint), endpoint);
        self.ports.insert(port.name.clone(), port);
        self.loans.extend(loan.map(|loan| (loan.name.clone(), loan)));
    }

    pub(super) fn apply(&mut self, difference: &mut Difference) {
        self.version += 1;
        difference.apply(&mut self.objects);
    }

    /// Replaces all objects of some kinds. Returns what that changes.
    pub(super) fn replace(
        &mut self,
        kinds: &[v1::object_id::Kind],
        objects: Vec<v1::Object>,
    ) -> Difference {
        let mut wanted: Objects =
            objects.into_iter().map(|object| (identify(&object), object)).collect();
        let known = self.refused.len();
        self.refused.retain(|key, refused| {
            !kinds.contains(&key.0) || wanted.get(key).is_some_and(|wanted| *wanted == refused.was)
        });
        if self.refused.len() < known {
            // What depends on what has changed may be good now.
            self.refused.clear();
        }
        wanted.retain(|key, object| match self.refused.get(key) {
            None => true,
            Some(Refused { stand_in: None, .. }) => false,
            Some(Refused { stand_in: Some(stand_in), .. }) => {
                *object = stand_in.clone();
                true
            }
        });
        let (before, others) = std::mem::take(&mut self.objects)
            .into_iter()
            .partition(|(key, _)| kinds.contains(&key.0));
        let difference = difference(&before, &wanted);
        self.version += u64::from(!difference.is_empty());
        self.objects = others;
        self.objects.extend(wanted);
        difference
    }

    /// Takes an object out that the datapath does not take, with the rules that a group's absence
    /// would change. Returns how many those are; `None` where it cannot be left out.
    pub(super) fn refuse(&mut self, key: &ObjectKey, difference: &mut Difference) -> Option<usize> {
        let mut gone = vec![(key.clone(), self.objects.get(key)?.clone())];
        // A Service that is not there sends nobody anywhere, so rules that name it may stay.
        if key.0 == v1::object_id::Kind::Group {
            let naming = self.objects.iter().filter(|(_, object)| names(object, key));
            gone.extend(naming.map(|(key, object)| (key.clone(), object.clone())));
        }
        let stand_ins: Option<Vec<Option<v1::Object>>> =
            gone.iter().map(|(_, object)| stand_in(object, key)).collect();
        let rules = gone.len() - 1;
        for ((key, was), stand_in) in gone.into_iter().zip(stand_ins?) {
            match &stand_in {
                None => {
                    self.objects.remove(&key);
                    difference.delete(key.clone());
                }
                Some(object) => {
                    self.objects.insert(key.clone(), object.clone());
                    difference.put(object.clone());
                }
            }
            // Of a stand-in that is refused as well, what was meant counts.
            let was = self.refused.remove(&key).map_or(was, |refused| refused.was);
            self.refused.insert(key, Refused { was, stand_in });
        }
        Some(rules)
    }
}

/// What takes the place of an object that is left out because `refused` is: for a rule that denies,
/// or keeps others from allowing, one that denies everything to whom it applies. `None` where that
/// cannot be told.
fn stand_in(object: &v1::Object, refused: &ObjectKey) -> Option<Option<v1::Object>> {
    let Some(v1::object::Kind::Rule(rule)) = &object.kind else { return Some(None) };
    let action = match rule.action() {
        v1::rule::Action::Allow | v1::rule::Action::Unspecified => return Some(None),
        v1::rule::Action::Isolate => v1::rule::Action::Isolate,
        v1::rule::Action::Drop | v1::rule::Action::Reject | v1::rule::Action::Pass => {
            v1::rule::Action::Drop
        }
    };
    let is_group = refused.0 == v1::object_id::Kind::Group;
    let whole = v1::Rule {
        action: action.into(),
        peer_groups: Vec::new(),
        peer_services: Vec::new(),
        traffic: Vec::new(),
        ..rule.clone()
    };
    if whole == *rule || is_group && rule.applied_to_groups.contains(&refused.1) {
        return None;
    }
    Some(Some(v1::Object { kind: Some(v1::object::Kind::Rule(whole)) }))
}

#[cfg(test)]
mod tests {
    use seine_datapath_api::v1::object_id::Kind;

    use super::*;

    fn group(members: &[&str]) -> v1::Object {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        let group = v1::Group { name: "g".to_owned(), members, fqdns: Vec::new() };
        v1::Object { kind: Some(v1::object::Kind::Group(group)) }
    }

    fn rule(name: &str, peer_groups: &[&str]) -> v1::Object {
        let peer_groups = peer_groups.iter().map(|group| (*group).to_owned()).collect();
        let rule = v1::Rule { name: name.to_owned(), peer_groups, ..v1::Rule::default() };
        v1::Object { kind: Some(v1::object::Kind::Rule(rule)) }
    }

    #[test]
    fn what_is_refused_is_not_tried_again_before_it_changes_and_nor_is_what_names_it() {
        let kinds = [Kind::Group, Kind::Rule];
        let all = |members: &[&str]| vec![group(members), rule("names", &["g"]), rule("not", &[])];
        let mut desired = Desired::default();
        let mut difference = desired.replace(&kinds, all(&["bad"]));
        assert_eq!(difference.len(), 3);
        let key = (Kind::Group, "g".to_owned());
        assert_eq!(desired.refuse(&key, &mut difference), Some(1));
        assert_eq!(desired.refuse(&key, &mut difference), None);
        let changes = difference.into_changes();
        assert_eq!(changes.upserts, [rule("not", &[])]);
        assert_eq!(changes.deletes.len(), 2);
        assert!(desired.replace(&kinds, all(&["bad"])).is_empty());
        assert_eq!(desired.objects().len(), 1);
        let changes = desired.replace(&kinds, all(&["good"])).into_changes();
        assert_eq!(changes.upserts, [group(&["good"]), rule("names", &["g"])]);
    }

    fn denying(peer_groups: &[&str]) -> v1::Object {
        let Some(v1::object::Kind::Rule(rule)) = rule("deny", peer_groups).kind else { panic!() };
        let applied_to_groups = vec!["to".to_owned()];
        let rule = v1::Rule { action: v1::rule::Action::Drop.into(), applied_to_groups, ..rule };
        v1::Object { kind: Some(v1::object::Kind::Rule(rule)) }
    }

    #[test]
    fn a_rule_that_denies_gives_way_to_one_that_denies_everything() {
        let kinds = [Kind::Group, Kind::Rule];
        let all = || vec![group(&["bad"]), denying(&["g"])];
        for refused in [(Kind::Group, "g".to_owned()), (Kind::Rule, "deny".to_owned())] {
            let mut desired = Desired::default();
            let mut difference = desired.replace(&kinds, all());
            assert!(desired.refuse(&refused, &mut difference).is_some());
            assert!(difference.into_changes().upserts.contains(&denying(&[])));
            // It stays when the same is desired again.
            assert!(desired.replace(&kinds, all()).is_empty());
            assert!(desired.objects().values().any(|object| *object == denying(&[])));
        }
    }

    #[test]
    fn a_group_or_rule_without_which_it_is_unknown_who_is_denied_is_not_left_out() {
        let mut desired = Desired::default();
        let mut difference = desired.replace(&[Kind::Rule], vec![denying(&[])]);
        let rule = (Kind::Rule, "deny".to_owned());
        assert_eq!(desired.refuse(&rule, &mut difference), None);
        let to = v1::Group { name: "to".to_owned(), ..v1::Group::default() };
        let to = v1::Object { kind: Some(v1::object::Kind::Group(to)) };
        difference = desired.replace(&[Kind::Group], vec![to]);
        assert_eq!(desired.refuse(&(Kind::Group, "to".to_owned()), &mut difference), None);
        assert_eq!(desired.objects().len(), 2);
    }

    #[test]
    fn objects_of_other_kinds_stay() {
        let mut desired = Desired::default();
        assert_eq!(desired.replace(&[Kind::Rule], vec![rule("r", &[])]).len(), 1);
        assert!(desired.replace(&[Kind::Group], Vec::new()).is_empty());
        assert_eq!(desired.objects().len(), 1);
        assert_eq!(desired.replace(&[Kind::Rule], Vec::new()).into_changes().deletes.len(), 1);
    }
}
