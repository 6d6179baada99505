//! Whose packets a worker's cycles are spent on.
//!
//! The cycle counter is read a few times a round, never once a packet, and each reading gives the
//! time since the one before, a lap, to somebody:
//!
//! - a receive that brought packets: to their port,
//! - a packet that took the stages, and a chain that was cut: to its port, timed by itself,
//! - transmitting to a port: to one that its frames came in by, by lot, as the frames weigh,
//! - the rest of deciding and sorting: to all packets of the round alike,
//! - polls of idle queues, and upkeep: to nobody; they are the worker's own.
//!
//! What ports pay and what is the worker's own are together its busy cycles, to the last one.
//! docs/decisions/0038-cycles-of-a-pod.md says how far off the share of a port can be.

use seine_pipeline::address::PortId;
use seine_pipeline::limits::PORTS_MAX;

use crate::frame::Frame;

/// Bytes that cost as much to transmit as a frame does by being one.
const FRAME_WEIGHT: u64 = 512;

/// The golden ratio's part behind the point: its multiples lie far from each other.
const MIXING: u64 = 0x9e37_79b9_7f4a_7c15;

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

    /// What the cycle counter was when it was last read.
    pub fn last_read(&self) -> u64 {
        self.at
    }

    /// A queue had nothing.
    pub fn polled_idle(&mut self) {
        self.idle_polls += 1;
    }

    /// A queue of `port` had packets. Gives what receiving them took.
    pub fn received(&mut self, port: PortId, packets: u64, now: u64) -> u64 {
        match self.brought.last_mut() {
            Some((last, brought)) if *last == port => *brought += packets,
            _ => self.brought.push((port, packets)),
        }
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

/// Which of the senders pays for transmitting these frames: one of them, by lot, as the frames
/// weigh. Over a second each pays its part, and no frame has to be written down. `None` without
/// frames.
///
/// `now` is what the cycle counter says, of whose last digits nobody is the master.
pub fn payer(frames: &[Frame], senders: &[PortId], bytes: u64, now: u64) -> Option<PortId> {
    by_lot(frames.iter().map(|frame| frame.whole_len() as u64), senders, bytes, now)
}

fn by_lot(
    lengths: impl ExactSizeIterator<Item = u64>,
    senders: &[PortId],
    bytes: u64,
    now: u64,
) -> Option<PortId> {
    let weight = FRAME_WEIGHT * lengths.len() as u64 + bytes;
    // A number below the weight, of the bits that a multiplication has mixed best.
    let lot = now.wrapping_mul(MIXING) >> 32;
    let mut left = (lot * weight) >> 32;
    for (len, &sender) in lengths.zip(senders) {
        if left < FRAME_WEIGHT + len {
            return Some(sender);
        }
        left -= FRAME_WEIGHT + len;
    }
    senders.first().copied()
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

    /// What each port pays of so many transmissions of these frames, in thousandths.
    fn thousandths(frames: &[(usize, u64)]) -> [u64; 5] {
        let senders: Vec<PortId> = frames.iter().map(|&(index, _)| port(index)).collect();
        let bytes = frames.iter().map(|&(_, len)| len).sum();
        let mut paid = [0; 5];
        // A counter that goes on by about as much each time.
        for now in (0..100_000_u64).map(|round| 1_000_003 * round) {
            let lengths = frames.iter().map(|&(_, len)| len);
            paid[by_lot(lengths, &senders, bytes, now).unwrap().index()] += 1;
        }
        paid.map(|count| count / 100)
    }

    #[test]
    fn each_sender_pays_in_time_as_its_frames_weigh() {
        assert_eq!(thousandths(&[(2, 64)]), [0, 0, 1000, 0, 0]);
        let [_, _, two, one, _] = thousandths(&[(2, 64), (2, 64), (3, 64)]);
        assert!(two.abs_diff(667) < 10 && one.abs_diff(333) < 10, "{two} {one}");
        let [_, _, short, long, _] = thousandths(&[(2, 512), (3, 65_024)]);
        assert!(short.abs_diff(15) < 5 && long.abs_diff(985) < 5, "{short} {long}");
        assert_eq!(by_lot([].into_iter(), &[], 0, 7), None, "nobody sent anything");
    }

    proptest! {
        #[test]
        fn who_pays_is_one_of_the_senders(
            frames in prop::collection::vec((0..5_usize, 0..70_000_u64), 1..64), now: u64,
        ) {
            let senders: Vec<PortId> = frames.iter().map(|&(index, _)| port(index)).collect();
            let bytes = frames.iter().map(|&(_, len)| len).sum();
            let payer = by_lot(frames.iter().map(|&(_, len)| len), &senders, bytes, now);
            prop_assert!(senders.contains(&payer.unwrap()));
        }
    }
}
