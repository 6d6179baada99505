//! What must hold for every packet, whatever came in.
//!
//! Read from the bytes that leave, not from what the stages say they did.

use std::net::IpAddr;

use super::{Fate, GATEWAY, HOST, Node, UPLINK};
use crate::address::Mac;
use crate::wire::ip::Ip;
use crate::wire::{arp, ethernet, geneve, udp};

/// Asserts that what became of a packet from this port is something that may happen: it can be
/// read again, it arrives at whom it is addressed to, and its source may be heard from there.
#[track_caller]
pub fn assert_sound(node: &Node, ingress: &str, fate: &Fate) {
    let Fate::Left(egress, frame) = fate else { return };
    let (frame, tunnelled) = match egress == UPLINK {
        true => (inside(frame), true),
        false => (frame.as_slice(), false),
    };
    let header = ethernet::Ethernet::parse(frame).expect("an Ethernet header");
    let payload = &frame[ethernet::LEN..];
    if header.ether_type() == ethernet::ARP {
        let answer = arp::Repr::parse(payload).expect("ARP");
        assert_eq!(egress, ingress, "ARP is answered, never forwarded");
        assert_eq!(answer.operation, arp::Operation::Reply);
        assert_eq!(header.destination(), answer.target_mac);
        return;
    }
    let parsed = Ip::parse(header.ether_type(), payload).expect("IP");
    let ip = parsed.unwrap_or_else(|defect| panic!("{defect:?} in what left by {egress}"));
    assert_eq!(ip.len, payload.len(), "no padding is left");
    let answered = egress == ingress;
    match egress.as_str() {
        GATEWAY | HOST => assert_eq!(header.destination(), node.mac(GATEWAY)),
        UPLINK => {
            assert_eq!(header.destination(), Mac::VIRTUAL);
            assert!(is_remote(ip.destination), "{ip:?}");
        }
        pod => {
            assert_eq!(header.destination(), node.mac(pod), "a Pod hears only what is for it");
            let link_local = matches!(ip.destination, IpAddr::V6(it) if it.is_unicast_link_local());
            let own = owns(node, pod, ip.destination);
            assert!(own || answered && link_local, "{ip:?} left by {pod}");
        }
    }
    assert!(!tunnelled || ip.len <= usize::from(super::MTU), "more than the tunnel takes");
    if answered {
        return;
    }
    match ingress {
        GATEWAY | HOST => {}
        UPLINK => assert!(is_remote(ip.source), "{ip:?} was tunnelled"),
        pod => assert!(owns(node, pod, ip.source), "{ip:?} was sent by {pod}"),
    }
}

/// The frame inside a tunnelled one.
#[track_caller]
fn inside(frame: &[u8]) -> &[u8] {
    let header = ethernet::Ethernet::parse(frame).expect("an outer Ethernet header");
    let payload = &frame[ethernet::LEN..];
    let outer = Ip::parse(header.ether_type(), payload).expect("outer IP").expect("intact");
    assert_eq!(outer.len, payload.len());
    let datagram = &payload[outer.upper..];
    let parsed = udp::Udp::parse(datagram).expect("UDP");
    assert_eq!((parsed.destination_port(), parsed.len()), (geneve::PORT, datagram.len()));
    let options = geneve::header_len(&datagram[udp::LEN..]).expect("Geneve");
    &datagram[udp::LEN + options..]
}

/// Whether the address is in the peer's Pod ranges.
fn is_remote(address: IpAddr) -> bool {
    ["10.10.2.0/24", "fd00:10:2::/64"].iter().any(|range| super::net(range).contains(&address))
}

fn owns(node: &Node, pod: &str, address: IpAddr) -> bool {
    let id = node.state.port_by_name(pod).expect("an open port");
    node.state.endpoint_of(id).expect("an endpoint").addresses.contains(&address)
}
