//! Sends and receives: the far ends of all ports, on one core.
//!
//! A frame that came back is looked at, filled with the next packet and sent again, so that
//! neither side allocates. Every frame's port is judged by the packet's own word; one in
//! [`SAMPLED`] is judged in whole.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use seine_datapath::frame::{Batch, Frame, FrameCache, HEADROOM, Region};
use seine_datapath::machine::{cycles, prefetch};
use seine_datapath::port::memory::MemoryWire;
use seine_pipeline::limits::BATCH_MAX;
use seine_pipeline::packet::Checksum;

use super::objects::UPLINK;
use super::packets::{OUTER, Said, Traffic, Wrong, decapsulated, is_at_home, renew};
use super::profile::{Kind, Profile, Tunnel};

/// One in so many frames is judged in whole.
const SAMPLED: u64 = 64;
/// How many packets ahead the next ones are fetched into the cache.
const AHEAD: usize = 16;
/// Batches between two looks of the worker at what was sent: each look takes a cache line to the
/// other core and back.
const LOOKS_BETWEEN: usize = 8;
/// How long a packet may be under way: a worker that lost its core for a while is no fault.
const LATE: Duration = Duration::from_secs(3);

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A packet was changed or sent somewhere else than it must be.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// Frames did not come back.
    #[error("{0} packets did not come out")]
    Lost(u64),
    /// A ring was full that was sized for all that can meet in it.
    #[error("the ring of port {0} is full: this is a mistake of the generator")]
    RingFull(usize),
    /// A change of the State was refused.
    #[error("a change meanwhile was refused: {0}")]
    Change(#[from] seine_pipeline::state::Refusal),
    /// The packet memory did not suffice.
    #[error("no frame for the generator")]
    NoFrame,
}

/// Sender and receiver of all packets.
pub struct Generator {
    wires: Vec<MemoryWire>,
    traffic: Arc<RwLock<Traffic>>,
    tunnel: Tunnel,
    size: usize,
    renewed: bool,
    stride: u32,
    learning: bool,
    checksum: Checksum,
    order: Arc<[u32]>,
    position: usize,
    lap: u32,
    idle: Vec<Frame>,
    batch: Batch,
    frames: FrameCache,
    /// Packets sent.
    pub sent: u64,
    /// Packets that came back.
    pub returned: u64,
    /// Cycles of steps that moved packets.
    pub busy_cycles: u64,
}

impl Generator {
    /// One with its own frames, all at hand.
    pub fn new(
        profile: &Profile,
        traffic: Arc<RwLock<Traffic>>,
        wires: Vec<MemoryWire>,
        region: &'static Region,
    ) -> Result<Generator, RunError> {
        let checksum = read(&traffic).checksum();
        let stride = read(&traffic).stride() as u32;
        let mut frames = FrameCache::new(region);
        let mut idle = Vec::with_capacity(profile.in_flight);
        for _ in 0..profile.in_flight {
            let mut frame = frames.allocate().ok_or(RunError::NoFrame)?;
            frame.buffer_mut().fill(0);
            idle.push(frame);
        }
        Ok(Generator {
            wires,
            traffic,
            tunnel: profile.tunnel,
            size: profile.size,
            renewed: profile.kind == Kind::New,
            stride,
            learning: true,
            checksum,
            order: Arc::from([]),
            position: 0,
            lap: 0,
            idle,
            batch: Batch::new(),
            frames,
            sent: 0,
            returned: 0,
            busy_cycles: 0,
        })
    }

    /// Sends in this order from now on.
    pub fn follow(&mut self, order: Arc<[u32]>) {
        (self.order, self.position) = (order, 0);
        self.lap += 1;
    }

    /// From now on what packets are is known; every one must be as before.
    pub fn learnt(&mut self) {
        self.learning = false;
    }

    /// Packets under way.
    pub fn under_way(&self) -> u64 {
        self.sent - self.returned
    }

    /// Collects what came out, and sends as many packets, `budget` at most, while no more than
    /// `window` are under way. Says how many came out.
    pub fn step(&mut self, budget: u64, window: usize) -> Result<usize, RunError> {
        let began = cycles();
        let traffic = Arc::clone(&self.traffic);
        let mut left = budget;
        let (mut moved, before) = (0, self.sent);
        let known = read(&traffic);
        while left > 0
            && (self.under_way() as usize) < window
            && let Some(frame) = self.idle.pop()
        {
            self.send(&known, frame)?;
            left -= 1;
        }
        drop(known);
        let mut looks: usize = 0;
        for port in 0..self.wires.len() {
            // All that came out, or what leaves by one port for many would wait behind the worker.
            for _ in 0..=window / BATCH_MAX {
                let collected = self.turn_round(port, &traffic, &mut left, window)?;
                moved += collected;
                looks += 1;
                if looks.is_multiple_of(LOOKS_BETWEEN) {
                    self.wires.iter_mut().for_each(MemoryWire::publish);
                }
                if collected < BATCH_MAX {
                    break;
                }
            }
        }
        self.wires.iter_mut().for_each(MemoryWire::publish);
        if moved > 0 || self.sent > before {
            self.busy_cycles += cycles().wrapping_sub(began);
        }
        Ok(moved)
    }

