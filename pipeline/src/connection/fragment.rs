//! Fragments: which ports the later ones belong to.
//!
//! Only the first fragment has ports; it is tracked like any packet, and leaves them here for those
//! that follow. One that comes before its first is dropped: it is not known whose it is.

use std::net::IpAddr;

use super::{Ingress, Tuple};
use crate::limits::FRAGMENT_TIMEOUT_MS;
use crate::table::Expiring;
use crate::wire::ip::Ip;

/// What fragmented packets are under way: found by source, destination, identification, protocol
/// and what they come in by.
#[derive(Debug)]
pub struct FragmentTable {
    packets: Expiring<6, 1>,
}

impl FragmentTable {
    /// An empty table for so many packets; the seed keys its hash.
    pub fn new(capacity: usize, seed: u64) -> FragmentTable {
        FragmentTable { packets: Expiring::new(capacity, seed) }
    }

    /// Remembers the ports that a first fragment has. Where there is no room, the packet that
    /// would be forgotten first is forgotten now.
    pub fn begin(&self, ip: &Ip, ingress: Ingress, tuple: &Tuple, now_ms: u64) {
        let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
        self.packets.put(&key(ip, ingress), &[ports], now_ms + FRAGMENT_TIMEOUT_MS, now_ms);
    }

    /// From whom to whom a later fragment is; `None` when its first has not been seen.
    pub fn follow(&self, ip: &Ip, ingress: Ingress, now_ms: u64) -> Option<Tuple> {
        let [ports] = self.packets.get(&key(ip, ingress), now_ms)?;
        let Ip { source, destination, protocol, .. } = *ip;
        // The two halves of what `begin` put together.
        let (source_port, destination_port) = ((ports >> 16) as u16, ports as u16);
        Some(Tuple { source, destination, protocol, source_port, destination_port })
    }

    /// Fragmented packets that were forgotten before their time, for want of room.
    pub fn displaced(&self) -> u64 {
        self.packets.displaced()
    }
}

fn key(ip: &Ip, ingress: Ingress) -> [u64; 6] {
    let halves = |address: IpAddr| {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        ((bits >> 64) as u64, bits as u64)
    };
    let (source, destination) = (halves(ip.source), halves(ip.destination));
    let (class, port) = match ingress {
        Ingress::Pod(port, generation) => (0, (port.index() as u64) << 32 | u64::from(generation)),
        Ingress::Gateway => (1, 0),
        Ingress::Tunnel => (2, 0),
    };
    // RFC 791 counts the protocol to what identifies a packet, RFC 8200 section 4.5 does not.
    let protocol = if ip.is_v6() { 1 << 8 } else { u64::from(ip.protocol) };
    let identity = u64::from(ip.identification) << 32 | protocol << 8 | class;
    [source.0, source.1, destination.0, destination.1, identity, port]
}
