//! Services as outsiders reach them, by NodePorts and external addresses, and by IPv6 within.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use super::service::{install, seen};
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::pod::Family;
use crate::underlay::OUTSIDE;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "externalTrafficPolicy Local keeps a client's address and to its own node",
        run: local,
    },
    Case {
        name: "externalTrafficPolicy Cluster leads to another node with this one's address",
        run: elsewhere,
    },
    Case { name: "a Service is reached by IPv6 from pods of two nodes and a node", run: within },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1), ("c", 2), ("d", 2)];
const NODE_PORT: u16 = 30081;

/// Constants of a family.
pub(super) struct Addresses {
    pub(super) cluster: &'static str,
    external: &'static str,
    /// The host outside on the segment.
    router: &'static str,
    /// The first node's gateway.
    gateway: &'static str,
    kind: &'static str,
}

pub(super) fn addresses(family: Family) -> Addresses {
    match family {
        Family::V4 => Addresses {
            cluster: "10.96.0.20",
            external: "203.0.113.20",
            router: "192.0.2.254",
            gateway: "10.10.1.1",
            kind: "IPv4",
        },
        Family::V6 => Addresses {
            cluster: "fd00:96::20",
            external: "2001:db8:113::20",
            router: "2001:db8:0:2::fe",
            gateway: "fd00:10:1::1",
            kind: "IPv6",
        },
    }
}

pub(super) fn parsed(text: &str) -> IpAddr {
    text.parse().expect("a constant of this file")
}

/// A Service of type LoadBalancer of both families, whose endpoints are these Pods.
pub(super) fn service(cluster: &Cluster, policy: &str, endpoints: &[&str]) -> Outcome<String> {
    let [v4, v6] = Family::BOTH.map(addresses);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: shop}}\n\
         spec:\n  type: LoadBalancer\n  externalTrafficPolicy: {policy}\n  \
         clusterIP: {0}\n  clusterIPs: [\"{0}\", \"{1}\"]\n  ipFamilies: [IPv4, IPv6]\n  \
         ports: [{{name: http, protocol: TCP, port: 80, targetPort: 8080, \
         nodePort: {NODE_PORT}}}]\n\
         status: {{loadBalancer: {{ingress: [{{ip: \"{2}\"}}, {{ip: \"{3}\"}}]}}}}\n",
        v4.cluster, v6.cluster, v4.external, v6.external,
    );
    for family in Family::BOTH {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: default, name: shop-{}, \
             labels: {{kubernetes.io/service-name: shop}}}}\naddressType: {}\n\
             ports: [{{name: http, protocol: TCP, port: 8080}}]\nendpoints:\n",
            family.name(),
            addresses(family).kind,
        );
        for name in endpoints {
            let pod = cluster.pod(name)?;
            let _ = writeln!(
                text,
                "  - {{addresses: [\"{}\"], nodeName: {}, \
                 conditions: {{ready: true, serving: true}}}}",
                pod.address(family)?,
                pod.manifest.node,
            );
        }
    }
    Ok(text)
}

/// Where a client outside finds the Service when it goes by `node`: the NodePort and the external
/// address.
fn ways(cluster: &Cluster, node: &str, family: Family) -> Outcome<[SocketAddr; 2]> {
    let external = parsed(addresses(family).external);
    let node = cluster.node(node)?;
    let own = node.address_like(external);
    let own = own.ok_or_else(|| Failure::Unmet(format!("{} has no such address", node.name())))?;
    cluster.underlay.outside.ip(&format!("route replace {external} via {own}"))?;
    Ok([SocketAddr::new(own, NODE_PORT), SocketAddr::new(external, 80)])
}

/// Whom a Pod sees when a client outside goes to `target`; None when it is not reached.
fn visitor(cluster: &Cluster, pod: &str, target: SocketAddr) -> Outcome<Option<IpAddr>> {
    let pod = cluster.pod(pod)?;
    let family = if target.is_ipv6() { Family::V6 } else { Family::V4 };
    seen(&cluster.underlay.outside, &pod.namespace, pod.address(family)?, target)
}

