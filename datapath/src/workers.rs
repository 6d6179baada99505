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
use seine_pipeline::learned::Learned;
use seine_pipeline::state::State;
use seine_pipeline::tally::RuleTallies;
use tokio::sync::oneshot;

use crate::counters::WorkerCounters;
use crate::crash;
use crate::frame::{FrameCache, Region};
use crate::machine::Wake;
use crate::processor::Processor;
use crate::publish::{PublicationReader, PublicationWriter, publication};
use crate::slot::{COMMANDS_MAX, Command};
use crate::upkeep::{AuditRing, Upkeep};
use crate::worker::{Poll, Worker, WorkerParts};

/// How long a worker may take to answer a command: as long as a batch, in truth.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How workers are to be started.
#[derive(Clone)]
pub struct WorkersPlan {
    /// The core of each worker; `None` leaves it to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// How they wait for packets.
    pub poll: Poll,
    /// Where crash reports go.
    pub crash_folder: PathBuf,
    /// What they learn from packets, together.
    pub learned: Arc<Learned>,
    /// One composed decision in so many is checked against the stages.
    pub sample_every: u32,
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
    /// What rules have decided there.
    pub tallies: Arc<RuleTallies>,
    /// Its audit records.
    pub audit: Arc<AuditRing>,
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
        let upkeep = Upkeep::new(plan.learned.clone()).sampling(plan.sample_every);
        let mut handle = WorkerHandle {
            index,
            core: plan.cores[index],
            poll: plan.poll,
            counters: Arc::new(WorkerCounters::default()),
            tallies: upkeep.memory.tallies.clone(),
            audit: upkeep.audit.clone(),
            commands,
            wake,
            stop: Arc::new(AtomicBool::new(false)),
            thread: None,
        };
        let frames = FrameCache::new(region);
        let own = (upkeep, adjacencies.clone());
        let worker = worker(&handle, reader, receiver, frames, own)
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
    (upkeep, adjacencies): (Upkeep, Arc<AdjacencyTable>),
) -> io::Result<Worker> {
    Worker::new(WorkerParts {
        publication,
        adjacencies,
        upkeep,
        frames,
        counters: handle.counters.clone(),
        commands,
        wake: handle.wake.clone(),
        stop: handle.stop.clone(),
        poll: handle.poll,
        processor: Processor::detect(),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::counters::PortCounters;
    use crate::port::memory::{self, MemoryOptions};
    use crate::slot::Slot;
    use crate::worker::tests::{objects, tripping_packet};
    use seine_pipeline::address::PortId;
    use seine_pipeline::packet::Checksum;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command as Process;

    const CRASH_FOLDER: &str = "SEINE_TEST_CRASH_FOLDER";

    fn start_one(crash_folder: PathBuf, region: &'static Region) -> WorkerHandle {
        let poll = Poll::Adaptive { spin: Duration::from_micros(20) };
        let learned = Arc::new(Learned::new(7));
        let cores = vec![None];
        let plan = WorkersPlan { cores, poll, crash_folder, learned, sample_every: 1 };
        let state = State::new(7).apply(&objects()).unwrap();
        let (_, mut handles) = start(&plan, region, &Arc::default(), state).unwrap();
        handles.remove(0)
    }

    /// Not a test of its own: what the next one runs as a process.
    #[test]
    fn process_that_panics() {
        let Ok(folder) = std::env::var(CRASH_FOLDER) else { return };
        crash::install_hook();
        let region = Region::map(256, 2048).unwrap();
        let handle = start_one(folder.into(), region);
        let (mut queues, mut wires) = memory::open(region, MemoryOptions::default()).unwrap();
        let slot = Slot::new(PortId::new(2).unwrap(), queues.remove(0), Arc::default());
        assert!(wires[0].inject(&tripping_packet(), Checksum::Complete));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(handle.ask(|done| Command::Add(slot, done))).unwrap();
        std::thread::sleep(Duration::from_secs(10));
    }

    #[test]
    fn a_worker_that_panics_saves_its_frame_and_ends_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let output = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::tests::process_that_panics", "--nocapture"])
            .env(CRASH_FOLDER, folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let [capture, text] = files.try_into().unwrap();
        let report = std::fs::read_to_string(text).unwrap();
        assert!(report.starts_with("worker 0: panicked at "), "{report}");
        assert!(report.contains("tripped\ningress port 2\n"), "{report}");
        let mut reader = pcap_file::pcap::PcapReader::new(std::fs::File::open(capture).unwrap());
        let packet = reader.as_mut().unwrap().next_packet().unwrap().unwrap();
        assert_eq!(*packet.data, tripping_packet());
    }

    #[test]
    fn a_slot_for_a_port_that_has_one_comes_back() {
        let region = Region::map(256, 2048).unwrap();
        let handle = start_one(PathBuf::new(), region);
        let options = MemoryOptions { queues: 2, ..MemoryOptions::default() };
        let (queues, _wires) = memory::open(region, options).unwrap();
        let counters: Arc<PortCounters> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answers: Vec<bool> = queues
            .into_iter()
            .map(|queue| {
                let slot = Slot::new(PortId::new(2).unwrap(), queue, counters.clone());
                let answer = runtime.block_on(handle.ask(|done| Command::Add(slot, done)));
                answer.unwrap().is_none()
            })
            .collect();
        assert_eq!(answers, [true, false]);
    }
}
