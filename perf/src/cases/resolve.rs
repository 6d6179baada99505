//! A client that resolves a name before it connects: question and answer as packets.
//!
//! The server is outside of the cluster and knows what the step says. A node that has rules about
//! names reads the answer on its way.

use std::net::IpAddr;

use super::address;
use super::attempt::{Attempt, Seen};
use super::file::Protocol;
use super::segment::{ACK, Message, Segment};
use super::world::{Fate, Place, World};

/// Where the server is, in IPv4 (RFC 5737).
const SERVER: [u8; 4] = [198, 51, 100, 53];
/// The port of DNS.
const PORT: u16 = 53;
/// The number of every question.
const ID: [u8; 2] = [0x12, 0x34];
/// Push, which TCP sets with data.
const PSH: u8 = 0x08;

/// Puts bytes between two ports.
type Wrap = fn((u16, u16), Vec<u8>) -> Message;

/// A question that a Pod asks.
pub(super) struct Question<'a> {
    /// Who asks.
    pub from: Place,
    /// Its address.
    pub source: IpAddr,
    /// The port it asks from.
    pub source_port: u16,
    /// What it wants resolved.
    pub name: &'a str,
    /// What that resolves to.
    pub addresses: &'a [IpAddr],
    /// UDP or TCP.
    pub transport: Protocol,
}

impl Question<'_> {
    /// Asks and gets the answer; why not, otherwise.
    pub fn ask(&self, world: &mut World) -> Result<(), String> {
        let v4 = IpAddr::from(SERVER);
        let server = if self.source.is_ipv4() { v4 } else { address::address(v4) };
        let question = self.question();
        let ports = (self.source_port, PORT);
        let (ask, answer): (Message, Wrap) = match self.transport {
            Protocol::Tcp => {
                self.connect(world, server)?;
                (data(ports, framed(&question)), |ports, bytes| data(ports, framed(&bytes)))
            }
            _ => {
                let payload = question.clone();
                (Message::Udp { ports, payload }, |ports, payload| Message::Udp { ports, payload })
            }
        };
        let request = Segment { source: self.source, destination: server, message: ask };
        let at = arrive(world, &self.from, &request, "the question")?;
        let Place::Outside(_) = at else { return Err(format!("the question arrives at {at:?}")) };
        let message = answer((PORT, self.source_port), self.answer(&question));
        let reply = Segment { source: server, destination: self.source, message };
        let back = arrive(world, &at, &reply, "the answer")?;
        if back == self.from { Ok(()) } else { Err(format!("the answer arrives at {back:?}")) }
    }

    fn connect(&self, world: &mut World, server: IpAddr) -> Result<(), String> {
        let attempt = Attempt {
            from: self.from.clone(),
            source: self.source,
            destination: server,
            server: None,
            protocol: Protocol::Tcp,
            source_port: self.source_port,
            port: PORT,
            icmp: (0, 0),
        };
        match attempt.make(world) {
            Seen::Answer => Ok(()),
            seen => Err(format!("no connection to the server of names: {seen:?}")),
        }
    }

    /// RFC 1035, 4.1: header, name, type and class.
    fn question(&self) -> Vec<u8> {
        let mut message = ID.to_vec();
        // Recursion desired; one question.
        message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in self.name.split('.') {
            message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(if self.source.is_ipv4() { [0, 1] } else { [0, 28] });
        message.extend([0, 1]);
        message
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let mut message = question.to_vec();
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        message.splice(2..8, [0x81, 0x80, 0, 1, 0, count]);
        for address in self.addresses {
            let (kind, bytes) = match address {
                IpAddr::V4(address) => (1, address.octets().to_vec()),
                IpAddr::V6(address) => (28, address.octets().to_vec()),
            };
            // The name of the question, type, class, 300 seconds, length.
            let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            message.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 1, 44, 0, len]);
            message.extend(bytes);
        }
        message
    }
}

/// Over TCP a message has its length in front (RFC 1035, 4.2.2).
fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

fn data(ports: (u16, u16), payload: Vec<u8>) -> Message {
    // What follows the SYN of either side.
    let (sequence, acknowledged) = if ports.1 == PORT { (1001, 5001) } else { (5001, 1001) };
    Message::Tcp { ports, sequence, acknowledged, flags: ACK | PSH, payload }
}

fn arrive(world: &mut World, from: &Place, segment: &Segment, what: &str) -> Result<Place, String> {
    match world.send(from, segment) {
        Fate::Arrived(place, _) => Ok(place),
        Fate::Dropped(node, reason) => Err(format!("{node} drops {what}: {}", reason.name())),
        Fate::Lost(where_to) => Err(format!("{what}: {where_to}")),
    }
}
