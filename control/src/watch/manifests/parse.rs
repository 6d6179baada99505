//! One file of manifests: its documents, through Kubernetes' types, into the model.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use super::Entry;
use crate::model::{Namespace, Node, Pod, PodName};

/// Why a file was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read at all.
    #[error("manifest `{}`: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A document in it is wrong.
    #[error("manifest `{}`, document {document}, field `{field}`: {reason}", .file.display())]
    Document {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        document: usize,
        /// "spec.podCIDRs[0]"; "." for the document as a whole.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a file holds.
pub(super) struct Parsed {
    pub entries: Vec<Entry>,
    /// Kinds that this version makes nothing of.
    pub ignored: Vec<String>,
}

/// A field and what is wrong with it.
struct Wrong {
    field: String,
    reason: String,
}

fn wrong(field: impl Into<String>, reason: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), reason: reason.into() }
}

/// Reads a whole file; one wrong document is an error of the file.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Parsed, ManifestError> {
    let refused = |reason: String| ManifestError::File { file: path.to_owned(), reason };
    let size = fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if size > bytes_max {
        return Err(refused(format!("{size} bytes are more than {bytes_max}")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let mut parsed = Parsed { entries: Vec::new(), ignored: Vec::new() };
    // JSON is YAML, so one reader serves both.
    for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let located = |wrong: Wrong| ManifestError::Document {
            file: path.to_owned(),
            document: index + 1,
            field: wrong.field,
            reason: wrong.reason,
        };
        let value =
            Value::deserialize(document).map_err(|error| located(wrong(".", error.to_string())))?;
        take(value, &mut parsed).map_err(located)?;
    }
    Ok(parsed)
}

/// Takes one document, or each item of a List.
fn take(value: Value, parsed: &mut Parsed) -> Result<(), Wrong> {
    if value.is_null() {
        return Ok(());
    }
    let text = |field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| wrong(field, "is missing; a manifest has an apiVersion and a kind"))
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    match (version.as_str(), kind.as_str()) {
        ("v1", "Node") => parsed.entries.push(Entry::Node(node(typed(value)?)?)),
        ("v1", "Namespace") => parsed.entries.push(Entry::Namespace(namespace(typed(value)?)?)),
        ("v1", "Pod") => parsed.entries.push(Entry::Pod(pod(typed(value)?)?)),
        ("v1", "List") => {
            let items = value.get("items").and_then(Value::as_sequence).cloned();
            for (index, item) in items.unwrap_or_default().into_iter().enumerate() {
                take(item, parsed).map_err(|inner| {
                    wrong(format!("items[{index}].{}", inner.field), inner.reason)
                })?;
            }
        }
        _ => parsed.ignored.push(format!("{version}/{kind}")),
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| wrong(error.path().to_string(), error.inner().to_string()))
}

fn name_of(metadata: &ObjectMeta) -> Result<String, Wrong> {
    match metadata.name.as_deref() {
        Some(name) if is_name(name) => Ok(name.to_owned()),
        Some(name) => {
            Err(wrong("metadata.name", format!("`{name}` is not a name that Kubernetes takes")))
        }
        None => Err(wrong("metadata.name", "is missing")),
    }
}

/// RFC 1123 subdomains, as Kubernetes wants them.
fn is_name(name: &str) -> bool {
    let edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

fn node(node: core::Node) -> Result<Node, Wrong> {
    let name = name_of(&node.metadata)?;
    let spec = node.spec.unwrap_or_default();
    // Kubernetes keeps the first of podCIDRs in podCIDR as well; a manifest may give either.
    let (field, texts) = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(cidrs), _) if !cidrs.is_empty() => ("spec.podCIDRs", cidrs),
        (_, cidr) => ("spec.podCIDR", cidr.into_iter().collect()),
    };
    let mut pod_cidrs: Vec<ipnet::IpNet> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field =
            if field == "spec.podCIDR" { field.into() } else { format!("{field}[{index}]") };
        let cidr: ipnet::IpNet = text
            .parse()
            .map_err(|_| wrong(&field, format!("`{text}` is not a range like 10.10.1.0/24")))?;
        if cidr.trunc() != cidr {
            let reason = format!("`{text}` has host bits set; {} is meant", cidr.trunc());
            return Err(wrong(field, reason));
        }
        if pod_cidrs.iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
            return Err(wrong(field, format!("`{text}` is the second range of its family")));
        }
        pod_cidrs.push(cidr);
    }
    let mut internal_addresses = Vec::new();
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if address.type_ == "InternalIP" {
            internal_addresses.push(address.address.parse().map_err(|_| {
                wrong(
                    format!("status.addresses[{index}].address"),
                    format!("`{}` is not an IP address", address.address),
                )
            })?);
        }
    }
    Ok(Node {
        name,
        pod_cidrs,
        labels: node.metadata.labels.unwrap_or_default(),
        internal_addresses,
    })
}

fn namespace(namespace: core::Namespace) -> Result<Namespace, Wrong> {
    let name = name_of(&namespace.metadata)?;
    Ok(Namespace {
        name,
        labels: namespace.metadata.labels.unwrap_or_default(),
        log_policies: false,
    })
}

fn pod(pod: core::Pod) -> Result<Pod, Wrong> {
    let name = name_of(&pod.metadata)?;
    let namespace = pod.metadata.namespace.unwrap_or_else(|| "default".into());
    let spec = pod.spec.unwrap_or_default();
    Ok(Pod {
        name: PodName { namespace, name },
        labels: pod.metadata.labels.unwrap_or_default(),
        node: spec.node_name,
        host_network: spec.host_network.unwrap_or_default(),
        addresses: Vec::new(),
        service_account: spec.service_account_name.unwrap_or_else(|| "default".into()),
        ports: Vec::new(),
    })
}
