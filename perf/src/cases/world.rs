//! A cluster in memory: nodes joined by an underlay, with Pods that send and receive.
//!
//! A packet that leaves a node by its uplink comes in by the uplink of the node that it is
//! addressed to. What leaves by a gateway is with the node's kernel, and so with the rest of the
//! world.

pub mod machine;

use std::collections::BTreeMap;
use std::net::IpAddr;

use machine::{InstallError, Machine, Transaction};
use seine_control::model;
use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::trace::Trace;
use seine_pipeline::verdict::{DropReason, Outcome};
use seine_pipeline::wire::ethernet::{self, Ethernet};
use seine_pipeline::wire::ip::Ip;

use super::desired::port_name;
use super::file::{Cluster, Pod};
use super::segment::Segment;

/// The most nodes that one packet may cross: sender, receiver, and back again when refused.
const HOPS_MAX: usize = 4;

/// Where in the cluster something is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At a Pod: `namespace/name`.
    Pod(String),
    /// With the kernel of a node, and so with all that is outside of the Pod network.
    Outside(String),
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It came out here, as this frame.
    Arrived(Place, Vec<u8>),
    /// It was dropped by this node.
    Dropped(String, DropReason),
    /// It went where nobody is.
    Lost(String),
}

/// Where a Pod is attached.
#[derive(Debug, Clone)]
struct Station {
    machine: usize,
    port: PortId,
    mac: Mac,
    address: IpAddr,
}

/// A cluster in memory.
pub struct World {
    machines: Vec<Machine>,
    indexes: BTreeMap<String, u8>,
    stations: BTreeMap<String, Station>,
    underlay: BTreeMap<IpAddr, usize>,
    now_ms: u64,
    /// Why the last packets went as they did, by node, if anybody wants to know.
    traces: Option<Vec<(String, Trace)>>,
}

impl World {
    /// The nodes of a cluster, without objects.
    pub fn new(cluster: &Cluster) -> Result<World, InstallError> {
        let mut world = World {
            machines: Vec::new(),
            indexes: BTreeMap::new(),
            stations: BTreeMap::new(),
            underlay: BTreeMap::new(),
            now_ms: 1_000_000,
            traces: None,
        };
        for (position, node) in cluster.nodes.iter().enumerate() {
            let index = u8::try_from(position).map_err(|_| InstallError::Full("a node"))?;
            world.machines.push(Machine::new(&node.name, index)?);
            world.indexes.insert(node.name.clone(), index);
            world.underlay.insert(node.ip, position);
        }
        Ok(world)
    }

