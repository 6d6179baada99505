//! Idle fillers: a busy loop of the lowest class on every core.
//!
//! An idle virtual core halts, and its next wake-up waits for the host's scheduler: request and
//! response then measure the host. Fillers keep the cores awake and give way to everything else.
//! They cost throughput, so streams are measured without; both systems get the same.

use std::process::Command;

use seine_e2e::daemon::Daemon;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::journal::Journal;

/// Fillers that run until this is dropped.
#[derive(Debug)]
pub struct Fillers {
    _processes: Vec<Daemon>,
}

impl Fillers {
    /// Starts one on every core.
    pub fn start(journal: &Journal, cores: usize) -> Outcome<Fillers> {
        let own = std::path::Path::new("/proc/self/exe");
        let own = std::fs::read_link(own).map_err(Failure::io("read", own))?;
        let log = journal.directory().join("fillers.log");
        let start = |core: usize| {
            let mut command = Command::new("chrt");
            // The niceness only sorts its CPU time into a column of its own in /proc/stat.
            command.args(["--idle", "0", "nice", "-n", "19", "taskset", "-c", &core.to_string()]);
            command.arg(&own).arg("fill");
            Daemon::start(journal, "filler", &mut command, &log)
        };
        let processes: Outcome<Vec<Daemon>> = (0..cores).map(start).collect();
        Ok(Fillers { _processes: processes? })
    }
}

/// What a filler does: nothing, until its parent is gone.
pub fn fill() {
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        for _ in 0..1_000_000 {
            std::hint::spin_loop();
        }
    }
}
