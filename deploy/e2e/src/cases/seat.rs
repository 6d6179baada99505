//! Places for guests: Pods that have a vhost-user socket and no interface.

use std::net::IpAddr;
use std::path::PathBuf;

use seine_datapath_api::v1::Port;

use super::pod;
use super::service::install;
use crate::cluster::Cluster;
use crate::counters;
use crate::failure::{Failure, Outcome};
use crate::front_end::{self, Listens};
use crate::pod::Family;

/// Bytes of a guest's largest packet.
pub(super) const MTU: u32 = 1400;

/// A Pod for a guest, by its name; it has that as its label `app`, too.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// The Pod's name.
    pub name: &'static str,
    /// The guest's IPv4 address.
    pub address: IpAddr,
    /// The guest's MAC address.
    pub mac: String,
    /// Where its front end is met.
    pub socket: PathBuf,
    /// Who listens there.
    pub listens: Listens,
}

impl Seat {
    /// Attaches a Pod on the first node.
    pub fn take(cluster: &mut Cluster, name: &'static str, listens: Listens) -> Outcome<Seat> {
        let mode = match listens {
            Listens::Datapath => "server",
            Listens::FrontEnd => "client",
        };
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: default\n  name: {name}\n  \
             labels: {{app: {name}}}\n  annotations:\n    port.seine.io/kind: vhost-user\n    \
             port.seine.io/mode: {mode}\n    port.seine.io/queues: \"1\"\n    \
             port.seine.io/mtu: \"{MTU}\"\n\
             spec:\n  nodeName: node1\n  containers:\n    - {{name: main, image: none}}\n"
        );
        install(cluster, &format!("{name}.yaml"), &manifest)?;
        let pod = cluster.attach(&pod(name, 1))?;
        let (address, mac) = (pod.address(Family::V4)?, pod.attachment.mac.clone());
        Ok(Seat { name, address, mac, socket: front_end::socket(pod)?, listens })
    }
    /// Its port, as the datapath lists it.
    pub fn port(&self, cluster: &Cluster) -> Outcome<Port> {
        let endpoint = format!("default/{}/eth0", self.name);
        let ports = counters::ports(cluster.node("node1")?)?;
        let port = ports.into_iter().find(|port| port.endpoint == endpoint);
        port.ok_or_else(|| Failure::Unmet(format!("no port has the endpoint {endpoint}")))
    }

    /// Packets that went to the guest, and that came from it.
    pub fn moved(&self, cluster: &Cluster) -> Outcome<Moved> {
        let counters = self.port(cluster)?.counters.unwrap_or_default();
        Ok(Moved { to: counters.transmit_packets, from: counters.receive_packets })
    }
}

/// Packets of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Those that it got.
    pub to: u64,
    /// Those that it sent.
    pub from: u64,
}
