//! A tap queue that reads and writes packet by packet: one system call each.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use arrayvec::ArrayVec;

use super::{Device, SPILL_BYTES};
use crate::frame::{Batch, FrameCache, SEGMENTS_MAX};
use crate::port::{Queue, QueueFault, QueueStats};
use crate::segment::Segmentation;

/// A queue over plain reads and writes. It wakes by the device's own descriptor.
pub(super) struct PlainQueue {
    device: Device,
    /// Where the end of a large packet is read to.
    spill: Box<[u8]>,
    fault: Option<QueueFault>,
    stats: QueueStats,
}

impl PlainQueue {
    pub fn new(device: Device) -> PlainQueue {
        let spill = vec![0; SPILL_BYTES].into();
        PlainQueue { device, spill, fault: None, stats: QueueStats::default() }
    }
}

impl Queue for PlainQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        while self.fault.is_none()
            && !batch.is_full()
            && let Some(mut frame) = frames.allocate()
        {
            self.stats.system_calls += 1;
            let target = &mut frame.buffer_mut()[Device::READ_START..];
            let mut targets = [IoSliceMut::new(target), IoSliceMut::new(&mut self.spill)];
            match (&self.device.file).read_vectored(&mut targets) {
                Ok(bytes) => {
                    match self.device.finish_read(&mut frame, bytes, &self.spill, frames) {
                        Ok(()) => batch.push(frame),
                        Err(unread) => {
                            unread.count(&mut self.stats);
                            frames.free(frame);
                        }
                    }
                }
                Err(error) => {
                    frames.free(frame);
                    self.fault = self.device.fault(error.raw_os_error().unwrap_or(0));
                    break;
                }
            }
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        for mut frame in batch.drain(..) {
            match Device::prepare_write(&mut frame) {
                Some(range) if self.fault.is_none() => {
                    self.stats.system_calls += 1;
                    let head = std::iter::once(&frame.buffer()[range]);
                    let pieces: ArrayVec<IoSlice<'_>, SEGMENTS_MAX> =
                        head.chain(frame.following_bytes()).map(IoSlice::new).collect();
                    if let Err(error) = (&self.device.file).write_vectored(&pieces) {
                        self.stats.device_drops += 1;
                        self.fault = self.device.fault(error.raw_os_error().unwrap_or(0));
                    }
                }
                _ => self.stats.refused += 1,
            }
            frames.free(frame);
        }
    }

    fn flush(&mut self, _frames: &mut FrameCache) {}

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

    fn close(self: Box<Self>, _frames: &mut FrameCache) {}
}