/// Waits until a client outside reaches `pod` by `target` and is seen as one of `wanted`.
fn arrives(cluster: &Cluster, pod: &str, target: SocketAddr, wanted: &[IpAddr]) -> Outcome {
    let mut last = None;
    until(&format!("{pod} is reached by {target}"), 30, || {
        last = visitor(cluster, pod, target).ok().flatten();
        last.is_some()
    })?;
    expect(last.is_some_and(|it| wanted.contains(&it)), || {
        format!("by {target} {pod} saw {last:?}, none of {wanted:?}")
    })
}

/// The addresses of the host outside.
fn outsiders(family: Family) -> [IpAddr; 2] {
    let own = OUTSIDE[usize::from(family == Family::V6)];
    [own, addresses(family).router].map(parsed)
}

fn local(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    install(cluster, "shop.yaml", &service(cluster, "Local", &["b", "c"])?)?;
    for family in Family::BOTH {
        for (node, pod, other) in [("node1", "b", "c"), ("node2", "c", "b")] {
            let other = cluster.pod(other)?;
            let address = SocketAddr::new(other.address(family)?, 8080);
            let failed = Failure::io("listen on", Path::new("8080"));
            let idle = other.namespace.enter(|| TcpListener::bind(address))?.map_err(failed)?;
            let failed = Failure::io("listen on", Path::new("8080"));
            idle.set_nonblocking(true).map_err(failed)?;
            for target in ways(cluster, node, family)? {
                for _ in 0..6 {
                    arrives(cluster, pod, target, &outsiders(family))?;
                }
            }
            expect(idle.accept().is_err(), || format!("{node} led to {}", other.name()))?;
        }
    }
    Ok(())
}

fn elsewhere(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    install(cluster, "shop.yaml", &service(cluster, "Cluster", &["c"])?)?;
    for family in Family::BOTH {
        for target in ways(cluster, "node1", family)? {
            arrives(cluster, "c", target, &[parsed(addresses(family).gateway)])?;
        }
        for target in ways(cluster, "node2", family)? {
            arrives(cluster, "c", target, &outsiders(family))?;
        }
    }
    // With the same endpoint the other policy leaves the first node nobody to lead to.
    install(cluster, "shop.yaml", &service(cluster, "Local", &["c"])?)?;
    for family in Family::BOTH {
        for target in ways(cluster, "node1", family)? {
            until("the node without an endpoint refuses", 30, || {
                visitor(cluster, "c", target).is_ok_and(|it| it.is_none())
            })?;
        }
        for target in ways(cluster, "node2", family)? {
            arrives(cluster, "c", target, &outsiders(family))?;
        }
    }
    Ok(())
}

fn within(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    let target = SocketAddr::new(parsed(addresses(Family::V6).cluster), 80);
    for server in ["b", "c"] {
        install(cluster, "shop.yaml", &service(cluster, "Cluster", &[server])?)?;
        let to = cluster.pod(server)?;
        let own = to.address(Family::V6)?;
        for client in ["a", "d"] {
            let from = cluster.pod(client)?;
            let mut last = None;
            until(&format!("{client} reaches {server} by the Service"), 30, || {
                last = seen(&from.namespace, &to.namespace, own, target).ok().flatten();
                last.is_some()
            })?;
            let client = from.address(Family::V6)?;
            expect(last == Some(client), || format!("{server} saw {last:?}, not {client}"))?;
        }
        for node in &cluster.nodes {
            until(&format!("{} reaches {server} by the Service", node.name()), 30, || {
                let visitor = seen(&node.namespace, &to.namespace, own, target);
                visitor.is_ok_and(|it| it.is_some())
            })?;
        }
    }
    Ok(())
}
