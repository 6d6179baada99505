//! Sorts frames by the port they leave by, cuts what that port does not take whole, copies what
//! leaves by many, and transmits.

use arrayvec::ArrayVec;
use seine_pipeline::address::{PortId, Vlan};
use seine_pipeline::limits::TRUNKS_MAX;
use seine_pipeline::packet::Checksum;
use seine_pipeline::verdict::DropReason;

use super::Worker;
use crate::frame::Frame;
use crate::ledger;
use crate::segment;

impl Worker {
    pub(super) fn enqueue(&mut self, ingress: PortId, egress: PortId, frame: Frame) {
        if frame.is_chained() {
            return self.enqueue_chain(ingress, egress, frame);
        }
        self.enqueue_frame(ingress, egress, frame);
    }

    /// A packet in segments goes on whole or cut, as its port takes it.
    #[cold]
    fn enqueue_chain(&mut self, ingress: PortId, egress: PortId, mut frame: Frame) {
        if frame.stands_alone() {
            self.parts.frames.free_followers(&mut frame);
        }
        let slot = self.slots[egress.index()].as_ref();
        let whole = slot.zip(segment::of(&frame));
        if whole.is_none_or(|(slot, said)| slot.queue.takes_segments(said)) {
            return self.enqueue_frame(ingress, egress, frame);
        }
        // One packet that costs as much as forty: its port pays for itself.
        self.close_lap();
        self.ledger.charge(Some(ingress));
        segment::cut(frame, |segment| self.enqueue_frame(ingress, egress, segment));
        self.close_lap();
        self.ledger.charge(None);
    }

    /// A copy leaves by each other member of the VLAN. Few frames are for all, so each is finished
    /// here for whatever port there is.
    #[cold]
    pub(super) fn replicate(&mut self, ingress: PortId, vlan: Vlan, mut frame: Frame) {
        if frame.stands_alone() {
            self.parts.frames.free_followers(&mut frame);
        }
        if frame.is_chained() {
            return self.discard(ingress, DropReason::BadSegmentation, frame);
        }
        if let Some(mut packet) = frame.packet(ingress) {
            packet.complete_checksum();
            frame.checksum = Checksum::Complete;
        }
        let members = self.parts.publication.current().state.vlan_members(vlan);
        let members = members.filter(|port| *port != ingress).take(TRUNKS_MAX);
        let members: ArrayVec<PortId, TRUNKS_MAX> = members.collect();
        let Some((last, others)) = members.split_last() else {
            return self.discard(ingress, DropReason::Multicast, frame);
        };
        // As above: whoever sends to all pays for all.
        self.close_lap();
        self.ledger.charge(Some(ingress));
        for egress in others {
            match self.parts.frames.copy(&frame) {
                Some(copy) => self.enqueue_frame(ingress, *egress, copy),
                None => {
                    if let Some(slot) = &self.slots[ingress.index()] {
                        slot.counters.count_drop(DropReason::NoFrame, 1);
                    }
                }
            }
        }
        self.enqueue_frame(ingress, *last, frame);
        self.close_lap();
        self.ledger.charge(None);
    }

    fn enqueue_frame(&mut self, ingress: PortId, egress: PortId, frame: Frame) {
        let Some(slot) = &mut self.slots[egress.index()] else {
            return self.discard(ingress, DropReason::NoEgressPort, frame);
        };
        if !slot.touched {
            slot.touched = true;
            self.touched.push(egress);
        }
        if slot.copies {
            self.to_copy += frame.whole_len() as u64;
        }
        slot.egress.push(frame);
        slot.senders.push(ingress);
        if slot.egress.is_full() {
            self.send(egress, false);
        }
    }

