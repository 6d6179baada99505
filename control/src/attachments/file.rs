//! The file of [`super::Attachments`]: read once, replaced atomically, written by one thread.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;

use super::{Contents, RecordError};
use crate::durable;

/// The version of the file that this code writes.
pub(super) const VERSION: u32 = 2;
/// The oldest that it reads: one without kinds of ports, networks and interface indexes.
const VERSION_MIN: u32 = 1;

/// Makes `folder` if need be and holds it against a second agent. Returns the lock and the path
/// of the record.
pub(super) fn hold(folder: &Path) -> Result<(Flock<File>, PathBuf), RecordError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| RecordError::File {
            action: "make",
            path: path.clone(),
            reason: error.to_string(),
        }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let path = folder.join("agent.lock");
    let file = File::create(&path).map_err(failed(&path))?;
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| RecordError::Held(folder.to_owned()))?;
    Ok((held, folder.join("attachments.json")))
}

/// Reads the record; none is an empty one.
pub(super) fn read(path: &Path) -> Result<Contents, RecordError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        Err(error) => {
            let reason = error.to_string();
            return Err(RecordError::File { action: "read", path: path.to_owned(), reason });
        }
    };
    let damaged = |reason: String| RecordError::Damaged { path: path.to_owned(), reason };
    let contents: Contents =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if !(VERSION_MIN..=VERSION).contains(&contents.version) {
        let version = contents.version;
        return Err(damaged(format!("version {version} instead of {VERSION_MIN} to {VERSION}")));
    }
    Ok(contents)
}

/// Replaces the record so that after a crash it is whole: the old one or the new one.
fn write(path: &Path, contents: &Contents) -> Result<(), RecordError> {
    let failed = |error: io::Error| RecordError::File {
        action: "write",
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let bytes = serde_json::to_vec(contents).map_err(|error| failed(error.into()))?;
    durable::replace(path, &bytes).map_err(failed)
}

/// How far the record on disk has come: the last generation written, and how that went.
type Written = (u64, Result<(), RecordError>);

#[derive(Default)]
struct Wanted {
    generation: u64,
    stopped: bool,
}

/// Writes the record on its own thread whenever a newer generation is wanted.
pub(super) struct Writer {
    wanted: Arc<(Mutex<Wanted>, Condvar)>,
    written: watch::Receiver<Written>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        path: PathBuf,
        held: Flock<File>,
        snapshot: impl Fn() -> Contents + Send + 'static,
    ) -> Self {
        let wanted = Arc::new((Mutex::new(Wanted::default()), Condvar::new()));
        let (report, written) = watch::channel((0, Ok(())));
        let thread = {
            let wanted = wanted.clone();
            std::thread::spawn(move || {
                // The folder is free for another agent when the last write is done.
                let _held = held;
                let mut done = 0;
                while let Some(generation) = next(&wanted, done) {
                    let result = write(&path, &snapshot());
                    done = generation;
                    // The sender outlives its receivers' interest; nobody waiting is fine.
                    let _ = report.send((generation, result));
                }
            })
        };
        Self { wanted, written, thread: Some(thread) }
    }

    /// Waits until a write has ended that began after this call.
    pub(super) async fn flush(&self) -> Result<(), RecordError> {
        let generation = {
            let (wanted, changed) = &*self.wanted;
            let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.generation += 1;
            changed.notify_one();
            wanted.generation
        };
        let mut written = self.written.clone();
        let reached = written.wait_for(|(done, _)| *done >= generation).await;
        reached.map(|written| written.1.clone()).unwrap_or_else(|_| {
            Err(RecordError::File {
                action: "write",
                path: PathBuf::from("attachments.json"),
                reason: "its writer has stopped".into(),
            })
        })
    }
}

/// The next generation above `done`, when there is one; `None` when the writer is to stop.
fn next(shared: &(Mutex<Wanted>, Condvar), done: u64) -> Option<u64> {
    let (wanted, changed) = shared;
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if wanted.generation > done {
            return Some(wanted.generation);
        }
        if wanted.stopped {
            return None;
        }
        wanted = changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (wanted, changed) = &*self.wanted;
        wanted.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has reported to every waiter by hanging up.
            let _ = thread.join();
        }
    }
}
