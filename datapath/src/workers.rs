//! The workers, seen from outside: starting, asking, placing on cores.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use crossbeam::channel::{Receiver, Sender, bounded};
use seine_pipeline::adjacency::AdjacencyTable;
use seine_pipeline::learned::Learned;
use seine_pipeline::state::State;
use seine_pipeline::tally::RuleTallies;
use tokio::sync::oneshot;

use crate::counters::WorkerCounters;
use crate::frame::{FrameCache, Region};
use crate::machine::Wake;
use crate::placement::Placement;
use crate::processor::Processor;
use crate::publish::{PublicationReader, PublicationWriter, publication};
use crate::shift::{GiveError, Order, Poll, ShiftHandle};
use crate::slot::{COMMANDS_MAX, Command};
use crate::upkeep::{AuditRing, Upkeep};
use crate::worker::{Worker, WorkerParts};

/// How long a worker may take to answer a command: as long as a batch, in truth.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How workers are to be started.
#[derive(Clone)]
pub struct WorkersPlan {
    /// How many, and on which cores.
    pub placement: Placement,
    /// How they wait for packets.
    pub poll: Poll,
    /// Where crash reports go.
    pub crash_folder: PathBuf,
    /// What they learn from packets, together.
    pub learned: Arc<Learned>,
    /// One composed decision in so many is checked against the stages.
    pub sample_every: u32,
}

