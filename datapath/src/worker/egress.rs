//! Sorts frames by the port they leave by, cuts what that port does not take whole, and transmits.

use seine_pipeline::address::PortId;
use seine_pipeline::verdict::DropReason;

use super::Worker;
use crate::frame::Frame;
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

    fn enqueue_frame(&mut self, ingress: PortId, egress: PortId, frame: Frame) {
        let Some(slot) = &mut self.slots[egress.index()] else {
            return self.discard(ingress, DropReason::NoEgressPort, frame);
        };
        if !slot.touched {
            slot.touched = true;
            self.touched.push(egress);
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
        let packets = slot.egress.len();
        let bytes = slot.bill.draw(&slot.egress, &slot.senders);
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
        self.charge_senders(egress);
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
