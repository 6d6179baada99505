//! A tap queue over io_uring: a batch of reads or writes is one system call.
//!
//! Requests carry RWF_NOWAIT, so each ends within the call that submits it: a batch of reads takes
//! what is there, and the rest of it says EAGAIN. (That the device is open non-blocking does not
//! do it: io_uring would wait for such a file on the caller's behalf.) Between batches one poll
//! request is armed, and `receive` sees in shared memory whether it fired: an idle tap costs no
//! system call. The wake source is the device, not the ring: with DEFER_TASKRUN the kernel wakes
//! who polls the ring only when completions are posted, which this thread itself would have to do.
//!
//! The ring belongs to the thread that first uses it (SINGLE_ISSUER, which DEFER_TASKRUN wants): a
//! queue that moves to another thread gets a new ring, on the same descriptor of the device, and so
//! in the same order. `close` may come from elsewhere.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, opcode, squeue, types};

use super::pieces::Pieces;
use super::{Device, SPILL_BYTES};
use crate::frame::{Batch, Frame, FrameCache};
use crate::port::{Queue, QueueFault, QueueStats};
use crate::segment::Segmentation;

/// Writes that wait for one flush.
const WRITES_MAX: usize = 128;
/// Reads at once: a batch. Together with the writes and a poll request they fit the ring.
const READS_MAX: usize = 64;
const RING_ENTRIES: u32 = 256;
/// Reads beyond what came last time: enough to notice growth, few that find nothing.
const READS_SPARE: usize = 4;

/// `user_data` of the poll request; below it are slots.
const POLL: u64 = u64::MAX;

/// A queue over a ring.
///
/// Invariant: the memory of every request under way belongs to a slot, at the index that the
/// request carries, until its completion was seen; its list of that memory is at the same index.
pub(super) struct UringQueue {
    // Before the frames: nothing is under way in a ring that is gone.
    ring: IoUring,
    enabled: bool,
    device: Device,
    slots: Vec<Slot>,
    free_slots: Vec<usize>,
    pieces: Vec<Pieces>,
    /// Room for large packets, one for each read.
    spills: Vec<Box<[u8]>>,
    /// Slots whose requests were not submitted yet.
    staged: usize,
    writes: usize,
    polling: bool,
    /// Packets that the last batch of reads brought.
    arrived: usize,
    fault: Option<QueueFault>,
    stats: QueueStats,
}

enum Slot {
    Free,
    /// A frame, and room for what does not fit it.
    Read(Frame, Box<[u8]>),
    Write(Frame),
}

impl UringQueue {
    /// A ring, if the kernel has them (6.1 or newer) and lets us.
    pub fn ring() -> Option<IoUring> {
        IoUring::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_r_disabled()
            .build(RING_ENTRIES)
            .inspect_err(|error| tracing::warn!(%error, "no io_uring: one call a packet"))
            .ok()
    }

    pub fn new(device: Device, ring: IoUring) -> UringQueue {
        let count = WRITES_MAX + READS_MAX;
        UringQueue {
            ring,
            enabled: false,
            device,
            slots: std::iter::repeat_with(|| Slot::Free).take(count).collect(),
            free_slots: (0..count).rev().collect(),
            pieces: std::iter::repeat_with(Pieces::new).take(count).collect(),
            spills: (0..READS_MAX).map(|_| vec![0; SPILL_BYTES].into()).collect(),
            staged: 0,
            writes: 0,
            polling: false,
            arrived: 0,
            fault: None,
            stats: QueueStats::default(),
        }
    }

    /// The first thread here owns the ring from now on.
    fn enable(&mut self) {
        if !self.enabled {
            self.enabled = true;
            if let Err(error) = self.ring.submitter().register_enable_rings() {
                self.stop(error.raw_os_error().unwrap_or(0));
            }
        }
    }

    fn stop(&mut self, errno: i32) {
        let interface = self.device.name.clone();
        self.fault.get_or_insert(QueueFault::Device { interface, errno });
    }

