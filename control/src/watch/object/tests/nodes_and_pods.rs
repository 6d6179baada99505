//! Nodes, Namespaces and Pods.

use super::*;
use crate::model::Pod;

fn pod(spec: Value, status: Value) -> Pod {
    match one(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec,
        "status": status}))
    {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_has_its_addresses_until_it_has_ended() {
    let addresses = |status: Value| {
        let pod = pod(json!({"containers": []}), status);
        pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    assert_eq!(addresses(json!({"podIP": "10.0.0.1", "podIPs": both})), ["10.0.0.1", "fd00::1"]);
    assert_eq!(addresses(json!({"podIP": "10.0.0.1"})), ["10.0.0.1"]);
    assert_eq!(addresses(json!({"podIP": ""})), [""; 0]);
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(addresses(json!({"phase": phase, "podIPs": both})), [""; 0]);
    }
}

#[test]
fn a_pod_offers_the_ports_of_containers_that_go_on_running() {
    let port = |name: &str, number: u16| json!([{"name": name, "containerPort": number}]);
    let pod = pod(
        json!({
            "hostNetwork": true,
            "serviceAccountName": "robot",
            "containers": [{"name": "a", "ports": port("web", 80)}],
            "initContainers": [
                {"name": "b", "ports": port("once", 81)},
                {"name": "c", "ports": port("proxy", 82), "restartPolicy": "Always"}]}),
        json!(null),
    );
    let ports: Vec<_> =
        pod.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(ports, [("web", Protocol::Tcp, 80), ("proxy", Protocol::Tcp, 82)]);
    assert!(pod.host_network && pod.service_account == "robot");
}

#[test]
fn a_pod_that_says_little_is_of_the_defaults() {
    let pod = pod(json!({"containers": [], "nodeName": ""}), json!(null));
    assert_eq!(pod.name.to_string(), "default/a");
    assert_eq!((pod.node, pod.service_account.as_str()), (None, "default"));
    assert!(!pod.host_network);
}

#[test]
fn a_pods_wishes_for_its_port_are_kept_and_other_annotations_are_not() {
    let annotations = json!({"port.seine.io/kind": "vhost-user", "example.com/kind": "x"});
    let pod = match one(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "annotations": annotations}, "spec": {"containers": []}}))
    {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    };
    let kept: Vec<_> = pod.port_annotations.into_iter().collect();
    assert_eq!(kept, [("kind".to_owned(), "vhost-user".to_owned())]);
}

#[test]
fn a_namespace_is_labelled_with_its_name_and_may_ask_for_log_lines() {
    let namespace = |annotations: Value| match one(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "x", "annotations": annotations}}))
    {
        Object::Namespace(namespace) => namespace,
        other => panic!("{other:?}"),
    };
    let silent = namespace(json!(null));
    assert_eq!(silent.labels["kubernetes.io/metadata.name"], "x");
    assert!(!silent.log_policies);
    let asks = |value: &str| {
        namespace(json!({"networkpolicy.antrea.io/enable-logging": value})).log_policies
    };
    assert!(asks("true") && asks("True") && !asks("false") && !asks(""));
}

#[test]
fn a_nodes_addresses_are_told_apart_by_their_kind() {
    let node = match one(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": "InternalIP", "address": "fd00::1"}]}}))
    {
        Object::Node(node) => node,
        other => panic!("{other:?}"),
    };
    let texts = |addresses: &[std::net::IpAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(texts(&node.internal_addresses), ["192.0.2.1", "fd00::1"]);
    assert_eq!(texts(&node.external_addresses), ["198.51.100.1"]);
}
