//! What is left of a worker that panicked: the frame it worked on, and why.
//!
//! A panic is a broken invariant, so the process ends with it; but a frame that can end a process
//! is evidence. It goes to `crash/` as a capture that any tool reads, beside a text with message
//! and location. The parent starts the next worker process.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use crate::worker::InHand;

/// Reports kept; older ones make room, so that a crash loop does not fill the disk.
pub const REPORTS_MAX: usize = 20;

/// Threads with this prefix catch their panics themselves.
pub const WORKER_THREAD_PREFIX: &str = "seine-worker-";

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes every panic end the process: a worker's after its frame was saved, any other at once.
pub fn install_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        remember(info);
        let thread = std::thread::current();
        if !thread.name().is_some_and(|name| name.starts_with(WORKER_THREAD_PREFIX)) {
            std::process::abort();
        }
    }));
}

fn remember(info: &PanicHookInfo<'_>) {
    // A panic while this is borrowed would be one within this function: nothing to remember then.
    MESSAGE.with(|message| {
        if let Ok(mut message) = message.try_borrow_mut() {
            *message = info.to_string();
        }
    });
}

/// What this thread's last panic said, with its location.
pub fn message() -> String {
    MESSAGE.with(|message| message.borrow().clone())
}

/// Writes a report into `folder`: `<time>-worker<index>.txt`, and `.pcap` when a frame was in
/// hand. Returns the path of the text.
pub fn save(
    folder: &Path,
    worker: usize,
    message: &str,
    in_hand: Option<&InHand>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    make_room(folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let stem = format!("{:020}-worker{worker}", now.as_micros());
    let text = folder.join(format!("{stem}.txt"));
    let mut report = format!("worker {worker}: {message}\n");
    if let Some(in_hand) = in_hand {
        save_packet(&folder.join(format!("{stem}.pcap")), now, &in_hand.packet)?;
        report += &format!("ingress port {}\n", in_hand.ingress);
        report += &format!("{} bytes: {}\n", in_hand.packet.len(), hexadecimal(&in_hand.packet));
    } else {
        report += "no frame in hand\n";
    }
    fs::write(&text, report)?;
    Ok(text)
}

fn save_packet(path: &Path, now: Duration, packet: &[u8]) -> io::Result<()> {
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer =
        PcapWriter::with_header(File::create(path)?, header).map_err(io::Error::other)?;
    writer
        .write_packet(&PcapPacket::new(now, packet.len() as u32, packet))
        .map_err(io::Error::other)?;
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_room(folder: &Path) -> io::Result<()> {
    let mut files = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    // Names begin with the time, so the oldest come first. A report has at most two files.
    files.sort();
    for file in files.iter().take(files.len().saturating_sub(2 * (REPORTS_MAX - 1))) {
        fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use pcap_file::pcap::PcapReader;
    use seine_pipeline::address::PortId;

    #[test]
    fn a_report_holds_the_frame_as_capture_and_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let in_hand = InHand { ingress: PortId::new(3).unwrap(), packet: vec![0xab, 0, 0x17] };
        let text = save(folder.path(), 1, "index out of bounds", Some(&in_hand)).unwrap();
        assert_eq!(
            fs::read_to_string(&text).unwrap(),
            "worker 1: index out of bounds\ningress port 3\n3 bytes: ab0017\n"
        );
        let capture = File::open(text.with_extension("pcap")).unwrap();
        let mut reader = PcapReader::new(capture).unwrap();
        assert_eq!(&*reader.next_packet().unwrap().unwrap().data, &[0xab, 0, 0x17]);
    }

    #[test]
    fn old_reports_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let in_hand = InHand { ingress: PortId::new(0).unwrap(), packet: vec![1] };
        for number in 0..3 * REPORTS_MAX {
            save(folder.path(), 0, &format!("panic {number}"), Some(&in_hand)).unwrap();
        }
        let mut files: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2 * REPORTS_MAX);
        let last = fs::read_to_string(files.last().unwrap()).unwrap();
        assert!(last.contains(&format!("panic {}", 3 * REPORTS_MAX - 1)), "{last}");
    }
}
