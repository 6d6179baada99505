//! A node in memory with named Pods, for tests here and wherever packets are needed.
//!
//! ```
//! use seine_pipeline::testbed::{Node, udp};
//!
//! let mut node = Node::with_pods(["a", "b"]);
//! node.send(udp().from("a").to("b"));
//! node.assert_changed(["outputs.b +1"]);
//! ```
//!
//! Names stand for addresses: each Pod's own, `gateway`, `remote` (a Pod on the peer `node2`),
//! `remote-gateway` and `outside`. Packets come in by a Pod, the `gateway`, or the `tunnel`. What
//! a packet changed is accounted for in whole: [`Node::assert_changed`] fails for a counter that
//! moved and was not named, as for one that was named and did not move.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that describes what cannot be should fail at that place"
)]

mod connections;
mod conversation;
mod fate;
mod judge;
mod probe;
mod transactions;
mod twin;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{Mac, PortId, PortKind};
use crate::adjacency::{AdjacencyId, AdjacencyTable};
use crate::affinity::AffinityTable;
use crate::announcement::AnnouncementTable;
use crate::connection::{ConnectionTable, FragmentTable};
use crate::describe::{DescribeError, Description, describe};
use crate::fqdn::FqdnTable;
use crate::learned::{Learned, WorkerMemory};
use crate::limits::{ConnectionLimits, PORTS_MAX};
use crate::packet::{Checksum, Packet};
use crate::run::{Context, run};
use crate::state::{self, Change, Endpoint, Object, Peer, Permit, Port, State};
use crate::tally::RuleCounts;
use crate::trace::Trace;
use crate::verdict::Outcome;
use crate::wire::field;

pub use conversation::{answered, flags, innermost, sctp};
pub use fate::Fate;
pub use judge::assert_sound;
pub use probe::{Probe, ping, tcp, udp, who_has};
pub use transactions::{CHANGE_BYTES, assert_consistent, transactions};
pub use twin::{Buffer, Twin};

/// Bytes in front of every packet sent here, as AF_XDP leaves them.
pub const HEADROOM: usize = 256;
/// The port of the node's own leg.
pub const GATEWAY: &str = "gateway";
/// The name of the port that the node itself sends by. It shares the gateway's MAC address.
pub const HOST: &str = "host";
/// The port of the node's NIC.
pub const UPLINK: &str = "uplink";
/// MTU of every Pod, and of what fits the tunnel.
pub const MTU: u16 = 1450;

/// Fragmented packets that a node here remembers at least.
const FRAGMENTS: usize = 64;
/// Clients of Services that it remembers at least.
const AFFINITIES: usize = 64;
/// Connections that it has room for, all of one Pod if need be.
const CONNECTIONS: u32 = 2048;

/// The MAC address of the gateway port.
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// The MAC address of the uplink port.
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
/// The underlay's next hop to the peer.
pub const NEXT_HOP_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// Nothing learnt yet, in tables that are made quickly.
pub fn learned() -> Learned {
    let limits = ConnectionLimits {
        connections: CONNECTIONS,
        per_port: CONNECTIONS,
        ..ConnectionLimits::default()
    };
    Learned {
        connections: ConnectionTable::new(limits, 1),
        fragments: FragmentTable::new(FRAGMENTS, 1),
        affinities: AffinityTable::new(AFFINITIES, 1),
        fqdns: FqdnTable::new(FRAGMENTS, 1),
        announcements: AnnouncementTable::new(FRAGMENTS, 1),
    }
}

/// A node with its State, next hops and counters.
pub struct Node {
    /// What its packets are judged by.
    pub state: State,
    /// Its next hops: entry 0 leads to the peer `node2`.
    pub adjacencies: AdjacencyTable,
    /// What its packets have taught it.
    pub learned: Learned,
    /// What its one worker keeps to itself.
    pub worker: WorkerMemory,
    /// Its clock.
    pub now_ms: u64,
    /// How the last packet was decided.
    pub trace: Trace,
    /// Every checksum-partial fact the last packet left with.
    pub checksum: Checksum,
    /// Payload bytes of the segments behind the next packet; then, behind the last one as it left.
    pub following: usize,
    /// The same node by composed decisions. A test that changes what was learnt by hand takes it
    /// away.
    pub twin: Option<Twin>,
    known: connections::Known,
    counters: BTreeMap<String, u64>,
    seen: BTreeMap<String, u64>,
}

impl Node {
    /// A node with these Pods, in both families, and one peer over an IPv4 underlay.
    pub fn with_pods<const N: usize>(pods: [&str; N]) -> Node {
        Node::new(&pods, "192.168.0.1", "192.168.0.2")
    }

    /// As [`with_pods`](Self::with_pods), over an IPv6 underlay.
    pub fn over_ipv6<const N: usize>(pods: [&str; N]) -> Node {
        Node::new(&pods, "2001:db8:100::1", "2001:db8:100::2")
    }

