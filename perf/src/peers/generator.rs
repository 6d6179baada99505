//! Sends and receives on all front ends, on one core.
//!
//! The loop is closed: what is under way is bounded, and a packet is sent when another came back.
//! A switch in between may lose packets, unlike ours; they are counted, and what they held is given
//! back when nothing has come for a while.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seine_datapath::machine::cycles;

use crate::forward::objects::FIRST_POD;
use crate::forward::packets::{Traffic, Wrong, is_at_home};
use crate::virtio::{FrontEnd, HEADER_BYTES, Received};

/// One in so many frames has its port judged by its own word.
const GLANCED: u64 = 8;
/// One in so many frames is judged in whole.
const JUDGED: u64 = 256;
/// Frames taken from a port at once.
const BATCH: usize = 64;
/// When nothing has come for so long, what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// Rounds between two looks of the outside at the counters.
const PUBLISHED_EVERY: u32 = 64;
/// Bytes of the longest packet that is judged.
const PACKET_MAX: usize = 1514;

/// What the switch in between does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wiring {
    /// It brings them where they are addressed to.
    Switched,
    /// It joins ports in pairs: the first with the second, and so on.
    Paired,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A packet was changed or sent somewhere else than it must be.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// Packets did not come out although there was nothing to hold them up.
    #[error("{lost} of {sent} packets did not come out while connections began")]
    Lost {
        /// How many.
        lost: u64,
        /// Of how many.
        sent: u64,
    },
    /// A packet came out where no port is joined to the one that it went in by.
    #[error("a packet came out by port {0}, which nobody sent it to")]
    Stray(usize),
    /// A packet goes in where there is no front end.
    #[error("there is no front end for port {0}")]
    NoFrontEnd(usize),
    /// The peer is gone.
    #[error("the peer closed the connection of port {0}")]
    Closed(usize),
}

/// Counters, for whoever looks from another thread.
#[derive(Debug, Default)]
pub struct Watch {
    /// Ends the run.
    pub stop: AtomicBool,
    sent: AtomicU64,
    returned: AtomicU64,
    lost: AtomicU64,
    cycles: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came back.
    pub returned: u64,
    /// Packets that were given up.
    pub lost: u64,
    /// TSC cycles of rounds that moved packets.
    pub cycles: u64,
}

impl Watch {
    /// The counters as they were published last.
    pub fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            sent: read(&self.sent),
            returned: read(&self.returned),
            lost: read(&self.lost),
            cycles: read(&self.cycles),
        }
    }

    fn publish(&self, counted: Counted) {
        self.sent.store(counted.sent, Ordering::Relaxed);
        self.returned.store(counted.returned, Ordering::Relaxed);
        self.lost.store(counted.lost, Ordering::Relaxed);
        self.cycles.store(counted.cycles, Ordering::Relaxed);
    }
}

/// Sender and receiver of all packets.
pub struct Generator {
    front_ends: Vec<FrontEnd>,
    wiring: Wiring,
    counted: Counted,
}

/// What is sent in a run; `T` is [`Traffic`] that can be learnt from, or only be read.
pub struct Play<'a, T> {
    /// All packets.
    pub traffic: T,
    /// Their numbers, over and over.
    pub order: &'a [u32],
    /// Packets under way at most.
    pub window: usize,
    /// Bytes of each frame.
    pub size: usize,
}

impl Generator {
    /// One with a front end for each Pod.
    pub fn new(front_ends: Vec<FrontEnd>, wiring: Wiring) -> Generator {
        let counted = Counted { sent: 0, returned: 0, lost: 0, cycles: 0 };
        Generator { front_ends, wiring, counted }
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.front_ends.len()
    }

    /// Sends every packet of the order once, judges each that comes out in whole and learns from
    /// it, and says how many were lost.
    pub fn teach(&mut self, play: &mut Play<'_, &mut Traffic>) -> Result<u64, RunError> {
        let before = self.counted;
        let mut position = 0;
        let mut last = Instant::now();
        loop {
            let moved = self.receive_and_learn(play)?;
            let room = play.window.saturating_sub(self.under_way() as usize);
            let count = room.min(play.order.len() - position);
            position += self.send(play, position, count)?;
            if moved > 0 || count > 0 {
                last = Instant::now();
            } else if self.under_way() == 0 && position == play.order.len() {
                return Ok(self.counted.lost - before.lost);
            } else if last.elapsed() > LOST_AFTER {
                self.give_up()?;
            }
        }
    }

