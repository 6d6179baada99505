//! The packets of every connection, built beforehand, and what each must be when it comes out.
//!
//! A packet carries its own number and the port that it should come out by in its payload, so the
//! sink knows what it is looking at without a table.

mod frame;

use seine_pipeline::address::Mac;
use seine_pipeline::packet::Checksum;

use self::frame::{ACK, End, Expected, SYN};
pub use self::frame::{OUTER, decapsulated, is_at_home, number, renew, stamp, stamped};
use super::objects::{
    ENDPOINTS, FIRST_OPEN_PORT, FIRST_POD, GATEWAY_MAC, REMOTE_PODS, SERVICE_PORT, UPLINK,
    pod_address, pod_mac, remote_address, service_address, service_pods, service_target,
};
use super::profile::{Kind, Profile, SEGMENT_BYTES, Sum, Tunnel};

/// Stands for a port that is not known yet: which endpoint a Service chooses.
const UNKNOWN: u16 = u16::MAX;
/// The first source port of a pair of client and server.
const FIRST_SOURCE_PORT: u16 = 20_000;
const LINE: usize = 64;
/// Bytes of the frames that open connections whose packets are in segments.
const OPENING_BYTES: usize = 64;

/// What is known of a packet that came out, beside its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Bytes of the frame.
    pub bytes: usize,
    /// Whether it is still in segments.
    pub in_segments: bool,
}

impl Said {
    /// Of a frame that is there as a whole.
    pub fn of(frame: &[u8]) -> Said {
        Said { bytes: frame.len(), in_segments: false }
    }
}

/// A cache line of a prepared packet.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Line(pub [u8; LINE]);

/// Why a packet that came out is wrong.
#[derive(Debug, thiserror::Error)]
#[error("packet {number} came out by port {port}: {what}\n{bytes:02x?}")]
pub struct Wrong {
    number: u32,
    port: usize,
    what: String,
    bytes: Vec<u8>,
}

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Talk {
    client: usize,
    /// A Pod; of a Service, a number of the Service.
    server: usize,
    source_port: u16,
    rule: usize,
}

/// All packets of a profile.
pub struct Traffic {
    profile: Profile,
    /// How many connections there are packets of.
    connections: u32,
    lines: Vec<Line>,
    lines_each: usize,
    /// Of each connection through a Service: the Pod that was chosen for it.
    chosen: Vec<u16>,
    /// Packets open connections of TCP, and carry nothing.
    opening: bool,
}

impl Traffic {
    /// Builds them.
    pub fn new(profile: &Profile) -> Traffic {
        let lines_each = if profile.tunnel == Tunnel::None { 1 } else { 2 };
        let mut traffic = Traffic {
            profile: profile.clone(),
            connections: 0,
            lines: Vec::new(),
            lines_each,
            chosen: Vec::new(),
            opening: profile.tso,
        };
        // New ones are made of these by changing the source port.
        traffic.connections = match profile.kind {
            Kind::Established => profile.connections,
            Kind::New => traffic.pairs() as u32,
        };
        traffic.lines = vec![Line([0; LINE]); 2 * lines_each * traffic.connections as usize];
        if profile.services > 0 {
            traffic.chosen = vec![UNKNOWN; traffic.connections as usize];
        }
        for number in 0..2 * traffic.connections {
            if profile.services == 0 || number % 2 == 0 {
                traffic.build(number);
            }
        }
        traffic
    }

    /// Where packets are of TCP: whether they open their connections, or carry 64 KiB. Nothing
    /// changes where they are not.
    pub fn open_connections(&mut self, opening: bool) {
        if self.profile.tso && self.opening != opening {
            self.opening = opening;
            (0..2 * self.connections).for_each(|number| self.build(number));
        }
    }

    /// Bytes of each frame.
    pub fn frame_bytes(&self) -> usize {
        if self.opening { OPENING_BYTES } else { self.profile.size }
    }

    /// Payload of each segment, where packets are in segments.
    pub fn segment_bytes(&self) -> Option<usize> {
        (self.profile.tso && !self.opening).then_some(SEGMENT_BYTES)
    }

    /// How many connections there are packets of.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// The prepared packet of this number, as far as it differs from others.
    pub fn lines(&self, number: u32) -> &[Line] {
        let at = number as usize * self.lines_each;
        &self.lines[at..at + self.lines_each]
    }

    /// The port by which the packet that begins with these lines goes in.
    #[inline]
    pub fn ingress(lines: &[Line]) -> usize {
        match lines.first() {
            // The MAC address of its sender, where that is a Pod.
            Some(Line([_, _, _, _, _, _, 2, 0, 0, 1, high, low, ..])) => {
                usize::from(u16::from_be_bytes([*high, *low]))
            }
            _ => UPLINK,
        }
    }

    /// Where in a frame that goes in by this port the inner packet begins.
    #[inline]
    pub fn inner_at(port: usize) -> usize {
        if port == UPLINK { OUTER } else { 0 }
    }

