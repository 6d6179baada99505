//! Builds the packet that an operator describes, so that a trace can explain it.

use std::net::IpAddr;

use crate::address::{Mac, PortId};
use crate::packet::{Checksum, Packet};
use crate::state::State;

/// What the described packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// An echo request, of the family of the addresses.
    Icmp,
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// A request for the destination's MAC address.
    Arp,
}

/// A packet in an operator's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// A port name, an Endpoint name ("default/web-0/eth0"), or "tunnel".
    pub ingress: String,
    /// The source; by default that of the ingress, of the destination's family.
    pub source: Option<IpAddr>,
    /// The destination.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// TCP and UDP only.
    pub source_port: u16,
    /// TCP and UDP only.
    pub destination_port: u16,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// By default the Endpoint's own, or the gateway's.
    pub source_mac: Option<Mac>,
    /// By default what the sender would have learnt by ARP or neighbour discovery.
    pub destination_mac: Option<Mac>,
}

/// A packet ready to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The port it comes in by.
    pub ingress: PortId,
    buffer: Vec<u8>,
    start: usize,
}

impl Described {
    /// The packet, with headroom in front of it.
    pub fn packet(&mut self) -> Option<Packet<'_>> {
        let end = self.buffer.len();
        Packet::new(&mut self.buffer, self.start, end, self.ingress, Checksum::Complete)
    }
}

/// Why no such packet can be built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescribeError {
    /// The ingress names nothing.
    #[error("no port or endpoint is called `{0}`; try `seinectl port list`, or \"tunnel\"")]
    UnknownIngress(String),
}

/// Builds the described packet.
pub fn describe(description: &Description, state: &State) -> Result<Described, DescribeError> {
    let ingress = state
        .port_by_name(&description.ingress)
        .ok_or_else(|| DescribeError::UnknownIngress(description.ingress.clone()))?;
    Ok(Described { ingress, buffer: Vec::new(), start: 0 })
}
