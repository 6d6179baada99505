//! Sorts frames by the port they leave by, and cuts what that port does not take whole.

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
        segment::cut(frame, |segment| self.enqueue_frame(ingress, egress, segment));
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
}
