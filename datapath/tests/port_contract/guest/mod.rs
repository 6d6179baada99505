//! A guest for vhost-user ports: memory, a driver and its front end, all in this process.

pub mod driver;
pub mod front_end;
mod place;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::eventfd::{EfdFlags, EventFd};
use seine_datapath::frame::FrameCache;
use seine_datapath::port::vhost_user::Mode;
use seine_pipeline::packet::Checksum;

use self::driver::{DriverRing, Memory, Part};
use self::front_end::{FrontEnd, request};
pub use self::place::{Place, connect};
use crate::{Bench, Kind, Sample, Wire};

/// Where the guest's memory begins, in its own eyes and in its front end's.
pub const GUEST: u64 = 0x1_0000_0000;
pub const USER: u64 = 0x7f00_0000_0000;

/// Descriptors of a ring, and buffers, of up to four descriptors each.
pub const SIZE: u16 = 1024;
pub const BUFFERS: u16 = SIZE / 4;
const BUFFER_BYTES: usize = 2048;

pub const HEADER_BYTES: usize = 12;
/// Where large packets lie, behind the buffers of a ring, and how much each may have.
const LARGE: usize = 0x8_0000;
const LARGE_BYTES: usize = 0x1_4000;
const NEEDS_CHECKSUM: u8 = 1;

/// Features by bit.
pub const MERGEABLE: u64 = 1 << 15;
pub const EVENT_INDEX: u64 = 1 << 29;
pub const PACKED: u64 = 1 << 34;
/// TCP in segments of both families and with congestion, to the guest and from it.
pub const SEGMENTS: u64 = 7 << 7 | 7 << 11;
const PLAIN: u64 = 1 << 32 | 1 << 30 | 1 << 28 | 1 << 22 | 1 << 1 | 1;

/// What a guest and its port are like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub mode: Mode,
    pub packed: bool,
    pub event_index: bool,
    /// Whether buffers are described in tables of their own.
    pub indirect: bool,
    /// Whether the header has a descriptor of its own.
    pub apart: bool,
    /// Bytes of a receive buffer, which are merged if they are small.
    pub receive_bytes: usize,
    /// Whether the guest takes partial checksums.
    pub checksum: bool,
    /// Whether it sends and takes TCP in segments.
    pub segments: bool,
    pub pairs: usize,
}

/// A split ring, as plain as can be.
pub const SPLIT: Shape = Shape {
    mode: Mode::Server,
    packed: false,
    event_index: false,
    indirect: false,
    apart: false,
    receive_bytes: BUFFER_BYTES,
    checksum: true,
    segments: false,
    pairs: 1,
};

impl Shape {
    pub fn features(&self) -> u64 {
        let mut features = PLAIN;
        if self.receive_bytes < BUFFER_BYTES {
            features |= MERGEABLE;
        }
        if self.event_index {
            features |= EVENT_INDEX;
        }
        if self.packed {
            features |= PACKED;
        }
        if self.segments {
            features |= SEGMENTS | MERGEABLE;
        }
        if !self.checksum {
            features &= !(1 << 1);
        }
        features
    }
}

/// A ring, its buffers, its kicks and calls.
pub struct GuestRing {
    pub driver: DriverRing,
    pub kick: EventFd,
    pub call: EventFd,
    buffers: usize,
    free: Vec<u16>,
}

/// The guest.
pub struct Guest {
    pub shape: Shape,
    pub memory: Memory,
    pub front_end: FrontEnd,
    pub rings: Vec<GuestRing>,
    /// What the port left for whoever comes after it.
    keepsake: Option<(File, [u8; 24])>,
    /// Whether it enables its rings before it agrees on features, and not after: as QEMU does.
    enables_first: bool,
}

impl Guest {
    /// A guest that speaks by `stream`, ready.
    pub fn new(shape: Shape, stream: UnixStream) -> Guest {
        Guest::started(shape, stream, false)
    }

    /// The same by a front end that enables its rings before it agrees on features.
    pub fn that_enables_first(shape: Shape, stream: UnixStream) -> Guest {
        Guest::started(shape, stream, true)
    }

    fn started(shape: Shape, stream: UnixStream, enables_first: bool) -> Guest {
        let rings = 2 * shape.pairs;
        let memory = Memory::new(0x10_0000 * (rings + 1));
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let ring = |index: usize| {
            let at = 0x1_0000 * index;
            let mut driver = DriverRing::new(shape.packed, shape.event_index, SIZE, at, GUEST);
            driver.tables = shape.indirect.then_some(at + 0xa000);
            let buffers = 0x10_0000 * (index + 1);
            let free = (0..BUFFERS).rev().collect();
            GuestRing { driver, kick: eventfd(), call: eventfd(), buffers, free }
        };
        let rings = (0..rings).map(ring).collect();
        let front_end = FrontEnd::new(stream);
        let mut guest = Guest { shape, memory, front_end, rings, keepsake: None, enables_first };
        guest.negotiate();
        guest.begin();
        guest
    }

