//! All files together become one cluster, past admission.
//!
//! A folder has no order of creation, so tiers and groups are looked at before the policies that
//! name them. An object that does not go with the others is left as it was: not there, if it never
//! was; and a tier that is gone stays for as long as policies stand in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::parse::ManifestError;
use super::{Object, Source};
use crate::admission::Existing;
use crate::model::{Cluster, ObjectKey, STATIC_TIERS, Tier, TierOf};
use crate::watch::object::Wrong;

/// See [`rank`].
const RANK_OF_POLICIES: u8 = 2;

/// The cluster that the files describe, and why some objects are not in it as they are written.
pub(super) fn assemble(
    sources: &BTreeMap<PathBuf, Source>,
    before: &Cluster,
) -> (Cluster, Vec<ManifestError>) {
    let mut objects: Vec<(&Path, &Object)> = Vec::new();
    let mut names: BTreeSet<ObjectKey> = BTreeSet::new();
    for (path, source) in sources {
        for object in &source.objects {
            if names.insert(object.key()) {
                objects.push((path, object));
            } else {
                let name = object.key().to_string();
                warn!(file = %path.display(), name, "defined twice; the first one counts");
            }
        }
    }
    let kept = left_as_they_were(sources, before, &mut names);
    objects.extend(kept.iter().map(|(path, object)| (*path, object)));
    objects.sort_by_key(|(_, object)| rank(object));
    let mut assembly = Assembly::default();
    let first_policy = objects.partition_point(|(_, object)| rank(object) < RANK_OF_POLICIES);
    let (first, then) = objects.split_at(first_policy);
    for (path, object) in first {
        assembly.take(path, object, before);
    }
    assembly.keep_tiers(then, before);
    for (path, object) in then {
        assembly.take(path, object, before);
    }
    (assembly.cluster, assembly.errors)
}

/// The last good versions of the objects that are wrong as they are written now.
fn left_as_they_were<'a>(
    sources: &'a BTreeMap<PathBuf, Source>,
    before: &Cluster,
    names: &mut BTreeSet<ObjectKey>,
) -> Vec<(&'a Path, Object)> {
    let mut kept = Vec::new();
    for (path, source) in sources {
        let unnamed = source.refused.iter().filter(|key| names.insert((*key).clone()));
        kept.extend(unnamed.filter_map(|key| Some((path.as_path(), before.get(key)?))));
    }
    kept
}

/// Those that others name come first; within a rank the order of the files stays.
fn rank(object: &Object) -> u8 {
    match object {
        Object::Tier(_) => 0,
        Object::Group(_) => 1,
        Object::Policy(_) => RANK_OF_POLICIES,
        _ => 3,
    }
}

#[derive(Default)]
struct Assembly {
    cluster: Cluster,
    existing: Existing,
    errors: Vec<ManifestError>,
}

impl Assembly {
    fn take(&mut self, path: &Path, object: &Object, before: &Cluster) {
        match self.existing.admit(object) {
            Ok(()) => {
                self.cluster.insert(object.clone());
            }
            Err(wrong) => {
                let key = object.key();
                self.refuse(path, &key, wrong);
                if let Some(old) = before.get(&key).filter(|old| self.existing.admit(old).is_ok()) {
                    self.cluster.insert(old);
                }
            }
        }
    }

    /// Keeps the tiers that are gone, but that policies stood in and still do.
    fn keep_tiers(&mut self, policies: &[(&Path, &Object)], before: &Cluster) {
        for (path, object) in policies {
            let Object::Policy(policy) = object else { continue };
            let TierOf::Named(name) = &policy.tier else { continue };
            let is_there = self.cluster.tiers.contains_key(name)
                || STATIC_TIERS.iter().any(|(known, _)| known == name);
            let Some(priority) = before.tiers.get(name).filter(|_| !is_there) else { continue };
            let tier = Object::Tier(Tier { name: name.clone(), priority: *priority });
            let reason = format!("is gone, but {} stands in it, so it stays", object.key());
            self.refuse(path, &tier.key(), Wrong::new(".", reason));
            if self.existing.admit(&tier).is_ok() {
                self.cluster.insert(tier);
            }
        }
    }

    fn refuse(&mut self, path: &Path, object: &ObjectKey, wrong: Wrong) {
        self.errors.push(ManifestError::Object {
            file: path.to_owned(),
            object: object.to_string(),
            field: wrong.field,
            reason: wrong.reason,
        });
    }
}
