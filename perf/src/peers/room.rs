//! Where peers run: a directory and a journal of their own, and huge pages while they do.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::journal::{self, Journal};

use crate::output::Output;
use crate::topology::stage;

/// The core of the poller, which it has alone.
pub const SWITCH_CORE: usize = 0;
/// The core of everything else.
pub const GENERATOR_CORE: usize = 1;
/// Huge pages of 2 MiB for a switch (512 MiB) and the memory of 64 guests, with some to spare.
const HUGE_PAGES: u64 = 400;
const HUGE_PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";

/// A room; everything in it ends when this is dropped.
#[derive(Debug)]
pub struct Room {
    /// Lists processes, so that the next run can end what this one could not.
    pub journal: Journal,
    /// Whether there are huge pages for the peer.
    pub huge: bool,
    /// How many the machine had before.
    pages_before: Option<u64>,
}

impl Room {
    /// Opens it; reserves huge pages if they are wanted and the machine has too few free ones.
    pub fn open(output: &Output, huge_wanted: bool) -> Outcome<Room> {
        stage::refuse_unless_root()?;
        stage::remove_what_was_left(output)?;
        let journal = Journal::create(&format!("{}{}", stage::RUN, std::process::id()))?;
        let mut room = Room { journal, huge: false, pages_before: None };
        if huge_wanted {
            room.reserve()?;
            if !room.huge {
                output.progress("the machine has no huge pages to spare: the peer runs without");
            }
        }
        Ok(room)
    }

    fn reserve(&mut self) -> Outcome {
        let (total, free) = huge_pages()?;
        if free < HUGE_PAGES {
            self.pages_before = Some(total);
            set_huge_pages(total + HUGE_PAGES - free)?;
        }
        self.huge = huge_pages()?.1 >= HUGE_PAGES;
        Ok(())
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.journal.directory().join(name)
    }

    /// Options for DPDK's environment: memory of its own, no devices.
    pub fn dpdk_options(&self) -> String {
        if self.huge {
            "--in-memory --no-pci".to_owned()
        } else {
            format!("--no-huge --no-pci --file-prefix={}", self.journal.run())
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = journal::remove_run(self.journal.run()) {
            eprintln!("seine-perf: {error}");
        }
        if let Some(pages) = self.pages_before
            && let Err(error) = set_huge_pages(pages)
        {
            eprintln!("seine-perf: {error}");
        }
    }
}

/// Huge pages in all, and free ones.
fn huge_pages() -> Outcome<(u64, u64)> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
    Ok((value(&text, "HugePages_Total"), value(&text, "HugePages_Free")))
}

fn value(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| *key == name);
    found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or_default()
}

fn set_huge_pages(pages: u64) -> Outcome {
    let path = Path::new(HUGE_PAGES_FILE);
    fs::write(path, pages.to_string()).map_err(Failure::io("write", path))
}

/// Keeps the calling thread, and what it starts from now on, on one core.
pub fn pin(core: usize) -> Outcome {
    let mut cores = CpuSet::new();
    let pinned = cores.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    pinned.map_err(|error| Failure::Unmet(format!("cannot run on core {core}: {error}")))
}
