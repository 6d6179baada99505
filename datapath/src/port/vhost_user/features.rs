//! What is offered to a guest and its front end, and what follows from what they took.
//!
//! Not offered: segmentation and chains of more than a frame (frames are not chained yet), and the
//! log of dirty pages (no live migration).

use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::lane::Agreement;
use crate::port::virtio_net;

/// The driver may leave checksums to the device.
const CHECKSUM: u64 = 1 << 0;
/// The device may leave checksums to the driver.
const GUEST_CHECKSUM: u64 = 1 << 1;
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
        packet_bytes_max,
    }
}
