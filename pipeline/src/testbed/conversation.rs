//! Packets of a conversation, past its first: TCP flags, answers, fragments, and errors about what
//! was sent before.

use super::Probe;
use super::probe::Edit;
use crate::describe::Protocol;
use crate::wire::checksum::{self, Difference};
use crate::wire::{
    bytes_at, crc32c, ethernet, geneve, icmp, ipv4, ipv6, put, sctp, tcp, u16_at, udp, vxlan,
};

/// TCP flags, as in the header.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Resets it.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// An SCTP packet with one chunk of this type.
pub fn sctp(chunk: u8) -> Probe {
    let probe = Probe::new(Protocol::Sctp);
    probe.message_edit(Protocol::Sctp, move |message| {
        message[sctp::LEN] = chunk;
        message[sctp::CHECKSUM_OFFSET..][..4].fill(0);
        let sum = crc32c::checksum(&[message]);
        message[sctp::CHECKSUM_OFFSET..][..4].copy_from_slice(&sum.to_le_bytes());
    })
}

impl Probe {
    /// The identifier of an echo request or its answer.
    pub fn identifier(self, identifier: u16) -> Probe {
        self.message_edit(Protocol::Icmp, move |message| {
            replace(message, icmp::IDENTIFIER_OFFSET, icmp::CHECKSUM_OFFSET, identifier);
        })
    }

    /// A segment with these flags and no others.
    pub fn flags(self, flags: u8) -> Probe {
        self.message_edit(Protocol::Tcp, move |message| {
            let offset = tcp::FLAGS_OFFSET - 1;
            let [high, _] = bytes_at(message, offset).unwrap();
            let word = u16::from_be_bytes([high, flags]);
            replace(message, offset, tcp::CHECKSUM_OFFSET, word);
        })
    }

    /// The answer to an echo request.
    pub fn answer(self) -> Probe {
        self.message_edit(Protocol::Icmp, move |message| {
            let kind: u16 = if message[0] == icmp::ECHO_REQUEST_V6 { 129 } else { 0 };
            replace(message, 0, icmp::CHECKSUM_OFFSET, kind << 8);
        })
    }

    /// An ICMP error that quotes an IP packet: its type, code, and for "too big" the MTU.
    pub fn quoting(self, (kind, code): (u8, u8), mtu: u16, quoted: &[u8]) -> Probe {
        let quoted = quoted[..quoted.len().min(512)].to_vec();
        let probe = self.payload_bytes(quoted.len());
        probe.message_edit(Protocol::Icmp, move |message| {
            // What was summed over a pseudo-header stays so.
            let before = checksum::sum(message);
            let old = u16_at(message, icmp::CHECKSUM_OFFSET).unwrap();
            let [high, low] = mtu.to_be_bytes();
            message[..8].copy_from_slice(&[kind, code, 0, 0, 0, 0, high, low]);
            message[8..].copy_from_slice(&quoted);
            put(message, icmp::CHECKSUM_OFFSET, &old.to_be_bytes()).unwrap();
            let difference = Difference::default().replace(before, checksum::sum(message));
            let sum = difference.checksum(old);
            put(message, icmp::CHECKSUM_OFFSET, &sum.to_be_bytes()).unwrap();
        })
    }

    /// One fragment of a packet: with the header of its upper layer, if it is the first. Not for
    /// what comes by the tunnel.
    pub fn fragment(self, identification: u16, first: bool) -> Probe {
        self.edit(move |frame| {
            let offset = if first { 0x2000u16 } else { 100 };
            if u16_at(frame, 12) == Some(ethernet::IPV4) {
                replace(&mut frame[ethernet::LEN..], 4, 10, identification);
                replace(&mut frame[ethernet::LEN..], 6, 10, offset);
                return;
            }
            let next = frame[ethernet::LEN + 6];
            frame[ethernet::LEN + 6] = 44;
            let length = u16_at(frame, ethernet::LEN + 4).unwrap() + 8;
            put(frame, ethernet::LEN + 4, &length.to_be_bytes()).unwrap();
            let part = if first { 1u16 } else { 100 << 3 };
            let mut header = [next, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&part.to_be_bytes());
            header[6..8].copy_from_slice(&identification.to_be_bytes());
            frame.splice(ethernet::LEN + ipv6::LEN..ethernet::LEN + ipv6::LEN, header);
        })
    }

