//! What shall be in force: objects and ports, and what the datapath has refused of them.

use std::collections::BTreeSet;

use seine_datapath_api::v1;

use crate::compile::{Difference, ObjectKey, Objects, difference, identify, names};

/// All that the datapath shall have.
#[derive(Default)]
pub(super) struct Desired {
    objects: Objects,
    pub(super) ports: BTreeSet<String>,
    /// Rises with every change that somebody makes.
    version: u64,
    /// What the datapath did not take, as it was: it is not sent again before it changes.
    refused: Objects,
}

impl Desired {
    /// The same for as long as nobody changes an object.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn add(&mut self, endpoint: v1::Object, port: &str) {
        self.version += 1;
        self.objects.insert(identify(&endpoint), endpoint);
        self.ports.insert(port.into());
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
        self.refused.retain(|key, object| {
            !kinds.contains(&key.0) || wanted.get(key).is_some_and(|wanted| wanted == object)
        });
        if self.refused.len() < known {
            // What depends on what has changed may be good now.
            self.refused.clear();
        }
        wanted.retain(|key, _| !self.refused.contains_key(key));
        let (before, others) = std::mem::take(&mut self.objects)
            .into_iter()
            .partition(|(key, _)| kinds.contains(&key.0));
        let difference = difference(&before, &wanted);
        self.version += u64::from(!difference.is_empty());
        self.objects = others;
        self.objects.extend(wanted);
        difference
    }

    /// Takes an object out that the datapath does not take, and the rules that name it. Returns
    /// how many those are; `None` where there is no such object.
    pub(super) fn refuse(&mut self, key: &ObjectKey, difference: &mut Difference) -> Option<usize> {
        if !self.objects.contains_key(key) {
            return None;
        }
        let naming = self.objects.iter().filter(|(_, object)| names(object, key));
        let naming: Vec<ObjectKey> = naming.map(|(key, _)| key.clone()).collect();
        for gone in naming.iter().chain([key]) {
            if let Some(object) = self.objects.remove(gone) {
                self.refused.insert(gone.clone(), object);
            }
            difference.delete(gone.clone());
        }
        Some(naming.len())
    }
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

    #[test]
    fn objects_of_other_kinds_stay() {
        let mut desired = Desired::default();
        assert_eq!(desired.replace(&[Kind::Rule], vec![rule("r", &[])]).len(), 1);
        assert!(desired.replace(&[Kind::Group], Vec::new()).is_empty());
        assert_eq!(desired.objects().len(), 1);
        assert_eq!(desired.replace(&[Kind::Rule], Vec::new()).into_changes().deletes.len(), 1);
    }
}