    /// The fact that goes in with each frame.
    pub fn checksum(&self) -> Checksum {
        match self.profile.checksum {
            Sum::Partial => Checksum::Partial { start: 34, offset: 6 },
            Sum::Zero | Sum::Complete => Checksum::Complete,
        }
    }

    /// How many pairs of client and server there are: connections that differ by more than their
    /// source port.
    fn pairs(&self) -> usize {
        let Profile { pods, services, tunnel, .. } = self.profile;
        match (services, tunnel) {
            (0, Tunnel::None) => pods * (pods - 1),
            (0, _) => pods * REMOTE_PODS,
            _ => services * (pods - ENDPOINTS),
        }
    }

    fn talk(&self, connection: u32) -> Talk {
        let Profile { pods, services, policies_per_side, tunnel, .. } = self.profile;
        let connection = connection as usize;
        let (pair, lap) = (connection % self.pairs(), connection / self.pairs());
        // Any rule for any pair, whatever both counts have in common.
        let rule = (connection.wrapping_mul(0x9e37_79b1) >> 8) % policies_per_side;
        let (client, server) = match (services, tunnel) {
            (0, Tunnel::None) => {
                let client = pair % pods;
                (client, (client + 1 + pair / pods) % pods)
            }
            (0, Tunnel::GeneveOut) => (pair % pods, pair / pods),
            (0, Tunnel::GeneveIn) => (pair / pods, pair % pods),
            _ => {
                let service = pair % services;
                let after = service_pods(service, pods)[ENDPOINTS - 1] + 1;
                let (lap, block) = (pair / services, service / (pods / ENDPOINTS));
                ((after + (lap + block) % (pods - ENDPOINTS)) % pods, service)
            }
        };
        let class = if services > 0 { server / self.alike() } else { 0 };
        let source_port = FIRST_SOURCE_PORT + (lap * self.stride() + class) as u16;
        let rule = if services > 0 { server % policies_per_side } else { rule };
        Talk { client, server, source_port, rule }
    }

    /// Services that are so far apart stand for the same Pods at the same port: what a client
    /// sends to both must differ by its source port, or their answers would not.
    fn alike(&self) -> usize {
        let (mut one, mut other) = (self.profile.pods / ENDPOINTS, self.profile.policies_per_side);
        let product = one * other;
        while other > 0 {
            (one, other) = (other, one % other);
        }
        product / one
    }

    /// How far apart the source ports of a pair are, for Services to share what is between.
    pub fn stride(&self) -> usize {
        self.profile.services.div_ceil(self.alike()).max(1)
    }

    /// Addresses as the client sees them, and the server's as it is.
    fn ends(&self, connection: u32) -> (End, End, End) {
        let talk = self.talk(connection);
        let end = |address, port| End { address, port };
        let client = match self.profile.tunnel {
            Tunnel::GeneveIn => remote_address(talk.client),
            _ => pod_address(talk.client),
        };
        let client = end(client, talk.source_port);
        if self.profile.services > 0 {
            let seen = end(service_address(talk.server), SERVICE_PORT);
            let pod = usize::from(self.chosen[connection as usize]);
            let port = service_target(talk.server, self.profile.policies_per_side);
            return (client, seen, end(pod_address(pod), port));
        }
        let server = match self.profile.tunnel {
            Tunnel::GeneveOut => remote_address(talk.server),
            _ => pod_address(talk.server),
        };
        let server = end(server, FIRST_OPEN_PORT + talk.rule as u16);
        (client, server, server)
    }

    /// The ports by which a packet goes in and comes out.
    fn ports(&self, number: u32) -> [u16; 2] {
        let talk = self.talk(number / 2);
        let pod = |pod: usize| (pod + FIRST_POD) as u16;
        let server = match (self.profile.services, self.profile.tunnel) {
            (0, Tunnel::GeneveOut) => UPLINK as u16,
            (0, _) => pod(talk.server),
            _ => match self.chosen[number as usize / 2] {
                UNKNOWN => UNKNOWN,
                chosen => pod(usize::from(chosen)),
            },
        };
        let client = match self.profile.tunnel {
            Tunnel::GeneveIn => UPLINK as u16,
            _ => pod(talk.client),
        };
        if number.is_multiple_of(2) { [client, server] } else { [server, client] }
    }