    /// A node with these Pods and tunnel addresses of its own and its peer's.
    pub fn new(pods: &[&str], local: &str, remote: &str) -> Node {
        let mut changes = vec![
            Change::Upsert(Object::Node(state::Node {
                name: "node1".to_owned(),
                pod_cidrs: vec![net("10.10.1.0/24"), net("fd00:10:1::/64")],
                gateway_addresses: vec![ip("10.10.1.1"), ip("fd00:10:1::1")],
                tunnel_address: ip(local),
                tunnel_mtu: MTU,
                encap_mode: state::EncapMode::default(),
                tunnel_type: state::TunnelType::default(),
                node_port_addresses: vec![ip("192.168.0.1"), ip("2001:db8:100::1")],
                existing_connections: Default::default(),
            })),
            Change::Upsert(Object::Peer(Peer {
                name: "node2".to_owned(),
                pod_cidrs: vec![net("10.10.2.0/24"), net("fd00:10:2::/64")],
                gateway_addresses: vec![ip("10.10.2.1"), ip("fd00:10:2::1")],
                tunnel_address: ip(remote),
                adjacency: AdjacencyId::new(0).unwrap(),
            })),
            Change::Upsert(Object::Port(port(0, GATEWAY, PortKind::Gateway, GATEWAY_MAC))),
            Change::Upsert(Object::Port(port(1, UPLINK, PortKind::Uplink, UPLINK_MAC))),
            Change::Upsert(Object::Port(port(PORTS_MAX - 1, HOST, PortKind::Host, GATEWAY_MAC))),
        ];
        for (index, pod) in pods.iter().enumerate() {
            let host_end = Mac([2, 0, 0, 1, 1, index as u8]);
            changes.push(Change::Upsert(Object::Port(port(
                index + 2,
                pod,
                PortKind::Pod,
                host_end,
            ))));
            changes.push(Change::Upsert(Object::Endpoint(endpoint(index, pod))));
        }
        let adjacencies = AdjacencyTable::new();
        adjacencies.set(AdjacencyId::new(0).unwrap(), Some(NEXT_HOP_MAC));
        Node {
            state: State::new(1).apply(&changes).unwrap(),
            adjacencies,
            learned: learned(),
            worker: WorkerMemory::new(),
            now_ms: 1_000_000,
            trace: Trace::default(),
            checksum: Checksum::Complete,
            following: 0,
            twin: Some(Twin::with_workers(1)),
            known: connections::Known::new(),
            counters: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Makes changes; panics when they are refused.
    #[track_caller]
    pub fn apply(&mut self, changes: &[Change]) {
        self.state = self.state.apply(changes).unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// The address that a name stands for, in one family.
    #[track_caller]
    pub fn address(&self, name: &str, v6: bool) -> IpAddr {
        if let Ok(address) = name.parse() {
            return address;
        }
        let known = match name {
            "gateway" => ["10.10.1.1", "fd00:10:1::1"],
            "remote" => ["10.10.2.7", "fd00:10:2::7"],
            "remote-gateway" => ["10.10.2.1", "fd00:10:2::1"],
            "outside" => ["203.0.113.9", "2001:db8::9"],
            _ => {
                let id = self.state.port_by_name(name).unwrap_or_else(|| panic!("no pod {name}"));
                let endpoint = self.state.endpoint_of(id).unwrap();
                return endpoint.addresses[usize::from(v6)];
            }
        };
        ip(known[usize::from(v6)])
    }

    /// The MAC address of a Pod, or of `gateway`.
    #[track_caller]
    pub fn mac(&self, name: &str) -> Mac {
        match name {
            "gateway" | "host" => GATEWAY_MAC,
            "virtual" => Mac::VIRTUAL,
            "all" => Mac::BROADCAST,
            // Locally administered, nobody's: "other-7".
            name if let Some(number) = name.strip_prefix("other-") => {
                Mac([2, 0, 0, 9, 0, number.parse().unwrap()])
            }
            pod => self.state.endpoint_of(self.state.port_by_name(pod).unwrap()).unwrap().mac,
        }
    }

    /// The frame that a probe is.
    #[track_caller]
    pub fn frame(&self, probe: &Probe) -> Vec<u8> {
        let described = self.describe(probe);
        described.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`frame`](Self::frame); `None` when there is no way to send it now.
    pub fn try_frame(&self, probe: &Probe) -> Option<Vec<u8>> {
        self.describe(probe).ok()
    }

    fn describe(&self, probe: &Probe) -> Result<Vec<u8>, DescribeError> {
        let description = Description {
            ingress: probe.from.clone(),
            source: probe.source.as_ref().map(|name| self.address(name, probe.v6)),
            destination: self.address(&probe.to, probe.v6),
            protocol: probe.protocol,
            source_port: probe.source_port,
            destination_port: probe.destination_port,
            payload_bytes: probe.payload_bytes,
            ttl: probe.ttl,
            tcp_flags: None,
            source_mac: probe.source_mac.as_ref().map(|name| self.mac(name)),
            destination_mac: probe.destination_mac.as_ref().map(|name| self.mac(name)),
        };
        let mut frame = describe(&description, &self.state)?.bytes().to_vec();
        for edit in &probe.edits {
            edit(&mut frame);
        }
        Ok(frame)
    }

    /// What a packet here is judged by, without a trace.
    pub fn context(&mut self) -> Context<'_> {
        Context {
            state: &self.state,
            adjacencies: &self.adjacencies,
            now_ms: self.now_ms,
            learned: &self.learned,
            worker: &mut self.worker,
            dry: false,
            trace: None,
        }
    }

    /// Sends what a probe describes.
    #[track_caller]
    pub fn send(&mut self, probe: Probe) -> Fate {
        let frame = self.frame(&probe);
        let ingress = if probe.from == "tunnel" { UPLINK } else { &probe.from };
        self.send_frame(ingress, &frame, probe.checksum)
    }

    /// Sends a frame by the port of that name.
    #[track_caller]
    pub fn send_frame(&mut self, ingress: &str, frame: &[u8], checksum: Checksum) -> Fate {
        let id = self.state.port_by_name(ingress).unwrap_or_else(|| panic!("no port {ingress}"));
        self.send_by(id, frame, checksum)
    }

    /// Sends a frame by the port with this index, open or not.
    pub fn send_by(&mut self, ingress: PortId, frame: &[u8], checksum: Checksum) -> Fate {
        let name = |state: &State, id: PortId| {
            state.port(id).map_or_else(|| format!("port{id}"), |port| port.name.clone())
        };
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend(frame);
        let end = buffer.len();
        let mut packet = Packet::new(&mut buffer, HEADROOM, end, ingress, checksum).unwrap();
        let following = self.following;
        packet.following = following;
        let mut trace = Trace::default();
        let mut context = Context { trace: Some(&mut trace), ..self.context() };
        field::take_read();
        let outcome = run(&mut packet, &mut context);
        self.trace = trace;
        let place = packet.place();
        (self.checksum, self.following) = (place.checksum, place.following);
        let range = place.range.clone();
        let came = (frame, checksum, following);
        self.follow(ingress, came, (outcome, &buffer[range.clone()], place));
        let (counter, fate) = match outcome {
            Outcome::Output(egress) => {
                let egress = name(&self.state, egress);
                (format!("outputs.{egress}"), Fate::Left(egress, buffer[range].to_vec()))
            }
            Outcome::Replicate(vlan) => {
                let members = self.state.vlan_members(vlan).filter(|port| *port != ingress);
                let members: Vec<_> = members.map(|port| name(&self.state, port)).collect();
                (format!("copies.{vlan}"), Fate::Copied(members, buffer[range].to_vec()))
            }
            Outcome::Drop(reason) => {
                let ingress = name(&self.state, ingress);
                (format!("drops.{ingress}.{}", reason.name()), Fate::Dropped(reason))
            }
        };
        *self.counters.entry(counter).or_default() += 1;
        fate
    }

    /// What the counters gained since this was last asked: `outputs.b +1`, `drops.a.SpoofedArp +2`,
    /// `rules.web/allow.sessions +1`.
    pub fn changes(&mut self) -> Vec<String> {
        for (id, rule) in self.state.rules() {
            let RuleCounts { sessions, packets, bytes } = self.worker.tallies.get(id).settled();
            let counts = [("sessions", sessions), ("packets", packets), ("bytes", bytes)];
            for (what, count) in counts {
                self.counters.insert(format!("rules.{}.{what}", rule.name), count);
            }
        }
        let gained = self.counters.iter().filter_map(|(name, count)| {
            let gained = count.saturating_sub(self.seen.get(name).copied().unwrap_or(0));
            (gained > 0).then(|| format!("{name} +{gained}"))
        });
        let gained = gained.collect();
        self.seen = self.counters.clone();
        gained
    }

    /// Asserts that these counters moved since this was last asked, and nothing else did.
    #[track_caller]
    pub fn assert_changed<const N: usize>(&mut self, expected: [&str; N]) {
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(self.changes(), expected);
    }
}

/// An open port.
pub fn port(index: usize, name: &str, kind: PortKind, mac: Mac) -> Port {
    let id = PortId::new(index).unwrap();
    let mtu = if kind == PortKind::Uplink { 1500 } else { MTU };
    Port { id, name: name.to_owned(), kind, mac, mtu, generation: 1 }
}

/// The Endpoint of the Pod with this number, attached to the port of the same name.
pub fn endpoint(index: usize, pod: &str) -> Endpoint {
    Endpoint {
        name: format!("default/{pod}/eth0"),
        port: pod.to_owned(),
        mac: Mac([2, 0, 0, 1, 0, index as u8 + 2]),
        addresses: vec![
            ip(&format!("10.10.1.{}", index + 2)),
            ip(&format!("fd00:10:1::{:x}", index + 2)),
        ],
        mtu: MTU,
        permit: Permit::default(),
        network_id: 0,
        interface_index: 0,
    }
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn net(range: &str) -> ipnet::IpNet {
    range.parse().unwrap()
}
