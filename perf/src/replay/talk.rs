//! What is said: connections with their answers, attempts that are denied, and forgeries.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use seine_pipeline::address::Mac;

use super::ReplayError;
use super::compare::{Finding, compare};
use super::node::{Both, Ours, Theirs};
use super::report::Summary;
use super::script::{ends, message, request, script};
use super::state::Scene;
use crate::cases::address::address;
use crate::cases::desired::port_name;
use crate::cases::file::{Pod, Protocol};
use crate::cases::segment::Segment;
use crate::generate::OUTSIDERS;
use crate::generate::parts::PORTS;
use seine_control::model;

/// A frame, and by which port it comes in; through the tunnel between which ends.
#[derive(Debug, Clone)]
pub struct Sent {
    pub port: String,
    pub frame: Vec<u8>,
    pub tunnel: Option<(IpAddr, IpAddr)>,
}

/// One who sends.
#[derive(Debug, Clone)]
struct Party {
    port: String,
    /// That of a Pod; of all others it follows from the port.
    mac: Option<Mac>,
}

/// A connection to be made.
struct Attempt {
    client: Party,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    ports: (u16, u16),
    service: bool,
}

/// Sends so many packets at least.
pub fn all(
    scene: &mut Scene,
    both: &mut Both<'_>,
    wanted: usize,
    summary: &mut Summary,
    tell: &mut impl FnMut(&str),
) -> Result<(), ReplayError> {
    let mut talk = Talk { scene, both, summary, tell, source_port: 40000, spoken: BTreeSet::new() };
    let begun = talk.summary.packets;
    while talk.summary.packets < begun + wanted {
        talk.source_port = if talk.source_port >= 56000 { 40000 } else { talk.source_port + 1 };
        match talk.scene.random.below(24) {
            0 => talk.forge()?,
            1 => talk.ask_for_neighbor()?,
            _ => talk.converse()?,
        }
    }
    Ok(())
}

struct Talk<'t, 'b, T> {
    scene: &'t mut Scene,
    both: &'t mut Both<'b>,
    summary: &'t mut Summary,
    tell: &'t mut T,
    source_port: u16,
    /// Who have spoken SCTP with each other.
    spoken: BTreeSet<(IpAddr, IpAddr)>,
}

impl<T: FnMut(&str)> Talk<'_, '_, T> {
    /// Sends one packet, compares, and gives what both let through, with its port.
    fn exchange(
        &mut self,
        sent: &Sent,
        what: &str,
    ) -> Result<Option<(String, Vec<u8>)>, ReplayError> {
        let (ours, theirs) = self.both.send(sent)?;
        self.summary.packets += 1;
        match compare(&sent.port, &ours, &theirs) {
            Finding::Forwarded(features) => {
                self.summary.forwarded += 1;
                features.into_iter().for_each(|feature| self.summary.skip(feature));
                if let Ours::Left(port, frame, remote) = ours {
                    if remote.is_some_and(|remote| remote != self.scene.peer_address()) {
                        self.differ(sent, what, &Ours::Left(port, frame, remote), &theirs);
                        return Ok(None);
                    }
                    return Ok(Some((port, frame)));
                }
            }
            Finding::Dropped => self.summary.dropped += 1,
            Finding::Refused => self.summary.refused += 1,
            Finding::Skipped(feature) => self.summary.skip(feature),
            Finding::Mismatch => self.differ(sent, what, &ours, &theirs),
        }
        Ok(None)
    }

    fn differ(&mut self, sent: &Sent, what: &str, ours: &Ours, theirs: &Theirs) {
        let trace = self.both.trace(sent);
        self.summary.mismatches += 1;
        let Scene { seed, step, node, .. } = self.scene;
        let frame = Segment::parse(&sent.frame);
        let mut told = format!("seed {seed}, step {step}, node {node}: {what}");
        told += &format!("\n  sent by {}: {frame:?}", sent.port);
        told += &format!("\n  Seine {ours}\n  Open vSwitch {theirs}");
        told += &format!("\n  asked now, Open vSwitch says: {}", trace.unwrap_or_default());
        if self.summary.mismatches == 1 {
            told += &format!("\n  Pods: {:?}", self.scene.cluster.pods);
            for manifest in &self.scene.manifests {
                told += &format!("\n  {manifest}");
            }
        }
        (self.tell)(&told);
    }

