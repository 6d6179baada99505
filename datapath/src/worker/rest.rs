//! What a worker does when nothing comes, and before it moves to another thread.

use super::Worker;
use crate::machine::Bed;
use crate::shift::GiveError;
use crate::upkeep::Due;

/// How long a worker sleeps at most while it owns a queue that cannot wake it.
const UNWAKEABLE_SLEEP_MS: i32 = 1;

/// How long it sleeps at most when frames ran out: a device that has none wakes nobody.
const SHORT_SLEEP_MS: i32 = 10;

impl Worker {
    /// Its index: it owns the queues with this index.
    pub fn index(&self) -> usize {
        self.parts.publication.worker()
    }

    /// Collects what devices still had under way after the last packets. Says whether there was
    /// any: then one more look is due before sleep.
    pub(crate) fn settle(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.polled.len() {
            if let Some(slot) = &mut self.slots[self.polled[index].index()]
                && std::mem::take(&mut slot.unsettled)
            {
                slot.queue.flush(&mut self.parts.frames);
                any = true;
            }
        }
        any
    }

    /// Does some of its upkeep.
    pub(crate) fn tend(&mut self) -> Due {
        self.parts.upkeep.step((self.clock)())
    }

    /// Gets ready to sleep; says for how many milliseconds at most, -1 for as long as nothing
    /// comes.
    pub(crate) fn retire(&mut self, due: Due) -> i32 {
        self.part_with_faulty();
        self.parts.counters.frames_cached.set(self.parts.frames.len() as u64);
        self.parts.counters.rests.add(1);
        match (self.unwakeable, self.parts.frames.take_short()) {
            (0, false) => due.limit_ms(),
            (0, true) => SHORT_SLEEP_MS,
            _ => UNWAKEABLE_SLEEP_MS,
        }
    }

    /// Sleeps until something comes.
    pub(crate) fn sleep(&self, limit_ms: i32) {
        self.bed.sleep(&self.parts.wake, limit_ms);
    }

    /// What wakes it.
    pub(crate) fn bed(&self) -> &Bed {
        &self.bed
    }

    /// Takes a wake that ended a sleep in several beds.
    pub(crate) fn rise(&self) {
        self.parts.wake.take();
    }

    /// Makes every queue ready to be used by another thread. After this nothing that the worker
    /// has received waits here; what waits in devices is theirs, and goes on in their order.
    pub(crate) fn uproot(&mut self) -> Result<(), GiveError> {
        for slot in self.slots.iter_mut().flatten() {
            slot.queue.flush(&mut self.parts.frames);
            slot.queue
                .uproot(&mut self.parts.frames)
                .map_err(|source| GiveError::Rooted { port: slot.port, source })?;
        }
        Ok(())
    }
}
