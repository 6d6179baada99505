//! The parent: starts the worker process again when it ends, five times a minute at most.
//!
//! The two die together: the worker process asks the kernel for SIGKILL when its parent ends, and
//! the parent passes SIGTERM and SIGHUP on. The parent holds no device and handles no packet, so
//! there is nothing in it to crash.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Restarts within [`WINDOW`] before the parent gives up: what crashes more often does not heal.
pub const RESTARTS_MAX: usize = 5;

/// See [`RESTARTS_MAX`].
pub const WINDOW: Duration = Duration::from_secs(60);

/// Pause before another start when one was refused that had worked before.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Time to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The exit code for a configuration or machine that does not fit (EX_CONFIG of sysexits.h): a
/// restart cannot help.
pub const EXIT_REFUSED: u8 = 78;

/// The exit code after too many restarts (EX_SOFTWARE).
pub const EXIT_GAVE_UP: u8 = 70;

/// How supervision ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The worker process ended well, after a signal.
    Stopped,
    /// It said that a restart cannot help.
    Refused,
    /// It ended too often.
    GaveUp,
}

impl Ending {
    /// The parent's own exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Ending::Stopped => 0,
            Ending::Refused => EXIT_REFUSED,
            Ending::GaveUp => EXIT_GAVE_UP,
        }
    }
}

/// Runs worker processes until one ends well, or they end too often.
pub async fn supervise(mut command: impl FnMut() -> Command) -> io::Result<Ending> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    loop {
        let mut child = command().spawn()?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = terminate.recv() => return stop(&mut child).await,
                _ = interrupt.recv() => return stop(&mut child).await,
                _ = hangup.recv() => tell(&child, Signal::SIGHUP),
            }
        };
        if status.success() {
            return Ok(Ending::Stopped);
        }
        let refused = status.code() == Some(EXIT_REFUSED.into());
        if refused && restarts.is_empty() {
            return Ok(Ending::Refused);
        }
        let now = Instant::now();
        restarts.push_back(now);
        while restarts.front().is_some_and(|&at| now.duration_since(at) > WINDOW) {
            restarts.pop_front();
        }
        let ended = describe(status);
        if restarts.len() > RESTARTS_MAX {
            tracing::error!(
                "the worker process {ended}, {} times within {} s; giving up. Pod ports drop \
                 until the datapath runs again; crash reports are in `crash/` of the run_dir",
                restarts.len(),
                WINDOW.as_secs()
            );
            return Ok(Ending::GaveUp);
        }
        tracing::error!("the worker process {ended}; starting another");
        if refused {
            // It ran before, so what is in its way may pass: a device that is still being freed.
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

async fn stop(child: &mut Child) -> io::Result<Ending> {
    tell(child, Signal::SIGTERM);
    match tokio::time::timeout(STOP_LIMIT, child.wait()).await {
        Ok(status) => tracing::info!("the worker process {}", describe(status?)),
        Err(_) => {
            tracing::warn!("the worker process did not end within {STOP_LIMIT:?}: killed");
            child.kill().await?;
        }
    }
    Ok(Ending::Stopped)
}

fn tell(child: &Child, signal: Signal) {
    if let Some(id) = child.id() {
        // It fails only when the child has ended just now.
        let _ = kill(Pid::from_raw(id as i32), signal);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            format!("was ended by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;
    use std::path::Path;

    fn shell(script: String) -> impl FnMut() -> Command {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", &script]).kill_on_drop(true);
            command
        }
    }

    fn starts(log: &Path) -> usize {
        fs::read_to_string(log).unwrap().lines().count()
    }

    #[tokio::test]
    async fn a_worker_process_killed_six_times_in_a_minute_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("starts");
        let script = format!("echo start >> {}; kill -9 $$", log.display());
        assert_eq!(supervise(shell(script)).await.unwrap(), Ending::GaveUp);
        assert_eq!(starts(&log), RESTARTS_MAX + 1);
    }

    #[tokio::test]
    async fn a_worker_process_that_recovers_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("starts");
        let path = log.display();
        // Killed five times, then it ends well.
        let script =
            format!("echo start >> {path}; [ $(wc -l < {path}) -gt {RESTARTS_MAX} ] || kill -9 $$");
        assert_eq!(supervise(shell(script)).await.unwrap(), Ending::Stopped);
        assert_eq!(starts(&log), RESTARTS_MAX + 1);
    }

    #[tokio::test]
    async fn a_hangup_is_passed_on_and_ends_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        // Ends well only when the signal came to it.
        let script =
            format!("trap 'exit 0' HUP; touch {}; sleep 30 & wait; exit 1", ready.display());
        let supervised = tokio::spawn(supervise(shell(script)));
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kill(Pid::this(), Signal::SIGHUP).unwrap();
        assert_eq!(supervised.await.unwrap().unwrap(), Ending::Stopped);
    }

    #[tokio::test]
    async fn a_refusal_after_a_crash_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("starts");
        let path = log.display();
        // Killed, then refused, then it ends well.
        let script = format!(
            "echo start >> {path}; case $(wc -l < {path}) in \
             1) kill -9 $$;; 2) exit {EXIT_REFUSED};; esac"
        );
        assert_eq!(supervise(shell(script)).await.unwrap(), Ending::Stopped);
        assert_eq!(starts(&log), 3);
    }

    #[tokio::test]
    async fn a_worker_process_that_refuses_is_not_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("starts");
        let script = format!("echo start >> {}; exit {EXIT_REFUSED}", log.display());
        assert_eq!(supervise(shell(script)).await.unwrap(), Ending::Refused);
        assert_eq!(starts(&log), 1);
    }
}
