//! A lane: one ring at work, with the memory, kicks and calls that belong to it. Copies packets
//! out of a guest's buffers and into them, batch by batch.

use std::fs::File;
use std::sync::Arc;

use arrayvec::ArrayVec;
use seine_pipeline::limits::BATCH_MAX;

use super::copy::{ETHERNET_BYTES, Refusal};
use super::events::{Doorbell, drain};
use super::fault::GuestFault;
use super::features::SegmentSet;
use super::memory::GuestMemory;
use super::ring::{Buffer, Ring, Spans};
use crate::frame::{Batch, Frame, FrameCache};
use crate::machine::Wanted;
use crate::port::QueueStats;
use crate::segment;

/// Buffers that one packet is spread over, where the guest merges them: 64 KiB in those of the
/// least size that drivers post.
const MERGED_MAX: usize = 64;

/// Frames that follow others, after which no more packets are taken at once: a few of 64 KiB.
const FOLLOWERS_MAX: usize = 256;

/// How many buffers ahead memory is asked for.
const AHEAD: u16 = 4;

/// Fruitless looks between two tries to take kicks that came late or for nothing: left there, they
/// would keep the worker from its rest.
const LOOKS_BETWEEN_DRAINS: u32 = 16;

/// What was agreed with the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    /// Bytes of the header in front of each packet.
    pub header_bytes: usize,
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub mergeable: bool,
    /// VIRTIO_NET_F_GUEST_CSUM: it takes partial checksums.
    pub guest_checksum: bool,
    /// Packets in segments that it may send.
    pub sends: SegmentSet,
    /// Packets in segments that it takes.
    pub takes: SegmentSet,
    /// Bytes of the longest packet, Ethernet header included.
    pub packet_bytes_max: usize,
}

/// One ring at work.
pub(super) struct Lane {
    pub ring: Ring,
    pub memory: Arc<GuestMemory>,
    pub kick: Option<File>,
    pub call: Option<Doorbell>,
    agreement: Agreement,
    /// Whether the worker polls, and kicks are never asked for.
    polled: bool,
    /// Whether kicks are asked for.
    armed: bool,
    fruitless: u32,
}

impl Lane {
    pub fn new(ring: Ring, memory: Arc<GuestMemory>, agreement: Agreement, polled: bool) -> Lane {
        let (kick, call) = (None, None);
        Lane { ring, memory, kick, call, agreement, polled, armed: false, fruitless: 0 }
    }

    /// Takes packets that the guest sends, up to a batch.
    pub fn receive(
        &mut self,
        frames: &mut FrameCache,
        batch: &mut Batch,
        stats: &mut QueueStats,
    ) -> Result<(), GuestFault> {
        if self.collect(frames, batch, stats)? > 0 {
            self.fruitless = 0;
            if std::mem::take(&mut self.armed) {
                self.ring.ask_for_kicks(false);
                self.drain_kicks(stats);
            }
            return Ok(());
        }
        if self.polled {
            return Ok(());
        }
        self.fruitless = self.fruitless.wrapping_add(1);
        // At the first look that finds nothing: the worker may rest right after it.
        if !self.armed {
            self.drain_kicks(stats);
            self.ring.ask_for_kicks(true);
            self.armed = true;
            // What came before the guest could see the wish came without a kick.
            self.collect(frames, batch, stats)?;
        } else if self.fruitless.is_multiple_of(LOOKS_BETWEEN_DRAINS) {
            self.drain_kicks(stats);
        }
        Ok(())
    }

    fn drain_kicks(&self, stats: &mut QueueStats) {
        if let Some(kick) = &self.kick {
            stats.system_calls += 1;
            drain(kick);
        }
    }

    /// Copies packets out. Returns the buffers taken.
    fn collect(
        &mut self,
        frames: &mut FrameCache,
        batch: &mut Batch,
        stats: &mut QueueStats,
    ) -> Result<usize, GuestFault> {
        let Lane { ring, memory, agreement, .. } = self;
        ring.look()?;
        let before = batch.len();
        let (mut taken, mut followers) = (0, 0);
        let mut result = Ok(());
        // Packets that are not passed on count as well, or a guest could keep the worker here.
        while taken < BATCH_MAX
            && followers < FOLLOWERS_MAX
            && !batch.is_full()
            && ring.has_buffer()
        {
            let Some(frame) = frames.allocate() else { break };
            // In its place before it is written to: to move it then would wait for the writes.
            batch.push(frame);
            if let Some(buffer) = ring.glimpse(AHEAD, memory) {
                buffer.fetch(usize::MAX, Wanted::ToRead);
            }
            let mut spans = Spans::new();
            match ring.take(memory, &mut spans) {
                Ok(Some(buffer)) => {
                    taken += 1;
                    let Some(frame) = batch.last_mut() else { break };
                    match agreement.copy_out(&spans, frame, frames) {
                        Ok(()) => followers += frame.followers(),
                        Err(refusal) => {
                            count(refusal, stats);
                            batch.pop().into_iter().for_each(|frame| frames.free(frame));
                        }
                    }
                    ring.put(buffer, 0);
                }
                other => {
                    batch.pop().into_iter().for_each(|frame| frames.free(frame));
                    result = other.map(drop);
                    break;
                }
            }
        }
        if memory.is_broken() {
            batch.drain(before..).for_each(|frame| frames.free(frame));
            return Err(GuestFault::MemoryGone);
        }
        if taken > 0 {
            ring.publish();
            self.call(stats);
        }
        result.map(|()| taken)
    }

