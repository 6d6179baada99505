//! A tap queue that reads and writes packet by packet: one system call each.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use super::Device;
use crate::frame::{Batch, FrameCache};
use crate::port::{Queue, QueueFault, QueueStats};

/// A queue over plain reads and writes. It wakes by the device's own descriptor.
pub(super) struct PlainQueue {
    device: Device,
    fault: Option<QueueFault>,
    stats: QueueStats,
}

impl PlainQueue {
    pub fn new(device: Device) -> PlainQueue {
        PlainQueue { device, fault: None, stats: QueueStats::default() }
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
            match (&self.device.file).read(target) {
                Ok(bytes) if self.device.finish_read(&mut frame, bytes) => batch.push(frame),
                Ok(_) => {
                    self.stats.device_drops += 1;
                    frames.free(frame);
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
                    if let Err(error) = (&self.device.file).write(&frame.buffer()[range]) {
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
