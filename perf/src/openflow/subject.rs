//! What flows are written about: the objects of a State, as flows ask for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use seine_pipeline::address::PortKind;
use seine_pipeline::state::{Endpoint, Group, Node, Object, Peer, Port, Rule, Service};

use super::{AGENT, FlowError};

/// A Pod's interface and the number of its port.
pub struct Pod<'a> {
    pub endpoint: &'a Endpoint,
    pub number: u32,
}

/// The objects by kind, each in the order of its names.
pub struct Subject<'a> {
    pub node: &'a Node,
    pub gateway: (&'a Port, u32),
    /// The node's own port, which Antrea tells by a mark of the kernel's.
    pub host: Option<u32>,
    pub tunnel: Option<u32>,
    pub agent: Option<u32>,
    pub pods: Vec<Pod<'a>>,
    pub peers: Vec<&'a Peer>,
    pub groups: BTreeMap<&'a str, &'a Group>,
    pub rules: Vec<&'a Rule>,
    pub services: Vec<&'a Service>,
}

impl<'a> Subject<'a> {
    pub fn of(
        objects: &'a [Object],
        ports: &BTreeMap<String, u32>,
    ) -> Result<Subject<'a>, FlowError> {
        let number = |name: &str| {
            let found = ports.get(name).copied();
            found.ok_or_else(|| FlowError::NoNumber(name.to_owned()))
        };
        let (mut node, mut gateway, mut host, mut tunnel) = (None, None, None, None);
        let (mut pods, mut peers, mut rules, mut services) = (vec![], vec![], vec![], vec![]);
        let mut groups = BTreeMap::new();
        for object in objects {
            match object {
                Object::Node(it) => node = Some(it),
                Object::Peer(it) => peers.push(it),
                Object::Endpoint(it) => {
                    // One whose port is not open yet can neither send nor receive.
                    if let Some(number) = ports.get(&it.port) {
                        pods.push(Pod { endpoint: it, number: *number });
                    }
                }
                Object::Port(it) => match it.kind {
                    PortKind::Gateway => gateway = Some((it, number(&it.name)?)),
                    PortKind::Host => host = Some(number(&it.name)?),
                    PortKind::Uplink => tunnel = Some(number(&it.name)?),
                    PortKind::Pod => {}
                },
                Object::Group(it) => {
                    groups.insert(it.name.as_str(), it);
                }
                Object::Rule(it) => rules.push(it),
                Object::Service(it) => services.push(it),
            }
        }
        pods.sort_by_key(|pod| &pod.endpoint.name);
        peers.sort_by_key(|peer| &peer.name);
        rules.sort_by_key(|rule| (rule.rank, &rule.name));
        services.sort_by_key(|service| &service.name);
        Ok(Subject {
            node: node.ok_or(FlowError::Missing("Node"))?,
            gateway: gateway.ok_or(FlowError::Missing("gateway port"))?,
            host,
            tunnel,
            agent: ports.get(AGENT).copied(),
            pods,
            peers,
            groups,
            rules,
            services,
        })
    }

    /// The members of groups; a group that is not there has none.
    pub fn members(&self, names: &[String]) -> Vec<IpNet> {
        let groups = names.iter().filter_map(|name| self.groups.get(name.as_str()));
        let mut members: Vec<IpNet> =
            groups.flat_map(|group| group.members.iter().copied()).collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// The addresses of Pods here that groups hold, with the number of each one's port.
    pub fn local_members(&self, names: &[String]) -> Vec<(IpAddr, u32)> {
        let members = self.members(names);
        let holds = |address: IpAddr| members.iter().any(|member| member.contains(&address));
        let pods = self.pods.iter();
        let all = pods.flat_map(|pod| pod.endpoint.addresses.iter().map(|it| (*it, pod.number)));
        all.filter(|(address, _)| holds(*address)).collect()
    }

    /// The addresses of all nodes.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let peers = self.peers.iter().map(|peer| peer.tunnel_address);
        let own = self.node.node_port_addresses.iter().copied();
        peers.chain(own).chain([self.node.tunnel_address])
    }
}