    /// Copies packets into the guest's buffers, from the front of the batch while there are any.
    pub fn transmit(
        &mut self,
        frames: &mut FrameCache,
        batch: &mut Batch,
        stats: &mut QueueStats,
    ) -> Result<(), GuestFault> {
        let Lane { ring, memory, agreement, .. } = self;
        ring.look()?;
        let mut done = 0;
        let ahead = batch.len().min(AHEAD.into()) as u16;
        for ahead in 0..ahead {
            if let Some(buffer) = ring.glimpse(ahead, memory) {
                buffer.fetch(batch[usize::from(ahead)].len(), Wanted::ToWrite);
            }
        }
        let mut result = Ok(());
        for frame in batch.iter_mut() {
            if let Some(buffer) = ring.glimpse(AHEAD, memory) {
                buffer.fetch(frame.len(), Wanted::ToWrite);
            }
            match deliver(ring, *agreement, memory, frame) {
                Ok(Delivery::Done) => {}
                Ok(Delivery::Refused) => stats.refused += 1,
                Ok(Delivery::NoRoom) => break,
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
            done += 1;
        }
        batch.drain(..done).for_each(|frame| frames.free(frame));
        ring.publish();
        if memory.is_broken() {
            return Err(GuestFault::MemoryGone);
        }
        self.call(stats);
        result
    }

    /// Calls the guest if it wants to be.
    fn call(&mut self, stats: &mut QueueStats) {
        if let Some(call) = &mut self.call
            && self.ring.wants_call()
        {
            stats.system_calls += 1;
            call.ring();
        }
    }
}

/// What became of a packet for the guest.
enum Delivery {
    Done,
    NoRoom,
    Refused,
}

/// Copies one packet into buffers of the guest.
fn deliver(
    ring: &mut Ring,
    agreement: Agreement,
    memory: &GuestMemory,
    frame: &mut Frame,
) -> Result<Delivery, GuestFault> {
    // Another guest may have come since this was looked at.
    let taken = segment::of(frame).is_none_or(|said| agreement.takes.holds(said));
    if !taken || !(ETHERNET_BYTES..=agreement.packet_bytes_max).contains(&frame.len()) {
        return Ok(Delivery::Refused);
    }
    let needed = agreement.header_bytes + frame.whole_len();
    let start = ring.position();
    let mut spans = Spans::new();
    let mut buffers: ArrayVec<(Buffer, usize), MERGED_MAX> = ArrayVec::new();
    let mut room = 0;
    while room < needed {
        let parts = spans.len();
        let buffer = match ring.take(memory, &mut spans) {
            Ok(Some(buffer)) => buffer,
            Ok(None) => {
                ring.rewind(start);
                return Ok(Delivery::NoRoom);
            }
            // Each may be short enough, and all of them too many: that is nobody's fault.
            Err(GuestFault::ChainTooLong { .. }) if !buffers.is_empty() => {
                ring.rewind(start);
                return Ok(Delivery::Refused);
            }
            Err(fault) => return Err(fault),
        };
        let bytes: usize = spans[parts..].iter().map(|span| span.len()).sum();
        room += bytes;
        let kept = buffers.try_push((buffer, bytes)).is_ok();
        if !kept || (room < needed && !agreement.mergeable) {
            ring.rewind(start);
            return Ok(Delivery::Refused);
        }
    }
    if !agreement.copy_in(&spans, frame, buffers.len()) {
        ring.rewind(start);
        return Ok(Delivery::Refused);
    }
    let mut left = needed;
    for (buffer, bytes) in buffers {
        let written = bytes.min(left);
        left -= written;
        ring.put(buffer, written as u32);
    }
    Ok(Delivery::Done)
}

fn count(refusal: Refusal, stats: &mut QueueStats) {
    match refusal {
        Refusal::Malformed => stats.malformed += 1,
        Refusal::Segmentation => stats.bad_segmentation += 1,
        Refusal::NoFrame => stats.device_drops += 1,
    }
}
