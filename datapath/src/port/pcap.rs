//! A port whose device is a pair of capture files: what one holds is received, what is transmitted
//! is added to the other. For replay: the same packets give the same output.
//!
//! Packets carry no checksum fact in a capture, so partial checksums are not taken. A file that
//! breaks in the middle ends the port with a [`QueueFault`]; what came before is received. Received
//! packets are not spaced by their times, and transmitted ones are stamped with their number, in
//! microseconds, so that a replay writes the same bytes each time.

use std::fs::File;
use std::io::{BufReader, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};
use seine_pipeline::packet::Checksum;

use super::open::OpenError;
use super::{Queue, QueueFault, QueueStats};
use crate::frame::{Batch, FrameCache};

/// Bytes of a capture file's own header.
const HEADER_BYTES: usize = 24;

/// Packets kept in memory until a flush.
const STAGED_MAX: usize = 256;

/// Opens a port with one queue. Either file may be left out: then nothing is received, or what is
/// transmitted is counted and forgotten.
pub fn open(source: Option<&Path>, target: Option<&Path>) -> Result<Box<dyn Queue>, OpenError> {
    let reader = source.map(open_reader).transpose()?;
    let writer = target.map(Target::create).transpose()?;
    let name = |path: Option<&Path>| path.map(Path::to_owned).unwrap_or_default();
    Ok(Box::new(PcapQueue {
        reader,
        writer,
        source: name(source),
        target: name(target),
        written: 0,
        fault: None,
        stats: QueueStats::default(),
    }))
}

fn open_reader(path: &Path) -> Result<PcapReader<BufReader<File>>, OpenError> {
    let failed = |reason: String| OpenError::Capture { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let reader = PcapReader::new(BufReader::new(file)).map_err(|error| failed(describe(&error)))?;
    match reader.header().datalink {
        DataLink::ETHERNET => Ok(reader),
        other => Err(failed(format!("link type {other:?} is not Ethernet"))),
    }
}

/// The file that packets are added to. The library's writer cannot be asked to flush, so it writes
/// to memory, and each flush takes that away from it.
struct Target {
    file: File,
    staged: PcapWriter<Vec<u8>>,
    /// Bytes of what is staged that the file has already: the header, after the first flush.
    skip: usize,
    packets_staged: usize,
}

impl Target {
    fn create(path: &Path) -> Result<Target, OpenError> {
        let failed = |reason: String| OpenError::Capture { path: path.to_owned(), reason };
        let file = File::create(path).map_err(|error| failed(error.to_string()))?;
        let staged = PcapWriter::new(Vec::new()).map_err(|error| failed(describe(&error)))?;
        Ok(Target { file, staged, skip: 0, packets_staged: 0 })
    }

    fn write(&mut self, packet: &PcapPacket<'_>) -> Result<(), PcapError> {
        self.staged.write_packet(packet)?;
        self.packets_staged += 1;
        if self.packets_staged == STAGED_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), PcapError> {
        if self.packets_staged == 0 && self.skip > 0 {
            return Ok(());
        }
        self.packets_staged = 0;
        let staged = std::mem::replace(&mut self.staged, PcapWriter::new(Vec::new())?);
        let written = self.file.write_all(&staged.into_writer()[self.skip..]);
        self.skip = HEADER_BYTES;
        written.map_err(PcapError::IoError)
    }
}

/// The library's errors keep their cause to themselves.
fn describe(error: &PcapError) -> String {
    match error {
        PcapError::IoError(source) => source.to_string(),
        PcapError::IncompleteBuffer => "it ends in the middle".to_owned(),
        other => other.to_string(),
    }
}

struct PcapQueue {
    reader: Option<PcapReader<BufReader<File>>>,
    writer: Option<Target>,
    source: PathBuf,
    target: PathBuf,
    written: u64,
    fault: Option<QueueFault>,
    stats: QueueStats,
}

impl PcapQueue {
    fn stop(&mut self, path: &Path, error: &PcapError) {
        let file = path.display().to_string();
        self.fault.get_or_insert(QueueFault::Capture { file, reason: describe(error) });
    }

    fn write(&mut self, packet: &[u8]) {
        let Some(writer) = &mut self.writer else { return };
        let packet = PcapPacket {
            timestamp: Duration::from_micros(self.written),
            orig_len: packet.len() as u32,
            data: packet.into(),
        };
        self.written += 1;
        if let Err(error) = writer.write(&packet) {
            self.stop(&self.target.clone(), &error);
        }
    }
}

impl Queue for PcapQueue {
    fn receive(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        while !batch.is_full()
            && self.fault.is_none()
            && let Some(reader) = &mut self.reader
            && let Some(mut frame) = frames.allocate()
        {
            let (whole, failed) = match reader.next_packet() {
                // A capture may hold only the head of a packet; that is no packet.
                Some(Ok(packet)) => {
                    let complete = packet.data.len() == packet.orig_len as usize;
                    (complete && frame.fill(&packet.data), None)
                }
                Some(Err(error)) => (false, Some(error)),
                None => {
                    self.reader = None;
                    frames.free(frame);
                    return;
                }
            };
            if whole {
                batch.push(frame);
                continue;
            }
            frames.free(frame);
            match failed {
                Some(error) => self.stop(&self.source.clone(), &error),
                None => self.stats.device_drops += 1,
            }
        }
    }

    fn transmit(&mut self, frames: &mut FrameCache, batch: &mut Batch) {
        for frame in batch.drain(..) {
            let unfinished = frame.checksum != Checksum::Complete;
            if frame.is_empty() || unfinished || self.fault.is_some() {
                self.stats.refused += 1;
            } else {
                self.write(frame.bytes());
            }
            frames.free(frame);
        }
    }

    fn flush(&mut self, _frames: &mut FrameCache) {
        if let Some(Err(error)) = self.writer.as_mut().map(Target::flush) {
            self.stop(&self.target.clone(), &error);
        }
    }

    fn takes_partial_checksum(&self) -> bool {
        false
    }

    fn wake_source(&self) -> Option<RawFd> {
        None
    }

    fn stats(&self) -> QueueStats {
        self.stats
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault.clone()
    }

    fn close(mut self: Box<Self>, frames: &mut FrameCache) {
        self.flush(frames);
    }
}
