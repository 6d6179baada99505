//! The bytes of packets: built before they are sent, read when they came out.

use std::net::Ipv4Addr;

use seine_pipeline::address::Mac;
use seine_pipeline::wire::checksum::{self, for_udp};
use seine_pipeline::wire::{bytes_at, u16_at};

use super::UNKNOWN;
use crate::forward::objects::{NEXT_HOP_MAC, NODE_ADDRESS, PEER_ADDRESS, TCP, UDP, UPLINK_MAC};
use crate::forward::profile::{Profile, Sum};

/// Headers of a datagram before the tunnel's: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The same of a packet in segments, with TCP.
const TCP_HEADERS: usize = 14 + 20 + 20;
/// Where a packet carries when it was due: after its number, port and source port.
const STAMP_AT: usize = HEADERS + 8;
/// What Geneve over IPv4 puts in front.
pub const OUTER: usize = 14 + 20 + 8 + 8;
/// Flags of TCP.
pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;
/// The port of Geneve (RFC 8926).
const GENEVE: u16 = 6081;
/// Source ports that a pair of client and server has for its connections.
const SOURCE_PORTS: u32 = 40_000;

/// One end of a packet, as headers have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// What must stand in a packet that comes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    pub(super) macs: [Mac; 2],
    pub(super) source: End,
    pub(super) destination: End,
    pub(super) ttl: u8,
}

/// Where the payload of a packet begins.
#[inline]
fn payload_at(packet: &[u8]) -> usize {
    if packet.get(23) == Some(&TCP) { TCP_HEADERS } else { HEADERS }
}

/// The number that a packet carries.
pub fn number(packet: &[u8]) -> Option<u32> {
    bytes_at(packet, payload_at(packet)).map(u32::from_be_bytes)
}

/// Whether a packet came out by the port that it names; any, while that is not known.
#[inline]
pub fn is_at_home(packet: &[u8], port: usize) -> bool {
    u16_at(packet, payload_at(packet) + 4)
        .is_some_and(|it| usize::from(it) == port || it == UNKNOWN)
}

/// Lets a packet carry its number and where it should come out.
pub(super) fn mark(packet: &mut [u8], number: u32, egress: u16) {
    let at = payload_at(packet);
    packet[at..at + 4].copy_from_slice(&number.to_be_bytes());
    packet[at + 4..at + 6].copy_from_slice(&egress.to_be_bytes());
}

/// The source port that [`renew`] has given to a packet.
pub(super) fn renewed_port(packet: &[u8]) -> u16 {
    u16_at(packet, HEADERS + 6).unwrap_or_default()
}

/// Lets a packet carry when it was due, in cycles.
#[inline]
pub fn stamp(packet: &mut [u8], due: u64) {
    if let Some(field) = packet.get_mut(STAMP_AT..STAMP_AT + 8) {
        field.copy_from_slice(&due.to_be_bytes());
    }
}

/// When a packet was due.
#[inline]
pub fn stamped(packet: &[u8]) -> u64 {
    bytes_at(packet, STAMP_AT).map_or(0, u64::from_be_bytes)
}

/// Makes a prepared packet that of another connection of the same pair, the `lap`-th.
#[inline]
pub fn renew(packet: &mut [u8], lap: u32, stride: u32) {
    let laps = SOURCE_PORTS / stride;
    let first = u16_at(packet, 34).unwrap_or_default();
    let port = first.wrapping_add((lap % laps * stride) as u16).to_be_bytes();
    if let Some(field) = packet.get_mut(34..36) {
        field.copy_from_slice(&port);
    }
    if let Some(tag) = packet.get_mut(HEADERS + 6..HEADERS + 8) {
        tag.copy_from_slice(&port);
    }
}

/// A packet without a checksum of its datagram.
pub(super) fn inner(profile: &Profile, macs: [Mac; 2], ends: [End; 2]) -> Vec<u8> {
    let [source, destination] = ends;
    let mut frame = Vec::with_capacity(profile.size);
    macs.iter().for_each(|mac| frame.extend(mac.0));
    frame.extend([8, 0]);
    network(&mut frame, profile.size - 14, UDP, [source.address, destination.address]);
    let len = (profile.size - 34) as u16;
    for half in [source.port, destination.port, len, 0] {
        frame.extend(half.to_be_bytes());
    }
    frame.resize(profile.size, 0);
    frame
}