    fn build(&mut self, number: u32) {
        let original = number.is_multiple_of(2);
        let (client, seen, server) = self.ends(number / 2);
        let [ingress, egress] = self.ports(number);
        let (source, destination) = if original { (client, seen) } else { (server, client) };
        let mac = |port: u16| pod_mac(usize::from(port).saturating_sub(FIRST_POD));
        let uplink = UPLINK as u16;
        let target = match (self.profile.tunnel, self.profile.services) {
            (Tunnel::None, 0) => mac(egress),
            (Tunnel::None, _) if !original => mac(egress),
            (Tunnel::None, _) => GATEWAY_MAC,
            _ if ingress == uplink => Mac::VIRTUAL,
            _ => GATEWAY_MAC,
        };
        let sender = if ingress == uplink { GATEWAY_MAC } else { mac(ingress) };
        let (macs, ends) = ([target, sender], [source, destination]);
        let mut bytes = if self.profile.tso {
            let flags = match (self.opening, original) {
                (true, true) => SYN,
                (true, false) => SYN | ACK,
                (false, _) => ACK,
            };
            frame::segment(self.frame_bytes(), flags, macs, ends)
        } else {
            frame::inner(&self.profile, macs, ends)
        };
        frame::mark(&mut bytes, number, egress);
        frame::sum(&mut bytes, self.profile.checksum);
        if ingress == uplink {
            let source_port = 0xc000 | (number as u16 & 0x3fff);
            bytes.splice(0..0, frame::outer(bytes.len(), source_port));
        }
        bytes.resize(bytes.len().max(self.lines_each * LINE), 0);
        let at = number as usize * self.lines_each;
        let lines = &mut self.lines[at..at + self.lines_each];
        for (line, chunk) in lines.iter_mut().zip(bytes.as_chunks().0) {
            line.0 = *chunk;
        }
    }

    /// Learns from the first packet of a connection through a Service which endpoint was chosen:
    /// its reply comes from there. Any endpoint of the Service will do; from then on, only this.
    pub fn learn(&mut self, port: usize, packet: &[u8]) {
        let Some(number) = frame::number(packet).filter(|it| *it < 2 * self.connections) else {
            return;
        };
        let talk = self.talk(number / 2);
        let pod = port.wrapping_sub(FIRST_POD);
        if self.profile.kind == Kind::Established
            && let Some(chosen) = self.chosen.get_mut(number as usize / 2)
            && *chosen == UNKNOWN
            && service_pods(talk.server, self.profile.pods).contains(&pod)
        {
            *chosen = pod as u16;
            self.build(number & !1);
            self.build(number | 1);
        }
    }

    /// Judges a packet that came out by `port`, the tunnel's headers taken off.
    pub fn judge(&self, port: usize, packet: &[u8], said: Said) -> Result<(), Wrong> {
        let number = frame::number(packet).unwrap_or(u32::MAX);
        let wrong = |what: String| Wrong { number, port, what, bytes: packet.to_vec() };
        if number >= 2 * self.connections {
            return Err(wrong("it is no packet that was sent".to_owned()));
        }
        if said.bytes != self.frame_bytes() {
            return Err(wrong(format!("it has {} bytes", said.bytes)));
        }
        if said.in_segments != self.segment_bytes().is_some() {
            return Err(wrong("it is in segments, and was not, or the other way round".to_owned()));
        }
        let egress = self.egress(number, port);
        if egress != Some(port) {
            return Err(wrong(format!("it was for port {egress:?}")));
        }
        let expected = self.expected(number, packet, port);
        let found = frame::read(packet);
        if found != Some(expected) {
            return Err(wrong(format!("it is {found:?} and should be {expected:?}")));
        }
        if !frame::sums_hold(packet, self.profile.checksum) {
            return Err(wrong("a checksum is wrong".to_owned()));
        }
        Ok(())
    }

    /// The port by which a packet has to come out, which was seen at `port`: each new connection
    /// through a Service has an endpoint chosen for it, and any will do.
    fn egress(&self, number: u32, port: usize) -> Option<usize> {
        if self.profile.kind == Kind::New && self.profile.services > 0 {
            let service = self.talk(number / 2).server;
            let pod = port.checked_sub(FIRST_POD)?;
            return service_pods(service, self.profile.pods).contains(&pod).then_some(port);
        }
        let [_, egress] = self.ports(number);
        (egress != UNKNOWN).then_some(usize::from(egress))
    }

    fn expected(&self, number: u32, packet: &[u8], port: usize) -> Expected {
        let (mut client, seen, mut server) = self.ends(number / 2);
        if self.profile.kind == Kind::New {
            // Each has a source port of its own, which it tells in its payload.
            client.port = frame::renewed_port(packet);
            if self.profile.services > 0 {
                server.address = pod_address(port.saturating_sub(FIRST_POD));
            }
        }
        let [ingress, _] = self.ports(number).map(usize::from);
        let original = number.is_multiple_of(2);
        let (source, destination) = if original { (client, server) } else { (seen, client) };
        let switched = self.profile.tunnel == Tunnel::None && self.profile.services == 0;
        let target = match port {
            UPLINK => Mac::VIRTUAL,
            pod => pod_mac(pod.saturating_sub(FIRST_POD)),
        };
        let sender = if switched { pod_mac(ingress - FIRST_POD) } else { GATEWAY_MAC };
        let ttl = if switched { 64 } else { 63 };
        Expected { macs: [target, sender], source, destination, ttl }
    }
}
