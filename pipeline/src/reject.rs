//! Refusing: telling a sender that its packet goes nowhere, in place of leaving it to wait.
//!
//! Policy refuses what its rules reject, Services refuse where there is no endpoint. The answer is
//! built in the packet that asked for it, as if the one it was sent to had answered, and leaves by
//! the way that came in: no table sees it, so no rule ever judges it, and two nodes cannot refuse
//! each other's refusals. A reset, an ICMP error, a later fragment, and what was sent to or by many
//! are never answered.

use crate::answer;
use crate::packet::Packet;
use crate::run::Context;
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp::Error;
use crate::wire::tcp;

/// Why a packet is refused. TCP is reset in any case; all else is told the reason by ICMP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rejection {
    /// A rule forbids it: "administratively prohibited".
    Prohibited,
    /// Nobody serves what it was sent to: "port unreachable".
    PortUnreachable,
}

/// Turns the packet into the answer that refuses it, or drops it under this reason where there must
/// be no answer.
pub(crate) fn reject(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    rejection: Rejection,
    otherwise: DropReason,
) -> Verdict {
    let rejected = packet.ip().and_then(|ip| {
        if ip.protocol == tcp::PROTOCOL {
            return answer::reset(packet, context, otherwise);
        }
        let error = match rejection {
            Rejection::Prohibited => Error::Prohibited,
            Rejection::PortUnreachable => Error::PortUnreachable,
        };
        answer::icmp_error(packet, context, error, otherwise)
    });
    rejected.unwrap_or_else(Verdict::Drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::packet::{Checksum, PacketSource};
    use crate::stage::TableId;
    use crate::testbed::{GATEWAY_MAC, HEADROOM, Node, Probe, ping, tcp, udp};

    /// What becomes of a packet that is refused as it came in: the verdict, and its bytes.
    fn refused(probe: Probe, source: PacketSource, rejection: Rejection) -> (Verdict, Vec<u8>) {
        let mut node = Node::with_pods(["a", "b"]);
        let frame = node.frame(&probe);
        let ingress = match source {
            PacketSource::Pod => "a",
            PacketSource::Gateway => "gateway",
            PacketSource::Tunnel => "uplink",
        };
        let port = node.state.port_by_name(ingress).unwrap();
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(frame);
        let end = buffer.len();
        let mut packet = Packet::new(&mut buffer, HEADROOM, end, port, Checksum::Complete).unwrap();
        packet.parse_ip().unwrap();
        packet.facts.source = Some(source);
        let mut context = node.context();
        let verdict = reject(&mut packet, &mut context, rejection, DropReason::Hairpin);
        assert_eq!(packet.facts.tunnel.is_some(), verdict == Verdict::Goto(TableId::Output));
        (verdict, packet.bytes().to_vec())
    }

    /// Source, destination and the transport header, checksums verified.
    fn seen(frame: &[u8]) -> (String, String, TransportSlice<'_>) {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        match (sliced.net.unwrap(), sliced.transport.unwrap()) {
            (NetSlice::Ipv4(ip), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                if let TransportSlice::Tcp(tcp) = &transport {
                    let sum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                    assert_eq!(sum, tcp.checksum());
                }
                if let TransportSlice::Icmpv4(icmp) = &transport {
                    let sum = icmp.header().icmp_type.calc_checksum(icmp.payload());
                    assert_eq!(sum, icmp.header().checksum);
                }
                let header = ip.header();
                (header.source_addr().to_string(), header.destination_addr().to_string(), transport)
            }
            (NetSlice::Ipv6(ip), transport) => {
                let header = ip.header();
                let (source, destination) = (header.source_addr(), header.destination_addr());
                match &transport {
                    TransportSlice::Tcp(tcp) => {
                        let (a, b) = (source.octets(), destination.octets());
                        assert_eq!(tcp.calc_checksum_ipv6(a, b).unwrap(), tcp.checksum());
                    }
                    TransportSlice::Icmpv6(icmp) => {
                        assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
                    }
                    _ => panic!("neither"),
                }
                (source.to_string(), destination.to_string(), transport)
            }
            _ => panic!("no IP"),
        }
    }

    fn set(at: usize, value: u8) -> impl Fn(&mut Vec<u8>) {
        move |frame: &mut Vec<u8>| frame[at] = value
    }

    #[test]
    fn a_syn_is_reset_as_if_the_one_it_was_sent_to_did_not_listen() {
        for (v6, from, to) in
            [(false, "10.10.1.2", "10.10.1.3"), (true, "fd00:10:1::2", "fd00:10:1::3")]
        {
            let sequence = if v6 { 58 } else { 38 };
            let probe = tcp().from("a").to("b").in_v6(v6).payload_bytes(7).edit(move |frame| {
                frame[sequence..sequence + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
            });
            let (verdict, frame) = refused(probe, PacketSource::Pod, Rejection::Prohibited);
            assert_eq!(verdict, Verdict::Answer);
            let (source, destination, TransportSlice::Tcp(tcp)) = seen(&frame) else {
                panic!("no TCP")
            };
            assert_eq!((source.as_str(), destination.as_str()), (to, from));
            assert_eq!((tcp.source_port(), tcp.destination_port()), (53, 40000));
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            // The SYN counts one, its payload seven, and the sequence starts at the last number.
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (0, 7));
            assert_eq!(frame[6..12], GATEWAY_MAC.0);
            assert_eq!(frame[..6], [2, 0, 0, 1, 0, 2]);
        }
    }

    #[test]
    fn a_segment_in_the_middle_is_reset_with_the_number_that_its_sender_waits_for() {
        let probe = tcp().from("a").to("b").edit(|frame| {
            frame[42..46].copy_from_slice(&[1, 2, 3, 4]);
            frame[47] = tcp::ACK;
        });
        let (_, frame) = refused(probe, PacketSource::Pod, Rejection::Prohibited);
        let (_, _, TransportSlice::Tcp(tcp)) = seen(&frame) else { panic!("no TCP") };
        assert!(tcp.rst() && !tcp.ack());
        assert_eq!(tcp.sequence_number(), 0x0102_0304);
    }

    #[test]
    fn a_datagram_is_told_why_by_icmp_and_quoted() {
        let cases = [
            (false, Rejection::Prohibited, (3, 10)),
            (false, Rejection::PortUnreachable, (3, 3)),
            (true, Rejection::Prohibited, (1, 1)),
            (true, Rejection::PortUnreachable, (1, 4)),
        ];
        for (v6, rejection, expected) in cases {
            for probe in [udp, ping] {
                let probe = || probe().from("a").to("b").in_v6(v6);
                let sent = Node::with_pods(["a", "b"]).frame(&probe());
                let (verdict, frame) = refused(probe(), PacketSource::Pod, rejection);
                assert_eq!(verdict, Verdict::Answer);
                let (source, destination, transport) = seen(&frame);
                assert_eq!(source.ends_with('3'), destination.ends_with('2'), "{source}");
                let (found, quoted) = match &transport {
                    TransportSlice::Icmpv4(it) => ((it.type_u8(), it.code_u8()), it.payload()),
                    TransportSlice::Icmpv6(it) => ((it.type_u8(), it.code_u8()), it.payload()),
                    _ => panic!("no ICMP"),
                };
                assert_eq!(found, expected);
                assert_eq!(quoted, &sent[14..]);
            }
        }
    }

    #[test]
    fn the_answer_goes_back_the_way_that_came_in() {
        for probe in [tcp, udp] {
            let outside = probe().from("gateway").source("outside").to("a");
            let (verdict, frame) = refused(outside, PacketSource::Gateway, Rejection::Prohibited);
            assert_eq!(verdict, Verdict::Answer);
            assert_eq!(frame[..6], GATEWAY_MAC.0);
            // Behind a tunnel header that is gone already: as `Classifier` leaves it.
            let remote = probe().from("tunnel").to("a").edit(|frame| drop(frame.drain(..50)));
            let (verdict, frame) = refused(remote, PacketSource::Tunnel, Rejection::Prohibited);
            assert_eq!(verdict, Verdict::Goto(TableId::Output));
            assert_eq!(frame[..6], crate::address::Mac::VIRTUAL.0);
            assert_eq!(seen(&frame).1, "10.10.2.7");
        }
    }

    #[test]
    fn what_must_not_be_answered_is_dropped_under_the_reason_given() {
        let cases = [
            tcp().from("a").to("b").edit(set(47, tcp::RST)),
            tcp().from("a").to("b").edit(set(47, tcp::RST | tcp::ACK)),
            ping().from("a").to("b").edit(set(34, 3)),
            ping().from("a").to("b").v6().edit(set(54, 1)),
            udp().from("a").to("b").edit(|frame| {
                frame[20..22].copy_from_slice(&[0, 9]);
                frame[24..26].fill(0);
                let sum = crate::wire::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }),
            udp().from("a").to("224.0.0.9"),
            tcp().from("a").to("224.0.0.9"),
        ];
        for (number, probe) in cases.into_iter().enumerate() {
            let (verdict, _) = refused(probe, PacketSource::Pod, Rejection::Prohibited);
            assert_eq!(verdict, Verdict::Drop(DropReason::Hairpin), "case {number}");
        }
    }
}
