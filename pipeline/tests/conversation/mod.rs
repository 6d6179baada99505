//! Conversations in the words of packet scripts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::testbed::{Probe, flags, ping, sctp, tcp};

/// The packet that the first words of a line describe, and the words that are left. `last` is the
/// IP packet that errors quote.
pub fn probe<'w>(words: &'w [&'w str], last: &[u8]) -> Option<(Probe, &'w [&'w str])> {
    let (probe, rest) = match words {
        ["tcp", flags, rest @ ..] if tcp_flags(flags).is_some() => {
            (tcp().flags(tcp_flags(flags).unwrap()), rest)
        }
        ["sctp", chunk, rest @ ..] if sctp_chunk(chunk).is_some() => {
            (sctp(sctp_chunk(chunk).unwrap()), rest)
        }
        ["answer", rest @ ..] => (ping().answer(), rest),
        ["unreachable", rest @ ..] => (report(last, [(3, 3), (1, 4)], 0), rest),
        ["too-big", mtu, rest @ ..] => (report(last, [(3, 4), (2, 0)], mtu.parse().unwrap()), rest),
        _ => return None,
    };
    Some((probe, rest))
}

/// What one more of the words at the front of `words` makes of a packet, and what is left of them:
/// all, if they are none of a conversation's.
pub fn word<'w>(probe: Probe, words: &'w [&'w str]) -> (Probe, &'w [&'w str]) {
    match words {
        ["id", identifier, rest @ ..] => (probe.identifier(identifier.parse().unwrap()), rest),
        ["fragment", which @ ("first" | "later"), of, rest @ ..] => {
            (probe.fragment(of.parse().unwrap(), *which == "first"), rest)
        }
        _ => (probe, words),
    }
}

fn tcp_flags(name: &str) -> Option<u8> {
    Some(match name {
        "syn" => flags::SYN,
        "syn-ack" => flags::SYN | flags::ACK,
        "ack" => flags::ACK,
        "fin" => flags::FIN | flags::ACK,
        "rst" => flags::RST,
        "syn-fin" => flags::SYN | flags::FIN,
        _ => return None,
    })
}

fn sctp_chunk(name: &str) -> Option<u8> {
    Some(match name {
        "data" => 0,
        "init" => 1,
        "init-ack" => 2,
        "abort" => 6,
        _ => return None,
    })
}

/// An error of the quoted packet's family.
fn report(quoted: &[u8], kinds: [(u8, u8); 2], mtu: u16) -> Probe {
    let v6 = quoted[0] >> 4 == 6;
    ping().in_v6(v6).quoting(kinds[usize::from(v6)], mtu, quoted)
}
