//! One attempt to connect, as packets: what is asked, what is answered, and what the client sees.

use std::net::IpAddr;

use seine_pipeline::verdict::DropReason;

use super::file::Protocol;
use super::segment::{ACK, INIT, INIT_ACK, Message, RST, SYN, Segment};
use super::world::{Fate, Place, World};

/// The sequence number of every first packet.
const SEQUENCE: u32 = 1000;
/// The sequence number of every answer.
const ANSWER_SEQUENCE: u32 = 5000;

/// Who tries to reach whom.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The client.
    pub from: Place,
    /// Its address.
    pub source: IpAddr,
    /// The address it asks for: a Pod's, a Service's, a node's.
    pub destination: IpAddr,
    /// Who answers; `None` for whoever is outside of the Pod network.
    pub server: Option<Place>,
    /// By which protocol.
    pub protocol: Protocol,
    /// From which port; ICMP's identifier.
    pub source_port: u16,
    /// To which port.
    pub port: u16,
    /// ICMP's type and code.
    pub icmp: (u8, u8),
}

/// What the client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its packet arrived, and so did the answer.
    Answer,
    /// Its packet was dropped.
    Silence(DropReason),
    /// It was refused.
    Refusal,
    /// Something that must never be.
    Wrong(String),
}

impl Attempt {
    /// Sends the first packet and, where it arrives, the answer.
    pub fn make(&self, world: &mut World) -> Seen {
        let request = self.request();
        match self.offer(world, &request) {
            Ok((server, arrived)) => self.answer(world, &server, &arrived),
            Err(seen) => seen,
        }
    }

    /// Sends the first packet alone: whether it arrives is all that is seen.
    pub fn knock(&self, world: &mut World) -> Seen {
        self.offer(world, &self.request()).map_or_else(|seen| seen, |_| Seen::Answer)
    }

    /// Sends the first packet to where the server takes it.
    fn offer(&self, world: &mut World, request: &Segment) -> Result<(Place, Segment), Seen> {
        let (place, frame) = match world.send(&self.from, request) {
            Fate::Arrived(place, frame) => (place, frame),
            Fate::Dropped(_, reason) => return Err(Seen::Silence(reason)),
            Fate::Lost(where_to) => return Err(Seen::Wrong(where_to)),
        };
        let arrived = Segment::parse(&frame)
            .map_err(|error| Seen::Wrong(format!("what arrives at {place:?}: {error}")))?;
        if place == self.from && arrived.message.is_refusal() {
            return Err(self.refused(request, &arrived));
        }
        let expected = match &self.server {
            Some(server) => place == *server,
            None => matches!(place, Place::Outside(_)),
        };
        if !expected {
            return Err(Seen::Wrong(format!("it arrives at {place:?}")));
        }
        if !same_kind(&request.message, &arrived.message) {
            return Err(Seen::Wrong(format!("it arrives as {:?}", arrived.message)));
        }
        Ok((place, arrived))
    }

    /// Sends back what the server answers to what it took.
    fn answer(&self, world: &mut World, server: &Place, arrived: &Segment) -> Seen {
        let sent = Segment {
            source: arrived.destination,
            destination: arrived.source,
            message: reply(&arrived.message),
        };
        let frame = match world.send(server, &sent) {
            Fate::Arrived(place, frame) if place == self.from => frame,
            Fate::Arrived(place, _) => {
                return Seen::Wrong(format!("the reply arrives at {place:?}"));
            }
            Fate::Dropped(node, reason) => {
                return Seen::Wrong(format!("{node} drops the reply: {}", reason.name()));
            }
            Fate::Lost(where_to) => return Seen::Wrong(format!("the reply: {where_to}")),
        };
        let expected = Segment {
            source: self.destination,
            destination: self.source,
            message: reply(&self.request().message),
        };
        match Segment::parse(&frame) {
            Ok(found) if found == expected => Seen::Answer,
            Ok(found) => Seen::Wrong(format!("the reply is {found:?}")),
            Err(error) => Seen::Wrong(format!("the reply: {error}")),
        }
    }

