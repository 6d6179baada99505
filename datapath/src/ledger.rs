//! Whose packets a worker's cycles are spent on.
//!
//! The cycle counter is read a few times a round, never once a packet, and each reading gives the
//! time since the one before, a lap, to somebody:
//!
//! - a receive that brought packets: to their port,
//! - a packet that took the stages, and a chain that was cut: to its port, timed by itself,
//! - transmitting to a port: to those that its frames came in by, as the frames weigh,
//! - the rest of deciding and sorting: to all packets of the round alike,
//! - polls of idle queues, and upkeep: to nobody; they are the worker's own.
//!
//! What ports pay and what is the worker's own are together its busy cycles, to the last one.
//! docs/decisions/0038-cycles-of-a-pod.md says how far off the share of a port can be.

use arrayvec::ArrayVec;
use seine_pipeline::address::PortId;
use seine_pipeline::limits::{BATCH_MAX, PORTS_MAX};

use crate::frame::Frame;

/// Bytes that cost as much to transmit as a frame does by being one.
const FRAME_WEIGHT: u64 = 512;

/// The time of a worker's rounds, on its way to ports.
#[derive(Default)]
pub struct Ledger {
    began: u64,
    /// What the cycle counter was when it was last read.
    at: u64,
    /// Polls since then that brought nothing.
    idle_polls: u64,
    /// What such a poll takes, as it was when there was nothing else.
    idle_poll_cycles: u64,
    /// Who pays for what goes on now; all packets of the round do when nobody is named.
    payer: Option<PortId>,
    /// Cycles that all packets of the round pay alike.
    shared: u64,
    /// Cycles of the round that nobody pays.
    own: u64,
    /// The ports that brought packets in this round, and how many.
    brought: Vec<(PortId, u64)>,
    packets: u64,
}

impl Ledger {
    /// That of a worker that has not gone a round.
    pub fn new() -> Ledger {
        Ledger { brought: Vec::with_capacity(PORTS_MAX), ..Ledger::default() }
    }

    /// A round begins.
    pub fn begin(&mut self, now: u64) {
        (self.began, self.at, self.idle_polls, self.own) = (now, now, 0, 0);
    }

    /// Ends a lap: its cycles, less those of idle polls, which are the worker's own.
    pub fn lap(&mut self, now: u64) -> u64 {
        // A worker that is not pinned may move to a core whose counter is a little behind.
        let cycles = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let idle = (self.idle_polls * self.idle_poll_cycles).min(cycles);
        (self.idle_polls, self.own) = (0, self.own + idle);
        cycles - idle
    }

    /// A queue had nothing.
    pub fn polled_idle(&mut self) {
        self.idle_polls += 1;
    }

    /// A queue of `port` had packets. Gives what receiving them took.
    pub fn received(&mut self, port: PortId, packets: u64, now: u64) -> u64 {
        self.brought.push((port, packets));
        self.packets += packets;
        self.lap(now)
    }

    /// Ends a lap of deciding and sorting. Gives who pays it and how much, unless all packets do.
    pub fn close(&mut self, now: u64) -> Option<(PortId, u64)> {
        let cycles = self.lap(now);
        if self.payer.is_none() {
            self.shared += cycles;
        }
        self.payer.map(|payer| (payer, cycles))
    }

    /// Names who pays from now on.
    pub fn charge(&mut self, payer: Option<PortId>) {
        self.payer = payer;
    }

    /// Lets all packets of the round pay these.
    pub fn share(&mut self, cycles: u64) {
        self.shared += cycles;
    }

    /// Lets nobody pay these.
    pub fn keep(&mut self, cycles: u64) {
        self.own += cycles;
    }

    /// What each packet of the round pays of what all of them share.
    pub fn price(&mut self) -> u64 {
        let price = self.shared.checked_div(self.packets).unwrap_or(0);
        self.own += self.shared - price * self.packets;
        (self.shared, self.packets) = (0, 0);
        price
    }

    /// One of the ports that brought packets, each once, and how many.
    pub fn take_brought(&mut self) -> Option<(PortId, u64)> {
        self.brought.pop()
    }

    /// A round with packets is over. Gives its cycles, and those of them that are the worker's own.
    pub fn end(&mut self, now: u64) -> (u64, u64) {
        let rest = self.lap(now);
        (self.at - self.began, self.own + rest)
    }

    /// A round without a packet is over: what an idle poll takes is seen when nothing else goes on.
    pub fn end_idle(&mut self, now: u64) {
        let Some(each) = now.saturating_sub(self.began).checked_div(self.idle_polls) else {
            return;
        };
        let known = self.idle_poll_cycles;
        // An interrupt only adds to it, so it rises slowly and falls at once.
        self.idle_poll_cycles = if known == 0 { each } else { each.min(known + known / 8 + 1) };
    }
}

/// Who pays for transmitting to one port.
#[derive(Default)]
pub struct Bill {
    /// Ports with the weight of their frames; one may stand here several times.
    parts: ArrayVec<(PortId, u64), BATCH_MAX>,
    weight: u64,
}

impl Bill {
    /// Bills those that these frames came in by, in place of whoever was. Without a frame it stays
    /// as it is: what is left to do is done for those that went last. Gives the bytes.
    pub fn draw(&mut self, frames: &[Frame], senders: &[PortId]) -> u64 {
        let frames = frames.iter().map(|frame| frame.whole_len() as u64);
        self.draw_lengths(frames, senders)
    }

