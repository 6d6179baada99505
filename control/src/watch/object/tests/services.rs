//! Services and EndpointSlices.

use super::*;
use crate::model::{EndpointSlice, Service};

fn service(spec: Value, status: Value) -> Service {
    let metadata = json!({"name": "web", "namespace": "x"});
    match one(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec,
        "status": status}))
    {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn texts(addresses: &[std::net::IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_has_the_defaults_of_kubernetes() {
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
    let service = service(spec, json!({}));
    assert_eq!(texts(&service.cluster_addresses), ["10.96.0.1"]);
    assert_eq!((service.affinity_seconds, service.node_ports()), (None, vec![]));
    assert!(!service.internal_local && !service.external_local);
    let port = &service.ports[0];
    assert_eq!((port.protocol, &port.target), (Protocol::Tcp, &Port::Range(80, 80)));
}

#[test]
fn a_headless_service_and_one_that_is_a_name_have_no_address() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": ""}),
        json!({}),
    ] {
        assert_eq!(texts(&service(spec, json!({})).cluster_addresses), [""; 0]);
    }
    let dual = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]});
    assert_eq!(texts(&service(dual, json!({})).cluster_addresses), ["10.96.0.1", "fd00::1"]);
}

#[test]
fn a_load_balancer_that_is_a_proxy_is_not_passed_by() {
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"},
        {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}]}});
    let spec = |kind: &str| json!({"type": kind, "externalIPs": ["198.51.100.7"]});
    let balanced = service(spec("LoadBalancer"), status.clone());
    let expected = ["198.51.100.7", "192.0.2.1", "192.0.2.2"];
    assert_eq!(texts(&balanced.external_addresses), expected);
    assert_eq!(texts(&service(spec("NodePort"), status).external_addresses), ["198.51.100.7"]);
}

#[test]
fn affinity_lasts_three_hours_unless_it_says_how_long() {
    let seconds = |config: Value| {
        let spec = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        service(spec, json!({})).affinity_seconds
    };
    assert_eq!(seconds(json!(null)), Some(10_800));
    assert_eq!(seconds(json!({"clientIP": {"timeoutSeconds": 86_400}})), Some(86_400));
    assert_eq!(service(json!({"sessionAffinity": "None"}), json!({})).affinity_seconds, None);
}

#[test]
fn node_ports_named_targets_and_local_policies_are_kept() {
    let service = service(
        json!({"type": "NodePort", "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local", "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 30053},
                {"name": "web", "port": 80, "targetPort": 8080, "nodePort": 0}]}),
        json!({}),
    );
    assert!(service.internal_local && service.external_local);
    assert_eq!(service.node_ports(), [30053]);
    let targets: Vec<_> = service.ports.iter().map(|port| port.target.clone()).collect();
    assert_eq!(targets, [Port::Named("dns".into()), Port::Range(8080, 8080)]);
}

impl Service {
    fn node_ports(&self) -> Vec<u16> {
        self.ports.iter().filter_map(|port| port.node_port).collect()
    }
}

#[test]
fn source_ranges_are_those_of_load_balancers_alone() {
    let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}]}});
    let ranges = json!([" 198.51.100.7/24 ", "2001:db8::/32"]);
    let spec = |kind: &str, ranges: &Value| {
        json!({"type": kind, "clusterIP": "10.96.0.10", "externalIPs": ["203.0.113.9"],
            "loadBalancerSourceRanges": ranges})
    };
    let service = service(spec("LoadBalancer", &ranges), status);
    assert_eq!(service.external_addresses.len(), 2);
    assert_eq!(
        service.load_balancer_addresses,
        ["203.0.113.80".parse::<std::net::IpAddr>().unwrap()]
    );
    let texts: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["198.51.100.0/24", "2001:db8::/32"]);
    let wrong = |kind, ranges: Value| {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": spec(kind, &ranges)});
        parse(value).unwrap_err().field
    };
    assert_eq!(wrong("NodePort", ranges), "spec.loadBalancerSourceRanges");
    let one = json!(["10.0.0.0/8", "10.0.0.1"]);
    assert_eq!(wrong("LoadBalancer", one), "spec.loadBalancerSourceRanges[1]");
}

fn slice(labels: Value, fields: Value) -> Result<Option<EndpointSlice>, Wrong> {
    let metadata = json!({"name": "web-abc", "namespace": "x", "labels": labels});
    let mut value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata, "addressType": "IPv4"});
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    parse(value).map(|parsed| match parsed.objects.into_iter().next() {
        Some(Object::EndpointSlice(slice)) => Some(slice),
        None => None,
        other => panic!("{other:?}"),
    })
}

fn of_web() -> Value {
    json!({"kubernetes.io/service-name": "web"})
}

#[test]
fn conditions_that_are_not_given_mean_ready_serving_and_here_to_stay() {
    let conditions = |conditions: Value| {
        let endpoints = json!([{"addresses": ["10.0.0.1"], "conditions": conditions}]);
        let slice = slice(of_web(), json!({"endpoints": endpoints})).unwrap().unwrap();
        let endpoint = &slice.endpoints[0];
        (endpoint.ready, endpoint.serving, endpoint.terminating)
    };
    assert_eq!(conditions(json!(null)), (true, true, false));
    assert_eq!(conditions(json!({})), (true, true, false));
    assert_eq!(conditions(json!({"ready": false})), (false, false, false));
    let going = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(conditions(going), (false, true, true));
}

#[test]
fn a_slice_is_of_a_service_and_of_addresses() {
    assert_eq!(slice(json!({}), json!({})).unwrap(), None);
    assert_eq!(slice(of_web(), json!({"addressType": "FQDN"})).unwrap(), None);
    let found = slice(of_web(), json!({"ports": null, "endpoints": null})).unwrap().unwrap();
    assert_eq!((found.service.as_str(), found.endpoints.len()), ("web", 0));
    let ports = json!({"ports": [{"name": "web", "port": 80}, {"name": "all"}]});
    assert_eq!(slice(of_web(), ports).unwrap().unwrap().ports.len(), 1);
    let mixed = json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]});
    assert_eq!(slice(of_web(), mixed).unwrap_err().field, "endpoints[1].addresses[0]");
}
