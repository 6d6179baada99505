//! What is offered to a guest and its front end, and what follows from what they took.
//!
//! Not offered: UDP in segments or fragments, and the log of dirty pages (no live migration).

use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::lane::Agreement;
use crate::port::virtio_net;
use crate::segment::{SegmentKind, Segmentation};

/// The driver may leave checksums to the device.
const CHECKSUM: u64 = 1 << 0;
/// The device may leave checksums to the driver.
const GUEST_CHECKSUM: u64 = 1 << 1;
/// The driver takes TCP in segments; in those that say that the congestion window was reduced.
const GUEST_SEGMENTS_V4: u64 = 1 << 7;
const GUEST_SEGMENTS_V6: u64 = 1 << 8;
const GUEST_CONGESTION: u64 = 1 << 9;
/// The driver sends TCP in segments; and such.
const SEGMENTS_V4: u64 = 1 << 11;
const SEGMENTS_V6: u64 = 1 << 12;
const CONGESTION: u64 = 1 << 13;
/// A packet may be spread over several receive buffers.
const MERGEABLE_BUFFERS: u64 = 1 << 15;
/// A queue for control, and several pairs of queues: both are the front end's to serve.
const CONTROL_QUEUE: u64 = 1 << 17;
const SEVERAL_QUEUES: u64 = 1 << 22;
const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
/// Kicks and calls at an index.
pub(super) const EVENT_INDEX: u64 = 1 << 29;
/// vhost-user's own: protocol features can be agreed on.
pub(super) const PROTOCOL: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
pub(super) const RING_PACKED: u64 = 1 << 34;

/// Everything that is offered.
pub(super) const OFFERED: u64 = CHECKSUM
    | GUEST_CHECKSUM
    | GUEST_SEGMENTS_V4
    | GUEST_SEGMENTS_V6
    | GUEST_CONGESTION
    | SEGMENTS_V4
    | SEGMENTS_V6
    | CONGESTION
    | MERGEABLE_BUFFERS
    | CONTROL_QUEUE
    | SEVERAL_QUEUES
    | INDIRECT_DESCRIPTORS
    | EVENT_INDEX
    | PROTOCOL
    | VERSION_1
    | RING_PACKED;

/// The protocol's features that are offered; the library adds replies to every message.
pub(super) fn protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::RESET_DEVICE
}

/// What features mean for the packets.
pub(super) fn agreement(features: u64, packet_bytes_max: usize) -> Agreement {
    let counted = features & (VERSION_1 | MERGEABLE_BUFFERS) != 0;
    Agreement {
        header_bytes: if counted { virtio_net::BYTES + 2 } else { virtio_net::BYTES },
        mergeable: features & MERGEABLE_BUFFERS != 0,
        guest_checksum: features & GUEST_CHECKSUM != 0,
        sends: SegmentSet::of(features & CHECKSUM != 0, features >> SEGMENTS_V4.ilog2()),
        takes: SegmentSet::of(
            features & GUEST_CHECKSUM != 0,
            features >> GUEST_SEGMENTS_V4.ilog2(),
        ),
        packet_bytes_max,
    }
}

/// Kinds of packets in segments, as bits in the order that features have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentSet(u8);

impl SegmentSet {
    const V4: u8 = 1 << 0;
    const V6: u8 = 1 << 1;
    const CONGESTION: u8 = 1 << 2;

    /// What features say; nothing where checksums are not partial, because those of segments are.
    fn of(partial: bool, features: u64) -> SegmentSet {
        let known = SegmentSet::V4 | SegmentSet::V6 | SegmentSet::CONGESTION;
        SegmentSet(if partial { features as u8 & known } else { 0 })
    }

    /// Whether such a packet is one of these.
    pub fn holds(self, said: Segmentation) -> bool {
        let kind = match said.kind {
            SegmentKind::Tcp4 => SegmentSet::V4,
            SegmentKind::Tcp6 => SegmentSet::V6,
        };
        self.0 & kind != 0 && (!said.congestion || self.0 & SegmentSet::CONGESTION != 0)
    }

    /// As one number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What [`bits`](Self::bits) gave.
    pub fn from_bits(bits: u8) -> SegmentSet {
        SegmentSet(bits)
    }
}
