//! The tunnel's headers: Seine puts them on and takes them off, Open vSwitch's `dummy` port of the
//! tunnel has the inner frames.

use std::net::IpAddr;

use seine_pipeline::address::Mac;
use seine_pipeline::wire::ethernet::{self, Ethernet};
use seine_pipeline::wire::ip::Ip;
use seine_pipeline::wire::{geneve, udp};

use crate::cases::segment::{Message, Segment};

/// Geneve's header without options.
const HEADER: [u8; 8] = [0, 0, 0x65, 0x58, 0, 0, 0, 0];

/// What a peer sends that tunnels the frame, to a node with this MAC address on the underlay.
pub fn encapsulate(frame: &[u8], (source, destination): (IpAddr, IpAddr), to: Mac) -> Vec<u8> {
    let payload = [&HEADER, frame].concat();
    let message = Message::Udp { ports: (50000, geneve::PORT), payload };
    let outer = Segment { source, destination, message };
    outer.frame(Mac([2, 0, 0, 0, 2, 0xfe]), to)
}

/// To whom a frame is tunnelled, and what is in it.
pub fn decapsulate(frame: &[u8]) -> Option<(IpAddr, Vec<u8>)> {
    let link = Ethernet::parse(frame)?;
    let packet = frame.get(ethernet::LEN..)?;
    let ip = Ip::parse(link.ether_type(), packet)?.ok()?;
    let header = packet.get(ip.upper + udp::LEN..)?;
    let options = usize::from(header.first()? & 0x3f) * 4;
    Some((ip.destination, header.get(HEADER.len() + options..)?.to_vec()))
}