    /// Changes the upper layer's message in the finished frame, tunnelled or not.
    fn message_edit(mut self, of: Protocol, edit: impl Fn(&mut [u8]) + 'static) -> Probe {
        assert_eq!(self.protocol, of, "not a packet of this protocol");
        let edit: Edit = Box::new(move |frame: &mut Vec<u8>| {
            let at = message_at(frame, 0);
            edit(&mut frame[at..]);
        });
        self.edits.push(edit);
        self
    }
}

/// Puts a word, and keeps the sum that stands at `checksum_at` right.
fn replace(bytes: &mut [u8], at: usize, checksum_at: usize, new: u16) {
    let (old, sum) = (u16_at(bytes, at).unwrap(), u16_at(bytes, checksum_at).unwrap());
    put(bytes, at, &new.to_be_bytes()).unwrap();
    let sum = checksum::replace(sum, old, new);
    put(bytes, checksum_at, &sum.to_be_bytes()).unwrap();
}

/// Where the innermost upper layer's message begins in a frame that starts at `start`.
fn message_at(frame: &[u8], start: usize) -> usize {
    let network = start + ethernet::LEN;
    let (protocol, message) = match u16_at(frame, start + 12) {
        Some(ethernet::IPV4) => (frame[network + 9], network + ipv4::LEN),
        _ => (frame[network + 6], network + ipv6::LEN),
    };
    let port = u16_at(frame, message + 2);
    let tunnelled = protocol == udp::PROTOCOL && matches!(port, Some(geneve::PORT | vxlan::PORT));
    // Either header has eight bytes. What only uses the port of a tunnel holds no frame.
    let inner = message + udp::LEN + 8;
    let holds_ip = matches!(u16_at(frame, inner + 12), Some(ethernet::IPV4 | ethernet::IPV6));
    if tunnelled && holds_ip { message_at(frame, inner) } else { message }
}

/// The frame that answers this one, tunnelled or not: everything the other way round.
pub fn answered(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    turn(&mut answer, 0);
    answer
}

/// Swaps the ends of the packet that starts here. No sum changes by that.
fn turn(frame: &mut [u8], start: usize) {
    let swap = |frame: &mut [u8], at: usize, len: usize| {
        let (one, other) = frame[start + at..].split_at_mut(len);
        one.swap_with_slice(&mut other[..len]);
    };
    swap(frame, 0, 6);
    let (protocol, message) = match u16_at(frame, start + 12) {
        Some(ethernet::IPV4) => {
            swap(frame, ethernet::LEN + 12, 4);
            (frame[start + ethernet::LEN + 9], ethernet::LEN + ipv4::LEN)
        }
        Some(ethernet::IPV6) => {
            swap(frame, ethernet::LEN + 8, 16);
            (frame[start + ethernet::LEN + 6], ethernet::LEN + ipv6::LEN)
        }
        _ => return,
    };
    let tunnelled = u16_at(frame, start + message + 2) == Some(geneve::PORT);
    if protocol == udp::PROTOCOL && tunnelled {
        return turn(frame, start + message + udp::LEN + 8);
    }
    if matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL) {
        swap(frame, message, 2);
    }
}

/// The innermost IP packet of a frame, as an error would quote it.
pub fn innermost(frame: &[u8]) -> &[u8] {
    let message = message_at(frame, 0);
    let v4 = message - ipv4::LEN;
    let start =
        if u16_at(frame, v4 - 2) == Some(ethernet::IPV4) { v4 } else { message - ipv6::LEN };
    &frame[start..]
}