    /// The same guest, after the other side went: a new connection, old memory and rings.
    pub fn reconnect(&mut self, stream: UnixStream) {
        self.front_end = FrontEnd::new(stream);
        for ring in 1..self.rings.len() {
            self.reclaim(ring);
        }
        self.negotiate();
        self.begin();
    }

    /// Starts a ring that was stopped.
    pub fn restart(&mut self, ring: usize, base: u32) {
        let kick = self.rings[ring].kick.as_raw_fd();
        assert!(self.front_end.ring(request::SET_VRING_BASE, ring as u32, base));
        assert!(self.front_end.event(request::SET_VRING_KICK, ring as u32, kick));
    }

    /// As `reconnect`, by a front end that does not know where its rings stand, and kept what the
    /// port had left for this.
    pub fn reconnect_by_keepsake(&mut self, stream: UnixStream) {
        self.front_end = FrontEnd::new(stream);
        self.negotiate();
        let (file, place) = self.keepsake.as_ref().expect("it was kept");
        assert!(self.front_end.tell(request::SET_INFLIGHT_FD, place, &[file.as_raw_fd()]));
        let start = if self.shape.packed { 1 << 15 } else { 0 };
        (0..self.rings.len()).for_each(|ring| self.describe(ring, start));
    }

    /// Asks the port to leave word of where the rings stand.
    pub fn keep_track(&mut self) {
        let rings = self.rings.len() as u16;
        let kept = self.front_end.keepsake(rings, SIZE).expect("it is offered");
        assert!(self.front_end.tell(request::SET_INFLIGHT_FD, &kept.1, &[kept.0.as_raw_fd()]));
        self.keepsake = Some(kept);
    }

    fn reclaim(&mut self, ring: usize) {
        while ring % 2 == 1
            && let Some((id, _)) = self.rings[ring].driver.used(&self.memory)
        {
            self.rings[ring].free.push(id);
        }
    }

    fn negotiate(&mut self) {
        for ring in 0..self.rings.len() as u32 * u32::from(self.enables_first) {
            let words = [ring.to_le_bytes(), 1_u32.to_le_bytes()];
            self.front_end.mention(request::SET_VRING_ENABLE, words.as_flattened());
        }
        let agreed = self.front_end.agree(self.shape.features()).expect("features are agreed on");
        assert_eq!(agreed.0 & self.shape.features(), self.shape.features());
        let words = [GUEST, self.memory.bytes as u64, USER, 0];
        assert!(self.front_end.share(&[(words, &self.memory.file)]));
    }

    /// Describes all rings and posts the receive buffers.
    fn begin(&mut self) {
        for index in 0..self.rings.len() {
            self.describe(index, self.rings[index].driver.base());
            if index % 2 == 0 {
                while let Some(id) = self.rings[index].free.pop() {
                    self.post(index, id);
                }
            }
        }
    }

    fn describe(&mut self, index: usize, base: u32) {
        let at = index as u32;
        let [descriptors, driver, device] =
            self.rings[index].driver.places.map(|place| USER + place as u64);
        let talk = &mut self.front_end;
        assert!(talk.ring(request::SET_VRING_NUM, at, SIZE.into()));
        assert!(talk.ring(request::SET_VRING_BASE, at, base));
        assert!(talk.place(at, 0, [descriptors, device, driver]));
        let GuestRing { kick, call, .. } = &self.rings[index];
        let (kick, call) = (kick.as_raw_fd(), call.as_raw_fd());
        assert!(talk.event(request::SET_VRING_CALL, at, call));
        assert!(talk.event(request::SET_VRING_KICK, at, kick));
        assert!(self.enables_first || talk.ring(request::SET_VRING_ENABLE, at, 1));
    }

    fn parts(&self, ring: usize, id: u16, len: usize, write: bool) -> Vec<Part> {
        let at = GUEST + (self.rings[ring].buffers + usize::from(id) * BUFFER_BYTES) as u64;
        match self.shape.apart {
            true => vec![(at, 12, write), (at + 12, len as u32 - 12, write)],
            false => vec![(at, len as u32, write)],
        }
    }