    /// Puts a request into the submission queue; it has room for all slots and the poll.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: by the invariant the request's buffer is in a slot until it completes.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "the ring has room for every slot");
    }

    fn stage_reads(&mut self, count: usize, frames: &mut FrameCache) {
        let descriptor = types::Fd(self.device.file.as_raw_fd());
        for _ in 0..count {
            let Some(&slot) = self.free_slots.last() else { break };
            let Some(mut spill) = self.spills.pop() else { break };
            let Some(mut frame) = frames.allocate() else {
                self.spills.push(spill);
                break;
            };
            let target = &mut frame.buffer_mut()[Device::READ_START..];
            let (pieces, count) = self.pieces[slot].reading(target, &mut spill);
            self.free_slots.pop();
            self.slots[slot] = Slot::Read(frame, spill);
            self.staged += 1;
            let entry =
                opcode::Readv::new(descriptor, pieces, count).rw_flags(libc::RWF_NOWAIT).build();
            self.push(&entry.user_data(slot as u64));
        }
    }

    fn stage_write(&mut self, slot: usize, frame: Frame, range: std::ops::Range<usize>) {
        let descriptor = types::Fd(self.device.file.as_raw_fd());
        let entry = if frame.is_chained() {
            let (pieces, count) = self.pieces[slot].writing(&frame, range);
            opcode::Writev::new(descriptor, pieces, count).rw_flags(libc::RWF_NOWAIT).build()
        } else {
            let (source, bytes) = (frame.buffer()[range.clone()].as_ptr(), range.len() as u32);
            opcode::Write::new(descriptor, source, bytes).rw_flags(libc::RWF_NOWAIT).build()
        };
        self.slots[slot] = Slot::Write(frame);
        self.staged += 1;
        self.writes += 1;
        self.push(&entry.user_data(slot as u64));
    }

    fn arm_poll(&mut self) {
        if !self.polling {
            self.polling = true;
            let descriptor = types::Fd(self.device.file.as_raw_fd());
            let entry = opcode::PollAdd::new(descriptor, libc::POLLIN as u32).build();
            self.push(&entry.user_data(POLL));
        }
    }

    /// Submits what is staged and takes in what completed. Packets go to `batch`, which has room
    /// for the reads under way.
    fn submit(&mut self, frames: &mut FrameCache, batch: Option<&mut Batch>) {
        self.stats.system_calls += 1;
        if let Err(error) = self.ring.submit() {
            match error.raw_os_error().unwrap_or(0) {
                // Staged requests stay staged.
                libc::EINTR | libc::EAGAIN | libc::EBUSY => {}
                errno => self.stop(errno),
            }
        }
        if self.ring.submission().is_empty() {
            self.staged = 0;
        }
        self.complete(frames, batch);
    }

    fn complete(&mut self, frames: &mut FrameCache, mut batch: Option<&mut Batch>) {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            let result = entry.result();
            if entry.user_data() == POLL {
                self.polling = false;
                continue;
            }
            let slot = entry.user_data() as usize;
            match std::mem::replace(&mut self.slots[slot], Slot::Free) {
                Slot::Free => unreachable!("slot {slot} completed twice"),
                Slot::Read(frame, spill) => {
                    self.complete_read(frame, result, &spill, frames, &mut batch);
                    self.spills.push(spill);
                }
                Slot::Write(frame) => {
                    self.writes -= 1;
                    if result < 0 {
                        self.stats.device_drops += 1;
                        self.note(-result);
                    }
                    frames.free(frame);
                }
            }
            self.free_slots.push(slot);
        }
    }

    fn complete_read(
        &mut self,
        mut frame: Frame,
        result: i32,
        spill: &[u8],
        frames: &mut FrameCache,
        batch: &mut Option<&mut Batch>,
    ) {
        match usize::try_from(result) {
            Err(_) => self.note(-result),
            Ok(bytes) => {
                self.arrived += 1;
                match batch.as_mut().filter(|batch| !batch.is_full()) {
                    None => self.stats.device_drops += 1,
                    Some(batch) => {
                        match self.device.finish_read(&mut frame, bytes, spill, frames) {
                            Ok(()) => return batch.push(frame),
                            Err(unread) => unread.count(&mut self.stats),
                        }
                    }
                }
            }
        }
        frames.free(frame);
    }

    fn note(&mut self, errno: i32) {
        if errno != libc::ECANCELED
            && let Some(fault) = self.device.fault(errno)
        {
            self.fault.get_or_insert(fault);
        }
    }

    fn under_way(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }
}

impl Queue for UringQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        self.enable();
        if self.fault.is_some() || batch.is_full() {
            return;
        }
        let pending = !self.ring.completion().is_empty() || self.ring.submission().taskrun();
        if self.polling && !pending {
            return;
        }
        let count = (self.arrived + READS_SPARE).min(READS_MAX).min(batch.remaining_capacity());
        self.arrived = 0;
        self.stage_reads(count, frames);
        // One that fired in part arms itself again: see the kernel's io_poll_check_events.
        self.arm_poll();
        self.submit(frames, Some(batch));
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        self.enable();
        if self.fault.is_some() {
            self.stats.refused += batch.len() as u64;
            batch.drain(..).for_each(|frame| frames.free(frame));
            return;
        }
        let taken = batch.len().min(WRITES_MAX - self.writes);
        for mut frame in batch.drain(..taken) {
            match Device::prepare_write(&mut frame) {
                Some(range) if let Some(slot) = self.free_slots.pop() => {
                    self.stage_write(slot, frame, range);
                }
                _ => {
                    self.stats.refused += 1;
                    frames.free(frame);
                }
            }
        }
    }

    fn flush(&mut self, frames: &mut FrameCache) {
        if self.writes > 0 && self.fault.is_none() {
            self.submit(frames, None);
        }
    }

    fn takes_partial_checksum(&self) -> bool {
        true
    }

    fn takes_segments(&self, _said: Segmentation) -> bool {
        true
    }

    fn wake_source(&self) -> Option<RawFd> {
        Some(self.device.file.as_raw_fd())
    }

    fn stats(&self) -> QueueStats {
        self.stats
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault.clone()
    }

    fn uproot(&mut self, frames: &mut FrameCache) -> io::Result<()> {
        if !self.enabled || self.fault.is_some() {
            return Ok(());
        }
        if self.staged > 0 {
            self.submit(frames, None);
        }
        if self.under_way() > 0 {
            // None was ever seen: each request ends within the call that submits it.
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        let ring = UringQueue::ring().ok_or(io::ErrorKind::OutOfMemory)?;
        // The old one takes its poll request along.
        self.ring = ring;
        (self.enabled, self.polling) = (false, false);
        Ok(())
    }

    fn close(mut self: Box<Self>, frames: &mut FrameCache) {
        self.complete(frames, None);
        if self.under_way() > self.staged {
            // None was ever seen: each request ends within the call that submits it.
            let wait = types::Timespec::new().sec(1);
            let _ = self.ring.submitter().register_sync_cancel(Some(wait), CancelBuilder::any());
            self.submit(frames, None);
        }
        let lost = self.under_way() > self.staged;
        let UringQueue { ring, slots, device, .. } = *self;
        drop(ring);
        if lost {
            // The kernel may still write to them, so they cannot be used again.
            tracing::error!(interface = device.name, "requests did not end; their frames are lost");
            return;
        }
        for slot in slots {
            match slot {
                Slot::Free => {}
                Slot::Read(frame, _) | Slot::Write(frame) => frames.free(frame),
            }
        }
    }
}
