//! Conversations on a node in memory that takes every packet both ways, by the stages and by what
//! was composed: of tests, and of the fuzzer, which makes them out of bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use seine_pipeline::address::Mac;
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::{Change, ExistingConnections, Kind, Object, ObjectId};
use seine_pipeline::testbed::{
    CHANGE_BYTES, Fate, GATEWAY, HOST, Node, Twin, UPLINK, answered, endpoint, flags, port, tcp,
    transactions, udp,
};
use seine_pipeline::wire::{ethernet, ip::Ip};

use crate::{policy, service};

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const VIRTUAL: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet of a conversation that may be new.
    Open { from: u8, to: u8, port: u8, v6: bool, segment: bool },
    /// Whoever got this packet answers.
    Answer { which: u8 },
    /// Whoever sent this packet sends it again.
    Again { which: u8 },
    /// As that, but the packet is somewhat different.
    Differently { which: u8, how: u8 },
    /// Something of the node changes.
    Change { which: u8 },
    /// Any object comes or goes, or none when it clashes with what there is.
    Object { change: [u8; CHANGE_BYTES] },
    /// Silence.
    Wait { ms: u32 },
}

impl Event {
    /// The event at the front of these bytes, and those behind it; `None` when there is none.
    pub fn read(bytes: &[u8]) -> Option<(Event, &[u8])> {
        let (what, rest) = bytes.split_first()?;
        if what % 16 == 15 {
            let (change, rest) = rest.split_first_chunk()?;
            return Some((Event::Object { change: *change }, rest));
        }
        let ([a, b], rest) = rest.split_first_chunk()?;
        let (a, b) = (*a, *b);
        let event = match what % 16 {
            0..4 => Event::Open {
                from: a % 8,
                to: a / 8 % 10,
                port: b % 3,
                v6: b & 0x80 != 0,
                segment: b & 0x40 != 0,
            },
            4..8 => Event::Answer { which: a },
            8..12 => Event::Again { which: a },
            12 => Event::Differently { which: a, how: b % 9 },
            13 => Event::Change { which: a % 16 },
            _ => Event::Wait { ms: u32::from(a) * [1, 250, 20_000, 4_000_000][usize::from(b % 4)] },
        };
        Some((event, rest))
    }
}

/// A node and what was said on it.
pub struct Stage {
    /// Where.
    pub node: Node,
    /// By which port, and what.
    pub sent: Vec<(String, Vec<u8>)>,
    /// By which port, and what.
    pub left: Vec<(String, Vec<u8>)>,
}

impl Stage {
    /// Four Pods, a peer, and Services.
    pub fn new() -> Stage {
        let mut node = Node::with_pods(PODS);
        let at = VIRTUAL.join(" ");
        for line in [
            &format!("web udp 80 at {at} to b:80 c:80 remote:80"),
            &format!("web-tcp tcp 80 at {at} node-port 30080 to a:80 b:80 remote:80"),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let change = service::change(&node, &words);
            node.apply(&[change]);
        }
        Stage { node, sent: Vec::new(), left: Vec::new() }
    }

    /// Rules that change are for connections that there are, too.
    pub fn reevaluate(&mut self) {
        let id = ObjectId { kind: Kind::Node, name: "node1".to_owned() };
        let Some(Object::Node(mut node)) = self.node.state.object(&id) else { panic!("no node") };
        node.existing_connections = ExistingConnections::Reevaluate;
        self.node.apply(&[Change::Upsert(Object::Node(node))]);
    }

    /// Sends a packet, if there is such a port.
    pub fn send(&mut self, ingress: &str, frame: Vec<u8>, checksum: Checksum) {
        if self.node.state.port_by_name(ingress).is_none() {
            return;
        }
        if let Fate::Left(egress, left) = self.node.send_frame(ingress, &frame, checksum) {
            self.left.push((egress, left));
            self.sent.push((ingress.to_owned(), frame));
        }
    }

