//! The configuration read again, while everything runs.
//!
//! What [workers] says takes force at once: which cores poll, which queue goes where, how they
//! wait. All else is named, for it takes a restart. A file that is refused changes nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use seine_datapath_api::v1;
use tokio::sync::Mutex;
use tonic::Status;

use crate::configuration::{Configuration, ConfigurationError};
use crate::datapath::Datapath;
use crate::placement::{Placement, PlacementError, usable_cores};
use crate::service::with_sources;
use crate::shift::Poll;
use crate::workers::WorkerError;

/// Why a configuration was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is no configuration.
    #[error("{0}; nothing was changed")]
    Configuration(#[from] ConfigurationError),
    /// Its workers cannot be placed on this machine, or not without a restart.
    #[error("{0}; nothing was changed")]
    Placement(#[from] PlacementError),
    /// A worker did not move.
    #[error("{0}; `seinectl worker list` shows where the workers are; to reload again goes on")]
    Worker(#[from] WorkerError),
}

impl ReloadError {
    /// What a caller is told.
    pub fn status(&self) -> Status {
        let message = with_sources(self);
        match self {
            ReloadError::Configuration(_) => Status::invalid_argument(message),
            ReloadError::Placement(_) => Status::failed_precondition(message),
            ReloadError::Worker(_) => Status::unavailable(message),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Of each worker its core, from now on.
    pub cores: Vec<usize>,
    /// How they wait for packets, from now on.
    pub poll: Poll,
    /// Keys that have other values than are in force, and take a restart.
    pub waiting: Vec<&'static str>,
}

impl From<Reloaded> for v1::ReloadReply {
    fn from(reloaded: Reloaded) -> v1::ReloadReply {
        v1::ReloadReply {
            cores: reloaded.cores.iter().map(|&core| core as u32).collect(),
            poll: reloaded.poll.name().to_owned(),
            waiting: reloaded.waiting.into_iter().map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, poll) = (&self.cores, self.poll.name());
        write!(formatter, "configuration read again: workers on cores {cores:?}, {poll}")?;
        if !self.waiting.is_empty() {
            let keys = self.waiting.join(", ");
            write!(formatter, "; changed, but in force only after a restart: {keys}")?;
        }
        Ok(())
    }
}

/// The configuration that is in force, and where it is read again.
pub struct Reloader {
    path: PathBuf,
    running: Configuration,
}

impl Reloader {
    /// For a process that was started by the configuration in this file.
    pub fn new(path: PathBuf, running: Configuration) -> Reloader {
        Reloader { path, running }
    }

    /// Reads the file, and does what it says as far as that needs no restart.
    pub async fn reload(&mut self, datapath: &mut Datapath) -> Result<Reloaded, ReloadError> {
        let wanted = Configuration::read(&self.path)?;
        let queues = datapath.workers.len();
        let placement = Placement::of(&wanted.workers, queues, &usable_cores())?;
        let poll = wanted.workers.poll();
        datapath.place(&placement, poll).await?;
        let waiting = waiting(&self.running, &wanted, queues);
        self.running.workers = wanted.workers;
        let cores = placement.places().iter().filter_map(|&place| placement.cores()[place]);
        Ok(Reloaded { cores: cores.collect(), poll, waiting })
    }
}

/// Reads the configuration again, and logs what came of it: who sent a signal has no answer.
pub async fn reload(
    reloader: Arc<Mutex<Reloader>>,
    datapath: Arc<Mutex<Datapath>>,
) -> Result<Reloaded, ReloadError> {
    let mut datapath = datapath.lock().await;
    let result = reloader.lock().await.reload(&mut datapath).await;
    match &result {
        Ok(reloaded) => tracing::info!("{reloaded}"),
        Err(error) => tracing::error!("{}", with_sources(error)),
    }
    result
}

/// The keys whose new values take a restart.
fn waiting(running: &Configuration, wanted: &Configuration, queues: usize) -> Vec<&'static str> {
    let (old, new) = (running, wanted);
    [
        ("node", old.node != new.node),
        ("run_dir", old.run_dir != new.run_dir),
        ("ports_namespace", old.ports_namespace != new.ports_namespace),
        ("uplink", old.uplink != new.uplink),
        ("gateway", old.gateway != new.gateway),
        ("workers.queues", new.workers.queues.is_some_and(|wanted| wanted != queues)),
        ("frames", old.frames != new.frames),
        ("memory", old.memory != new.memory),
        ("connections", old.connections != new.connections),
        ("log", old.log != new.log),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn configuration(text: &str) -> Configuration {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("node = \"n\"\n{text}")).unwrap();
        Configuration::read(file.path()).unwrap()
    }

    #[test]
    fn what_takes_a_restart_is_named_and_what_workers_do_is_not() {
        let uplink = "[uplink]\ninterface = \"eth0\"\n";
        let running = configuration(uplink);
        let waiting = |text: &str| waiting(&running, &configuration(text), 2);
        assert_eq!(waiting(uplink), [""; 0]);
        let workers = "[workers]\ncores = [0]\nqueues = 2\npoll = \"spin\"\n";
        assert_eq!(waiting(&format!("{uplink}{workers}")), [""; 0]);
        let more = "[workers]\nqueues = 3\n[frames]\nbytes = 4096\n[log]\nlevel = \"debug\"\n";
        assert_eq!(waiting(&format!("{uplink}{more}")), ["workers.queues", "frames", "log"]);
        let other = "run_dir = \"/run/other\"\n[uplink]\ninterface = \"eth1\"\n";
        assert_eq!(waiting(other), ["run_dir", "uplink"]);
    }

    #[test]
    fn what_came_of_it_is_one_line() {
        let spin = std::time::Duration::from_micros(20);
        let (cores, poll) = (vec![3, 3], Poll::Adaptive { spin });
        let mut reloaded = Reloaded { cores, poll, waiting: Vec::new() };
        let line = "configuration read again: workers on cores [3, 3], adaptive";
        assert_eq!(reloaded.to_string(), line);
        reloaded.waiting = vec!["node", "log"];
        let waiting = "; changed, but in force only after a restart: node, log";
        assert_eq!(reloaded.to_string(), format!("{line}{waiting}"));
    }
}
