//! The vhost-user protocol from the driver's side: features, memory, rings, in the one order that
//! every back end takes.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::memory::SharedMemory;
use super::split::Layout;

/// Bits of features, by their names in the VIRTIO specification.
pub mod feature {
    /// The device takes packets with a partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes packets with a partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver takes TCP segments over IPv4 larger than the MTU.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TCP segments over IPv6 larger than the MTU.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes TCP segments over IPv4 larger than the MTU.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes TCP segments over IPv6 larger than the MTU.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// Virtio 1: little-endian, and the header of a frame has twelve bytes.
    pub const VERSION_1: u64 = 1 << 32;
    /// Rings are packed.
    pub const RING_PACKED: u64 = 1 << 34;
}

/// What a back end must answer within.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Where offset 0 of the memory lies in the guest: not at 0, nor where anybody maps it, so that a
/// back end that takes one kind of address for another is caught.
pub(super) const GUEST_ADDRESS: u64 = 0x1_0000_0000;

/// Why a front end and a back end do not come together.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// No memory to share.
    #[error("cannot share {bytes} bytes of memory with a back end: {source}")]
    Memory {
        /// How much.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The socket said no.
    #[error("cannot use the socket `{path}`: {source}")]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody came.
    #[error("no back end connected to `{path}` within {seconds} s")]
    Nobody {
        /// Where the socket is.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// No descriptor for an event.
    #[error("cannot make an event: {0}")]
    Event(#[source] io::Error),
    /// The back end refused, or does not speak the protocol.
    #[error("the back end does not take {step}: {source}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// What it said.
        source: vhost::Error,
    },
    /// The back end lacks what is needed.
    #[error("the back end offers features {offered:#x}, and {missing:#x} of what is needed lacks")]
    Features {
        /// What it has.
        offered: u64,
        /// What is needed and lacks.
        missing: u64,
    },
}

/// A ring's events. We neither wait for the one nor, with a back end that polls, send the other.
pub(super) struct RingEvents {
    pub(super) kick: EventFd,
    pub(super) call: EventFd,
}

impl RingEvents {
    pub(super) fn new() -> Result<RingEvents, HandshakeError> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let event = || event().map_err(HandshakeError::Event);
        Ok(RingEvents { kick: event()?, call: event()? })
    }
}

fn refused<E: Into<vhost::Error>>(step: &'static str) -> impl Fn(E) -> HandshakeError {
    move |source| HandshakeError::Refused { step, source: source.into() }
}

/// A connection whose features are agreed on.
pub(super) fn negotiate(
    stream: UnixStream,
    path: &std::path::Path,
    wanted: u64,
    rings: usize,
) -> Result<Frontend, HandshakeError> {
    stream
        .set_read_timeout(Some(ANSWER_MAX))
        .map_err(|source| HandshakeError::Socket { path: path.to_owned(), source })?;
    let mut back_end = Frontend::from_stream(stream, rings as u64);
    back_end.set_owner().map_err(refused("an owner"))?;
    let offered = back_end.get_features().map_err(refused("a question for its features"))?;
    let wanted = wanted | feature::VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let missing = wanted & !offered;
    if missing != 0 {
        return Err(HandshakeError::Features { offered, missing });
    }
    let step = "a question for its protocol features";
    let protocol = back_end.get_protocol_features().map_err(refused(step))?;
    let protocol =
        protocol & (VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ);
    back_end.set_protocol_features(protocol).map_err(refused("protocol features"))?;
    if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        back_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    back_end.set_features(wanted).map_err(refused("features"))?;
    Ok(back_end)
}

/// Passes the memory and starts the rings, which are numbered as they stand here.
pub(super) fn start(
    back_end: &mut Frontend,
    memory: &SharedMemory,
    rings: &[(&Layout, &RingEvents)],
    packed: bool,
) -> Result<(), HandshakeError> {
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST_ADDRESS,
        memory_size: memory.bytes() as u64,
        userspace_addr: memory.user_address(),
        mmap_offset: 0,
        mmap_handle: memory.descriptor(),
    };
    back_end.set_mem_table(&[region]).map_err(refused("memory"))?;
    // The driver's wrap counter begins at 1.
    let base = if packed { 1 << 15 } else { 0 };
    for (index, (layout, events)) in rings.iter().enumerate() {
        let address = |offset: usize| memory.user_address() + offset as u64;
        let addresses = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: address(layout.descriptors),
            used_ring_addr: address(layout.used),
            avail_ring_addr: address(layout.available),
            log_addr: None,
        };
        back_end.set_vring_num(index, layout.size).map_err(refused("a ring's size"))?;
        back_end.set_vring_base(index, base).map_err(refused("a ring's base"))?;
        back_end.set_vring_addr(index, &addresses).map_err(refused("a ring's addresses"))?;
        back_end.set_vring_call(index, &events.call).map_err(refused("a ring's call"))?;
        back_end.set_vring_kick(index, &events.kick).map_err(refused("a ring's kick"))?;
    }
    for index in 0..rings.len() {
        back_end.set_vring_enable(index, true).map_err(refused("that a ring is used"))?;
    }
    Ok(())
}

/// Whether the other end of the connection has been closed.
pub(super) fn is_closed(stream: &UnixStream) -> bool {
    use nix::sys::socket::{MsgFlags, recv};
    let mut byte = [0];
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(stream.as_raw_fd(), &mut byte, peek) {
        Ok(read) => read == 0,
        Err(error) => error != nix::Error::EAGAIN,
    }
}