    /// Collects a batch from a port and sends as many packets, `left` at most.
    fn turn_round(
        &mut self,
        port: usize,
        traffic: &RwLock<Traffic>,
        left: &mut u64,
        window: usize,
    ) -> Result<usize, RunError> {
        let mut known = read(traffic);
        let mut batch = std::mem::take(&mut self.batch);
        self.wires[port].collect_frames(&mut batch);
        batch.iter().for_each(|frame| prefetch(&frame.buffer()[HEADROOM]));
        let collected = batch.len();
        for frame in batch.drain(..) {
            if self.learning {
                drop(known);
                let inner = self.inner(port, &frame);
                write(traffic).learn(port, inner);
                known = read(traffic);
            }
            if !self.is_right(port, &frame) {
                let inner = self.inner(port, &frame);
                known.judge(port, inner, Said::of(inner))?;
            }
            self.returned += 1;
            if *left > 0 && (self.under_way() as usize) < window {
                self.send(&known, frame)?;
                *left -= 1;
            } else {
                self.idle.push(frame);
            }
        }
        self.batch = batch;
        Ok(collected)
    }

    /// Whether a frame need not be looked at more closely.
    #[inline]
    fn is_right(&self, port: usize, frame: &Frame) -> bool {
        let inner = if port == UPLINK { OUTER } else { 0 };
        !self.learning
            && !self.returned.is_multiple_of(SAMPLED)
            && frame.bytes().get(inner..).is_some_and(|packet| is_at_home(packet, port))
    }

    /// The packet that the generator sent; the whole frame if it is none in a tunnel that it
    /// should be in.
    fn inner<'f>(&self, port: usize, frame: &'f Frame) -> &'f [u8] {
        let outside = port == UPLINK && self.tunnel != Tunnel::None;
        let inner = if outside { decapsulated(frame.bytes()) } else { None };
        inner.unwrap_or(frame.bytes())
    }

    #[inline]
    fn send(&mut self, traffic: &Traffic, mut frame: Frame) -> Result<(), RunError> {
        if self.position == self.order.len() {
            self.position = 0;
            self.lap += 1;
        }
        if let Some(number) = self.order.get(self.position + AHEAD) {
            traffic.lines(*number).iter().for_each(prefetch);
        }
        let lines = traffic.lines(self.order[self.position]);
        self.position += 1;
        let ingress = Traffic::ingress(lines);
        let inner = Traffic::inner_at(ingress);
        let len = inner + self.size;
        let room = &mut frame.buffer_mut()[HEADROOM..];
        for (place, line) in room.as_chunks_mut().0.iter_mut().zip(lines) {
            *place = line.0;
        }
        if self.renewed {
            renew(&mut room[inner..len], self.lap, self.stride);
        }
        frame.set_range(HEADROOM, len);
        frame.checksum = self.checksum;
        let Some(wire) = self.wires.get_mut(ingress) else {
            self.idle.push(frame);
            return Err(RunError::RingFull(ingress));
        };
        if let Err(frame) = wire.put_frame(frame) {
            self.idle.push(frame);
            return Err(RunError::RingFull(ingress));
        }
        self.sent += 1;
        Ok(())
    }

    /// Sends `count` packets with at most `window` under way, and waits until all came back.
    /// `drive` is called in between: it runs the worker where nobody else does.
    pub fn play(
        &mut self,
        count: u64,
        window: usize,
        mut drive: impl FnMut(),
    ) -> Result<(), RunError> {
        let target = self.sent + count;
        let mut last = Instant::now();
        while self.sent < target || self.under_way() > 0 {
            drive();
            if self.step(target - self.sent, window)? > 0 {
                last = Instant::now();
            } else if last.elapsed() > LATE {
                return Err(RunError::Lost(self.under_way()));
            }
        }
        Ok(())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        for frame in self.idle.drain(..) {
            self.frames.free(frame);
        }
    }
}

fn read(traffic: &RwLock<Traffic>) -> RwLockReadGuard<'_, Traffic> {
    traffic.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write(traffic: &RwLock<Traffic>) -> RwLockWriteGuard<'_, Traffic> {
    traffic.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}
