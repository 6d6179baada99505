//! A network namespace of the run's own, and commands and threads inside it.
//!
//! Commands enter by `nsenter --net`: unlike `ip netns exec` it leaves the mounts alone, so that
//! /sys and its bpffs stay visible to the daemons.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

use crate::failure::{Failure, Outcome};
use crate::journal::Journal;

/// A network namespace with a name.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with its loopback up.
    pub fn create(journal: &Journal, name: &str) -> Outcome<Namespace> {
        let namespace = Namespace { name: format!("seine-{}-{name}", journal.run()) };
        journal.namespace(&namespace.name)?;
        output(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// One that a daemon makes, or that is there.
    pub fn of_name(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    /// Its name below /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Removes it; what is gone already is fine.
    pub fn remove(&self) -> Outcome {
        if self.path().exists() {
            output(Command::new("ip").args(["netns", "del", &self.name]))?;
        }
        Ok(())
    }

    /// A command to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs one command line inside, words split at blanks, and returns what it printed.
    pub fn run(&self, line: &str) -> Outcome<String> {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        output(self.command(program).args(words))
    }

    /// `ip` with these words, inside.
    pub fn ip(&self, line: &str) -> Outcome<String> {
        self.run(&format!("ip {line}"))
    }

    /// Writes a value below /proc/sys/net, inside.
    pub fn set(&self, key: &str, value: &str) -> Outcome {
        let path = Path::new("/proc/sys/net").join(key);
        let value = value.to_owned();
        self.enter(move || fs::write(&path, value).map_err(Failure::io("write", &path)))?
    }

    /// Reads a value below /proc/sys/net, inside.
    pub fn value(&self, key: &str) -> Outcome<String> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(move || {
            let text = fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
            Ok(text.trim().to_owned())
        })?
    }

    /// Runs `work` on a thread of its own that is inside, and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        let path = self.path();
        let file = File::open(&path).map_err(Failure::io("open", &path))?;
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .map_err(|errno| Failure::io("enter", &path)(errno.into()))?;
                    Ok(work())
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Runs a command to its end; what it printed, or why not.
pub fn output(command: &mut Command) -> Outcome<String> {
    let line = line_of(command);
    let result = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Failure::Start { command: line.clone(), source })?;
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    if result.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&result.stderr);
    let output = format!("{} {}", error.trim(), text.trim()).trim().to_owned();
    Err(Failure::Command { command: line, status: result.status, output })
}

/// A command as one would type it.
pub fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