    /// Makes a receive buffer available.
    fn post(&mut self, ring: usize, id: u16) {
        let parts = self.parts(ring, id, self.shape.receive_bytes, true);
        self.rings[ring].driver.add(&self.memory, id, &parts);
        let _ = self.rings[ring].driver.wants_kick(&self.memory);
    }

    /// Sends bytes after a header on a ring; `false` when no buffer is free.
    pub fn send_raw(&mut self, ring: usize, header: [u8; HEADER_BYTES], bytes: &[u8]) -> bool {
        self.reclaim(ring);
        let Some(id) = self.rings[ring].free.pop() else { return false };
        let at = self.rings[ring].buffers + usize::from(id) * BUFFER_BYTES;
        self.memory.write(at, &header);
        self.memory.write(at + HEADER_BYTES, bytes);
        let parts = self.parts(ring, id, HEADER_BYTES + bytes.len(), false);
        let GuestRing { driver, kick, .. } = &mut self.rings[ring];
        driver.add(&self.memory, id, &parts);
        if driver.wants_kick(&self.memory) {
            kick.write(1).unwrap();
        }
        true
    }

    /// Sends a packet of up to 64 KiB, in three pieces; for a few at a time.
    pub fn send_large(&mut self, ring: usize, header: [u8; HEADER_BYTES], bytes: &[u8]) -> bool {
        self.reclaim(ring);
        let Some(id) = self.rings[ring].free.pop() else { return false };
        let at = self.rings[ring].buffers + LARGE + usize::from(id) % 6 * LARGE_BYTES;
        self.memory.write(at, &header);
        self.memory.write(at + HEADER_BYTES, bytes);
        let (mut parts, mut at, mut left) = (Vec::new(), GUEST + at as u64, 12 + bytes.len());
        for most in [40, 0x5678, usize::MAX] {
            let here = left.min(most);
            parts.push((at, here as u32, false));
            (at, left) = (at + here as u64, left - here);
        }
        let GuestRing { driver, kick, .. } = &mut self.rings[ring];
        driver.add(&self.memory, id, &parts);
        if driver.wants_kick(&self.memory) {
            kick.write(1).unwrap();
        }
        true
    }

    pub fn send_on(&mut self, ring: usize, sample: &Sample) -> bool {
        let mut header = [0; HEADER_BYTES];
        if let Checksum::Partial { start, offset } = sample.checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        self.send_raw(ring, header, &sample.bytes)
    }

    /// A packet behind its header.
    pub fn collect_raw(&mut self, ring: usize) -> Option<Vec<u8>> {
        let (first, written) = self.rings[ring].driver.used(&self.memory)?;
        let place =
            |guest: &Guest, id: u16| guest.rings[ring].buffers + usize::from(id) * BUFFER_BYTES;
        let mut bytes = self.memory.read(place(self, first), written as usize);
        let mut ids = vec![first];
        for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
            let (id, written) = self.rings[ring].driver.used(&self.memory).expect("all at once");
            bytes.extend(self.memory.read(place(self, id), written as usize));
            ids.push(id);
        }
        ids.into_iter().for_each(|id| self.post(ring, id));
        Some(bytes)
    }

    pub fn collect_on(&mut self, ring: usize) -> Option<Sample> {
        let bytes = self.collect_raw(ring)?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let checksum = match bytes[0] & NEEDS_CHECKSUM {
            0 => Checksum::Complete,
            _ => Checksum::Partial { start: half(6), offset: half(8) },
        };
        Some(Sample { bytes: bytes[HEADER_BYTES..].to_vec(), checksum })
    }
}

impl Wire for Guest {
    fn send(&mut self, sample: &Sample) -> bool {
        self.send_on(1, sample)
    }

    fn collect(&mut self) -> Option<Sample> {
        self.collect_on(0)
    }
}

impl Kind for Shape {
    fn open(&self, offered: &[Sample]) -> Bench {
        let place = Place::new();
        let listener = match self.mode {
            Mode::Client => Some(UnixListener::bind(place.socket()).unwrap()),
            Mode::Server => None,
        };
        let mut port = place.open(self.mode, 1, false);
        let stream = match listener {
            Some(listener) => listener.accept().unwrap().0,
            None => connect(&place.socket()),
        };
        let mut guest = Guest::new(*self, stream);
        assert!(offered.iter().all(|sample| guest.send(sample)));
        Bench {
            region: place.region,
            frames: FrameCache::new(place.region),
            queue: port.queues.remove(0),
            wire: Box::new(guest),
            surroundings: Box::new((port.control, place)),
        }
    }

    fn transmit_ring(&self) -> Option<usize> {
        Some(BUFFERS.into())
    }

    fn oversize(&self) -> usize {
        1515
    }
}
