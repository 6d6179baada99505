//! A step as the cluster that `control` makes of it, and as the objects that each node is sent.

use serde_json::Value;

use seine_control::compile::{self, Underlay};
use seine_control::compile::{Objects, identify};
use seine_control::model;
use seine_control::watch::object::{Wrong, parse};
use seine_datapath_api::v1;

use super::file::{Cluster, Pod};
use super::manifest::manifests;

/// The MTU of every link of an underlay.
const UPLINK: Underlay = Underlay {
    uplink_mtu: Some(1500),
    default_mtu: 0,
    encap_mode: v1::node::EncapMode::Encap,
    tunnel_type: v1::node::TunnelType::Geneve,
};
/// The MTU of Pods.
const POD_MTU: u32 = 1400;

/// Why `control` makes nothing of a step.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// An object is refused.
    #[error("{kind} `{name}` is refused: {wrong}")]
    Object {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        wrong: Wrong,
    },
    /// It is of a kind that is not known.
    #[error("nothing is known of {0}")]
    Kind(String),
    /// A node has no network.
    #[error(transparent)]
    Node(#[from] compile::NodeError),
    /// Something is left out.
    #[error("node `{node}`: {reason}")]
    LeftOut {
        /// On which node.
        node: String,
        /// What, and why.
        reason: String,
    },
}

/// The model of a cluster and the objects in it.
pub fn model(cluster: &Cluster, objects: &[Value]) -> Result<model::Cluster, DesiredError> {
    let mut known = model::Cluster::default();
    for manifest in manifests(cluster, objects) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&manifest["kind"]), text(&manifest["metadata"]["name"]));
        let parsed = parse(manifest).map_err(|wrong| DesiredError::Object { kind, name, wrong })?;
        if let Some(kind) = parsed.ignored.into_iter().next() {
            return Err(DesiredError::Kind(kind));
        }
        for object in parsed.objects {
            known.insert(object);
        }
    }
    Ok(known)
}

/// All that one node is sent: its network, its endpoints, its tables.
pub fn objects(
    cluster: &Cluster,
    model: &model::Cluster,
    node: &str,
) -> Result<Objects, DesiredError> {
    let left_out = |reasons: Vec<String>| match reasons.into_iter().next() {
        Some(reason) => Err(DesiredError::LeftOut { node: node.to_owned(), reason }),
        None => Ok(()),
    };
    let network = compile::node_network(model, node, UPLINK)?;
    left_out(network.left_out.clone())?;
    let compiled = compile::tables(model, node);
    left_out(compiled.refused)?;
    let local =
        cluster.pods.iter().filter(|pod| !pod.host_network && pod.node.as_deref() == Some(node));
    let endpoints = local.map(endpoint);
    let all = network.objects().into_iter().chain(endpoints).chain(compiled.objects);
    Ok(all.map(|object| (identify(&object), object)).collect())
}

/// The Pod's interface, attached to the port that bears its address's MAC.
fn endpoint(pod: &Pod) -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
            name: endpoint_name(pod),
            port: port_name(pod),
            mac: model::Mac::of_pod(pod.ip).bytes().to_vec(),
            addresses: vec![pod.ip.to_string()],
            mtu: POD_MTU,
            ..v1::Endpoint::default()
        })),
    }
}

/// What the datapath calls a Pod's interface.
pub fn endpoint_name(pod: &Pod) -> String {
    format!("{}/{}/eth0", pod.namespace, pod.name)
}

/// The port of a Pod: as long as an interface's name may be, and as unique as its address.
pub fn port_name(pod: &Pod) -> String {
    let mac = model::Mac::of_pod(pod.ip).bytes();
    mac.iter().fold("p".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}
