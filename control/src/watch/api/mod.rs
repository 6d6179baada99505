//! The kinds that Kubernetes itself does not have, as their APIs write them.
//!
//! A field that these do not know is found by [`super::object::parse`], which refuses a policy
//! with one: a rule that loses a condition would match more than was meant.

pub(crate) mod admin;
pub(crate) mod antrea;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// What all custom resources have in common.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resource<S> {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: S,
    /// Written by controllers; read by nobody here.
    #[allow(dead_code, reason = "named so that it is not taken for an unknown field")]
    status: serde_json::Value,
}

impl<S> Resource<S> {
    /// Its name; empty where it has none.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace as written; empty where it has none.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}
