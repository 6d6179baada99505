//! Features of an interface, by the kernel's generic netlink family "ethtool".
//!
//! Three messages are too few for a crate of their own: they are put together here, from
//! `linux/genetlink.h` and `linux/ethtool_netlink.h`.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use super::NetlinkError;

const FAMILY: &str = "ethtool";
/// The number of the family that tells the numbers of families.
const CONTROL_FAMILY: u16 = 16;
const NESTED: u16 = 1 << 15;
const TYPE_ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
/// Of the generic header behind it: command, version, nothing.
const GENERIC_BYTES: usize = 4;

/// Commands and attributes, by the kernel's numbers.
mod number {
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const FEATURES_SET: u8 = 12;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const FEATURES_WANTED: u16 = 3;
    pub(super) const HEADER_DEVICE: u16 = 2;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITS_BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
}

/// Switches features of a link off, in the calling thread's namespace. Those that are off already,
/// and those that its device cannot switch, are none of its errors.
pub fn disable_features(link: &str, features: &[&str]) -> Result<(), NetlinkError> {
    let request = format!("switch features of `{link}` off");
    let mut socket = Socket::new(NETLINK_GENERIC).map_err(NetlinkError::Socket)?;
    socket.bind_auto().map_err(NetlinkError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Socket)?;

    let name = attribute(number::FAMILY_NAME, &text(FAMILY));
    let question = message(CONTROL_FAMILY, 1, number::GET_FAMILY, &name);
    let answer = exchange(&socket, &request, 1, &question)?;
    let family = attributes(answer.get(GENERIC_BYTES..).unwrap_or_default())
        .find(|(kind, _)| *kind == number::FAMILY_ID)
        .and_then(|(_, value)| Some(u16::from_ne_bytes(*value.first_chunk()?)));
    let family = family.ok_or_else(|| NetlinkError::Answer {
        request: request.clone(),
        reason: format!("it tells no number of the family `{FAMILY}`"),
    })?;

    let bit = |feature: &&str| {
        let name = attribute(number::BIT_NAME, &text(feature));
        attribute(number::BITS_BIT | NESTED, &name)
    };
    // A bit that is named and has no value is one that is not wanted.
    let bits: Vec<u8> = features.iter().flat_map(bit).collect();
    let bitset = attribute(number::BITSET_BITS | NESTED, &bits);
    let device = attribute(number::HEADER_DEVICE, &text(link));
    let mut body = attribute(number::FEATURES_HEADER | NESTED, &device);
    body.extend(attribute(number::FEATURES_WANTED | NESTED, &bitset));
    exchange(&socket, &request, 2, &message(family, 2, number::FEATURES_SET, &body)).map(|_| ())
}

/// Text as the kernel reads it.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Names of links and features, and few of them.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & !NESTED, value))
    })
}

fn message(family: u16, sequence: u32, command: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + GENERIC_BYTES + body.len()).unwrap_or(u32::MAX);
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([family.to_ne_bytes(), flags.to_ne_bytes()].concat());
    bytes.extend([sequence.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(body);
    bytes
}

/// Sends a request; gives what was answered before it was acknowledged, behind the netlink header.
fn exchange(
    socket: &Socket,
    request: &str,
    sequence: u32,
    message: &[u8],
) -> Result<Vec<u8>, NetlinkError> {
    socket.send(message, 0).map_err(NetlinkError::Socket)?;
    let unreadable =
        |reason: &str| NetlinkError::Answer { request: request.into(), reason: reason.into() };
    let mut answer = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(NetlinkError::Socket)?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let header = rest.first_chunk::<HEADER_BYTES>();
            let header = header.ok_or_else(|| unreadable("it ends in its header"))?;
            let word = |at: usize| {
                let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
                u32::from_ne_bytes(bytes)
            };
            let (length, own) = (word(0) as usize, word(8) == sequence);
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let body = rest.get(HEADER_BYTES..length);
            let body = body.ok_or_else(|| unreadable("it is shorter than it says"))?;
            if own && kind == TYPE_ERROR {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                if code == 0 {
                    return Ok(answer);
                }
                let source = io::Error::from_raw_os_error(-code);
                return Err(NetlinkError::Refused { request: request.into(), source });
            }
            if own {
                answer = body.to_vec();
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
