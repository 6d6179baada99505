//! The worker threads: starting, asking, stopping.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, process};

use core_affinity::CoreId;
use crossbeam::channel::{Receiver, Sender, bounded};
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::state::State;
use tokio::sync::oneshot;

use crate::counters::WorkerCounters;
use crate::crash;
use crate::frame::{FrameCache, Region};
use crate::machine::Wake;
use crate::publish::{PublicationReader, PublicationWriter, publication};
use crate::worker::{COMMANDS_MAX, Command, Poll, Worker, WorkerParts};

/// How long a worker may take to answer a command: as long as a batch, in truth.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How workers are to be started.
#[derive(Clone, Debug)]
pub struct WorkersPlan {
    /// The core of each worker; `None` leaves it to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// How they wait for packets.
    pub poll: Poll,
    /// Where crash reports go.
    pub crash_folder: PathBuf,
}

/// Why workers could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No thread, or no descriptor for it.
    #[error("cannot start worker {worker}")]
    Start {
        /// The worker.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
    /// It does not answer.
    #[error("worker {worker} has not answered within {ANSWER_LIMIT:?}")]
    NoAnswer {
        /// The worker.
        worker: usize,
    },
    /// It has a queue of that port already, or cannot watch it.
    #[error("worker {worker} cannot take the port's queue")]
    QueueRefused {
        /// The worker.
        worker: usize,
    },
}

/// One worker, seen from outside.
pub struct WorkerHandle {
    /// Its index: it owns the queues with this index.
    pub index: usize,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// How it waits.
    pub poll: Poll,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    commands: Sender<Command>,
    wake: Arc<Wake>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Asks the worker and waits for its answer.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, WorkerError> {
        let no_answer = WorkerError::NoAnswer { worker: self.index };
        let (sender, answer) = oneshot::channel();
        if self.commands.try_send(command(sender)).is_err() {
            return Err(no_answer);
        }
        self.wake.wake();
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(no_answer),
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

/// Starts the workers, all with `state`.
pub fn start(
    plan: &WorkersPlan,
    region: &'static Region,
    adjacencies: &Arc<AdjacencyTable>,
    state: State,
) -> Result<(PublicationWriter, Vec<WorkerHandle>), WorkerError> {
    let wakes = (0..plan.cores.len())
        .map(|worker| {
            Wake::new().map(Arc::new).map_err(|source| WorkerError::Start { worker, source })
        })
        .collect::<Result<Vec<Arc<Wake>>, WorkerError>>()?;
    let (writer, readers) = publication(state, wakes.clone());
    let mut handles = Vec::new();
    for (index, (reader, wake)) in readers.into_iter().zip(wakes).enumerate() {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let mut handle = WorkerHandle {
            index,
            core: plan.cores[index],
            poll: plan.poll,
            counters: Arc::new(WorkerCounters::default()),
            commands,
            wake,
            stop: Arc::new(AtomicBool::new(false)),
            thread: None,
        };
        let frames = FrameCache::new(region);
        let worker = worker(&handle, reader, receiver, frames, adjacencies.clone())
            .map_err(|source| WorkerError::Start { worker: index, source })?;
        let crash_folder = plan.crash_folder.clone();
        let thread = std::thread::Builder::new()
            .name(format!("{}{index}", crash::WORKER_THREAD_PREFIX))
            .spawn({
                let core = handle.core;
                move || work(worker, index, core, crash_folder)
            })
            .map_err(|source| WorkerError::Start { worker: index, source })?;
        handle.thread = Some(thread);
        handles.push(handle);
    }
    Ok((writer, handles))
}

fn worker(
    handle: &WorkerHandle,
    publication: PublicationReader,
    commands: Receiver<Command>,
    frames: FrameCache,
    adjacencies: Arc<AdjacencyTable>,
) -> io::Result<Worker> {
    Worker::new(WorkerParts {
        publication,
        adjacencies,
        frames,
        counters: handle.counters.clone(),
        commands,
        wake: handle.wake.clone(),
        stop: handle.stop.clone(),
        poll: handle.poll,
    })
}

fn work(mut worker: Worker, index: usize, core: Option<usize>, crash_folder: PathBuf) {
    if let Some(id) = core
        && !core_affinity::set_for_current(CoreId { id })
    {
        tracing::warn!(worker = index, core = id, "cannot pin worker: the scheduler places it");
    }
    if catch_unwind(AssertUnwindSafe(|| worker.serve())).is_err() {
        let message = crash::message();
        match crash::save(&crash_folder, index, &message, worker.in_hand().as_ref()) {
            Ok(report) => tracing::error!(worker = index, report = %report.display(), "panicked"),
            Err(error) => tracing::error!(worker = index, %error, "panicked, and no report"),
        }
        process::abort();
    }
}
