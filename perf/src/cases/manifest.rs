//! A cluster of a case as the manifests that Kubernetes would hold.
//!
//! What Kubernetes adds by itself is added here, too: a cluster address for each Service that asks
//! for none in particular, and the EndpointSlices of each Service that selects Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::address;
use super::file::{Cluster, Node, Pod};

/// Where Services get their addresses from that do not say one: 10.96.128.0 and up.
const SERVICE_ADDRESS: u32 = 0x0a60_8000;

/// Nodes, namespaces, Pods, and the objects of a step with what belongs to its Services.
pub fn manifests(cluster: &Cluster, objects: &[Value]) -> Vec<Value> {
    let mut manifests: Vec<Value> = cluster.nodes.iter().map(node).collect();
    manifests.extend(cluster.namespaces.iter().map(|namespace| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": namespace.name, "labels": namespace.labels,
            "annotations": namespace.annotations}})
    }));
    manifests.extend(cluster.pods.iter().map(pod));
    for (index, object) in objects.iter().enumerate() {
        if object["apiVersion"] == "v1" && object["kind"] == "Service" {
            manifests.push(service(cluster, object, index));
            manifests.extend(slices(cluster, object));
        } else {
            manifests.push(object.clone());
        }
    }
    manifests
}

fn node(node: &Node) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": node.ip},
            {"type": "Hostname", "address": node.name}]}})
}

fn pod(pod: &Pod) -> Value {
    let port = |port: &super::file::ContainerPort| {
        let mut declared =
            json!({"containerPort": port.port, "protocol": port.protocol.to_string()});
        if !port.name.is_empty() {
            declared["name"] = Value::String(port.name.clone());
        }
        declared
    };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
        "spec": {"nodeName": pod.node, "hostNetwork": pod.host_network,
            "serviceAccountName": pod.service_account,
            "containers": [{"name": "c", "image": "none",
                "ports": pod.ports.iter().map(port).collect::<Vec<_>>()}]},
        "status": {"phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}]}})
}

/// A Service with the address that Kubernetes would have given it.
fn service(cluster: &Cluster, object: &Value, index: usize) -> Value {
    let mut service = object.clone();
    let spec = &mut service["spec"];
    if spec["clusterIP"].is_null() && spec["type"] != "ExternalName" {
        let number = SERVICE_ADDRESS + u32::try_from(index).unwrap_or_default();
        let v4 = IpAddr::V4(number.into());
        let v6 = cluster.pods.iter().any(|pod| pod.ip.is_ipv6());
        spec["clusterIP"] = json!(if v6 { address::address(v4) } else { v4 });
    }
    if spec["clusterIPs"].is_null() {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
    service
}

/// One slice for each set of ports that its Pods offer: a named target differs between Pods.
fn slices(cluster: &Cluster, service: &Value) -> Vec<Value> {
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let name = metadata["name"].as_str().unwrap_or_default();
    let Some(wanted) = spec["selector"].as_object() else { return Vec::new() };
    let selected = cluster.pods.iter().filter(|pod| {
        pod.namespace == namespace
            && wanted.iter().all(|(key, value)| pod.labels.get(key).is_some_and(|l| value == l))
    });
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in selected {
        let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
        let ports: Vec<Value> = ports.iter().filter_map(|port| offered(pod, port)).collect();
        let ports = Value::Array(ports);
        let (_, endpoints) =
            by_ports.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new()));
        endpoints.push(json!({"addresses": [pod.ip], "nodeName": pod.node,
            "conditions": {"ready": true, "serving": true, "terminating": false}}));
    }
    let v6 = cluster.pods.iter().any(|pod| pod.ip.is_ipv6());
    let slice = |(index, (ports, endpoints)): (usize, (Value, Vec<Value>))| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("{name}-{index}"),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": ports, "endpoints": endpoints})
    };
    by_ports.into_values().enumerate().map(slice).collect()
}

/// The port of a Pod behind a port of a Service, if it has one.
fn offered(pod: &Pod, port: &Value) -> Option<Value> {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let number = match &port["targetPort"] {
        Value::Null => port["port"].as_u64(),
        Value::String(name) => {
            let declared = pod.ports.iter().find(|declared| {
                declared.name == *name && declared.protocol.to_string() == protocol
            });
            declared.map(|declared| declared.port.into())
        }
        number => number.as_u64(),
    };
    let mut offered = json!({"port": number?, "protocol": protocol});
    if let Some(name) = port["name"].as_str() {
        offered["name"] = json!(name);
    }
    Some(offered)
}
