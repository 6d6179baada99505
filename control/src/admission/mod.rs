//! Admission: whether an object may be created, changed or deleted, as Antrea's controller answers
//! it in its webhook.
//!
//! Pure. Everything that counts comes in a [`Review`], and the [`Verdict`] says why not, in the
//! words that Antrea's users know. What the schema of a CRD checks before any webhook is asked
//! (ranges of priorities, known fields) is not repeated here; [`crate::watch::object`] does that
//! for manifests, and asks the same questions of every object that it reads.

mod existing;
mod group;
mod policy;
mod tier;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use existing::Existing;
pub(crate) use group::{Kind as GroupKind, validate as validate_group};

use crate::watch::api::{Resource, antrea};
use crate::watch::object::Wrong;

/// A request, as the API server puts it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Review {
    /// What is about to happen.
    pub operation: Operation,
    /// What it is to become; null when something is deleted.
    pub object: Value,
    /// What it was; null when something is created.
    pub old_object: Value,
    /// The other objects of the cluster. Antrea's own tiers are there without being listed.
    pub existing: Vec<Value>,
    /// Which features are on, where that is not the default.
    pub feature_gates: BTreeMap<String, bool>,
    /// Who asks.
    pub user: String,
}

/// What is about to happen to an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is new.
    #[default]
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
}

/// The answer to a [`Review`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may happen.
    pub allowed: bool,
    /// Where it is wrong, "spec.ingress[0].ports[1].endPort"; empty if it is not.
    pub field: String,
    /// Why it may not happen; empty if it may.
    pub reason: String,
    /// What the user should know even so.
    pub warnings: Vec<String>,
}

impl Verdict {
    fn of(outcome: Result<Vec<String>, Wrong>) -> Self {
        match outcome {
            Ok(warnings) => {
                let (field, reason) = (String::new(), String::new());
                Self { allowed: true, field, reason, warnings }
            }
            Err(Wrong { field, reason }) => {
                Self { allowed: false, field, reason, warnings: Vec::new() }
            }
        }
    }
}

/// Features that decide what is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    l7_network_policy: bool,
    cluster_network_policy: bool,
}

impl Default for Features {
    /// What this version can do: upstream's ClusterNetworkPolicy, but nothing above layer 4.
    fn default() -> Self {
        Self { l7_network_policy: false, cluster_network_policy: true }
    }
}

impl Features {
    fn of(gates: &BTreeMap<String, bool>) -> Self {
        let default = Self::default();
        let gate = |name: &str, or: bool| gates.get(name).copied().unwrap_or(or);
        Self {
            l7_network_policy: gate("L7NetworkPolicy", default.l7_network_policy),
            cluster_network_policy: gate("ClusterNetworkPolicy", default.cluster_network_policy),
        }
    }
}

/// Answers a request. Kinds that nobody has questions about may come and go.
pub fn review(review: &Review) -> Verdict {
    Verdict::of(answer(review))
}

fn answer(review: &Review) -> Result<Vec<String>, Wrong> {
    let subject = if review.object.is_null() { &review.old_object } else { &review.object };
    let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let features = Features::of(&review.feature_gates);
    let existing = Existing::of(&review.existing);
    match (version, kind, review.operation) {
        ("crd.antrea.io/v1beta1", "Tier", Operation::Create) => {
            tier::create(&read(&review.object)?, &existing, features)?;
        }
        ("crd.antrea.io/v1beta1", "Tier", Operation::Update) => {
            tier::update(&read(&review.object)?, &read(&review.old_object)?, &review.user)?;
        }
        ("crd.antrea.io/v1beta1", "Tier", Operation::Delete) => {
            tier::delete(&read(&review.old_object)?, &existing)?;
        }
        (_, _, Operation::Delete) => {}
        ("crd.antrea.io/v1beta1", "ClusterGroup" | "Group", _) => {
            let candidate: Resource<antrea::GroupSpec> = read(&review.object)?;
            let kind = if kind == "Group" { group::Kind::Group } else { group::Kind::ClusterGroup };
            group::validate(&candidate.spec, kind).map_err(|wrong| wrong.within("spec"))?;
            let name = existing::group_name(&candidate, kind);
            let children = existing::children(&candidate, kind);
            existing.check_nesting(&name, &children)?;
        }
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy" | "NetworkPolicy", _) => {
            let candidate: Resource<antrea::PolicySpec> = read(&review.object)?;
            existing.check_tier_exists(&candidate.spec.tier)?;
            return policy::validate(&candidate.spec, features)
                .map_err(|wrong| wrong.within("spec"));
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", operation) => {
            tier::cluster_network_policy(operation == Operation::Create, &existing, features)?;
        }
        _ => {}
    }
    Ok(Vec::new())
}

/// Whether a policy can be, whatever else there is; asked of every policy that is read.
pub(crate) fn validate_policy(spec: &antrea::PolicySpec) -> Result<(), Wrong> {
    policy::validate(spec, Features::default()).map(|_| ())
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Wrong::new(error.path().to_string(), error.inner().to_string()))
}

#[cfg(test)]
mod tests;