    /// A connection, as far as it gets.
    fn converse(&mut self) -> Result<(), ReplayError> {
        let Some(attempt) = self.attempt() else { return Ok(()) };
        let Attempt { client, source, destination, protocol, ports, service } = attempt;
        // Its connection tracking in user space does not look at the ports of SCTP.
        let pair = (source.min(destination), source.max(destination));
        if protocol == Protocol::Sctp && (service || !self.spoken.insert(pair)) {
            self.summary.skip(if service {
                "SCTP through a Service, whose ports Open vSwitch does not translate"
            } else {
                "SCTP of the same ends again, which Open vSwitch does not tell apart by ports"
            });
            return Ok(());
        }
        let mut server: Option<(Party, Segment)> = None;
        let v6 = source.is_ipv6();
        let script = script(protocol);
        let lines = 2 + self.scene.random.below(script.len());
        for (index, from_server) in script.iter().take(lines).enumerate() {
            let (party, segment) = match (&server, from_server) {
                (None, true) => break,
                (Some((party, arrived)), true) => {
                    let (near, far) = ends(&arrived.message);
                    let message = message(protocol, index, (far, near), v6);
                    let (source, destination) = (arrived.destination, arrived.source);
                    (party.clone(), Segment { source, destination, message })
                }
                (_, false) => {
                    let message = message(protocol, index, ports, v6);
                    (client.clone(), Segment { source, destination, message })
                }
            };
            let sent = self.scene.sent(&party, &segment);
            let what = format!("packet {index} of {protocol:?} {source} {destination} {ports:?}");
            let left = self.exchange(&sent, &what)?;
            let Some((port, frame)) = left else {
                let again = self.scene.random.once_in(2);
                if again && service {
                    self.summary.skip("a Service asked again, which Open vSwitch does not route");
                } else if again && index == 0 {
                    self.exchange(&sent, &format!("{what}, again"))?;
                }
                break;
            };
            if server.is_none() {
                let Ok(arrived) = Segment::parse(&frame) else { break };
                let mac = self.scene.local_pod(&port).map(mac);
                server = Some((Party { port, mac }, arrived));
            }
        }
        Ok(())
    }

    /// Who tries to reach whom.
    fn attempt(&mut self) -> Option<Attempt> {
        let scene = &mut *self.scene;
        let (locals, remotes) = scene.pods();
        let random = &mut scene.random;
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
        let mut protocol = *random.pick(&protocols[..]);
        let mut ports = (self.source_port, *random.pick(&PORTS));
        let outside: IpAddr = random.pick(&OUTSIDERS).parse().ok()?;
        let outside = if scene.is_v6() { address(outside) } else { outside };
        let random = &mut scene.random;
        let by = |name: &str| Party { port: name.to_owned(), mac: None };
        let party = |pod: &Pod| Party { port: port_name(pod), mac: Some(mac(pod)) };
        let (client, source) = match random.below(10) {
            0..=4 if !locals.is_empty() => {
                let pod = random.pick(&locals);
                (party(pod), pod.ip)
            }
            5 | 6 if !remotes.is_empty() => (by("uplink"), random.pick(&remotes).ip),
            7 => (by("host"), scene.gateway_address()?),
            _ => (by("gateway"), outside),
        };
        let random = &mut scene.random;
        let (from_pod, mut service) = (client.mac.is_some(), false);
        let destination = match random.below(12) {
            0 | 1 if from_pod && !remotes.is_empty() => random.pick(&remotes).ip,
            2 if from_pod => outside,
            3 if from_pod => scene.gateway_address()?,
            4..=8 if client.port != "uplink" => {
                let (address, asked, port) = scene.service(client.port == "gateway")?;
                (protocol, ports.1, service) = (asked, port, true);
                address
            }
            _ if !locals.is_empty() => random.pick(&locals).ip,
            _ => return None,
        };
        let attempt = Attempt { client, source, destination, protocol, ports, service };
        (source != destination).then_some(attempt)
    }

    /// A Pod in another's name, or with another's MAC address.
    fn forge(&mut self) -> Result<(), ReplayError> {
        let (locals, remotes) = self.scene.pods();
        if locals.len() < 2 {
            return Ok(());
        }
        let random = &mut self.scene.random;
        let pod = random.pick(&locals).clone();
        let (other, to) = (random.pick(&locals).clone(), random.pick(&locals).clone());
        if other.ip == pod.ip {
            return Ok(());
        }
        let (source, mac) = match random.below(3) {
            0 => (other.ip, mac(&pod)),
            1 if !remotes.is_empty() => (random.pick(&remotes).ip, mac(&pod)),
            _ => (pod.ip, mac(&other)),
        };
        let message = message(Protocol::Udp, 0, (self.source_port, 80), source.is_ipv6());
        let segment = Segment { source, destination: to.ip, message };
        let sent = self.scene.sent(&Party { port: port_name(&pod), mac: Some(mac) }, &segment);
        self.exchange(&sent, "a forged source").map(|_| ())
    }

