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

#[cfg(test)]
mod tests {
    use seine_pipeline::limits::BATCH_MAX;
    use seine_pipeline::packet::Checksum;

    use crate::worker::tests::{PORTS, Simulation, datagram_by};
    use crate::worker::{LONG_ROUND, TURN_BATCHES};

    fn send(simulation: &mut Simulation, port: usize, packets: usize) {
        let packet = datagram_by((2, 4000), (3, 53), b"many");
        for _ in 0..packets {
            assert!(simulation.wires[port][0].inject(&packet, Checksum::Complete));
        }
    }

    #[test]
    fn a_busy_queue_fills_some_batches_in_a_row_and_no_more() {
        let mut simulation = Simulation::with_rings_of(1024);
        simulation.workers[0].obey();
        let batches = |count| count * BATCH_MAX;
        send(&mut simulation, 2, batches(TURN_BATCHES + 1));
        send(&mut simulation, 4, 1);
        assert_eq!(simulation.workers[0].round(), batches(TURN_BATCHES) + 1);
        assert_eq!(simulation.workers[0].round(), batches(1));
        assert_eq!(simulation.totals()[3].transmit_packets, batches(TURN_BATCHES + 1) as u64);
    }

    #[test]
    fn where_many_queues_are_busy_the_last_ones_turn_is_a_batch() {
        let mut simulation = Simulation::with_rings_of(1024);
        simulation.workers[0].obey();
        let turn = TURN_BATCHES * BATCH_MAX;
        (0..PORTS).for_each(|port| send(&mut simulation, port, turn));
        let long = LONG_ROUND / turn;
        assert!(long < PORTS, "some come after the round is long");
        assert_eq!(simulation.workers[0].round(), long * turn + (PORTS - long) * BATCH_MAX);
    }
}
