//! One Kubernetes or Antrea object, as JSON, becomes objects of the model.
//!
//! This is the only way in: manifests, cases and, later, an API server go through [`parse`]. What
//! Kubernetes would default is defaulted here, and what it would refuse is refused, with the field
//! and the reason. A policy with a field that nobody here knows is refused too: to overlook a
//! condition is to let more through than was meant. Other objects may hold what they like.

mod admin;
mod antrea;
mod cluster;
mod group;
mod network_policy;
mod selector;
mod service;
mod traffic;

pub(crate) use selector::{check_key, check_value};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission::GroupKind;
use crate::model::{Object, PolicyKind};

/// A field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {reason}")]
pub struct Wrong {
    /// "spec.podCIDRs[0]"; "." for the object as a whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl Wrong {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same, of a field of `parent`.
    pub(crate) fn within(self, parent: &str) -> Self {
        let field = match self.field.as_str() {
            "." => parent.to_owned(),
            field if field.starts_with('[') => format!("{parent}{field}"),
            field => format!("{parent}.{field}"),
        };
        Self { field, ..self }
    }
}

/// What was made of an object, or of a list of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// In the order they were written in.
    pub objects: Vec<Object>,
    /// Those that this version makes nothing of, as `apiVersion/kind`.
    pub ignored: Vec<String>,
}

/// Makes objects of the model from one object as Kubernetes' API writes it, or from a `List`.
///
/// An empty document is no object. An error leaves nothing of a list behind.
pub fn parse(value: Value) -> Result<Parsed, Wrong> {
    let mut parsed = Parsed::default();
    if !value.is_null() {
        take(value, &mut parsed)?;
    }
    Ok(parsed)
}

fn take(value: Value, parsed: &mut Parsed) -> Result<(), Wrong> {
    let text =
        |field: &str| {
            value.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
                Wrong::new(field, "is missing; an object has an apiVersion and a kind")
            })
        };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let object = match (version.as_str(), kind.as_str()) {
        ("v1", "List") => return take_list(value, parsed),
        ("v1", "Node") => Object::Node(cluster::node(lenient(value)?)?),
        ("v1", "Namespace") => Object::Namespace(cluster::namespace(lenient(value)?)?),
        ("v1", "Pod") => Object::Pod(cluster::pod(lenient(value)?)?),
        ("v1", "Service") => Object::Service(service::service(lenient(value)?)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            match service::endpoint_slice(lenient(value)?)? {
                Some(slice) => Object::EndpointSlice(slice),
                None => {
                    parsed.ignored.push(format!("{version}/{kind} of no Service or of names"));
                    return Ok(());
                }
            }
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            Object::Policy(network_policy::policy(strict(value)?)?)
        }
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy") => {
            Object::Policy(antrea::policy(strict(value)?, PolicyKind::AntreaClusterNetworkPolicy)?)
        }
        ("crd.antrea.io/v1beta1", "NetworkPolicy") => {
            Object::Policy(antrea::policy(strict(value)?, PolicyKind::AntreaNetworkPolicy)?)
        }
        ("crd.antrea.io/v1beta1", "Tier") => Object::Tier(group::tier(strict(value)?)?),
        ("crd.antrea.io/v1beta1", "ClusterGroup") => {
            Object::Group(group::group(strict(value)?, GroupKind::ClusterGroup)?)
        }
        ("crd.antrea.io/v1beta1", "Group") => {
            Object::Group(group::group(strict(value)?, GroupKind::Group)?)
        }
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => {
            Object::Policy(admin::policy(strict(value)?, PolicyKind::AdminNetworkPolicy)?)
        }
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Object::Policy(admin::policy(strict(value)?, PolicyKind::BaselineAdminNetworkPolicy)?)
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            Object::Policy(admin::policy(strict(value)?, PolicyKind::ClusterNetworkPolicy)?)
        }
        _ => {
            parsed.ignored.push(format!("{version}/{kind}"));
            return Ok(());
        }
    };
    parsed.objects.push(object);
    Ok(())
}

fn take_list(value: Value, parsed: &mut Parsed) -> Result<(), Wrong> {
    let Value::Object(mut fields) = value else { return Ok(()) };
    let items = match fields.remove("items") {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(Wrong::new("items", "is not a list")),
    };
    for (index, item) in items.into_iter().enumerate() {
        take(item, parsed).map_err(|wrong| wrong.within(&format!("items[{index}]")))?;
    }
    Ok(())
}

/// Reads a Kubernetes type; fields that it does not have are passed over.
fn lenient<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Wrong::new(error.path().to_string(), error.inner().to_string()))
}

/// Reads an object that says what may pass: a field that its type does not have is an error.
pub(crate) fn strict<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = serde_ignored::deserialize(deserializer, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    });
    let read = read.map_err(|error: serde_json::Error| {
        Wrong::new(track.path().to_string(), error.to_string())
    })?;
    match unknown {
        // A new version of Kubernetes may well have a new field here, and it says nothing of
        // what may pass.
        Some(path) if !path.starts_with("metadata.") => {
            Err(Wrong::new(plain(&path), "is not a field that this version knows"))
        }
        _ => Ok(read),
    }
}

/// `spec.ingress.0.?.form` is written `spec.ingress[0].form` everywhere else.
fn plain(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    for part in path.split('.').filter(|part| *part != "?") {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            plain.push_str(&format!("[{part}]"));
        } else {
            if !plain.is_empty() {
                plain.push('.');
            }
            plain.push_str(part);
        }
    }
    plain
}

/// Converts each item; what is wrong with one is told with its place in `field`.
fn each<T, R>(
    field: &str,
    items: &[T],
    mut convert: impl FnMut(&T) -> Result<R, Wrong>,
) -> Result<Vec<R>, Wrong> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            convert(item).map_err(|wrong| wrong.within(&format!("{field}[{index}]")))
        })
        .collect()
}

#[cfg(test)]
mod tests;
