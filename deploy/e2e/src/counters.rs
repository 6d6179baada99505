//! What a datapath counts, read by gRPC, and what moved between two readings.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;

use seine_datapath_api::v1::{
    self, ListDropsRequest, ListPortsRequest, ListWorkersRequest, datapath_client::DatapathClient,
};
use tonic::transport::Channel;

use crate::failure::{Failure, Outcome};
use crate::node::Node;

/// Every counter of one or more nodes at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By node and port.
    pub ports: BTreeMap<(String, String), PortPackets>,
    /// By node, port and reason.
    pub drops: BTreeMap<(String, String, String), u64>,
}

/// Composed decisions that were checked against the stages, of all workers of some nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Packets that were decided about both ways.
    pub samples: u64,
    /// Those about which the two disagreed.
    pub mismatches: u64,
}

impl Sampled {
    /// Those of the nodes whose datapath answers.
    pub fn read<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Sampled {
        let mut sampled = Sampled::default();
        for node in nodes {
            let workers = call(&node.file("datapath.sock"), "workers", async |client| {
                Ok(client.list_workers(ListWorkersRequest {}).await?.into_inner().workers)
            });
            for worker in workers.unwrap_or_default() {
                sampled.samples += worker.samples;
                sampled.mismatches += worker.mismatches;
            }
        }
        sampled
    }
}

/// Packets of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortPackets {
    /// Packets received.
    pub receive: u64,
    /// Packets sent.
    pub transmit: u64,
}

impl Counters {
    /// Reads those of some nodes.
    pub fn read<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Outcome<Counters> {
        let mut counters = Counters::default();
        for node in nodes {
            let (ports, drops) = call(&node.file("datapath.sock"), "counters", async |client| {
                let ports = client.list_ports(ListPortsRequest {}).await?.into_inner().ports;
                let drops = client.list_drops(ListDropsRequest {}).await?.into_inner().drops;
                Ok((ports, drops))
            })?;
            for port in ports {
                let counted = port.counters.unwrap_or_default();
                let packets = PortPackets {
                    receive: counted.receive_packets,
                    transmit: counted.transmit_packets,
                };
                counters.ports.insert((node.name().to_owned(), port.name), packets);
            }
            for drop in drops {
                let key = (node.name().to_owned(), drop.port, drop.reason);
                *counters.drops.entry(key).or_default() += drop.packets;
            }
        }
        Ok(counters)
    }

    /// The same, with ports called by other names: those of their Pods.
    pub fn renamed(&self, name: impl Fn(&str) -> Option<String>) -> Counters {
        let renamed = |port: &String| name(port).unwrap_or_else(|| port.clone());
        let ports = self.ports.iter();
        let drops = self.drops.iter();
        Counters {
            ports: ports.map(|((node, port), it)| ((node.clone(), renamed(port)), *it)).collect(),
            drops: drops
                .map(|((node, port, why), it)| ((node.clone(), renamed(port), why.clone()), *it))
                .collect(),
        }
    }

    /// What moved since `before`; what did not is left out.
    pub fn since(&self, before: &Counters) -> Counters {
        let mut moved = Counters::default();
        for (key, now) in &self.ports {
            let then = before.ports.get(key).copied().unwrap_or_default();
            let packets = PortPackets {
                receive: now.receive.saturating_sub(then.receive),
                transmit: now.transmit.saturating_sub(then.transmit),
            };
            if packets != PortPackets::default() {
                moved.ports.insert(key.clone(), packets);
            }
        }
        for (key, now) in &self.drops {
            let then = before.drops.get(key).copied().unwrap_or_default();
            if *now > then {
                moved.drops.insert(key.clone(), now - then);
            }
        }
        moved
    }

    /// Packets dropped for a reason, on every node and port.
    pub fn dropped(&self, reason: &str) -> u64 {
        let drops = self.drops.iter().filter(|((_, _, name), _)| name == reason);
        drops.map(|(_, packets)| packets).sum()
    }

    /// Packets of one port.
    pub fn port(&self, node: &str, port: &str) -> PortPackets {
        self.ports.get(&(node.to_owned(), port.to_owned())).copied().unwrap_or_default()
    }
}

/// The ports of a node, as its datapath lists them.
pub fn ports(node: &Node) -> Outcome<Vec<v1::Port>> {
    call(&node.file("datapath.sock"), "ports", async |client| {
        Ok(client.list_ports(ListPortsRequest {}).await?.into_inner().ports)
    })
}

/// Whether a datapath answers at `socket`.
pub fn answers(socket: &Path) -> bool {
    let ask =
        async |client: &mut DatapathClient<Channel>| client.list_ports(ListPortsRequest {}).await;
    socket.exists() && call(socket, "ports", ask).is_ok()
}

/// Calls a datapath, from code that is not asynchronous itself.
pub fn call<T>(
    socket: &Path,
    what: &str,
    ask: impl AsyncFnOnce(&mut DatapathClient<Channel>) -> Result<T, tonic::Status>,
) -> Outcome<T> {
    block_on(async {
        let mut client = seine_datapath_api::connect(socket).await?;
        ask(&mut client).await.map_err(|status| Failure::Call {
            what: format!("{what} of {}", socket.display()),
            source: Box::new(status),
        })
    })
}

fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start a runtime for", Path::new("gRPC")))?;
    runtime.block_on(future)
}