    fn draw_lengths(
        &mut self,
        lengths: impl ExactSizeIterator<Item = u64>,
        senders: &[PortId],
    ) -> u64 {
        let Some(&first) = senders.first() else { return 0 };
        self.parts.clear();
        let (mut sender, mut weight, mut bytes) = (first, 0, 0);
        self.weight = FRAME_WEIGHT * lengths.len() as u64;
        for (len, &next) in lengths.zip(senders) {
            if next != sender {
                self.parts.push((sender, weight));
                (sender, weight) = (next, 0);
            }
            weight += FRAME_WEIGHT + len;
            bytes += len;
        }
        self.parts.push((sender, weight));
        self.weight += bytes;
        bytes
    }

    /// What each of them pays of these cycles.
    pub fn split(&self, cycles: u64) -> impl Iterator<Item = (PortId, u64)> {
        let (mut weight, mut left) = (self.weight, cycles);
        self.parts.iter().map(move |&(port, part)| {
            // The last one's part is all that is left, so nothing is lost by rounding.
            let paid = if part == weight { left } else { share(left, part, weight) };
            (weight, left) = (weight - part, left - paid);
            (port, paid)
        })
    }
}

/// `part` of `weight` of so many cycles.
fn share(cycles: u64, part: u64, weight: u64) -> u64 {
    (u128::from(cycles) * u128::from(part)).checked_div(weight.into()).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn port(index: usize) -> PortId {
        PortId::new(index).unwrap()
    }

    #[test]
    fn a_receive_is_its_ports_but_for_the_idle_polls_before_it() {
        let mut ledger = Ledger::new();
        ledger.begin(0);
        (0..10).for_each(|_| ledger.polled_idle());
        ledger.end_idle(500);

        ledger.begin(1000);
        (0..4).for_each(|_| ledger.polled_idle());
        assert_eq!(ledger.received(port(2), 1, 1900), 700);
        assert_eq!(ledger.received(port(3), 1, 2000), 100);
        ledger.polled_idle();
        assert_eq!(ledger.close(2650), None);
        assert_eq!(ledger.price(), 300);
        assert_eq!(ledger.end(3000), (2000, 4 * 50 + 50 + 350));
    }

    #[test]
    fn an_interrupt_amid_idle_polls_is_forgotten() {
        let mut ledger = Ledger::new();
        for (cycles, expected) in [(50, 50), (90_000, 57), (60, 60), (40, 40)] {
            ledger.begin(0);
            ledger.polled_idle();
            ledger.end_idle(cycles);
            assert_eq!(ledger.idle_poll_cycles, expected);
        }
    }

    #[test]
    fn a_payer_pays_its_laps_alone() {
        let mut ledger = Ledger::new();
        ledger.begin(0);
        assert_eq!(ledger.received(port(2), 1, 10), 10);
        assert_eq!(ledger.received(port(3), 2, 30), 20);
        assert_eq!(ledger.close(60), None);
        ledger.charge(Some(port(3)));
        assert_eq!(ledger.close(5060), Some((port(3), 5000)));
        ledger.charge(None);
        assert_eq!(ledger.close(5061), None);
        assert_eq!(ledger.price(), 10);
        assert_eq!(ledger.take_brought(), Some((port(3), 2)));
        assert_eq!(ledger.take_brought(), Some((port(2), 1)));
        assert_eq!(ledger.take_brought(), None);
        // One cycle is left of 31 over three packets.
        assert_eq!(ledger.end(5061), (5061, 1));
    }

    #[test]
    fn a_counter_that_goes_back_charges_nobody() {
        let mut ledger = Ledger::new();
        ledger.begin(1000);
        assert_eq!(ledger.received(port(2), 1, 900), 0);
        assert_eq!(ledger.close(1010), None);
        assert_eq!((ledger.price(), ledger.end(1005)), (10, (10, 0)));
    }

    #[test]
    fn long_frames_pay_for_their_length() {
        let mut bill = Bill::default();
        let senders = [port(2), port(2), port(3)];
        assert_eq!(bill.draw_lengths([64, 64, 64].into_iter(), &senders), 192);
        assert_eq!(Vec::from_iter(bill.split(300)), [(port(2), 200), (port(3), 100)]);
        assert_eq!(bill.draw_lengths([512, 65_024].into_iter(), &senders[1..]), 65_536);
        let [(_, short), (_, long)] = Vec::from_iter(bill.split(66_560)).try_into().unwrap();
        assert_eq!((short, long), (1024, 65_536));
        // A flush without frames is for those that went before it.
        assert_eq!(bill.draw_lengths([].into_iter(), &[]), 0);
        assert_eq!(bill.split(65).map(|(_, paid)| paid).sum::<u64>(), 65);
    }

    proptest! {
        #[test]
        fn a_bill_is_paid_to_the_last_cycle(
            frames in prop::collection::vec((0..5_usize, 0..70_000_u64), 1..BATCH_MAX),
            cycles in 0..1_u64 << 50,
        ) {
            let senders: Vec<PortId> = frames.iter().map(|&(index, _)| port(index)).collect();
            let mut bill = Bill::default();
            let bytes = bill.draw_lengths(frames.iter().map(|&(_, len)| len), &senders);
            let mut paid = [0; 5];
            bill.split(cycles).for_each(|(port, cycles)| paid[port.index()] += cycles);
            prop_assert_eq!(paid.iter().sum::<u64>(), cycles);
            let weight = bytes + FRAME_WEIGHT * frames.len() as u64;
            for (index, paid) in paid.into_iter().enumerate() {
                let own = frames.iter().filter(|(sender, _)| *sender == index);
                let own: u64 = own.map(|(_, len)| len + FRAME_WEIGHT).sum();
                let exact = share(cycles, own, weight);
                prop_assert!(paid.abs_diff(exact) <= BATCH_MAX as u64);
            }
        }
    }
}