    /// ARP: for a peer's gateway, or in another's name.
    fn ask_for_neighbor(&mut self) -> Result<(), ReplayError> {
        let (locals, _) = self.scene.pods();
        let peer = self.scene.cluster.nodes.get(1 - self.scene.node);
        let target = peer.and_then(|peer| peer.gateway_ip);
        let (Some(IpAddr::V4(target)), false) = (target, locals.is_empty()) else { return Ok(()) };
        let random = &mut self.scene.random;
        let (pod, other) = (random.pick(&locals).clone(), random.pick(&locals).clone());
        let IpAddr::V4(sender) = other.ip else { return Ok(()) };
        let frame = request(mac(&pod), sender, target);
        let sent = Sent { port: port_name(&pod), frame, tunnel: None };
        self.exchange(&sent, "an ARP request for a peer's gateway").map(|_| ())
    }
}

impl Scene {
    fn is_v6(&self) -> bool {
        self.cluster.nodes.first().is_some_and(|node| node.ip.is_ipv6())
    }

    /// The Pods of this node, and those of others.
    fn pods(&self) -> (Vec<Pod>, Vec<Pod>) {
        let here = self.cluster.nodes.get(self.node).map(|node| node.name.clone());
        self.cluster.pods.iter().cloned().partition(|pod| pod.node == here)
    }

    fn local_pod(&self, port: &str) -> Option<&Pod> {
        self.cluster.pods.iter().find(|pod| port_name(pod) == port)
    }

    fn gateway_address(&self) -> Option<IpAddr> {
        self.cluster.nodes.get(self.node)?.gateway_ip
    }

    fn peer_address(&self) -> IpAddr {
        let peer = self.cluster.nodes.get(1 - self.node);
        peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip)
    }

    /// Some way to ask for a Service.
    fn service(&mut self, from_outside: bool) -> Option<(IpAddr, Protocol, u16)> {
        let services: Vec<_> =
            self.manifests.iter().filter(|it| it["kind"] == "Service").cloned().collect();
        if services.is_empty() {
            return None;
        }
        let spec = self.random.pick(&services)["spec"].clone();
        let asked = &spec["ports"][0];
        let protocol = match asked["protocol"].as_str()? {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let number = |value: &serde_json::Value| u16::try_from(value.as_u64()?).ok();
        let node = self.cluster.nodes.get(self.node)?.ip;
        let external = spec["externalIPs"][0].as_str();
        match (self.random.below(3), external, number(&asked["nodePort"])) {
            (0, Some(external), _) => {
                Some((external.parse().ok()?, protocol, number(&asked["port"])?))
            }
            (1, _, Some(port)) => Some((node, protocol, port)),
            _ if from_outside => None,
            _ => {
                Some((spec["clusterIP"].as_str()?.parse().ok()?, protocol, number(&asked["port"])?))
            }
        }
    }

    /// A packet as its sender puts it on the link.
    fn sent(&self, party: &Party, segment: &Segment) -> Sent {
        let gateway = Mac([2, 0, 0, 0, 1, self.node as u8]);
        let peer = Mac([2, 0, 0, 0, 1, 1 - self.node as u8]);
        let (locals, _) = self.pods();
        let neighbor = locals.iter().find(|pod| pod.ip == segment.destination).map(mac);
        let (source, destination) = match (party.port.as_str(), party.mac) {
            (_, Some(mac)) => (mac, neighbor.unwrap_or(gateway)),
            ("uplink", _) => (peer, Mac::VIRTUAL),
            _ => (gateway, neighbor.unwrap_or(Mac::VIRTUAL)),
        };
        let here = self.cluster.nodes.get(self.node).map(|node| node.ip);
        let tunnel = here.filter(|_| party.port == "uplink").map(|it| (self.peer_address(), it));
        let frame = segment.frame(source, destination);
        Sent { port: party.port.clone(), frame, tunnel }
    }
}

fn mac(pod: &Pod) -> Mac {
    Mac(model::Mac::of_pod(pod.ip).bytes())
}
