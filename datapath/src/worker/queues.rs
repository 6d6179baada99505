//! Which queues a worker owns and watches.

use seine_pipeline::address::PortId;

use super::Worker;
use crate::slot::Slot;

impl Worker {
    /// Stops polling queues that will never receive again. A device that is gone polls readable
    /// for ever, and a worker that watched it would never rest.
    pub(super) fn part_with_faulty(&mut self) {
        let faulty = |port: &PortId, slots: &[Option<Box<Slot>>]| {
            slots[port.index()].as_ref().is_some_and(|slot| slot.queue.fault().is_some())
        };
        while let Some(at) = self.polled.iter().position(|port| faulty(port, &self.slots)) {
            let port = self.polled.remove(at);
            if let Some(slot) = &mut self.slots[port.index()] {
                slot.sample();
            }
            self.unwatch(port);
        }
    }

    pub(super) fn add(&mut self, slot: Box<Slot>) -> Option<Box<Slot>> {
        let port = slot.port;
        if self.slots[port.index()].is_some() || !self.watch(&slot) {
            return Some(slot);
        }
        self.slots[port.index()] = Some(slot);
        self.polled.push(port);
        None
    }

    fn watch(&mut self, slot: &Slot) -> bool {
        match slot.queue.wake_source() {
            Some(descriptor) => self.bed.watch(descriptor).is_ok(),
            None => {
                self.unwakeable += 1;
                true
            }
        }
    }

    fn unwatch(&mut self, port: PortId) {
        let Some(slot) = &self.slots[port.index()] else { return };
        match slot.queue.wake_source() {
            // It fails only for a descriptor that was closed, and the kernel forgot that one.
            Some(descriptor) => drop(self.bed.unwatch(descriptor)),
            None => self.unwakeable -= 1,
        }
    }

    pub(super) fn remove(&mut self, port: PortId) -> Option<Box<Slot>> {
        if let Some(at) = self.polled.iter().position(|&polled| polled == port) {
            self.polled.remove(at);
            self.unwatch(port);
        }
        let mut slot = self.slots[port.index()].take()?;
        slot.sample();
        Some(slot)
    }

    pub(crate) fn sample(&mut self) {
        for port in &self.polled {
            if let Some(slot) = &mut self.slots[port.index()] {
                slot.sample();
            }
        }
        self.parts.counters.frames_cached.set(self.parts.frames.len() as u64);
    }
}
