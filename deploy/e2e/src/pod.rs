//! A Pod: a network namespace, attached by the plugin.

use std::net::IpAddr;

use crate::cni::{Attachment, Call};
use crate::failure::{Failure, Outcome};
use crate::manifest::PodManifest;
use crate::namespace::Namespace;
use crate::node::Node;

/// An address family inside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order of every table.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// "v4" or "v6".
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }

    /// The option that makes ping, iperf3 and netperf use it.
    pub fn option(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }

    /// Whether an address is of it.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv6() == (self == Family::V6)
    }
}

/// An attached Pod.
#[derive(Debug)]
pub struct Pod {
    /// What the cluster says of it.
    pub manifest: PodManifest,
    /// Its network.
    pub namespace: Namespace,
    /// As a runtime would name it.
    pub container_id: String,
    /// What the plugin's ADD made.
    pub attachment: Attachment,
}

impl Pod {
    /// Makes the namespace and attaches it.
    pub fn attach(node: &Node, manifest: &PodManifest) -> Outcome<Pod> {
        let namespace = Pod::sandbox(node, manifest)?;
        let container_id = format!("{}-{}", manifest.namespace, manifest.name);
        let call = Call::of("ADD", &container_id, &namespace.path())
            .for_pod(&manifest.namespace, &manifest.name);
        let attachment = node.plugin.add(&call)?;
        Ok(Pod { manifest: manifest.clone(), namespace, container_id, attachment })
    }

    /// The namespace alone: what a runtime has made before it calls ADD.
    pub fn sandbox(node: &Node, manifest: &PodManifest) -> Outcome<Namespace> {
        Namespace::create(&node.journal, &format!("{}-{}", manifest.namespace, manifest.name))
    }

    /// Detaches it and removes the namespace, as a runtime does.
    pub fn detach(self, node: &Node) -> Outcome {
        let call = Call::of("DEL", &self.container_id, &self.namespace.path())
            .for_pod(&self.manifest.namespace, &self.manifest.name);
        let result = node.plugin.call(&call).map(|_| ());
        self.namespace.remove()?;
        result
    }

    /// "namespace/name".
    pub fn name(&self) -> String {
        format!("{}/{}", self.manifest.namespace, self.manifest.name)
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> Outcome<IpAddr> {
        let addresses = self.attachment.addresses.iter().map(ipnet::IpNet::addr);
        addresses.into_iter().find(|address| family.has(*address)).ok_or_else(|| {
            Failure::Unmet(format!("{} has no {} address", self.name(), family.name()))
        })
    }

    /// The MAC of its `eth0`.
    pub fn mac(&self) -> Outcome<[u8; 6]> {
        let mut mac = [0; 6];
        let mut parts = self.attachment.mac.split(':');
        for byte in &mut mac {
            let part = parts.next().and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = part.ok_or_else(|| {
                Failure::Unmet(format!("`{}` in a CNI result is no MAC", self.attachment.mac))
            })?;
        }
        Ok(mac)
    }
}