/// Why workers could not be started, asked or placed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No descriptor for it.
    #[error("cannot start worker {worker}")]
    Start {
        /// The worker.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for workers")]
    Thread(#[source] io::Error),
    /// The system does not let a thread run there.
    #[error("no thread of this process may run on core {core}")]
    Pin {
        /// The core.
        core: usize,
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
    /// It stays where it is.
    #[error("worker {worker} cannot move to another core: {source}")]
    Stays {
        /// The worker.
        worker: usize,
        /// Why.
        source: GiveError,
    },
}

/// One worker, seen from outside.
pub struct WorkerHandle {
    /// Its index: it owns the queues with this index.
    pub index: usize,
    /// The core that it runs on.
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
    /// The place of the shift that runs it.
    shift: usize,
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
        answer_within(ANSWER_LIMIT, answer).await.ok_or(no_answer)
    }
}

/// All workers, in their order, and the threads that run them.
pub struct Workers {
    handles: Vec<WorkerHandle>,
    shifts: Vec<ShiftHandle>,
    poll: Poll,
    crash_folder: PathBuf,
}

impl Deref for Workers {
    type Target = [WorkerHandle];

    fn deref(&self) -> &[WorkerHandle] {
        &self.handles
    }
}

impl Workers {
    /// Runs the workers on these cores from now on, and has them wait in this way. What fails
    /// before a worker has moved changes nothing; a worker that does not answer ends it half-way,
    /// and doing it again goes on from there.
    pub async fn place(&mut self, placement: &Placement, poll: Poll) -> Result<(), WorkerError> {
        assert_eq!(placement.places().len(), self.handles.len(), "a place for each worker");
        let result = self.move_to(placement, poll).await;
        self.dismiss_idle();
        result
    }

    async fn move_to(&mut self, placement: &Placement, poll: Poll) -> Result<(), WorkerError> {
        let shifts = self.shifts_for(placement)?;
        for (worker, &place) in placement.places().iter().enumerate() {
            let shift = shifts[place];
            if self.handles[worker].shift != shift {
                let given = self.give(worker).await?;
                let core = self.shifts[shift].core;
                let handle = &mut self.handles[worker];
                (handle.shift, handle.core) = (shift, core);
                self.ask_shift(shift, worker, |done| Order::Take(given, done)).await?;
            }
        }
        for (shift, worker) in self.first_workers() {
            self.ask_shift(shift, worker, |done| Order::Poll(poll, done)).await?;
        }
        self.poll = poll;
        self.handles.iter_mut().for_each(|handle| handle.poll = poll);
        Ok(())
    }

    /// Of each core of the placement its shift: one that is there, or a new one without workers.
    fn shifts_for(&mut self, placement: &Placement) -> Result<Vec<usize>, WorkerError> {
        let mut found: Vec<usize> = Vec::new();
        for &core in placement.cores() {
            let there = self
                .shifts
                .iter()
                .enumerate()
                .position(|(at, shift)| shift.core == core && !found.contains(&at));
            found.push(match there {
                Some(at) => at,
                None => {
                    self.shifts.push(start_shift(core, Vec::new(), self.poll, &self.crash_folder)?);
                    self.shifts.len() - 1
                }
            });
            if let Some(shift) = found.last().and_then(|&at| self.shifts.get(at))
                && let (false, Some(core)) = (shift.pinned, core)
            {
                return Err(WorkerError::Pin { core });
            }
        }
        Ok(found)
    }

    async fn give(&self, worker: usize) -> Result<Box<Worker>, WorkerError> {
        let shift = self.handles[worker].shift;
        let given = self.ask_shift(shift, worker, |done| Order::Give(worker, done)).await?;
        given.map_err(|source| WorkerError::Stays { worker, source })
    }

    /// Asks a shift on behalf of a worker and waits for its answer.
    async fn ask_shift<T>(
        &self,
        shift: usize,
        worker: usize,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, WorkerError> {
        let (sender, answer) = oneshot::channel();
        self.shifts[shift].order(order(sender));
        self.wake_workers(shift);
        answer_within(ANSWER_LIMIT, answer).await.ok_or(WorkerError::NoAnswer { worker })
    }

    /// A shift sleeps in the beds of its workers.
    fn wake_workers(&self, shift: usize) {
        let there = self.handles.iter().filter(|handle| handle.shift == shift);
        there.for_each(|handle| handle.wake.wake());
    }

    /// Every shift that has workers, and the first of them.
    fn first_workers(&self) -> Vec<(usize, usize)> {
        let mut first: Vec<(usize, usize)> = Vec::new();
        for handle in &self.handles {
            if first.iter().all(|&(shift, _)| shift != handle.shift) {
                first.push((handle.shift, handle.index));
            }
        }
        first
    }

    /// Ends the threads that have no worker any more.
    fn dismiss_idle(&mut self) {
        for (at, shift) in mem::take(&mut self.shifts).into_iter().enumerate() {
            let kept = self.shifts.len();
            let mut any = false;
            for handle in self.handles.iter_mut().filter(|handle| handle.shift == at) {
                (handle.shift, any) = (kept, true);
            }
            if any {
                self.shifts.push(shift);
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shifts.iter_mut().for_each(ShiftHandle::dismiss);
        self.handles.iter().for_each(|handle| handle.wake.wake());
    }
}

/// Waits for an answer, which may be a whole worker or a queue: what is not taken here stays with
/// whoever answers, and nothing is lost in between.
async fn answer_within<T>(limit: Duration, mut answer: oneshot::Receiver<T>) -> Option<T> {
    match tokio::time::timeout(limit, &mut answer).await {
        Ok(answer) => answer.ok(),
        Err(_) => {
            answer.close();
            answer.try_recv().ok()
        }
    }
}

/// Starts the workers, all with `state`.
pub fn start(
    plan: &WorkersPlan,
    region: &'static Region,
    adjacencies: &Arc<AdjacencyTable>,
    state: State,
) -> Result<(PublicationWriter, Workers), WorkerError> {
    let places = plan.placement.places();
    let wakes = (0..places.len())
        .map(|worker| {
            Wake::new().map(Arc::new).map_err(|source| WorkerError::Start { worker, source })
        })
        .collect::<Result<Vec<Arc<Wake>>, WorkerError>>()?;
    let (writer, readers) = publication(state, wakes.clone());
    let cores = plan.placement.cores();
    let mut on_cores: Vec<Vec<Box<Worker>>> = cores.iter().map(|_| Vec::new()).collect();
    let mut handles = Vec::new();
    for (index, (reader, wake)) in readers.into_iter().zip(wakes).enumerate() {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let upkeep = Upkeep::new(plan.learned.clone()).sampling(plan.sample_every);
        let handle = WorkerHandle {
            index,
            core: cores[places[index]],
            poll: plan.poll,
            counters: Arc::new(WorkerCounters::default()),
            tallies: upkeep.memory.tallies.clone(),
            audit: upkeep.audit.clone(),
            commands,
            wake,
            shift: places[index],
        };
        let own = (upkeep, adjacencies.clone());
        let worker = worker(&handle, reader, receiver, FrameCache::new(region), own)
            .map_err(|source| WorkerError::Start { worker: index, source })?;
        on_cores[places[index]].push(Box::new(worker));
        handles.push(handle);
    }
    let (poll, crash_folder) = (plan.poll, plan.crash_folder.clone());
    let mut workers = Workers { handles, shifts: Vec::new(), poll, crash_folder };
    for (&core, there) in cores.iter().zip(on_cores) {
        let shift = start_shift(core, there, poll, &workers.crash_folder)?;
        if !shift.pinned {
            tracing::warn!(core, "cannot pin a worker's thread: the scheduler places it");
        }
        workers.shifts.push(shift);
    }
    Ok((writer, workers))
}

fn start_shift(
    core: Option<usize>,
    workers: Vec<Box<Worker>>,
    poll: Poll,
    crash_folder: &std::path::Path,
) -> Result<ShiftHandle, WorkerError> {
    ShiftHandle::start(core, workers, poll, crash_folder).map_err(WorkerError::Thread)
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
        processor: Processor::detect(),
    })
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
