//! The headers of a tunnel over IPv4, written once for all its packets.

use std::net::IpAddr;

use super::{Flow, HEADER_LEN, Outer};
use crate::address::Mac;
use crate::packet::Tunnel;
use crate::wire::{bytes_at, checksum, ethernet, ipv4, put, udp};

/// Bytes of all headers in front of a packet in a tunnel over IPv4.
pub(crate) const PREFIX_LEN: usize = ethernet::LEN + ipv4::LEN + udp::LEN + HEADER_LEN;

/// Where the network header is.
const NETWORK: usize = ethernet::LEN;
/// Where the UDP header is.
const DATAGRAM: usize = ethernet::LEN + ipv4::LEN;

/// What stands in front of the packets for one peer, but for what is each packet's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    bytes: [u8; PREFIX_LEN],
    /// The sum of the IP header, traffic class and length being zero.
    sum: u32,
    /// The far end.
    pub(crate) remote: u32,
    tunnel: Tunnel,
    source: Mac,
}

impl Prefix {
    /// That of a tunnel; `None` over IPv6, whose UDP checksum covers the whole packet.
    pub(crate) fn of(tunnel: Tunnel, source: Mac) -> Option<Prefix> {
        let IpAddr::V4(remote) = tunnel.remote else { return None };
        let mut bytes = [0; PREFIX_LEN];
        Outer { tunnel, traffic_class: 0, flow: Flow(0), datagram_len: 0 }.emit(
            &mut bytes,
            source,
            Mac([0; 6]),
        )?;
        put(&mut bytes, NETWORK + 2, &[0; 2])?;
        put(&mut bytes, NETWORK + 10, &[0; 2])?;
        let sum = checksum::sum(&bytes_at::<{ ipv4::LEN }>(&bytes, NETWORK)?);
        let sum = u32::from(checksum::fold(sum));
        Some(Prefix { bytes, sum, remote: remote.to_bits(), tunnel, source })
    }

    /// Whether it leads to this address.
    pub(crate) fn is_to(&self, remote: IpAddr) -> bool {
        self.tunnel.remote == remote
    }

    /// What it was written for: both ends, and the MAC address that it begins at.
    pub(crate) fn ends(&self) -> (Tunnel, Mac) {
        (self.tunnel, self.source)
    }

    /// Writes it in front of a packet of so many bytes; `None` when that is too long, and nothing
    /// is written.
    #[inline]
    pub(crate) fn put(
        &self,
        front: &mut [u8; PREFIX_LEN],
        next_hop: Mac,
        traffic_class: u8,
        flow: Flow,
        packet_len: usize,
    ) -> Option<()> {
        let total_len = u16::try_from(ipv4::LEN + udp::LEN + HEADER_LEN + packet_len).ok()?;
        let sum = u64::from(self.sum) + u64::from(traffic_class) + u64::from(total_len);
        *front = self.bytes;
        put(front, 0, &next_hop.0)?;
        put(front, NETWORK + 1, &[traffic_class])?;
        put(front, NETWORK + 2, &total_len.to_be_bytes())?;
        put(front, NETWORK + 10, &(!checksum::fold(sum)).to_be_bytes())?;
        put(front, DATAGRAM, &flow.source_port().to_be_bytes())?;
        put(front, DATAGRAM + 4, &(total_len - ipv4::LEN as u16).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::adjacency::AdjacencyId;
    use crate::state::TunnelType;

    #[test]
    fn a_prefix_is_what_would_be_written_header_by_header() {
        for kind in [TunnelType::Geneve, TunnelType::Vxlan] {
            for (traffic_class, packet_len, hash) in [(0, 60, 7), (0xb9, 1450, u64::MAX)] {
                let tunnel = Tunnel {
                    local: "192.0.2.1".parse().unwrap(),
                    remote: "192.0.2.255".parse().unwrap(),
                    adjacency: AdjacencyId::new(3).unwrap(),
                    kind,
                };
                let (source, next_hop) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 9]));
                let (flow, mut expected) = (Flow(hash), [0; PREFIX_LEN]);
                let datagram_len = (udp::LEN + HEADER_LEN + packet_len) as u16;
                Outer { tunnel, traffic_class, flow, datagram_len }
                    .emit(&mut expected, source, next_hop)
                    .unwrap();
                let mut written = [0xff; PREFIX_LEN];
                let prefix = Prefix::of(tunnel, source).unwrap();
                prefix.put(&mut written, next_hop, traffic_class, flow, packet_len).unwrap();
                assert_eq!(written, expected);
                let too_long = usize::from(u16::MAX);
                assert_eq!(prefix.put(&mut written, next_hop, 0, flow, too_long), None);
            }
        }
    }
}
