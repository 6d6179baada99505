//! The tunnel's headers in front of a packet that comes in: read in place, and taken off only when
//! what is behind them is decided about.
//!
//! Headers over IPv4 as this node would write them; all others take the stages.

use crate::address::Mac;
use crate::state::{State, mac_word};
use crate::tunnel::PREFIX_LEN;
use crate::wire::{bytes_at, checksum, ethernet, ipv4, udp};

use super::rewrite::macs_of;

const NETWORK: usize = ethernet::LEN;
const DATAGRAM: usize = ethernet::LEN + ipv4::LEN;

/// What the headers of a tunnel say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    /// The underlay address that the packet was sent from.
    pub remote: u32,
}

impl Outer {
    /// The headers, and the frame behind them.
    #[inline]
    pub fn of<'a>(bytes: &'a [u8], state: &State) -> Option<(Outer, &'a [u8])> {
        let inward = state.encapsulations().inward()?;
        let front: &[u8; PREFIX_LEN] = bytes.first_chunk()?;
        let word = |at| bytes_at(front, at).map_or(0, u32::from_be_bytes);
        let half = |at| bytes_at(front, at).map_or(0, u16::from_be_bytes);
        let ip = |at| word(NETWORK + at);
        let [first, second, hops, remote, local] = [ip(0), ip(4), ip(8), ip(12), ip(16)];
        let sum = u64::from(first) + u64::from(second) + u64::from(hops);
        let sum = sum + u64::from(remote) + u64::from(local);
        let (destination, _) = macs_of(front)?;
        let len = usize::from(first as u16);
        let is_ours = destination == inward.mac
            && half(NETWORK - 2) == ethernet::IPV4
            && first >> 24 == 0x45
            && second & 0x3fff == 0
            && (hops >> 16) as u8 == udp::PROTOCOL
            && local == inward.local
            && checksum::fold(sum) == 0xffff
            && half(DATAGRAM + 2) == inward.port
            && usize::from(half(DATAGRAM + 4)) + ipv4::LEN == len
            && half(DATAGRAM + udp::CHECKSUM_OFFSET) == 0
            && bytes_at(front, DATAGRAM + udp::LEN).map(u64::from_be_bytes) == Some(inward.header);
        if !is_ours {
            return None;
        }
        let inner = bytes.get(PREFIX_LEN..ethernet::LEN + len)?;
        let (to, _) = macs_of(inner)?;
        let class = traffic_class(inner)?;
        // Marks that differ are combined by the stages.
        let ecn = (first >> 16) as u8 & 3;
        let same = ecn == 0 || ecn == class & 3;
        let addressed = to == mac_word(Mac::VIRTUAL) || to == state.hops().gateway_mac;
        (same && addressed).then_some((Outer { remote }, inner))
    }
}

/// The traffic class of the IP packet in a frame.
#[inline]
pub(super) fn traffic_class(frame: &[u8]) -> Option<u8> {
    let [high, low]: [u8; 2] = bytes_at(frame, ethernet::LEN)?;
    Some(if high >> 4 == 4 { low } else { high << 4 | low >> 4 })
}
