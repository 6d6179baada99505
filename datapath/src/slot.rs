//! One queue in a worker's hands, with everything that is kept for it.

use std::sync::Arc;

use arrayvec::ArrayVec;
use seine_pipeline::address::PortId;
use seine_pipeline::limits::BATCH_MAX;
use seine_pipeline::verdict::DropReason;
use tokio::sync::oneshot;

use crate::counters::PortCounters;
use crate::frame::{Batch, FrameCache};
use crate::port::{Queue, QueueStats};

/// Commands that can wait for one worker. The writer sends a handful per port and waits for each.
pub const COMMANDS_MAX: usize = 64;

/// One queue in a worker's hands, with everything that is kept for it.
pub struct Slot {
    pub(crate) port: PortId,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) counters: Arc<PortCounters>,
    /// Whether the device takes partial checksums.
    pub(crate) partial_checksum: bool,
    /// Whether it copies what it transmits.
    pub(crate) copies: bool,
    /// Frames that leave by this port at the end of the round.
    pub(crate) egress: Batch,
    /// The ports they came in by, in the same order.
    pub(crate) senders: ArrayVec<PortId, BATCH_MAX>,
    /// Which port pays for transmitting.
    pub(crate) payer: PortId,
    /// Whether this round transmitted to it.
    pub(crate) touched: bool,
    /// Whether something may be under way since the last flush at rest.
    pub(crate) unsettled: bool,
    seen: QueueStats,
}

impl Slot {
    /// A slot for a queue of `port`.
    pub fn new(port: PortId, queue: Box<dyn Queue>, counters: Arc<PortCounters>) -> Box<Slot> {
        let (partial_checksum, copies) = (queue.takes_partial_checksum(), queue.copies());
        Box::new(Slot {
            port,
            queue,
            counters,
            partial_checksum,
            copies,
            egress: Batch::new(),
            senders: ArrayVec::new(),
            payer: port,
            touched: false,
            unsettled: false,
            seen: QueueStats::default(),
        })
    }

    /// Closes the queue; what it still holds goes to `frames`.
    pub fn close(self: Box<Self>, frames: &mut FrameCache) {
        let slot = *self;
        for frame in slot.egress {
            frames.free(frame);
        }
        slot.queue.close(frames);
    }

    /// Carries what the queue counted itself over into the counters.
    pub(crate) fn sample(&mut self) {
        let now = self.queue.stats();
        let seen = std::mem::replace(&mut self.seen, now);
        self.counters.system_calls.add(now.system_calls.saturating_sub(seen.system_calls));
        self.counters
            .count_drop(DropReason::EgressRefused, now.refused.saturating_sub(seen.refused));
        self.counters
            .count_drop(DropReason::NoFrame, now.device_drops.saturating_sub(seen.device_drops));
        self.counters
            .count_drop(DropReason::Malformed, now.malformed.saturating_sub(seen.malformed));
        let refused = now.bad_segmentation.saturating_sub(seen.bad_segmentation);
        self.counters.count_drop(DropReason::BadSegmentation, refused);
        if let Some(fault) = self.queue.fault() {
            // Only the first counts: it is what stopped the queue.
            let _ = self.counters.fault.set(fault);
        }
    }
}

/// What the writer asks of a worker. Each answer says that it is done; a slot that comes back is
/// closed by the writer, so that no worker waits for the kernel to take a device apart.
pub enum Command {
    /// Own this queue from now on. Comes back when its port has a queue here already.
    Add(Box<Slot>, oneshot::Sender<Option<Box<Slot>>>),
    /// Hand back the queue of a port.
    Remove(PortId, oneshot::Sender<Option<Box<Slot>>>),
    /// Carry the queues' own counts over into the counters.
    Sample(oneshot::Sender<()>),
}
