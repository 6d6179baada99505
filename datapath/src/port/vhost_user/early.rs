//! What front ends say of rings before they say what features they agree to.
//!
//! The specification lets a ring be enabled or disabled only after that, and the library refuses
//! it. But QEMU enables its rings first and never again, and DPDK disables its own.
//!
//! And whether a message's header is there as a whole, for which the library waits without end.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{MsgFlags, recv};

/// VHOST_USER_SET_VRING_ENABLE.
const SET_VRING_ENABLE: u32 = 18;

/// Request, flags and bytes of the body.
const HEADER_BYTES: usize = 12;

/// Those, then the ring and whether it is enabled.
const MESSAGE_BYTES: usize = HEADER_BYTES + 8;

/// A wish to enable or disable a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enable {
    /// The ring.
    pub ring: u32,
    /// Whether it is enabled.
    pub on: bool,
}

impl Enable {
    /// Looks whether the next message of a front end is one, and leaves it there.
    pub fn next(stream: &impl AsFd) -> Option<Enable> {
        let mut message = [0; MESSAGE_BYTES];
        if peek(stream, &mut message)? < MESSAGE_BYTES {
            return None;
        }
        let (words, _) = message.as_chunks();
        let [request, _, _, ring, on] = <[[u8; 4]; 5]>::try_from(words).ok()?;
        let [request, ring, on] = [request, ring, on].map(u32::from_le_bytes);
        (request == SET_VRING_ENABLE && on <= 1).then_some(Enable { ring, on: on == 1 })
    }
}

/// Whether a front end has begun a message, and not sent all of its header.
pub(super) fn is_header_cut(stream: &impl AsFd) -> bool {
    peek(stream, &mut [0; HEADER_BYTES]).is_some_and(|bytes| (1..HEADER_BYTES).contains(&bytes))
}

/// Reads what is there, and leaves it there.
fn peek(stream: &impl AsFd, bytes: &mut [u8]) -> Option<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(stream.as_fd().as_raw_fd(), bytes, flags).ok()
}