/// The beginning of a TCP segment of so many bytes with its headers, without a checksum.
pub(super) fn segment(len: usize, flags: u8, macs: [Mac; 2], ends: [End; 2]) -> Vec<u8> {
    let [source, destination] = ends;
    let mut frame = Vec::with_capacity(TCP_HEADERS);
    macs.iter().for_each(|mac| frame.extend(mac.0));
    frame.extend([8, 0]);
    network(&mut frame, len - 14, TCP, [source.address, destination.address]);
    frame.extend(source.port.to_be_bytes());
    frame.extend(destination.port.to_be_bytes());
    // Who began has said SYN at 0; whoever speaks then says the same again and again.
    let spoken = u32::from(flags & SYN == 0);
    let heard = u32::from(flags & ACK != 0);
    frame.extend(spoken.to_be_bytes());
    frame.extend(heard.to_be_bytes());
    frame.extend([5 << 4, flags]);
    frame.extend([0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(64, 0);
    frame
}

fn network(frame: &mut Vec<u8>, len: usize, protocol: u8, [source, destination]: [Ipv4Addr; 2]) {
    let at = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((len as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    let sum = checksum::checksum(&frame[at..]);
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

/// What a tunnel from the peer puts in front of so many bytes.
pub(super) fn outer(inner: usize, source_port: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(OUTER);
    frame.extend(UPLINK_MAC.0);
    frame.extend(NEXT_HOP_MAC.0);
    frame.extend([8, 0]);
    network(&mut frame, 20 + 16 + inner, UDP, [PEER_ADDRESS, NODE_ADDRESS]);
    for half in [source_port, GENEVE, (16 + inner) as u16, 0] {
        frame.extend(half.to_be_bytes());
    }
    frame.extend([0, 0, 0x65, 0x58, 0, 0, 0, 0]);
    frame
}

/// The packet in a tunnel to the peer, if that is what this frame is.
pub fn decapsulated(frame: &[u8]) -> Option<&[u8]> {
    let address = |at| bytes_at::<4>(frame, at).map(Ipv4Addr::from);
    let headers = checksum::checksum(frame.get(14..34)?) == 0
        && (address(26)?, address(30)?) == (NODE_ADDRESS, PEER_ADDRESS)
        && bytes_at(frame, 0)? == NEXT_HOP_MAC.0
        && bytes_at(frame, 6)? == UPLINK_MAC.0
        && usize::from(u16_at(frame, 16)?) == frame.len() - 14
        && usize::from(u16_at(frame, 38)?) == frame.len() - 34
        && u16_at(frame, 36)? == GENEVE
        && bytes_at(frame, 42)? == [0, 0, 0x65, 0x58, 0, 0, 0, 0];
    headers.then_some(frame.get(OUTER..)?)
}

fn pseudo_sum(frame: &[u8]) -> u64 {
    let length = u64::from(u16_at(frame, 16).unwrap_or_default()).saturating_sub(20);
    checksum::sum(&frame[26..34]) + u64::from(frame[23]) + length
}

/// Sets the checksum of its datagram.
pub(super) fn sum(frame: &mut [u8], kind: Sum) {
    let sum = match kind {
        Sum::Zero => 0,
        Sum::Partial => checksum::fold(pseudo_sum(frame)),
        Sum::Complete => for_udp(!checksum::fold(pseudo_sum(frame) + checksum::sum(&frame[34..]))),
    };
    let at = if frame[23] == TCP { 50 } else { 40 };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Whether its checksums are right.
pub(super) fn sums_hold(packet: &[u8], kind: Sum) -> bool {
    let header = checksum::checksum(&packet[14..34]) == 0;
    header
        && match kind {
            Sum::Zero => packet[40..42] == [0, 0],
            // Still for the device to do, or done on the way into a tunnel.
            Sum::Partial => true,
            Sum::Complete => {
                checksum::fold(pseudo_sum(packet) + checksum::sum(&packet[34..])) == 0xffff
            }
        }
}

/// What stands in its headers.
pub(super) fn read(packet: &[u8]) -> Option<Expected> {
    let end = |address, port| {
        let address = Ipv4Addr::from(bytes_at::<4>(packet, address)?);
        Some(End { address, port: u16_at(packet, port)? })
    };
    Some(Expected {
        macs: [Mac(bytes_at(packet, 0)?), Mac(bytes_at(packet, 6)?)],
        source: end(26, 34)?,
        destination: end(30, 36)?,
        ttl: *packet.get(22)?,
    })
}