    /// Sends in the order until the watch says stop.
    pub fn run(&mut self, play: &Play<'_, &Traffic>, watch: &Watch) -> Result<(), RunError> {
        let mut position = 0;
        let mut last = Instant::now();
        let mut rounds = 0_u32;
        while !watch.stop.load(Ordering::Relaxed) {
            let began = cycles();
            let mut moved = 0;
            for port in 0..self.front_ends.len() {
                moved += self.receive(play, port)?;
            }
            let room = play.window.saturating_sub(self.under_way() as usize);
            let count = room.min(play.order.len() - position);
            let sent = self.send(play, position, count)?;
            position = (position + sent) % play.order.len();
            if moved + sent > 0 {
                self.counted.cycles += cycles().wrapping_sub(began);
                last = Instant::now();
            } else if last.elapsed() > LOST_AFTER {
                self.give_up()?;
                last = Instant::now();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(PUBLISHED_EVERY) {
                watch.publish(self.counted);
            }
        }
        watch.publish(self.counted);
        self.drain(play)
    }

    /// Collects what is still under way.
    fn drain(&mut self, play: &Play<'_, &Traffic>) -> Result<(), RunError> {
        let mut last = Instant::now();
        while self.under_way() > 0 {
            let mut moved = 0;
            for port in 0..self.front_ends.len() {
                moved += self.receive(play, port)?;
            }
            if moved > 0 {
                last = Instant::now();
            } else if last.elapsed() > LOST_AFTER {
                self.give_up()?;
            }
        }
        Ok(())
    }

    fn under_way(&self) -> u64 {
        self.counted.sent.saturating_sub(self.counted.returned + self.counted.lost)
    }

    /// Counts packets that came. What was given up may come after all.
    fn came(&mut self, count: usize) {
        let Counted { sent, returned, lost, .. } = &mut self.counted;
        *returned += count as u64;
        *lost = (*lost).min(sent.saturating_sub(*returned));
    }

    fn give_up(&mut self) -> Result<(), RunError> {
        if let Some(port) = self.front_ends.iter().position(FrontEnd::is_closed) {
            return Err(RunError::Closed(port));
        }
        self.counted.lost += self.under_way();
        Ok(())
    }

    /// Sends at most `count` packets from a place of the order on. Says how many.
    fn send<T: Deref<Target = Traffic>>(
        &mut self,
        play: &Play<'_, T>,
        position: usize,
        count: usize,
    ) -> Result<usize, RunError> {
        let mut sent = 0;
        for &number in &play.order[position..position + count] {
            let lines = play.traffic.lines(number);
            let port = Traffic::ingress(lines);
            let front_end = port.checked_sub(FIRST_POD).and_then(|it| self.front_ends.get_mut(it));
            let Some(front_end) = front_end else { return Err(RunError::NoFrontEnd(port)) };
            let [line, ..] = lines else { return Err(RunError::NoFrontEnd(port)) };
            let header = [0; HEADER_BYTES];
            if !front_end.transmit_with(header, play.size, &[&line.0])
                && (front_end.reclaim() == 0
                    || !front_end.transmit_with(header, play.size, &[&line.0]))
            {
                // Its ring is full: everybody waits, so that the order stays what it is.
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            self.front_ends.iter_mut().for_each(FrontEnd::flush);
            self.counted.sent += sent as u64;
        }
        Ok(sent)
    }

    fn receive(&mut self, play: &Play<'_, &Traffic>, index: usize) -> Result<usize, RunError> {
        let (wiring, mut seen) = (self.wiring, self.counted.returned);
        let mut wrong = None;
        let count = self.front_ends[index].receive(BATCH, |frame| {
            seen += 1;
            if seen.is_multiple_of(GLANCED)
                && !is_right(play.traffic, wiring, index, &frame, seen.is_multiple_of(JUDGED))
            {
                wrong.get_or_insert_with(|| what_is_wrong(play.traffic, index, &frame));
            }
        });
        self.came(count);
        wrong.map_or(Ok(count), Err)
    }

    fn receive_and_learn(&mut self, play: &mut Play<'_, &mut Traffic>) -> Result<usize, RunError> {
        let mut moved = 0;
        for (index, front_end) in self.front_ends.iter_mut().enumerate() {
            let mut wrong = None;
            let wiring = self.wiring;
            moved += front_end.receive(BATCH, |frame| {
                let mut packet = [0; PACKET_MAX];
                if wiring == Wiring::Switched {
                    play.traffic.learn(index + FIRST_POD, frame.copy_to(&mut packet));
                }
                if wrong.is_none() && !is_right(play.traffic, wiring, index, &frame, true) {
                    wrong = Some(what_is_wrong(play.traffic, index, &frame));
                }
            });
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
        self.came(moved);
        Ok(moved)
    }
}

/// Whether a frame is where it should be and, if it is looked at in whole, what it should be.
fn is_right(
    traffic: &Traffic,
    wiring: Wiring,
    index: usize,
    frame: &Received<'_>,
    in_whole: bool,
) -> bool {
    match wiring {
        Wiring::Switched if in_whole => judge(traffic, index, frame).is_ok(),
        Wiring::Switched => {
            let mut start = [0; 64];
            is_at_home(frame.copy_to(&mut start), index + FIRST_POD)
        }
        Wiring::Paired => {
            // It says by its sender's address where it went in.
            let mut start = [0; 12];
            let sender = frame.copy_to(&mut start).get(10..12);
            let port = sender.map(|it| usize::from(u16::from_be_bytes([it[0], it[1]])));
            port == Some((index ^ 1) + FIRST_POD)
        }
    }
}

fn judge(traffic: &Traffic, index: usize, frame: &Received<'_>) -> Result<(), Wrong> {
    let mut packet = [0; PACKET_MAX];
    traffic.judge(index + FIRST_POD, frame.copy_to(&mut packet))
}

fn what_is_wrong(traffic: &Traffic, index: usize, frame: &Received<'_>) -> RunError {
    match judge(traffic, index, frame) {
        Err(wrong) => RunError::Wrong(wrong),
        // As such it is right, but nothing leads here.
        Ok(()) => RunError::Stray(index),
    }
}
