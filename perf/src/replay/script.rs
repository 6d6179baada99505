//! What connections are made of: who speaks when, and what is said.

use std::net::Ipv4Addr;

use seine_pipeline::address::Mac;
use seine_pipeline::wire::{arp, ethernet};

use crate::cases::file::Protocol;
use crate::cases::segment::{ACK, INIT, INIT_ACK, Message, SYN};

const FIN: u8 = 1;
/// SCTP's COOKIE ECHO, COOKIE ACK and DATA.
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const DATA: u8 = 0;
/// Where the first sequence numbers of both sides lie.
const SEQUENCES: (u32, u32) = (1000, 5000);

/// An ARP request.
pub fn request(from: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::LEN + arp::LEN];
    let link =
        ethernet::Repr { destination: Mac::BROADCAST, source: from, ether_type: ethernet::ARP };
    let (header, payload) = frame.split_at_mut(ethernet::LEN);
    let asked = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: from,
        sender,
        target_mac: Mac([0; 6]),
        target,
    };
    // The buffer was made for both.
    let _ = (link.emit(header), asked.emit(payload));
    frame
}

/// Who speaks when: true for the server.
pub fn script(protocol: Protocol) -> &'static [bool] {
    match protocol {
        Protocol::Tcp => &[false, true, false, false, true, false, true, false],
        Protocol::Sctp => &[false, true, false, true, false, true],
        _ => &[false, true, false, true],
    }
}

/// What is said at this place of the script.
pub fn message(protocol: Protocol, index: usize, ports: (u16, u16), v6: bool) -> Message {
    let (client, server) = SEQUENCES;
    match protocol {
        Protocol::Tcp => {
            let (flags, sent, known, payload): (u8, u32, u32, &[u8]) = match index {
                0 => (SYN, client, 0, b""),
                1 => (SYN | ACK, server, client + 1, b""),
                2 => (ACK, client + 1, server + 1, b""),
                3 => (ACK, client + 1, server + 1, b"hello"),
                4 => (ACK, server + 1, client + 6, b"there"),
                5 => (FIN | ACK, client + 6, server + 6, b""),
                6 => (FIN | ACK, server + 6, client + 7, b""),
                _ => (ACK, client + 7, server + 7, b""),
            };
            let payload = payload.to_vec();
            Message::Tcp { ports, sequence: sent, acknowledged: known, flags, payload }
        }
        Protocol::Sctp => {
            let chunk = match index {
                0 => INIT,
                1 => INIT_ACK,
                2 => COOKIE_ECHO,
                3 => COOKIE_ACK,
                _ => DATA,
            };
            Message::Sctp { ports, tag: if index == 0 { 0 } else { 7 }, chunk }
        }
        Protocol::Icmp => {
            let answer = index % 2 == 1;
            let kind = match (v6, answer) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            // The server's first port is the identifier too.
            let [high, low] = if answer { ports.1 } else { ports.0 }.to_be_bytes();
            Message::Icmp { kind, code: 0, rest: vec![high, low, 0, index as u8 / 2, b'?'] }
        }
        Protocol::Udp | Protocol::Igmp => Message::Udp { ports, payload: vec![b'?', index as u8] },
    }
}

/// The two ends of what arrived; of ICMP the identifier, which stands for the near one.
pub fn ends(message: &Message) -> (u16, u16) {
    match message {
        Message::Tcp { ports, .. } | Message::Udp { ports, .. } | Message::Sctp { ports, .. } => {
            *ports
        }
        Message::Icmp { rest, .. } => match rest.as_slice() {
            [high, low, ..] => (u16::from_be_bytes([*high, *low]), 0),
            _ => (0, 0),
        },
    }
}
