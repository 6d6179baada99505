//! Where and with what a run was made: without this a figure means nothing.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Machine, build and command of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When it began, in UTC.
    pub date: String,
    /// The command line, without the folder of the program.
    pub command: String,
    /// The commit in the working directory, with "+" when files differ from it.
    pub commit: String,
    /// "release" or "debug".
    pub build: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that are online.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: String,
    /// "kvm", or empty on bare metal.
    pub hypervisor: String,
    /// GiB of memory.
    pub memory_gib: u64,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Machine {
        let mut words = std::env::args();
        let program = words.next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default().to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = value(&memory, "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok());
        Machine {
            date: said("date", &["-u", "+%FT%TZ"]),
            command: std::iter::once(program).chain(words).collect::<Vec<_>>().join(" "),
            commit: commit(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            cpu: value(&cpuinfo, "model name"),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: said("uname", &["-r"]),
            hypervisor: if value(&cpuinfo, "flags").contains("hypervisor") {
                said("systemd-detect-virt", &["--vm"])
            } else {
                String::new()
            },
            memory_gib: kib.unwrap_or(0_u64) >> 20,
        }
    }
}

fn value(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    // Results that a run itself writes below docs/ do not change what was measured.
    let changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"];
    let mark = if said("git", &changes).is_empty() { "" } else { "+" };
    if commit.is_empty() { "unknown".to_owned() } else { format!("{commit}{mark}") }
}

/// What a command prints, or nothing: none of this is worth ending a run for.
fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && !machine.kernel.is_empty() && !machine.date.is_empty());
        assert!(!machine.command.contains('/') || machine.command.contains(' '));
    }
}
