//! Sends and receives on the far ends of all Pods' ports, on one core: as guests behind vhost-user,
//! or at the Pods' ends of their veths.
//!
//! The loop is closed: what is under way is bounded, and a packet is sent when another came back.
//! A switch in between may lose packets; they are counted, and what they held is given back when
//! nothing has come for a while. With a [`Pace`] packets are also sent no sooner than they are due,
//! and carry when that was: delay is counted from there, so one that waited here for room has its
//! wait counted.

mod end;
mod judge;
mod watch;

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use seine_datapath::machine::cycles;

pub use self::end::{Arrived, FarEnd, Shape};
use self::judge::{PACKET_MAX, is_right, what_is_wrong};
pub use self::watch::{Counted, Watch};
use super::delay::Delays;
use super::objects::FIRST_POD;
use super::packets::{Line, Traffic, Wrong, number, renew, stamp, stamped};
use super::profile::{Kind, Profile, Ways};

/// One in so many frames has its port judged by its own word.
const GLANCED: u64 = 8;
/// One in so many frames is judged in whole.
const JUDGED: u64 = 256;
/// Frames taken from a port at once.
const BATCH: usize = 64;
/// When nothing has come for so long, what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// The same while connections begin: a switch that lost its core for a while is no fault.
const LOST_FOR_GOOD_AFTER: Duration = Duration::from_secs(3);
/// Rounds between two looks of the outside at the counters.
const PUBLISHED_EVERY: u32 = 64;

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
    /// A packet goes in where there is no far end.
    #[error("there is no far end of port {0}")]
    NoFarEnd(usize),
    /// The switch is gone.
    #[error("the switch closed the connection of port {0}")]
    Closed(usize),
}

/// When packets are due: one every so many cycles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// TSC cycles from one packet to the next.
    pub cycles: f64,
}

/// What is sent in a run; `T` is [`Traffic`] that can be learnt from, or only be read.
pub struct Play<'a, T> {
    /// All packets.
    pub traffic: T,
    /// Their numbers, over and over.
    pub order: &'a [u32],
    /// Packets under way at most.
    pub window: usize,
    /// What all frames have in common.
    pub shape: Shape,
    /// Each packet begins a connection of its own.
    pub renewed: bool,
    /// Each packet that comes out is answered, and its answer sent first.
    pub echo: bool,
    /// When packets are due, where they have to wait.
    pub pace: Option<Pace>,
}

impl<'a, T: Deref<Target = Traffic>> Play<'a, T> {
    /// As the profile has it.
    pub fn of(profile: &Profile, traffic: T, order: &'a [u32], window: usize) -> Play<'a, T> {
        Play {
            shape: Shape::of(&traffic, profile.tso),
            traffic,
            order,
            window,
            renewed: profile.kind == Kind::New,
            echo: false,
            pace: None,
        }
    }

    /// The same, for the window that counts.
    pub fn counted(self, profile: &Profile, pace: Option<Pace>) -> Play<'a, T> {
        Play { echo: profile.ways == Ways::Echo, pace, ..self }
    }
}

/// Sender and receiver of all packets.
pub struct Generator<E> {
    far_ends: Vec<E>,
    wiring: Wiring,
    counted: Counted,
    /// Connections begun so far.
    begun: u64,
    /// Replies that are due.
    replies: VecDeque<u32>,
    /// What packets of the last run took.
    pub delays: Delays,
}

impl<E: FarEnd> Generator<E> {
    /// One with a far end for each Pod.
    pub fn new(far_ends: Vec<E>, wiring: Wiring) -> Generator<E> {
        Generator {
            far_ends,
            wiring,
            counted: Counted::default(),
            begun: 0,
            replies: VecDeque::new(),
            delays: Delays::default(),
        }
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.far_ends.len()
    }

    /// The far ends, to be opened again when the switch was.
    pub fn far_ends(&mut self) -> &mut Vec<E> {
        &mut self.far_ends
    }

    /// Sends so many packets in the order, judges each that comes out in whole and learns from
    /// it, and says how many were lost.
    pub fn teach(
        &mut self,
        play: &mut Play<'_, &mut Traffic>,
        count: u64,
    ) -> Result<u64, RunError> {
        let before = self.counted;
        let mut position = 0;
        let mut last = Instant::now();
        loop {
            let moved = self.receive_and_learn(play)?;
            let room = play.window.saturating_sub(self.under_way() as usize) as u64;
            let sent = self.send(play, position, room.min(count - position) as usize, None)?;
            position += sent as u64;
            if moved + sent > 0 {
                last = Instant::now();
            } else if self.under_way() == 0 && position == count {
                return Ok(self.counted.lost - before.lost);
            } else if last.elapsed() > LOST_FOR_GOOD_AFTER {
                self.give_up()?;
                last = Instant::now();
            }
        }
    }