    fn request(&self) -> Segment {
        let ports = (self.source_port, self.port);
        let message = match self.protocol {
            Protocol::Tcp => Message::Tcp {
                ports,
                sequence: SEQUENCE,
                acknowledged: 0,
                flags: SYN,
                payload: Vec::new(),
            },
            Protocol::Sctp => Message::Sctp { ports, tag: 0, chunk: INIT },
            Protocol::Icmp => {
                let (kind, code) = self.icmp;
                let [high, low] = self.source_port.to_be_bytes();
                Message::Icmp { kind, code, rest: vec![high, low, 0, 1, b'?'] }
            }
            // IGMP is no way to connect; who asks for it has skipped it.
            Protocol::Udp | Protocol::Igmp => Message::Udp { ports, payload: b"?".to_vec() },
        };
        Segment { source: self.source, destination: self.destination, message }
    }

    /// A refusal must look as if it came from whom the client asked.
    fn refused(&self, request: &Segment, found: &Segment) -> Seen {
        let sound = match &found.message {
            Message::Tcp { ports, flags, acknowledged, .. } => {
                self.protocol == Protocol::Tcp
                    && (found.source, found.destination) == (self.destination, self.source)
                    && *ports == (self.port, self.source_port)
                    && *flags == RST | ACK
                    && *acknowledged == SEQUENCE + 1
            }
            Message::Icmp { kind, code, rest } => {
                let prohibited = if self.source.is_ipv4() { (3, 10) } else { (1, 1) };
                self.protocol != Protocol::Tcp
                    && found.destination == self.source
                    && (*kind, *code) == prohibited
                    && quotes(rest, request)
            }
            _ => false,
        };
        if sound { Seen::Refusal } else { Seen::Wrong(format!("the refusal is {found:?}")) }
    }
}

fn same_kind(sent: &Message, arrived: &Message) -> bool {
    match (sent, arrived) {
        (Message::Tcp { flags, .. }, Message::Tcp { flags: found, .. }) => flags == found,
        (Message::Udp { payload, .. }, Message::Udp { payload: found, .. }) => payload == found,
        (Message::Sctp { chunk, .. }, Message::Sctp { chunk: found, .. }) => chunk == found,
        (Message::Icmp { kind, .. }, Message::Icmp { kind: found, .. }) => kind == found,
        _ => false,
    }
}

/// What a server says to what it took.
fn reply(message: &Message) -> Message {
    let swap = |ports: &(u16, u16)| (ports.1, ports.0);
    match message {
        Message::Tcp { ports, sequence, .. } => Message::Tcp {
            ports: swap(ports),
            sequence: ANSWER_SEQUENCE,
            acknowledged: sequence.wrapping_add(1),
            flags: SYN | ACK,
            payload: Vec::new(),
        },
        Message::Udp { ports, .. } => Message::Udp { ports: swap(ports), payload: b"!".to_vec() },
        Message::Sctp { ports, .. } => {
            Message::Sctp { ports: swap(ports), tag: 7, chunk: INIT_ACK }
        }
        Message::Icmp { kind, rest, .. } => {
            Message::Icmp { kind: if *kind == 128 { 129 } else { 0 }, code: 0, rest: rest.clone() }
        }
    }
}

/// Whether an ICMP error quotes the packet that the client sent, as far as it must: addresses and
/// the first eight bytes behind the header (RFC 792).
fn quotes(rest: &[u8], request: &Segment) -> bool {
    use seine_pipeline::address::Mac;
    use seine_pipeline::wire::{ethernet, ipv4, ipv6};
    let frame = request.frame(Mac([0; 6]), Mac([0; 6]));
    let sent = frame.get(ethernet::LEN..).unwrap_or_default();
    let quoted = rest.get(4..).unwrap_or_default();
    let (addresses, header) = match request.source {
        IpAddr::V4(_) => (12..20, ipv4::LEN),
        IpAddr::V6(_) => (8..40, ipv6::LEN),
    };
    // Ports, or ICMP's identifier; a checksum need not be restored.
    let ports = if matches!(request.message, Message::Icmp { .. }) { 4..8 } else { 0..4 };
    let ports = header + ports.start..header + ports.end;
    let alike = |range: std::ops::Range<usize>| {
        let part = quoted.get(range.clone());
        part.is_some() && part == sent.get(range)
    };
    alike(addresses) && alike(ports) && quoted.len() >= header + 8
}
