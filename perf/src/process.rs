//! What a daemon costs: CPU time and memory, as the kernel counts them.

use std::fs;
use std::path::Path;

use seine_e2e::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};

use crate::noise::TICK_MS;

/// Memory of one process, in KiB, by the names of /proc/PID/status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// VmRSS: pages in memory, whatever they are.
    pub resident_kib: u64,
    /// RssAnon: its own.
    pub anonymous_kib: u64,
    /// RssFile: of files and devices, rings of AF_XDP sockets among them.
    pub file_kib: u64,
    /// RssShmem: shared memory and memfds.
    pub shared_kib: u64,
    /// VmLck: locked by mlock or MAP_LOCKED.
    pub locked_kib: u64,
    /// VmPin: pinned, as far as the kernel counts it per process (AF_XDP counts per user).
    pub pinned_kib: u64,
    /// HugetlbPages: huge pages, which VmRSS does not hold.
    pub huge_kib: u64,
}

/// Milliseconds of CPU that all threads of a process have used, dead ones included.
pub fn cpu_ms(id: u32) -> Outcome<u64> {
    let path = format!("/proc/{id}/stat");
    let text = read(Path::new(&path))?;
    cpu_ticks(&text)
        .map(|ticks| ticks * TICK_MS)
        .ok_or_else(|| Failure::Unmet(format!("{path} is not understood: {text}")))
}

/// Nanoseconds that threads of a process whose names begin like this were on a core.
pub fn on_core_ns(id: u32, begins: &str) -> Outcome<u64> {
    let path = format!("/proc/{id}/task");
    let mut sum = 0;
    for entry in fs::read_dir(&path).map_err(Failure::io("read", Path::new(&path)))?.flatten() {
        let text = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if text("comm").starts_with(begins) {
            let first = text("schedstat").split(' ').next().and_then(|it| it.parse::<u64>().ok());
            sum += first.unwrap_or_default();
        }
    }
    Ok(sum)
}

/// Memory of a process now.
pub fn memory(id: u32) -> Outcome<Memory> {
    Ok(parse_memory(&read(Path::new(&format!("/proc/{id}/status")))?))
}

/// KiB in memory of the largest mapping of a process: for a datapath, its packet memory.
pub fn largest_mapping_kib(id: u32) -> Outcome<u64> {
    let text = read(Path::new(&format!("/proc/{id}/smaps")))?;
    let resident = text.lines().filter_map(|line| field(line, "Rss"));
    Ok(resident.max().unwrap_or_default())
}

/// Times that its threads gave up a core by themselves: each is a wake-up.
pub fn rests(id: u32) -> Outcome<u64> {
    let path = format!("/proc/{id}/task");
    let mut sum = 0;
    for entry in fs::read_dir(&path).map_err(Failure::io("read", Path::new(&path)))?.flatten() {
        // A thread may end between being listed and being read.
        let text = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        sum += field(&text, "voluntary_ctxt_switches").unwrap_or_default();
    }
    Ok(sum)
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(Failure::io("read", path))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in brackets may hold blanks and brackets of its own.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn parse_memory(status: &str) -> Memory {
    let kib = |name| field(status, name).unwrap_or_default();
    Memory {
        resident_kib: kib("VmRSS"),
        anonymous_kib: kib("RssAnon"),
        file_kib: kib("RssFile"),
        shared_kib: kib("RssShmem"),
        locked_kib: kib("VmLck"),
        pinned_kib: kib("VmPin"),
        huge_kib: kib("HugetlbPages"),
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 12 30 0 0 20 0 1 0 55 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
    }

    #[test]
    fn memory_is_read_by_name() {
        let memory = parse_memory("VmLck:\t      64 kB\nVmRSS:\t    1234 kB\nRssFile:\t 8 kB\n");
        let expected =
            Memory { resident_kib: 1234, file_kib: 8, locked_kib: 64, ..Memory::default() };
        assert_eq!(memory, expected);
    }

    #[test]
    fn work_of_this_process_is_counted() {
        let id = std::process::id();
        let before = cpu_ms(id).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // Not a fixed time: a busy machine gives this thread what it likes.
        while cpu_ms(id).unwrap() < before + 30 {
            assert!(std::time::Instant::now() < deadline, "no CPU time was counted in 20 s");
        }
        assert!(memory(id).unwrap().resident_kib >= largest_mapping_kib(id).unwrap());
        assert!(largest_mapping_kib(id).unwrap() > 0);
        rests(id).unwrap();
    }
}
