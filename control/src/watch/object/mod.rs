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

use std::sync::Arc;

pub(crate) use selector::{check_key, check_value};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission::GroupKind;
use crate::model::{
    GroupName, Object, ObjectKey, ObjectName, PodName, Policy, PolicyKind, PolicyName,
};

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
    /// Each of them as it was written, as JSON in one line.
    pub written: Vec<Arc<str>>,
    /// Those that this version makes nothing of, as `apiVersion/kind`.
    pub ignored: Vec<String>,
}

/// An object that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong}")]
pub struct Refused {
    /// Its name, if it can be told.
    pub key: Option<ObjectKey>,
    /// Why.
    pub wrong: Wrong,
}

/// Makes objects of the model from one object as Kubernetes' API writes it, or from a `List`.
///
/// An empty document is no object. An error leaves nothing of a list behind.
pub fn parse(value: Value) -> Result<Parsed, Wrong> {
    let (parsed, refused) = parse_each(value);
    match refused.into_iter().next() {
        Some(refused) => Err(refused.wrong),
        None => Ok(parsed),
    }
}

/// The same, but what is wrong with one item of a `List` does not touch the others.
pub fn parse_each(value: Value) -> (Parsed, Vec<Refused>) {
    let (mut parsed, mut refused) = (Parsed::default(), Vec::new());
    let is_list = |value: &Value| {
        value.get("kind").and_then(Value::as_str) == Some("List")
            && value.get("apiVersion").and_then(Value::as_str) == Some("v1")
    };
    let items = match value {
        Value::Null => Vec::new(),
        value if is_list(&value) => match value.get("items") {
            Some(Value::Array(items)) => items.clone(),
            None | Some(Value::Null) => Vec::new(),
            Some(_) => {
                let wrong = Wrong::new("items", "is not a list");
                return (parsed, vec![Refused { key: None, wrong }]);
            }
        },
        value => {
            take(value, &mut parsed).unwrap_or_else(|one| refused.push(one));
            return (parsed, refused);
        }
    };
    for (index, item) in items.into_iter().enumerate() {
        if let Err(Refused { key, wrong }) = take(item, &mut parsed) {
            refused.push(Refused { key, wrong: wrong.within(&format!("items[{index}]")) });
        }
    }
    (parsed, refused)
}

fn take(value: Value, parsed: &mut Parsed) -> Result<(), Refused> {
    let (key, written) = (key_of(&value), value.to_string());
    let count = parsed.objects.len();
    convert(value, parsed).map_err(|wrong| Refused { key, wrong })?;
    if parsed.objects.len() > count {
        parsed.written.push(written.into());
    }
    Ok(())
}

/// What an object is called, whatever else is wrong with it.
fn key_of(value: &Value) -> Option<ObjectKey> {
    let text = |value: &Value, field: &str| Some(value.get(field)?.as_str()?.to_owned());
    let metadata = value.get("metadata")?;
    let name = text(metadata, "name")?;
    let namespace = text(metadata, "namespace").filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| selector::DEFAULT_NAMESPACE.to_owned());
    let policy = |kind: PolicyKind| {
        let namespace = if kind.is_namespaced() { namespace.clone() } else { String::new() };
        ObjectKey::Policy(PolicyName { kind, namespace, name: name.clone() })
    };
    let group = |namespace: &str| {
        ObjectKey::Group(GroupName { namespace: namespace.to_owned(), name: name.clone() })
    };
    let object = || ObjectName { namespace: namespace.clone(), name: name.clone() };
    let (version, kind) = (text(value, "apiVersion")?, text(value, "kind")?);
    Some(match (version.as_str(), kind.as_str()) {
        ("v1", "Node") => ObjectKey::Node(name),
        ("v1", "Namespace") => ObjectKey::Namespace(name),
        ("v1", "Pod") => ObjectKey::Pod(PodName { namespace, name }),
        ("v1", "Service") => ObjectKey::Service(object()),
        ("discovery.k8s.io/v1", "EndpointSlice") => ObjectKey::EndpointSlice(object()),
        ("crd.antrea.io/v1beta1", "Tier") => ObjectKey::Tier(name),
        ("crd.antrea.io/v1beta1", "ClusterGroup") => group(""),
        ("crd.antrea.io/v1beta1", "Group") => group(&namespace),
        api => policy(PolicyKind::ALL.into_iter().find(|known| known.api() == api)?),
    })
}

fn convert(value: Value, parsed: &mut Parsed) -> Result<(), Wrong> {
    let text =
        |field: &str| {
            value.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
                Wrong::new(field, "is missing; an object has an apiVersion and a kind")
            })
        };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let api = (version.as_str(), kind.as_str());
    let object = match api {
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
        ("crd.antrea.io/v1beta1", "Tier") => Object::Tier(group::tier(strict(value)?)?),
        ("crd.antrea.io/v1beta1", "ClusterGroup") => {
            Object::Group(group::group(strict(value)?, GroupKind::ClusterGroup)?)
        }
        ("crd.antrea.io/v1beta1", "Group") => {
            Object::Group(group::group(strict(value)?, GroupKind::Group)?)
        }
        _ => match PolicyKind::ALL.into_iter().find(|known| known.api() == api) {
            Some(kind) => Object::Policy(policy(value, kind)?),
            None => {
                parsed.ignored.push(format!("{version}/{kind}"));
                return Ok(());
            }
        },
    };
    parsed.objects.push(object);
    Ok(())
}

fn policy(value: Value, kind: PolicyKind) -> Result<Policy, Wrong> {
    match kind {
        PolicyKind::K8sNetworkPolicy => network_policy::policy(strict(value)?),
        PolicyKind::AntreaClusterNetworkPolicy | PolicyKind::AntreaNetworkPolicy => {
            antrea::policy(strict(value)?, kind)
        }
        PolicyKind::AdminNetworkPolicy
        | PolicyKind::BaselineAdminNetworkPolicy
        | PolicyKind::ClusterNetworkPolicy => admin::policy(strict(value)?, kind),
    }
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