    /// Transmits what is queued for a port. What the device has no room for is dropped: a queue
    /// that is full now would only add delay to what comes later.
    pub(super) fn send(&mut self, egress: PortId, last: bool) {
        if !last {
            self.close_lap();
        }
        let frames = &mut self.parts.frames;
        let Some(slot) = &mut self.slots[egress.index()] else { return };
        let (packets, bytes) = (slot.egress.len(), bytes_of(&slot.egress));
        // Without frames it is the one before: what is left to do is done for those that went last.
        let payer = ledger::payer(&slot.egress, &slot.senders, bytes, self.ledger.last_read());
        slot.payer = payer.unwrap_or(slot.payer);
        slot.queue.transmit(frames, &mut slot.egress);
        if !slot.egress.is_empty() {
            // A full ring may hold frames that are sent but not collected: flush does both.
            slot.queue.flush(frames);
            slot.queue.transmit(frames, &mut slot.egress);
        }
        slot.counters.transmit_packets.add((packets - slot.egress.len()) as u64);
        slot.counters.transmit_bytes.add(bytes - bytes_of(&slot.egress));
        if last {
            slot.queue.flush(frames);
            slot.touched = false;
            slot.unsettled = true;
        }
        // What is left stands at the end of both lists.
        while let Some(slot) = &mut self.slots[egress.index()]
            && let (Some(frame), Some(ingress)) = (slot.egress.pop(), slot.senders.pop())
        {
            self.discard(ingress, DropReason::EgressFull, frame);
        }
        if let Some(slot) = &mut self.slots[egress.index()] {
            slot.senders.clear();
        }
        self.charge_sender(egress);
    }

    pub(super) fn discard(&mut self, ingress: PortId, reason: DropReason, frame: Frame) {
        if let Some(slot) = &self.slots[ingress.index()] {
            slot.counters.count_drop(reason, 1);
        }
        self.parts.frames.free(frame);
    }
}

pub(super) fn bytes_of(batch: &[Frame]) -> u64 {
    batch.iter().map(|frame| frame.whole_len() as u64).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use seine_pipeline::state::{Change, Object, VlanRange};

    use super::*;
    use crate::worker::tests::{Simulation, endpoint};

    /// Three Pods in one VLAN, and what the first of them sends to all others.
    fn segment() -> (Simulation, Vec<u8>) {
        let mut simulation = Simulation::new();
        let vlan = Vlan::new(7).unwrap();
        let changes = [2, 3, 4].map(|number| {
            let Object::Endpoint(mut own) = endpoint(number) else { panic!("no endpoint") };
            own.permit.vlans = vec![VlanRange { first: vlan, last: vlan }];
            Change::Upsert(Object::Endpoint(own))
        });
        let current = simulation.writer.current();
        let (revision, state) = (current.revision + 1, current.state.apply(&changes).unwrap());
        simulation.writer.publish(revision, state);
        simulation.workers.iter_mut().for_each(Worker::obey);
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 1, 2, 0x81, 0, 0, 7, 0x88, 0xb5]);
        frame.extend(0..200);
        (simulation, frame)
    }

    #[test]
    fn what_is_for_all_of_a_vlan_reaches_each_once_and_no_frame_is_lost() {
        let (mut simulation, frame) = segment();
        let checksum = Checksum::Partial { start: 18, offset: 4 };
        assert!(simulation.wires[2][0].inject(&frame, checksum));
        assert_eq!(simulation.workers[0].round(), 1);
        let got = [0, 1, 2, 3, 4].map(|port| simulation.wires[port][0].collect());
        assert!(got[..3].iter().all(Option::is_none));
        let [Some((one, sum)), Some((other, _))] = &got[3..] else { panic!("{got:?}") };
        assert_eq!((one, *sum), (other, Checksum::Complete));
        assert_ne!(one[22..24], frame[22..24], "the checksum is finished");
        assert_eq!((&one[..22], &one[24..]), (&frame[..22], &frame[24..]));
        let totals = simulation.totals();
        assert_eq!([3, 4].map(|port| totals[port].transmit_packets), [1, 1]);
        let frames = simulation.region.frames();
        assert_eq!(simulation.close(), frames);
    }

    #[test]
    fn copies_for_which_there_is_no_frame_are_counted() {
        let (mut simulation, frame) = segment();
        assert!(simulation.wires[2][0].inject(&frame, Checksum::Complete));
        let frames = &mut simulation.workers[0].parts.frames;
        let held: Vec<Frame> = std::iter::from_fn(|| frames.allocate()).collect();
        assert_eq!(simulation.workers[0].round(), 1);
        let totals = simulation.totals();
        assert_eq!(totals[2].drops[DropReason::NoFrame.index()], 1);
        assert_eq!([3, 4].map(|port| totals[port].transmit_packets), [0, 1]);
        held.into_iter().for_each(|frame| simulation.workers[0].parts.frames.free(frame));
    }
}