    /// The names of its nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.name.clone()).collect()
    }

    /// Plugs in the Pods that a cluster has, and takes away those that it has not.
    pub fn attach(&mut self, cluster: &Cluster) -> Result<(), InstallError> {
        self.stations.clear();
        for pod in cluster.pods.iter().filter(|pod| !pod.host_network) {
            let node = pod.node.as_deref().and_then(|node| self.indexes.get(node));
            let Some(position) = node.map(|index| usize::from(*index)) else { continue };
            let Some(machine) = self.machines.get_mut(position) else { continue };
            let name = port_name(pod);
            let Mac([_, _, rest @ ..]) = Mac(model::Mac::of_pod(pod.ip).bytes());
            let [a, b, c, d] = rest;
            machine.open(&name, PortKind::Pod, Mac([0x06, 0, a, b, c, d]))?;
            let Some(port) = machine.port(&name) else { continue };
            let mac = Mac(model::Mac::of_pod(pod.ip).bytes());
            let station = Station { machine: position, port, mac, address: pod.ip };
            self.stations.insert(full_name(pod), station);
        }
        Ok(())
    }

    /// Sends a transaction to a node.
    pub fn install(&mut self, node: &str, changes: Transaction) -> Result<(), InstallError> {
        let machine = self.machines.iter_mut().find(|machine| machine.name == node);
        machine.map_or(Ok(()), |machine| machine.install(changes, &self.indexes))
    }

    /// From now on tells why, or no longer.
    pub fn tell(&mut self, why: bool) {
        self.traces = why.then(Vec::new);
    }

    /// What the tables of Services and policies said of the packets since [`tell`], and where each
    /// packet ended.
    ///
    /// [`tell`]: World::tell
    pub fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        for (node, trace) in self.traces.iter().flatten() {
            let last = trace.steps.len().saturating_sub(1);
            for (index, step) in trace.steps.iter().enumerate() {
                let table = step.table.name();
                let decides = ["Rule", "ServiceLB", "EndpointDNAT", "ConntrackState"]
                    .iter()
                    .any(|decider| table.ends_with(decider));
                if !step.matched.is_empty() && (decides || index == last) {
                    told.push(format!("{node} {table}: {}", step.matched));
                }
            }
        }
        told
    }

    /// The rules that matched since [`tell`], with the table that each is in.
    ///
    /// [`tell`]: World::tell
    pub fn deciders(&self) -> Vec<(String, String)> {
        let steps = self.traces.iter().flatten().flat_map(|(_, trace)| &trace.steps);
        let named = steps.filter_map(|step| {
            let (rule, _) = step.matched.split_once(" of ")?;
            Some((step.table.name().to_owned(), rule.to_owned()))
        });
        named.filter(|(table, _)| table.ends_with("Rule")).collect()
    }

    /// Lets time pass.
    pub fn wait(&mut self, milliseconds: u64) {
        self.now_ms += milliseconds;
        for machine in &mut self.machines {
            machine.expire(self.now_ms);
        }
    }

    /// The lines of audit of each node since this was last asked, gathered denials among them.
    pub fn audit(&mut self) -> Vec<(String, String)> {
        const GATHERED_MS: u64 = 2000;
        self.now_ms += GATHERED_MS;
        let lines = self.machines.iter_mut().flat_map(|machine| {
            let lines = machine.audit(self.now_ms);
            let name = machine.name.clone();
            lines.into_iter().map(move |line| (name.clone(), line))
        });
        lines.collect()
    }

    /// Sends what a Pod says, and follows it to where it comes out.
    pub fn send(&mut self, from: &Place, segment: &Segment) -> Fate {
        let (machine, port, frame) = match from {
            Place::Pod(name) => {
                let Some(station) = self.stations.get(name).cloned() else {
                    return Fate::Lost(format!("no Pod {name} is attached"));
                };
                let Some(machine) = self.machines.get(station.machine) else {
                    return Fate::Lost(format!("{name} is on no node"));
                };
                let neighbor = self.neighbor(station.machine, segment.destination);
                let to = neighbor.unwrap_or(machine.gateway_mac());
                (station.machine, station.port, segment.frame(station.mac, to))
            }
            Place::Outside(node) => {
                let position = self.machines.iter().position(|machine| machine.name == *node);
                let found =
                    position.and_then(|position| Some((position, self.machines.get(position)?)));
                let Some((position, machine)) = found else {
                    return Fate::Lost(format!("no node {node}"));
                };
                // What the node says itself comes by a port of its own.
                let own = self.underlay.get(&segment.source) == Some(&position);
                let Some(port) = machine.port(if own { "host" } else { "gateway" }) else {
                    return Fate::Lost(format!("{node} has no gateway"));
                };
                let to = self.neighbor(position, segment.destination).unwrap_or(Mac::VIRTUAL);
                (position, port, segment.frame(machine.gateway_mac(), to))
            }
        };
        self.follow(machine, port, frame)
    }

    /// The MAC address that a neighbour on a node has taught, if the address is one's.
    fn neighbor(&self, machine: usize, address: IpAddr) -> Option<Mac> {
        let mut stations = self.stations.values();
        let found = stations.find(|s| s.machine == machine && s.address == address);
        found.map(|station| station.mac)
    }

    fn follow(&mut self, machine: usize, port: PortId, frame: Vec<u8>) -> Fate {
        self.now_ms += 1;
        let (mut position, mut port, mut frame) = (machine, port, frame);
        for _ in 0..HOPS_MAX {
            let Some(machine) = self.machines.get_mut(position) else { break };
            let mut trace = Trace::default();
            let wanted = self.traces.is_some().then_some(&mut trace);
            let (outcome, bytes) = machine.receive(port, &frame, self.now_ms, wanted);
            let node = machine.name.clone();
            let name = match outcome {
                Outcome::Output(egress) => machine.port_name(egress).unwrap_or("").to_owned(),
                _ => String::new(),
            };
            if let Some(traces) = &mut self.traces {
                traces.push((node.clone(), trace));
            }
            let egress = match outcome {
                Outcome::Output(egress) => egress,
                Outcome::Replicate(_) => return Fate::Lost(format!("{node} sent to a whole VLAN")),
                Outcome::Drop(reason) => return Fate::Dropped(node, reason),
            };
            match name.as_str() {
                "uplink" => {
                    let Some(next) = self.across(&bytes) else {
                        return Fate::Lost(format!("{node} sent to no node of the underlay"));
                    };
                    let Some(uplink) = self.machines.get(next).and_then(|m| m.port("uplink"))
                    else {
                        return Fate::Lost(format!("{node} sent to a node without an uplink"));
                    };
                    (position, port, frame) = (next, uplink, bytes);
                }
                "gateway" | "host" => return Fate::Arrived(Place::Outside(node), bytes),
                _ => {
                    let mut stations = self.stations.iter();
                    let at = stations.find(|(_, s)| s.machine == position && s.port == egress);
                    return match at {
                        Some((pod, _)) => Fate::Arrived(Place::Pod(pod.clone()), bytes),
                        None => Fate::Lost(format!("{node} sent by {name}, where no Pod is")),
                    };
                }
            }
        }
        Fate::Lost("it crossed too many nodes".to_owned())
    }

    /// The node that a packet on the underlay is for.
    fn across(&self, frame: &[u8]) -> Option<usize> {
        let link = Ethernet::parse(frame)?;
        let outer = Ip::parse(link.ether_type(), frame.get(ethernet::LEN..)?)?.ok()?;
        self.underlay.get(&outer.destination).copied()
    }
}

/// `namespace/name`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
