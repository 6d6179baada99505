//! The list of what a run has made, written before it is made.
//!
//! `/run/seine-RUN/journal` holds one line for each thing: its kind, then its facts. [`remove_run`]
//! reads it backwards. A process is written right after it was started, since its id is not known
//! before; one that slips through a crash in between is found by the namespace it lives in.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::{Failure, Outcome};

/// Where runs live. On disk on some machines: nothing here needs it to be memory.
const RUNS: &str = "/run";

/// The list of what one run has made.
#[derive(Debug)]
pub struct Journal {
    run: String,
    file: Mutex<File>,
}

impl Journal {
    /// Opens a new run. Refused when a run of that name is still there.
    pub fn create(run: &str) -> Outcome<Journal> {
        let directory = run_directory(run);
        if directory.join("journal").exists() {
            return Err(Failure::Unmet(format!(
                "a run named `{run}` is still there; remove it with `./deploy/demo down {run}`"
            )));
        }
        fs::create_dir_all(&directory).map_err(Failure::io("create", &directory))?;
        let path = directory.join("journal");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Failure::io("create", &path))?;
        let journal = Journal { run: run.to_owned(), file: Mutex::new(file) };
        journal.process("owner", std::process::id())?;
        Ok(journal)
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The run's own directory.
    pub fn directory(&self) -> PathBuf {
        run_directory(&self.run)
    }

    /// A network namespace is about to be made, here or by a daemon.
    pub fn namespace(&self, name: &str) -> Outcome {
        self.append(&format!("namespace {name}"))
    }

    /// A process was started.
    pub fn process(&self, name: &str, id: u32) -> Outcome {
        match start_time(id) {
            Some(ticks) => self.append(&format!("process {id} {ticks} {name}")),
            // Gone already, so there is nothing to remove.
            None => Ok(()),
        }
    }

    /// The run is to be kept although its owner ends.
    pub fn keep(&self) -> Outcome {
        self.append("keep")
    }

    fn append(&self, line: &str) -> Outcome {
        let path = self.directory().join("journal");
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(file, "{line}")
            .and_then(|()| file.sync_data())
            .map_err(Failure::io("write", &path))
    }
}

/// One run that has a journal.
#[derive(Debug)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// Whether the process that made it still lives.
    pub owned: bool,
    /// Whether it was left up on purpose.
    pub kept: bool,
}

/// Every run that left a journal on this machine.
pub fn runs() -> Outcome<Vec<Run>> {
    let mut runs = Vec::new();
    let entries = fs::read_dir(RUNS).map_err(Failure::io("read", Path::new(RUNS)))?;
    for entry in entries.flatten() {
        let Some(name) =
            entry.file_name().to_str().and_then(|n| n.strip_prefix("seine-")).map(str::to_owned)
        else {
            continue;
        };
        let Ok(text) = fs::read_to_string(entry.path().join("journal")) else { continue };
        let owned = text.lines().filter_map(owner).any(|(id, ticks)| start_time(id) == Some(ticks));
        runs.push(Run { name, owned, kept: text.lines().any(|line| line == "keep") });
    }
    Ok(runs)
}

/// Removes everything a run has made. What is gone already is fine.
pub fn remove_run(run: &str) -> Outcome {
    let directory = run_directory(run);
    let path = directory.join("journal");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io("read", &path)(error)),
    };
    let namespaces: Vec<&str> =
        text.lines().rev().filter_map(|line| line.strip_prefix("namespace ")).collect();
    let mut processes: Vec<(u32, u64)> = text.lines().rev().filter_map(process).collect();
    for inhabitant in inhabitants(&namespaces) {
        if let Some(ticks) = start_time(inhabitant) {
            processes.push((inhabitant, ticks));
        }
    }
    end_processes(&processes);
    for name in &namespaces {
        remove_namespace(name)?;
    }
    unmount_below(&directory)?;
    fs::remove_dir_all(&directory).map_err(Failure::io("remove", &directory))
}

/// The directory of a run.
pub fn run_directory(run: &str) -> PathBuf {
    Path::new(RUNS).join(format!("seine-{run}"))
}

/// When a process started, in clock ticks since boot; `None` when there is none of that id or it
/// is a zombie.
pub fn start_time(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in brackets may hold blanks and brackets of its own.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Signals a process if it is still the one that was started at `ticks`.
pub fn signal(id: u32, ticks: u64, signal: Signal) {
    if start_time(id) == Some(ticks)
        && let Ok(id) = i32::try_from(id)
    {
        // It may end by itself in this instant; then there is nothing left to do.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

fn process(line: &str) -> Option<(u32, u64)> {
    let mut words = line.strip_prefix("process ")?.split(' ');
    let (id, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next()? != "owner").then_some((id, ticks))
}

fn owner(line: &str) -> Option<(u32, u64)> {
    let mut words = line.strip_prefix("process ")?.split(' ');
    let (id, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next()? == "owner").then_some((id, ticks))
}

/// Processes that live in one of the run's namespaces: children of what was started.
fn inhabitants(namespaces: &[&str]) -> Vec<u32> {
    let inodes: Vec<u64> = namespaces
        .iter()
        .filter_map(|name| fs::metadata(format!("/run/netns/{name}")).ok())
        .map(|metadata| metadata.ino())
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|id| *id != std::process::id())
        .filter(|id| {
            fs::metadata(format!("/proc/{id}/ns/net")).is_ok_and(|it| inodes.contains(&it.ino()))
        })
        .collect()
}

fn end_processes(processes: &[(u32, u64)]) {
    for (id, ticks) in processes {
        signal(*id, *ticks, Signal::SIGTERM);
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    let alive = || processes.iter().any(|(id, ticks)| start_time(*id) == Some(*ticks));
    while alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (id, ticks) in processes {
        signal(*id, *ticks, Signal::SIGKILL);
    }
}

fn remove_namespace(name: &str) -> Outcome {
    let path = Path::new("/run/netns").join(name);
    if !path.exists() {
        return Ok(());
    }
    // Unmounting one that was never mounted (a crash in the midst of making it) is refused: fine.
    let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
    fs::remove_file(&path).map_err(Failure::io("remove", &path))
}

/// Unmounts what was mounted within the run's directory, innermost first.
fn unmount_below(directory: &Path) -> Outcome {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Failure::io("read", table))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut points: Vec<&Path> = points.filter(|point| point.starts_with(directory)).collect();
    points.reverse();
    for point in points {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|errno| Failure::io("unmount", point)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_process_is_known_by_id_and_start_time() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let ticks = start_time(child.id()).unwrap();
        signal(child.id(), ticks + 1, Signal::SIGKILL);
        assert_eq!(start_time(child.id()), Some(ticks), "another start time: another process");
        signal(child.id(), ticks, Signal::SIGKILL);
        child.wait().unwrap();
        assert_eq!(start_time(child.id()), None);
    }

    #[test]
    fn the_owner_is_no_process_to_end() {
        assert_eq!(process("process 12 345 owner"), None);
        assert_eq!(owner("process 12 345 owner"), Some((12, 345)));
        assert_eq!(process("process 12 345 seine-agent node1"), Some((12, 345)));
        assert_eq!(process("namespace seine-demo-node1"), None);
    }
}