    /// Lets it happen.
    pub fn play(&mut self, event: &Event) {
        match *event {
            Event::Open { from, to, port, v6, segment } => self.open(from, to, port, v6, segment),
            Event::Answer { which } => {
                let Some((by, frame)) = pick(&self.left, which) else { return };
                // What the node itself is sent, it answers by its own port or the gateway's.
                let by = if by == GATEWAY && which % 4 == 0 { HOST.to_owned() } else { by };
                self.send(&by, answered(&frame), Checksum::Complete);
            }
            Event::Again { which } => {
                let Some((by, frame)) = pick(&self.sent, which) else { return };
                // With segments behind it, at times.
                self.node.following = usize::from(which) % 3 * 1000;
                self.send(&by, frame, Checksum::Complete);
                self.node.following = 0;
            }
            Event::Differently { which, how } => {
                let Some((by, frame)) = pick(&self.sent, which) else { return };
                let (frame, checksum) = different(frame, how);
                self.send(&by, frame, checksum);
            }
            Event::Change { which } => {
                for change in self.change(which) {
                    if let Ok(next) = self.node.state.apply(&[change]) {
                        self.node.state = next;
                    }
                }
            }
            Event::Object { change } => {
                for changes in transactions(&change) {
                    if let Ok(next) = self.node.state.apply(&changes) {
                        self.node.state = next;
                    }
                }
            }
            Event::Wait { ms } => self.node.wait_ms(u64::from(ms)),
        }
    }

    /// Sends the first packet of a conversation, or one like it.
    pub fn open(&mut self, from: u8, to: u8, port: u8, v6: bool, segment: bool) {
        let virtual_ip = VIRTUAL[usize::from(v6)];
        let from = [PODS[0], PODS[1], PODS[2], PODS[3], GATEWAY, HOST, "tunnel", PODS[0]]
            [usize::from(from)];
        let to = [
            PODS[0], PODS[1], PODS[2], PODS[3], "remote", "outside", "gateway", virtual_ip,
            virtual_ip, virtual_ip,
        ][usize::from(to)];
        let state = &self.node.state;
        let gone =
            |pod: &str| state.port_by_name(pod).and_then(|port| state.endpoint_of(port)).is_none();
        if PODS.iter().any(|pod| (from == *pod || to == *pod) && gone(pod)) {
            return;
        }
        let probe = if segment { tcp().flags(flags::ACK) } else { udp() };
        let probe =
            probe.from(from).to(to).in_v6(v6).port(80).source_port(40_000 + u16::from(port));
        let probe = if from == GATEWAY && port == 2 { probe.source("outside") } else { probe };
        let Some(frame) = self.node.try_frame(&probe) else { return };
        let ingress = if from == "tunnel" { UPLINK } else { from };
        self.send(ingress, frame, Checksum::Complete);
    }

