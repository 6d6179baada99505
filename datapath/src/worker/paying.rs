//! Lets ports pay for what a worker does for their packets: see [`Ledger`](crate::ledger::Ledger).

use seine_pipeline::address::PortId;

use super::Worker;
use crate::machine::cycles;

impl Worker {
    /// Ends a lap of deciding and sorting.
    pub(super) fn close_lap(&mut self) {
        if let Some((payer, cycles)) = self.ledger.close(cycles()) {
            self.charge(payer, cycles);
        }
    }

    /// Lets packets pay that took long each; the rest of the lap is for all to share.
    pub(super) fn charge_tolls(&mut self) {
        if self.parts.upkeep.memory.composed.tolls.is_empty() {
            return;
        }
        let mut left = self.ledger.lap(cycles());
        while let Some(toll) = self.parts.upkeep.memory.composed.tolls.pop() {
            let paid = toll.cycles.min(left);
            left -= paid;
            self.charge(toll.ingress, paid);
        }
        self.ledger.share(left);
    }

    /// Lets one of the senders pay for a transmission.
    pub(super) fn charge_sender(&mut self, egress: PortId) {
        let lap = self.ledger.lap(cycles());
        match self.slots[egress.index()].as_ref().map(|slot| slot.payer) {
            Some(payer) => self.charge(payer, lap),
            None => self.ledger.keep(lap),
        }
    }

    /// Lets all packets of the round pay what they share.
    pub(super) fn charge_shared(&mut self) {
        let price = self.ledger.price();
        while let Some((port, packets)) = self.ledger.take_brought() {
            self.charge(port, price * packets);
        }
    }

    /// Lets a port pay; a port that is gone does not.
    fn charge(&mut self, payer: PortId, cycles: u64) {
        match &self.slots[payer.index()] {
            Some(slot) => slot.counters.cycles.add(cycles),
            None => self.ledger.keep(cycles),
        }
    }
}

#[cfg(test)]
mod tests {
    use seine_pipeline::packet::Checksum;

    use crate::worker::tests::{Simulation, datagram_by};

    /// Sends a packet by its Pod's first queue.
    #[track_caller]
    fn send(simulation: &mut Simulation, pod: usize, packet: &[u8]) {
        assert!(simulation.wires[pod][0].inject(packet, Checksum::Complete));
    }

    #[test]
    fn a_pod_pays_for_what_it_sends_and_not_for_what_it_gets() {
        let mut simulation = Simulation::new();
        simulation.workers[0].obey();
        let cycles = |simulation: &Simulation| {
            [2, 3, 4].map(|port: usize| simulation.counters[port][0].cycles.read())
        };
        let (asked, answered) =
            (datagram_by((2, 4000), (3, 53), b"known"), datagram_by((3, 53), (2, 4000), b"known"));
        for (pod, packet) in [(2, &asked), (3, &answered), (2, &asked), (3, &answered)] {
            send(&mut simulation, pod, packet);
            simulation.workers[0].round();
        }
        let before = cycles(&simulation);
        let walks = simulation.workers[0].parts.upkeep.memory.composed.walks;
        // One connection is under way, and stays; the other Pod's packets are all denied.
        for _ in 0..200 {
            send(&mut simulation, 2, &asked);
            send(&mut simulation, 4, &datagram_by((99, 4000), (2, 53), b"spoof"));
            assert_eq!(simulation.workers[0].round(), 2);
            assert!(simulation.wires[3][0].collect().is_some());
        }
        let composed = &simulation.workers[0].parts.upkeep.memory.composed;
        assert_eq!(composed.walks - walks, 200, "the neighbour's do not take the stages");
        assert!(composed.tolls.is_empty(), "what took long is paid");
        let [sender, receiver, spoofer] = cycles(&simulation);
        assert_eq!(receiver, before[1], "who only gets packets pays nothing");
        assert!(sender > before[0] && spoofer > before[2]);
    }
}
