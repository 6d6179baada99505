//! Nodes, Namespaces and Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;

use super::{Wrong, each, selector, traffic};
use crate::model::{ContainerPort, Namespace, Node, PORT_ANNOTATIONS, Pod, PodName};

/// The label that Kubernetes itself puts on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Antrea's wish for log lines of Kubernetes' own policies.
const LOG_ANNOTATION: &str = "networkpolicy.antrea.io/enable-logging";

/// Makes a node of the model.
pub(super) fn node(node: core::Node) -> Result<Node, Wrong> {
    let name = selector::name_of(&node.metadata)?;
    let spec = node.spec.unwrap_or_default();
    // Kubernetes keeps the first of podCIDRs in podCIDR as well; a manifest may give either.
    let pod_cidrs = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(cidrs), _) if !cidrs.is_empty() => {
            let mut taken: Vec<IpNet> = Vec::new();
            each("spec.podCIDRs", &cidrs, |text| {
                let cidr = pod_cidr(text, &taken)?;
                taken.push(cidr);
                Ok(cidr)
            })?
        }
        (_, Some(cidr)) => {
            vec![pod_cidr(&cidr, &[]).map_err(|wrong| wrong.within("spec.podCIDR"))?]
        }
        (_, None) => Vec::new(),
    };
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let of_kind = |kind: &str| {
        let addresses = each("status.addresses", &addresses, |address| {
            let parsed = (address.type_ == kind).then(|| traffic::address(&address.address));
            parsed.transpose().map_err(|wrong| wrong.within("address"))
        });
        Ok::<Vec<IpAddr>, Wrong>(addresses?.into_iter().flatten().collect())
    };
    Ok(Node {
        name,
        pod_cidrs,
        internal_addresses: of_kind("InternalIP")?,
        external_addresses: of_kind("ExternalIP")?,
        labels: node.metadata.labels.unwrap_or_default(),
    })
}

fn pod_cidr(text: &str, taken: &[IpNet]) -> Result<IpNet, Wrong> {
    let wrong = |reason| Wrong::new(".", reason);
    let cidr: IpNet =
        text.parse().map_err(|_| wrong(format!("`{text}` is not a range like 10.10.1.0/24")))?;
    if cidr.trunc() != cidr {
        return Err(wrong(format!("`{text}` has host bits set; {} is meant", cidr.trunc())));
    }
    if taken.iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
        return Err(wrong(format!("`{text}` is the second range of its family")));
    }
    Ok(cidr)
}

/// Makes a namespace of the model.
pub(super) fn namespace(namespace: core::Namespace) -> Result<Namespace, Wrong> {
    let name = selector::name_of(&namespace.metadata)?;
    let annotations = namespace.metadata.annotations.unwrap_or_default();
    let log = annotations.get(LOG_ANNOTATION).map(|text| text.to_lowercase());
    let mut labels: BTreeMap<String, String> = namespace.metadata.labels.unwrap_or_default();
    labels.entry(NAME_LABEL.to_owned()).or_insert_with(|| name.clone());
    Ok(Namespace { name, labels, log_policies: log.as_deref() == Some("true") })
}

/// Makes a Pod of the model. One that has ended has no address any longer: another may have it.
pub(super) fn pod(pod: core::Pod) -> Result<Pod, Wrong> {
    let name = selector::name_of(&pod.metadata)?;
    let namespace = selector::namespace_of(&pod.metadata)?;
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let texts: Vec<String> = match (status.pod_ips, status.pod_ip) {
        _ if has_ended => Vec::new(),
        (Some(ips), _) if !ips.is_empty() => ips.into_iter().map(|one| one.ip).collect(),
        (_, one) => one.into_iter().filter(|one| !one.is_empty()).collect(),
    };
    let addresses = each("status.podIPs", &texts, |text| traffic::address(text))?;
    let mut ports = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        ports.extend(
            container_ports(container)
                .map_err(|wrong| wrong.within(&format!("spec.containers[{index}]")))?,
        );
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        // Those that go on running beside the others offer their ports like them.
        if container.restart_policy.as_deref() == Some("Always") {
            ports.extend(
                container_ports(container)
                    .map_err(|wrong| wrong.within(&format!("spec.initContainers[{index}]")))?,
            );
        }
    }
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let of_port = |(name, value): (String, String)| {
        name.strip_prefix(PORT_ANNOTATIONS).map(|name| (name.to_owned(), value))
    };
    Ok(Pod {
        port_annotations: annotations.into_iter().filter_map(of_port).collect(),
        name: PodName { namespace, name },
        labels: pod.metadata.labels.unwrap_or_default(),
        node: spec.node_name.filter(|name| !name.is_empty()),
        host_network: spec.host_network.unwrap_or_default(),
        addresses,
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
        ports,
    })
}

fn container_ports(container: &core::Container) -> Result<Vec<ContainerPort>, Wrong> {
    each("ports", container.ports.as_deref().unwrap_or_default(), |port| {
        Ok(ContainerPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: traffic::protocol(port.protocol.as_deref())?,
            port: traffic::number("containerPort", i64::from(port.container_port))?,
        })
    })
}
