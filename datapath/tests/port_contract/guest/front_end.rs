//! The front end's half of the vhost-user protocol, written from its specification: independent of
//! the library that the port uses, and able to say what no honest front end says.

#![allow(unsafe_code, reason = "takes descriptors from messages")]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Requests by number.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

/// A memory region: guest address, bytes, front end's address, offset in its file.
pub type RegionWords = [u64; 4];

/// A connection to a port.
pub struct FrontEnd {
    stream: UnixStream,
}

impl FrontEnd {
    pub fn new(stream: UnixStream) -> FrontEnd {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        FrontEnd { stream }
    }

    /// Sends a message; an end of the connection is no error here.
    fn send(&self, request: u32, flags: u32, body: &[u8], files: &[RawFd]) {
        let mut bytes = Vec::new();
        for word in [request, VERSION | flags, body.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        let control = [ControlMessage::ScmRights(files)];
        let control = if files.is_empty() { &[][..] } else { &control };
        let parts = [IoSlice::new(&bytes)];
        let _ =
            sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None);
    }

    fn reply(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).ok()?;
        let mut body = vec![0; u32::from_le_bytes(header[8..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some(body)
    }

    /// Says something and waits until it is done; `false` when it was refused.
    pub fn tell(&mut self, request: u32, body: &[u8], files: &[RawFd]) -> bool {
        self.send(request, NEED_REPLY, body, files);
        self.reply().is_some_and(|reply| reply == 0_u64.to_le_bytes())
    }

    /// As `tell`, before replies to everything were agreed on.
    pub fn mention(&mut self, request: u32, body: &[u8]) {
        self.send(request, 0, body, &[]);
    }

    /// Asks something.
    pub fn ask(&mut self, request: u32, body: &[u8]) -> Option<u64> {
        self.send(request, 0, body, &[]);
        let reply = self.reply()?;
        Some(match reply.len() {
            // The state of a ring: its index, and the answer.
            8 if request == request::GET_VRING_BASE => {
                u32::from_le_bytes(reply[4..].try_into().unwrap()).into()
            }
            _ => u64::from_le_bytes(reply[..8].try_into().unwrap()),
        })
    }

    /// Agrees on features, with replies to every message; what is offered, and protocol features.
    pub fn agree(&mut self, features: u64) -> Option<(u64, u64)> {
        let offered = self.ask(request::GET_FEATURES, &[])?;
        let protocol = self.ask(request::GET_PROTOCOL_FEATURES, &[])?;
        self.mention(request::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes());
        self.mention(request::SET_OWNER, &[]);
        let done = self.tell(request::SET_FEATURES, &features.to_le_bytes(), &[]);
        done.then_some((offered, protocol))
    }

    /// Shares memory.
    pub fn share(&mut self, regions: &[(RegionWords, &File)]) -> bool {
        let mut body = (regions.len() as u64).to_le_bytes().to_vec();
        for (words, _) in regions {
            words.iter().for_each(|word| body.extend(word.to_le_bytes()));
        }
        let files: Vec<RawFd> = regions.iter().map(|(_, file)| file.as_raw_fd()).collect();
        self.tell(request::SET_MEM_TABLE, &body, &files)
    }

    /// Adds one region, or takes it away.
    pub fn share_more(&mut self, request: u32, words: RegionWords, file: Option<&File>) -> bool {
        let mut body = 0_u64.to_le_bytes().to_vec();
        words.iter().for_each(|word| body.extend(word.to_le_bytes()));
        let files: Vec<RawFd> = file.iter().map(|file| file.as_raw_fd()).collect();
        self.tell(request, &body, &files)
    }

    /// Asks for a region to keep over the other side's death: its file, and where it is in it.
    pub fn keepsake(&mut self, rings: u16, size: u16) -> Option<(File, [u8; 24])> {
        let mut body = [0; 24];
        body[16..18].copy_from_slice(&rings.to_le_bytes());
        body[18..20].copy_from_slice(&size.to_le_bytes());
        self.send(request::GET_INFLIGHT_FD, 0, &body, &[]);
        let (mut header, mut place) = ([0; 12], [0; 24]);
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut place)];
        let mut space = cmsg_space!(RawFd);
        let flags = MsgFlags::MSG_WAITALL;
        let socket = self.stream.as_raw_fd();
        let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags).ok()?;
        let file = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::ScmRights(files) => files.first().copied(),
            _ => None,
        })?;
        // SAFETY: the kernel made this descriptor for the message, and nobody else has it.
        Some((unsafe { File::from_raw_fd(file) }, place))
    }

    /// Says a number about a ring.
    pub fn ring(&mut self, request: u32, ring: u32, number: u32) -> bool {
        let words = [ring.to_le_bytes(), number.to_le_bytes()];
        self.tell(request, words.as_flattened(), &[])
    }

    /// Hands over an eventfd of a ring.
    pub fn event(&mut self, request: u32, ring: u32, file: RawFd) -> bool {
        self.tell(request, &u64::from(ring).to_le_bytes(), &[file])
    }

    /// Says where a ring lies: descriptors, used or device area, available or driver area.
    pub fn place(&mut self, ring: u32, flags: u32, places: [u64; 3]) -> bool {
        let mut body = [ring.to_le_bytes(), flags.to_le_bytes()].as_flattened().to_vec();
        places.iter().chain([&0]).for_each(|place| body.extend(place.to_le_bytes()));
        self.tell(request::SET_VRING_ADDR, &body, &[])
    }

    /// Whether the other side has ended the connection; waits for it.
    pub fn is_left_alone(&mut self) -> bool {
        self.reply().is_none()
    }
}
