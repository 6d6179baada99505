//! What the harness reads of a folder of Kubernetes manifests, and how it writes one.
//!
//! The agents read the same folder; the harness takes from it only what a runtime and a machine
//! would know: which nodes there are, their addresses, and which Pods run where.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;

use crate::failure::{Failure, Outcome};

/// What a folder of manifests says about machines.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// In the order of the files.
    pub nodes: Vec<NodeManifest>,
    /// In the order of the files.
    pub pods: Vec<PodManifest>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeManifest {
    /// metadata.name
    pub name: String,
    /// status.addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    /// spec.podCIDRs
    pub pod_cidrs: Vec<IpNet>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodManifest {
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// spec.nodeName
    pub node: String,
}

impl Manifests {
    /// Reads every `*.yaml` of a folder, by name.
    pub fn read(folder: &Path) -> Outcome<Manifests> {
        let entries = fs::read_dir(folder).map_err(Failure::io("read", folder))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|it| it == "yaml"));
        paths.sort();
        let mut manifests = Manifests::default();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
            manifests.add(&text).map_err(|reason| Failure::Manifest { path, reason })?;
        }
        Ok(manifests)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let object = Object::deserialize(document).map_err(|error| error.to_string())?;
            match object.kind.as_str() {
                "Node" => self.nodes.push(node(object)?),
                "Pod" => self.pods.push(pod(object)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the folder that the agents read: one file for all.
    pub fn write(&self, folder: &Path) -> Outcome {
        fs::create_dir_all(folder).map_err(Failure::io("create", folder))?;
        // Renamed into place: a watcher must never see half a file.
        let (path, part) = (folder.join("cluster.yaml"), folder.join(".cluster.part"));
        fs::write(&part, self.text()).map_err(Failure::io("write", &part))?;
        fs::rename(&part, &path).map_err(Failure::io("write", &path))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut namespaces: Vec<&str> = self.pods.iter().map(|it| it.namespace.as_str()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        for namespace in namespaces {
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n"
            );
        }
        for node in &self.nodes {
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {}\nspec:\n  podCIDR: {}\n  podCIDRs:\n",
                node.name,
                node.pod_cidrs.first().map(ToString::to_string).unwrap_or_default(),
            );
            for cidr in &node.pod_cidrs {
                let _ = writeln!(text, "    - {cidr}");
            }
            text.push_str("status:\n  addresses:\n");
            for address in &node.addresses {
                let _ = writeln!(text, "    - type: InternalIP\n      address: \"{address}\"");
            }
        }
        for pod in &self.pods {
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {}\n  name: {}\nspec:\n  nodeName: {}\n  containers:\n    - name: main\n      image: none\n",
                pod.namespace, pod.name, pod.node,
            );
        }
        text
    }
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
    #[serde(default)]
    node_name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn node(object: Object) -> Result<NodeManifest, String> {
    let mut addresses = Vec::new();
    for entry in object.status.addresses.iter().filter(|entry| entry.r#type == "InternalIP") {
        let address = entry.address.parse();
        addresses.push(address.map_err(|_| format!("`{}` is no IP address", entry.address))?);
    }
    let (name, pod_cidrs) = (object.metadata.name, object.spec.pod_cidrs);
    if addresses.is_empty() || pod_cidrs.is_empty() {
        return Err(format!("Node `{name}` needs podCIDRs and an InternalIP"));
    }
    Ok(NodeManifest { name, addresses, pod_cidrs })
}

fn pod(object: Object) -> Result<PodManifest, String> {
    let Metadata { name, namespace } = object.metadata;
    let node = object.spec.node_name;
    if node.is_empty() {
        return Err(format!("Pod `{namespace}/{name}` needs spec.nodeName"));
    }
    Ok(PodManifest { namespace, name, node })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let manifests = Manifests {
            nodes: vec![NodeManifest {
                name: "node1".into(),
                addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                pod_cidrs: vec!["10.10.1.0/24".parse().unwrap(), "fd00:10:1::/64".parse().unwrap()],
            }],
            pods: vec![PodManifest {
                namespace: "default".into(),
                name: "a".into(),
                node: "node1".into(),
            }],
        };
        let folder = tempfile::tempdir().unwrap();
        manifests.write(folder.path()).unwrap();
        let read = Manifests::read(folder.path()).unwrap();
        assert_eq!(read.nodes, manifests.nodes);
        assert_eq!(read.pods, manifests.pods);
    }

    #[test]
    fn a_node_without_an_address_is_refused() {
        let mut manifests = Manifests::default();
        let text = "kind: Node\nmetadata: {name: n}\nspec: {podCIDRs: [10.0.0.0/24]}\n";
        assert!(manifests.add(text).unwrap_err().contains("InternalIP"));
    }
}