    /// What of the node changes: Endpoints that move, go, or get another MTU or MAC address; ports
    /// that are other ports; the peer, the next hop, rules, Services.
    fn change(&mut self, which: u8) -> Vec<Change> {
        let pod = PODS[usize::from(which % 4)];
        let index = usize::from(which % 4);
        let name = format!("default/{pod}/eth0");
        let delete = |kind, name: &str| Change::Delete(ObjectId { kind, name: name.to_owned() });
        let mut own = endpoint(index, pod);
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        match which {
            0 | 1 => vec![delete(Kind::Endpoint, &name)],
            2..=4 => vec![Change::Upsert(Object::Endpoint(own))],
            5 => {
                own.mtu = 600;
                vec![Change::Upsert(Object::Endpoint(own))]
            }
            6 => {
                own.mac = Mac([2, 0, 0, 7, 7, which]);
                vec![Change::Upsert(Object::Endpoint(own))]
            }
            7 => {
                // Another Pod has the addresses.
                own.name = "default/other/eth0".to_owned();
                own.port = PODS[0].to_owned();
                let gone = ["a", pod].map(|pod| format!("default/{pod}/eth0"));
                let gone = gone.iter().map(|name| delete(Kind::Endpoint, name));
                gone.chain([Change::Upsert(Object::Endpoint(own))]).collect()
            }
            8 => {
                let kind = seine_pipeline::address::PortKind::Pod;
                let mut again = port(index + 2, pod, kind, Mac([2, 0, 0, 1, 1, index as u8]));
                again.generation = 2;
                vec![Change::Upsert(Object::Port(again))]
            }
            9 => vec![delete(Kind::Peer, "node2")],
            10 => vec![delete(Kind::Service, "web")],
            11 => {
                let line = words("group b 10.10.1.3/32 fd00:10:1::3/128");
                let group = policy::change(&self.node, &refs(&line));
                self.node.apply(&[group]);
                let line = words("rule deny ingress antrea 5 drop of b");
                vec![policy::change(&self.node, &refs(&line))]
            }
            12 => vec![delete(Kind::Rule, "deny")],
            13 => vec![delete(Kind::Port, pod)],
            _ => {
                // Everything as it was.
                let fresh = Node::with_pods(PODS);
                let ids = fresh.state.object_ids();
                let other = delete(Kind::Endpoint, "default/other/eth0");
                let objects = ids.iter().filter_map(|id| fresh.state.object(id));
                [other].into_iter().chain(objects.map(Change::Upsert)).collect()
            }
        }
    }
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn pick(from: &[(String, Vec<u8>)], which: u8) -> Option<(String, Vec<u8>)> {
    // What was said lately is what matters.
    let recent = from.len().saturating_sub(12);
    let recent = &from[recent..];
    recent.get(usize::from(which) % recent.len().max(1)).cloned()
}

/// The packet with another TTL, MAC address, length, flag, or what its port says of it.
fn different(mut frame: Vec<u8>, how: u8) -> (Vec<u8>, Checksum) {
    let v4 = frame[12..14] == [8, 0];
    let upper = if v4 { 34 } else { 54 };
    let protocol = if v4 { frame[23] } else { frame[20] };
    let offset = if protocol == 6 { 16 } else { 6 };
    match how {
        0 if v4 => {
            let before = frame[22];
            frame[22] = 1;
            // The header's sum, by difference.
            let sum = u32::from(!u16::from_be_bytes([frame[24], frame[25]]));
            let sum = sum + u32::from(!u16::from_be_bytes([before, protocol]));
            let mut sum = sum + u32::from(u16::from_be_bytes([1, protocol]));
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        0 => frame[21] = 1,
        1 => frame[0..6].copy_from_slice(&[0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
        2 => frame[5] ^= 1,
        3 => frame[11] ^= 1,
        4 => frame.extend([0; 9]),
        5 => frame.truncate(frame.len() - 1),
        6 if protocol == 6 => frame[upper + 13] = flags::ACK | flags::FIN,
        7 => {
            let checksum = Checksum::Partial { start: upper as u16, offset: offset as u16 };
            return (frame, checksum);
        }
        8 => {
            // What a Pod's kernel leaves for the device.
            if let Some(Ok(ip)) =
                Ip::parse(if v4 { 0x800 } else { 0x86dd }, &frame[ethernet::LEN..])
            {
                let sum = seine_pipeline::wire::checksum::pseudo_header(
                    ip.source,
                    ip.destination,
                    ip.protocol,
                    ip.len - ip.upper,
                );
                let field = upper + offset;
                let sum = seine_pipeline::wire::checksum::fold(sum);
                frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        _ => {}
    }
    (frame, Checksum::Complete)
}

/// Plays what these bytes are, and holds both ways of deciding against each other: of the first,
/// the lowest bit chooses one worker or two, the next whether rules that change judge again. Gives
/// the packets that needed no stage.
pub fn assert_composed(bytes: &[u8]) -> u64 {
    let Some((choice, mut rest)) = bytes.split_first() else { return 0 };
    let mut stage = Stage::new();
    if choice & 2 != 0 {
        stage.reevaluate();
    }
    stage.node.twin = Some(Twin::with_workers(1 + usize::from(choice & 1)));
    while let Some((event, behind)) = Event::read(rest) {
        stage.play(&event);
        rest = behind;
    }
    stage.node.assert_twins();
    let (hits, _) = stage.node.composed();
    hits
}
