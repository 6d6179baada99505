//! A process that runs beside the harness: started in a namespace, logged, journaled, ended.

use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::failure::{Failure, Outcome};
use crate::journal::{self, Journal};
use crate::namespace::line_of;

/// A running process.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    started: u64,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; both its streams are appended to `log`.
    pub fn start(
        journal: &Journal,
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> Outcome<Daemon> {
        let line = line_of(command);
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let streams = open().and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = streams.map_err(Failure::io("open", log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // An interrupt at the keyboard is for the harness, which then ends this in order.
            .process_group(0)
            .spawn()
            .map_err(|source| Failure::Start { command: line, source })?;
        journal.process(name, child.id())?;
        let started = journal::start_time(child.id()).unwrap_or_default();
        Ok(Daemon { name: name.to_owned(), child, started, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The ids of its children, which the supervised datapath has one of.
    pub fn children(&self) -> Vec<u32> {
        let id = self.id();
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        journal::signal(self.id(), self.started, signal);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Outcome {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(5)).map(|_| ())
    }

    /// Asks it to end; kills it when it does not within three seconds.
    pub fn stop(&mut self) -> Outcome {
        self.signal(Signal::SIGTERM);
        if self.wait(Duration::from_secs(3)).is_err() {
            self.kill()?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let what = format!("the end of {}", self.name);
                return Err(Failure::Late { what, seconds: limit.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `ready`; an early end is a failure that shows the end of the log.
    pub fn until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Outcome {
        let limit = Duration::from_secs(20);
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.ended() {
                let how = match status.signal() {
                    Some(signal) => format!("signal {signal}"),
                    None => format!("exit code {}", status.code().unwrap_or(-1)),
                };
                let tail = self.log_tail(12);
                return Err(Failure::Unmet(format!("{} ended early, {how}:\n{tail}", self.name)));
            }
            if Instant::now() > deadline {
                let what = format!("{}: {what}\n{}\n", self.name, self.log_tail(12));
                return Err(Failure::Late { what, seconds: limit.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The journal's removal ends it properly; this is for a daemon dropped in the midst.
        let _ = self.stop();
    }
}

/// Calls `ready` until it holds.
pub fn until(what: &str, seconds: u64, mut ready: impl FnMut() -> bool) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !ready() {
        if Instant::now() > deadline {
            return Err(Failure::Late { what: what.to_owned(), seconds });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
