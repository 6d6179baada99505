//! What workers count, and how it is read.
//!
//! A counter has one writer, the worker that owns it, so adding is a load and a store without a
//! locked instruction; readers sum over workers and see every count, if not all of one instant.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use seine_pipeline::composed::{ComposedMemory, STAGES_COUNT};
use seine_pipeline::verdict::DropReason;

use crate::port::QueueFault;

/// A counter with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owner calls this.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets; only the owner calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts for one port. Starts on a cache line of its own.
#[repr(align(64))]
pub struct PortCounters {
    /// Packets received.
    pub receive_packets: Counter,
    /// Bytes received, Ethernet header included.
    pub receive_bytes: Counter,
    /// Packets handed to the device.
    pub transmit_packets: Counter,
    /// Bytes handed to the device.
    pub transmit_bytes: Counter,
    /// System calls made for the port's queue.
    pub system_calls: Counter,
    /// Cycles that the worker spent on packets received here: see [`crate::ledger`].
    pub cycles: Counter,
    /// Why the port's queue stopped for good, once it has.
    pub fault: OnceLock<QueueFault>,
    drops: [Counter; DropReason::ALL.len()],
}

impl PortCounters {
    /// Counts packets dropped under `reason`; only the owner calls this.
    pub fn count_drop(&self, reason: DropReason, count: u64) {
        self.reason(reason).add(count);
    }

    /// The counter of one reason.
    pub fn reason(&self, reason: DropReason) -> &Counter {
        &self.drops[reason.index()]
    }
}

impl Default for PortCounters {
    fn default() -> Self {
        PortCounters {
            receive_packets: Counter::default(),
            receive_bytes: Counter::default(),
            transmit_packets: Counter::default(),
            transmit_bytes: Counter::default(),
            system_calls: Counter::default(),
            cycles: Counter::default(),
            fault: OnceLock::new(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// What one worker counts for itself.
#[derive(Default)]
#[repr(align(64))]
pub struct WorkerCounters {
    /// Packets received from all queues.
    pub packets: Counter,
    /// Batches with at least one packet.
    pub batches: Counter,
    /// Rounds that found nothing.
    pub empty_polls: Counter,
    /// Times it went to sleep in the kernel.
    pub rests: Counter,
    /// TSC cycles spent in rounds that moved packets.
    pub busy_cycles: Counter,
    /// Those of them that were spent on no port's packets.
    pub own_cycles: Counter,
    /// TSC when it started.
    pub started_at_cycles: Counter,
    /// Frames in its own cache.
    pub frames_cached: Counter,
    /// Packets decided about by what was composed, without the stages.
    pub composed_hits: Counter,
    /// Hits that took the stages, too.
    pub samples: Counter,
    /// Those of them about which the stages decided otherwise.
    pub mismatches: Counter,
    /// Samples whose connection rules judged once more.
    pub judged: Counter,
    /// Hits that took the stages, too, and proved nothing: another worker was there meanwhile.
    pub outdated: Counter,
    /// Walks through the stages that were timed.
    pub timed_walks: Counter,
    /// What they took: packets and cycles of each stage.
    pub stages: [(Counter, Counter); STAGES_COUNT],
}

impl WorkerCounters {
    /// Shows what the pipeline has counted; says so when it disagreed with itself.
    pub(crate) fn show(&self, composed: &mut ComposedMemory) {
        self.composed_hits.set(composed.hits);
        self.samples.set(composed.sampler.samples);
        self.judged.set(composed.sampler.judged);
        self.outdated.set(composed.sampler.outdated);
        if composed.stages.walks != self.timed_walks.read() {
            self.timed_walks.set(composed.stages.walks);
            for ((packets, cycles), cost) in self.stages.iter().zip(&composed.stages.costs) {
                packets.set(cost.packets);
                cycles.set(cost.cycles);
            }
        }
        if composed.sampler.mismatches != self.mismatches.read() {
            self.mismatches.set(composed.sampler.mismatches);
            if let Some(evidence) = composed.sampler.take_evidence() {
                tracing::error!(
                    evidence,
                    "a composed decision is not what the stages decide: please report this line"
                );
            }
        }
    }
}

/// The counters of one port over all workers, at one reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTotals {
    /// Packets received.
    pub receive_packets: u64,
    /// Bytes received.
    pub receive_bytes: u64,
    /// Packets handed to the device.
    pub transmit_packets: u64,
    /// Bytes handed to the device.
    pub transmit_bytes: u64,
    /// System calls made.
    pub system_calls: u64,
    /// Cycles spent on packets received.
    pub cycles: u64,
    /// Drops, in the order of [`DropReason::ALL`].
    pub drops: [u64; DropReason::ALL.len()],
}

impl Default for PortTotals {
    fn default() -> Self {
        PortTotals {
            receive_packets: 0,
            receive_bytes: 0,
            transmit_packets: 0,
            transmit_bytes: 0,
            system_calls: 0,
            cycles: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }
}

impl PortTotals {
    /// Sums what the workers counted.
    pub fn sum<'a>(counters: impl IntoIterator<Item = &'a PortCounters>) -> PortTotals {
        let mut totals = PortTotals::default();
        for worker in counters {
            totals.receive_packets += worker.receive_packets.read();
            totals.receive_bytes += worker.receive_bytes.read();
            totals.transmit_packets += worker.transmit_packets.read();
            totals.transmit_bytes += worker.transmit_bytes.read();
            totals.system_calls += worker.system_calls.read();
            totals.cycles += worker.cycles.read();
            for (total, drops) in totals.drops.iter_mut().zip(&worker.drops) {
                *total += drops.read();
            }
        }
        totals
    }

    /// Adds the drops of `other`: how closed ports stay counted.
    pub fn absorb_drops(&mut self, other: &PortTotals) {
        for (total, drops) in self.drops.iter_mut().zip(&other.drops) {
            *total += drops;
        }
    }

    /// Drops of all reasons together.
    pub fn drops_total(&self) -> u64 {
        self.drops.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_two_workers_are_summed_reason_by_reason() {
        let workers = [PortCounters::default(), PortCounters::default()];
        for (index, worker) in workers.iter().enumerate() {
            worker.receive_packets.add(10 + index as u64);
            worker.transmit_bytes.add(100);
            worker.count_drop(DropReason::SpoofedSource, 2);
        }
        workers[1].count_drop(DropReason::EgressFull, 5);

        let mut expected = PortTotals { receive_packets: 21, ..PortTotals::default() };
        expected.transmit_bytes = 200;
        expected.drops[DropReason::SpoofedSource.index()] = 4;
        expected.drops[DropReason::EgressFull.index()] = 5;
        assert_eq!(PortTotals::sum(&workers), expected);
        assert_eq!(expected.drops_total(), 9);
    }

    #[test]
    fn counters_of_different_workers_share_no_cache_line() {
        assert_eq!(align_of::<PortCounters>(), 64);
        assert_eq!(size_of::<WorkerCounters>() % 64, 0);
    }
}