    /// Sends in the order until the watch says stop.
    pub fn run(&mut self, play: &Play<'_, &Traffic>, watch: &Watch) -> Result<(), RunError> {
        let mut position = 0;
        let mut last = Instant::now();
        let mut rounds = 0_u32;
        let start = cycles();
        self.delays.clear();
        while !watch.stop.load(Ordering::Relaxed) {
            let began = cycles();
            let counting = play.pace.is_some() && watch.counting.load(Ordering::Relaxed);
            let mut moved = 0;
            for port in 0..self.far_ends.len() {
                moved += self.receive(play, port, counting)?;
            }
            let sent = self.answer(play)?;
            let held = self.under_way() as usize + self.replies.len();
            let mut room = play.window.saturating_sub(held);
            if let Some(pace) = play.pace {
                let due = (began.wrapping_sub(start) as f64 / pace.cycles) as u64;
                room = room.min(due.saturating_sub(position) as usize);
            }
            let begun = self.send(play, position, room, Some(start))?;
            position += begun as u64;
            if moved + sent + begun > 0 {
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
            for port in 0..self.far_ends.len() {
                moved += self.receive(play, port, false)?;
            }
            if moved > 0 {
                last = Instant::now();
            } else if last.elapsed() > LOST_AFTER {
                self.give_up()?;
            }
        }
        self.replies.clear();
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
        if let Some(port) = self.far_ends.iter().position(FarEnd::is_closed) {
            return Err(RunError::Closed(port));
        }
        self.counted.lost += self.under_way();
        Ok(())
    }

    /// Sends replies that are due. Says how many.
    fn answer(&mut self, play: &Play<'_, &Traffic>) -> Result<usize, RunError> {
        let mut sent = 0;
        while let Some(number) = self.replies.front().copied()
            && self.stage(play.shape, play.traffic.lines(number))?
        {
            self.replies.pop_front();
            sent += 1;
        }
        self.counted.sent += sent as u64;
        Ok(sent)
    }

    /// Sends at most `count` packets from a place of the order on, and all that is staged. Says
    /// how many.
    fn send<T: Deref<Target = Traffic>>(
        &mut self,
        play: &Play<'_, T>,
        position: u64,
        count: usize,
        start: Option<u64>,
    ) -> Result<usize, RunError> {
        let length = play.order.len() as u64;
        let mut sent = 0;
        for at in position..position + count as u64 {
            let lines = play.traffic.lines(play.order[(at % length) as usize]);
            let staged = if play.renewed {
                let mut line = *lines.first().ok_or(RunError::NoFarEnd(0))?;
                renew(&mut line.0, (self.begun / length) as u32, play.traffic.stride() as u32);
                self.stage(play.shape, &[line])?
            } else if let (Some(pace), Some(start)) = (play.pace, start) {
                let mut line = *lines.first().ok_or(RunError::NoFarEnd(0))?;
                stamp(&mut line.0, start.wrapping_add((at as f64 * pace.cycles) as u64));
                self.stage(play.shape, &[line])?
            } else {
                self.stage(play.shape, lines)?
            };
            if !staged {
                // Its ring is full: everybody waits, so that the order stays what it is.
                break;
            }
            self.begun += 1;
            sent += 1;
        }
        self.far_ends.iter_mut().for_each(FarEnd::flush);
        self.counted.sent += sent as u64;
        Ok(sent)
    }

    #[inline]
    fn stage(&mut self, shape: Shape, lines: &[Line]) -> Result<bool, RunError> {
        let port = Traffic::ingress(lines);
        let far_end = port.checked_sub(FIRST_POD).and_then(|it| self.far_ends.get_mut(it));
        let (Some(far_end), [line, ..]) = (far_end, lines) else {
            return Err(RunError::NoFarEnd(port));
        };
        Ok(far_end.transmit(shape, &line.0)
            || (far_end.reclaim() > 0 && far_end.transmit(shape, &line.0)))
    }

    fn receive(
        &mut self,
        play: &Play<'_, &Traffic>,
        index: usize,
        counting: bool,
    ) -> Result<usize, RunError> {
        let (wiring, mut seen) = (self.wiring, self.counted.returned);
        let (delays, replies) = (&mut self.delays, &mut self.replies);
        let mut wrong = None;
        let count = self.far_ends[index].receive(BATCH, |frame| {
            seen += 1;
            if play.echo {
                let mut start = [0; 64];
                let number = number(frame.copy_to(&mut start)).filter(|it| it.is_multiple_of(2));
                replies.extend(number.map(|it| it + 1));
            }
            if !seen.is_multiple_of(GLANCED) {
                return;
            }
            if counting {
                let mut start = [0; 64];
                let due = stamped(frame.copy_to(&mut start));
                delays.add(cycles().wrapping_sub(due));
            }
            if !is_right(play.traffic, wiring, index, frame, seen.is_multiple_of(JUDGED)) {
                wrong.get_or_insert_with(|| what_is_wrong(play.traffic, index, frame));
            }
        });
        self.came(count);
        wrong.map_or(Ok(count), Err)
    }

    fn receive_and_learn(&mut self, play: &mut Play<'_, &mut Traffic>) -> Result<usize, RunError> {
        let mut moved = 0;
        for (index, far_end) in self.far_ends.iter_mut().enumerate() {
            let mut wrong = None;
            let wiring = self.wiring;
            moved += far_end.receive(BATCH, |frame| {
                let mut packet = [0; PACKET_MAX];
                if wiring == Wiring::Switched {
                    play.traffic.learn(index + FIRST_POD, frame.copy_to(&mut packet));
                }
                if wrong.is_none() && !is_right(play.traffic, wiring, index, frame, true) {
                    wrong = Some(what_is_wrong(play.traffic, index, frame));
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
