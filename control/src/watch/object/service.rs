//! Services and EndpointSlices.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Wrong, each, selector, traffic};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Port, Service, ServicePort};

/// What tells of which Service a slice is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// `sessionAffinity: ClientIP` without a word on how long.
const AFFINITY_SECONDS_DEFAULT: i32 = 10_800;
/// The longest that Kubernetes takes: a day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;

/// Makes a Service of the model.
pub(super) fn service(service: core::Service) -> Result<Service, Wrong> {
    let name = selector::name_of(&service.metadata)?;
    let namespace = selector::namespace_of(&service.metadata)?;
    let spec = service.spec.unwrap_or_default();
    let mut external_addresses =
        each("spec.externalIPs", spec.external_ips.as_deref().unwrap_or_default(), |text| {
            traffic::address(text)
        })?;
    let mut load_balancer_addresses = Vec::new();
    if spec.type_.as_deref() == Some("LoadBalancer") {
        let status = service.status.and_then(|status| status.load_balancer).unwrap_or_default();
        load_balancer_addresses = ingress_addresses(&status)?;
        external_addresses.extend(&load_balancer_addresses);
    }
    let within_spec = |wrong: Wrong| wrong.within("spec");
    Ok(Service {
        name: ObjectName { namespace, name },
        cluster_addresses: cluster_addresses(&spec).map_err(within_spec)?,
        external_addresses,
        load_balancer_addresses,
        source_ranges: source_ranges(&spec).map_err(within_spec)?,
        ports: each("spec.ports", spec.ports.as_deref().unwrap_or_default(), port)?,
        affinity_seconds: affinity(&spec).map_err(within_spec)?,
        internal_local: is_local("internalTrafficPolicy", spec.internal_traffic_policy.as_deref())
            .map_err(within_spec)?,
        external_local: is_local("externalTrafficPolicy", spec.external_traffic_policy.as_deref())
            .map_err(within_spec)?,
        selector: spec.selector.unwrap_or_default(),
    })
}

/// As Kubernetes takes them: with blanks around, and host bits that do not count.
fn source_ranges(spec: &core::ServiceSpec) -> Result<Vec<IpNet>, Wrong> {
    const FIELD: &str = "loadBalancerSourceRanges";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && spec.type_.as_deref() != Some("LoadBalancer") {
        return Err(Wrong::new(FIELD, "may only be used when `type` is 'LoadBalancer'"));
    }
    each(FIELD, ranges, |text| {
        traffic::range(text.trim()).map_err(|reason| Wrong::new(".", reason))
    })
}

/// None for a headless Service, for one that is but another name, and for one that Kubernetes has
/// not given any yet.
fn cluster_addresses(spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, Wrong> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(Vec::new());
    }
    let address = |text: &String| match text.as_str() {
        "" | "None" => Ok(None),
        text => traffic::address(text).map(Some),
    };
    let addresses = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(many), _) if !many.is_empty() => each("clusterIPs", many, address)?,
        (_, Some(one)) => vec![address(one).map_err(|wrong| wrong.within("clusterIP"))?],
        (_, None) => Vec::new(),
    };
    Ok(addresses.into_iter().flatten().collect())
}

/// The addresses at which a load balancer delivers packets as they came. One that makes
/// connections of its own (`ipMode: Proxy`) must not be passed by.
fn ingress_addresses(status: &core::LoadBalancerStatus) -> Result<Vec<IpAddr>, Wrong> {
    let ingress = status.ingress.as_deref().unwrap_or_default();
    let addresses = each("status.loadBalancer.ingress", ingress, |one| {
        let text = one.ip.as_deref().filter(|text| !text.is_empty());
        let text = text.filter(|_| one.ip_mode.as_deref() != Some("Proxy"));
        text.map(traffic::address).transpose().map_err(|wrong| wrong.within("ip"))
    })?;
    Ok(addresses.into_iter().flatten().collect())
}

fn affinity(spec: &core::ServiceSpec) -> Result<Option<u32>, Wrong> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            let reason = format!("`{other}` is neither None nor ClientIP");
            return Err(Wrong::new("sessionAffinity", reason));
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|one| one.client_ip.as_ref());
    let seconds = client_ip.and_then(|one| one.timeout_seconds).unwrap_or(AFFINITY_SECONDS_DEFAULT);
    match u32::try_from(seconds) {
        Ok(valid) if valid > 0 && seconds <= AFFINITY_SECONDS_MAX => Ok(Some(valid)),
        _ => Err(Wrong::new(
            "sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not between 1 and {AFFINITY_SECONDS_MAX}"),
        )),
    }
}

fn is_local(field: &str, policy: Option<&str>) -> Result<bool, Wrong> {
    match policy {
        None | Some("" | "Cluster") => Ok(false),
        Some("Local") => Ok(true),
        Some(other) => Err(Wrong::new(field, format!("`{other}` is neither Cluster nor Local"))),
    }
}

fn port(port: &core::ServicePort) -> Result<ServicePort, Wrong> {
    let number = traffic::number("port", i64::from(port.port))?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => Port::Range(number, number),
        Some(IntOrString::Int(target)) => {
            let target = traffic::number("targetPort", i64::from(*target))?;
            Port::Range(target, target)
        }
        Some(IntOrString::String(name)) => traffic::named("targetPort", name)?,
    };
    let node_port = port.node_port.filter(|node_port| *node_port != 0);
    Ok(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: traffic::protocol(port.protocol.as_deref())?,
        port: number,
        node_port: node_port
            .map(|node_port| traffic::number("nodePort", i64::from(node_port)))
            .transpose()?,
        target,
    })
}

/// Makes a slice of the model; none of one that belongs to no Service, or that holds names.
pub(super) fn endpoint_slice(
    slice: discovery::EndpointSlice,
) -> Result<Option<EndpointSlice>, Wrong> {
    let name = selector::name_of(&slice.metadata)?;
    let namespace = selector::namespace_of(&slice.metadata)?;
    let labels = slice.metadata.labels.unwrap_or_default();
    let is_ipv4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => return Ok(None),
        other => {
            let reason = format!("`{other}` is none of IPv4, IPv6, FQDN");
            return Err(Wrong::new("addressType", reason));
        }
    };
    let Some(service) = labels.get(SERVICE_LABEL).filter(|service| !service.is_empty()) else {
        return Ok(None);
    };
    // A port without a number stands for all ports, which no Service can offer.
    let ports = each("ports", slice.ports.as_deref().unwrap_or_default(), |port| {
        let Some(number) = port.port else { return Ok(None) };
        Ok(Some(EndpointPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: traffic::protocol(port.protocol.as_deref())?,
            port: traffic::number("port", i64::from(number))?,
        }))
    })?;
    Ok(Some(EndpointSlice {
        name: ObjectName { namespace, name },
        service: service.clone(),
        ports: ports.into_iter().flatten().collect(),
        endpoints: each("endpoints", slice.endpoints.as_deref().unwrap_or_default(), |one| {
            endpoint(one, is_ipv4)
        })?,
    }))
}

/// Conditions that are not given: ready, serving as far as it is ready, not terminating.
fn endpoint(endpoint: &discovery::Endpoint, is_ipv4: bool) -> Result<Endpoint, Wrong> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let addresses = each("addresses", &endpoint.addresses, |text| {
        let address = traffic::address(text)?;
        match address.is_ipv4() == is_ipv4 {
            true => Ok(address),
            false => Err(Wrong::new(".", format!("`{address}` is not of the slice's addressType"))),
        }
    })?;
    Ok(Endpoint {
        addresses,
        node: endpoint.node_name.clone(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
    })
}
