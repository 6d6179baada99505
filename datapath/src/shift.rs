//! A shift: the thread of one core, and the workers that it runs by turns.
//!
//! Mostly that is one worker. When there are fewer cores than workers, a shift goes one round with
//! each of its workers in turn, and sleeps only when none of them has anything to do.
//!
//! A worker moves from shift to shift between two of its rounds, whole: with its queues, with what
//! they still have under way, and with everything that it has learnt. So whatever came in by a
//! queue leaves by the same queues in the order in which it came, whoever runs the worker; and the
//! connections that it began end on its own timer wheel, as they would have without the move.

mod thread;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError, bounded};
use seine_pipeline::address::PortId;
use tokio::sync::oneshot;

use crate::machine::{Bed, Wake, sleep_in_any};
use crate::upkeep::Due;
use crate::worker::{InHand, Worker};

pub(crate) use thread::ShiftHandle;

/// Wakes in a row that bring no packet before a shift asks its queues what is the matter: a device
/// that vanished polls readable for ever.
const FRUITLESS_WAKES_MAX: u32 = 16;

/// Rounds after which a worker that had no packet is looked after, though its shift does not rest:
/// another of its workers is busy, or it never rests. Below a millisecond, mostly.
const TEND_ROUNDS: u32 = 1024;

/// How a shift waits for packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Spins for this long after the last packet, then sleeps in the kernel.
    Adaptive {
        /// How long.
        spin: Duration,
    },
    /// Never sleeps.
    Spin,
}

impl Poll {
    /// The word for it in configuration, API and command line.
    pub const fn name(self) -> &'static str {
        match self {
            Poll::Adaptive { .. } => "adaptive",
            Poll::Spin => "spin",
        }
    }
}

/// What is asked of a shift, between two rounds. Each answer says that it is done.
pub(crate) enum Order {
    /// Run this worker from now on.
    Take(Box<Worker>, oneshot::Sender<()>),
    /// Hand over the worker with this index.
    Give(usize, oneshot::Sender<Result<Box<Worker>, GiveError>>),
    /// Wait for packets in this way from now on.
    Poll(Poll, oneshot::Sender<()>),
}

/// Why a worker stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// An order before this one was answered too late.
    #[error("it is not where it was thought to be")]
    NotHere,
    /// A queue is tied to the thread that uses it.
    #[error("its queue of port {port} cannot change threads: {source}")]
    Rooted {
        /// The port.
        port: PortId,
        /// What the system said.
        source: io::Error,
    },
}

/// The thread of one core, and the workers that it runs.
pub struct Shift {
    workers: Vec<Box<Worker>>,
    poll: Poll,
    orders: Receiver<Order>,
    /// Whether there are orders, or an end.
    called: Arc<AtomicBool>,
    /// Ends its sleep while it has no worker, whose wake would do it.
    wake: Arc<Wake>,
    bed: Bed,
    /// The worker whose round it is.
    turn: usize,
}

impl Shift {
    pub(crate) fn new(
        workers: Vec<Box<Worker>>,
        poll: Poll,
        orders: Receiver<Order>,
        called: Arc<AtomicBool>,
        wake: Arc<Wake>,
    ) -> io::Result<Shift> {
        let bed = Bed::new(&wake)?;
        Ok(Shift { workers, poll, orders, called, wake, bed, turn: 0 })
    }

    /// With one worker, and no orders but to end: when `stop` is set, and the worker woken.
    pub fn of_one(worker: Worker, poll: Poll, stop: Arc<AtomicBool>) -> io::Result<Shift> {
        let (_, orders) = bounded(0);
        Shift::new(vec![Box::new(worker)], poll, orders, stop, Arc::new(Wake::new()?))
    }

    /// Works until told to end.
    pub fn serve(&mut self) {
        let mut idle_since: Option<Instant> = None;
        let (mut rounds, mut fruitless_wakes) = (0_u32, 0);
        loop {
            if self.called.load(Ordering::Relaxed) && !self.follow_orders() {
                return;
            }
            rounds = rounds.wrapping_add(1);
            if self.round(rounds.is_multiple_of(TEND_ROUNDS)) > 0 {
                idle_since = None;
                fruitless_wakes = 0;
                continue;
            }
            let Poll::Adaptive { spin } = self.poll else {
                std::hint::spin_loop();
                continue;
            };
            if idle_since.get_or_insert_with(Instant::now).elapsed() < spin {
                std::hint::spin_loop();
                continue;
            }
            let settled = self.workers.iter_mut().map(|worker| worker.settle());
            if settled.filter(|&any| any).count() > 0 {
                continue;
            }
            let due = self.workers.iter_mut().map(|worker| worker.tend()).min();
            if due == Some(Due::Now) {
                continue;
            }
            if fruitless_wakes == FRUITLESS_WAKES_MAX {
                fruitless_wakes = 0;
                self.workers.iter_mut().for_each(|worker| worker.sample());
            }
            self.rest(due.unwrap_or(Due::Never));
            // The next round decides whether to spin again: a wake without a packet costs a look.
            fruitless_wakes += 1;
        }
    }

    /// One round of each worker. Returns the packets received.
    pub(crate) fn round(&mut self, tend: bool) -> usize {
        let mut packets = 0;
        for (turn, worker) in self.workers.iter_mut().enumerate() {
            self.turn = turn;
            worker.obey();
            let received = worker.round();
            if tend && received == 0 {
                worker.settle();
                worker.tend();
            }
            packets += received;
        }
        packets
    }

    /// Whose round it was when it panicked, and what that one worked on.
    pub(crate) fn in_hand(&self) -> (usize, Option<InHand>) {
        match self.workers.get(self.turn) {
            Some(worker) => (worker.index(), worker.in_hand()),
            None => (0, None),
        }
    }

    /// Says whether it is to go on.
    pub(crate) fn follow_orders(&mut self) -> bool {
        // Pairs with the release of who called: what was sent before that is seen below.
        self.called.swap(false, Ordering::AcqRel);
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.carry_out(order),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Take(worker, done) => {
                self.workers.push(worker);
                let _ = done.send(());
            }
            Order::Give(index, done) => {
                // Who gave up waiting leaves the worker here.
                if let Err(Ok(worker)) = done.send(self.part_with(index)) {
                    self.workers.push(worker);
                }
            }
            Order::Poll(poll, done) => {
                self.poll = poll;
                let _ = done.send(());
            }
        }
    }

    fn part_with(&mut self, index: usize) -> Result<Box<Worker>, GiveError> {
        let at = self.workers.iter().position(|worker| worker.index() == index);
        let at = at.ok_or(GiveError::NotHere)?;
        self.workers[at].uproot()?;
        Ok(self.workers.remove(at))
    }

    /// Sleeps until something comes.
    fn rest(&mut self, due: Due) {
        let limits = self.workers.iter_mut().map(|worker| worker.retire(due));
        // -1, without a limit, is the largest when taken for unsigned.
        let limit_ms = limits.min_by_key(|&limit_ms| limit_ms as u32).unwrap_or(-1);
        match &self.workers[..] {
            [] => self.bed.sleep(&self.wake, limit_ms),
            [alone] => alone.sleep(limit_ms),
            several => {
                sleep_in_any(several.iter().map(|worker| worker.bed()), limit_ms);
                several.iter().for_each(|worker| worker.rise());
            }
        }
    }
}

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;
