//! Publication: how a new State reaches every worker, and when the old one is freed.
//!
//! The writer stores a State and raises the sequence number; a worker compares that number with
//! its own between two batches, takes the State and acknowledges. The writer keeps every State
//! until all workers have acknowledged a later one, so the last reference is always the writer's
//! and no worker ever pays for freeing a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use seine_pipeline::state::State;
use tokio::sync::Notify;

use crate::machine::Wake;

/// One published State.
pub struct Published {
    /// Counts publications of this process, from 1; the State at start is 0.
    pub sequence: u64,
    /// The agent's revision that it contains.
    pub revision: u64,
    /// The tables.
    pub state: State,
}

/// What writer and workers share.
pub struct Publication {
    current: ArcSwap<Published>,
    sequence: AtomicU64,
    acknowledged: Box<[Acknowledgement]>,
    passed: Notify,
}

/// On a cache line of its own: each worker writes one.
#[derive(Default)]
#[repr(align(64))]
struct Acknowledgement {
    sequence: AtomicU64,
    revision: AtomicU64,
}

/// A worker did not take a publication in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "worker {worker} has not passed revision {revision} within {waited:?}; \
     it is published and takes force there with the worker's next batch"
)]
pub struct NotPassed {
    /// The worker that is behind.
    pub worker: usize,
    /// What was published.
    pub revision: u64,
    /// How long was waited.
    pub waited: Duration,
}

/// The writer's end.
pub struct PublicationWriter {
    shared: Arc<Publication>,
    wakes: Vec<Arc<Wake>>,
    /// Every State that a worker may still hold, oldest first, the current one last.
    kept: Vec<Arc<Published>>,
}

/// A worker's end.
pub struct PublicationReader {
    shared: Arc<Publication>,
    worker: usize,
    current: Arc<Published>,
}

/// The ends for a writer and one worker per wake, all with `state` as revision 0.
pub fn publication(
    state: State,
    wakes: Vec<Arc<Wake>>,
) -> (PublicationWriter, Vec<PublicationReader>) {
    let first = Arc::new(Published { sequence: 0, revision: 0, state });
    let shared = Arc::new(Publication {
        current: ArcSwap::new(first.clone()),
        sequence: AtomicU64::new(0),
        acknowledged: wakes.iter().map(|_| Acknowledgement::default()).collect(),
        passed: Notify::new(),
    });
    let readers = (0..wakes.len())
        .map(|worker| PublicationReader { shared: shared.clone(), worker, current: first.clone() })
        .collect();
    (PublicationWriter { shared, wakes, kept: vec![first] }, readers)
}

impl PublicationWriter {
    /// What is published now.
    pub fn current(&self) -> Arc<Published> {
        self.shared.current.load_full()
    }

    /// Publishes `state` and wakes workers at rest. Returns its sequence number.
    pub fn publish(&mut self, revision: u64, state: State) -> u64 {
        let sequence = self.shared.sequence.load(Ordering::Relaxed) + 1;
        let next = Arc::new(Published { sequence, revision, state });
        self.kept.push(next.clone());
        self.shared.current.store(next);
        self.shared.sequence.store(sequence, Ordering::Release);
        for wake in &self.wakes {
            wake.wake();
        }
        self.free_passed();
        sequence
    }

    /// Waits until every worker has passed `sequence`.
    pub async fn passed(&mut self, sequence: u64, limit: Duration) -> Result<(), NotPassed> {
        let wait = async {
            loop {
                // Registered before the look, so that an acknowledgement in between is not lost.
                let notified = self.shared.passed.notified();
                if self.shared.laggard(sequence).is_none() {
                    return;
                }
                notified.await;
            }
        };
        let in_time = tokio::time::timeout(limit, wait).await.is_ok();
        self.free_passed();
        match self.shared.laggard(sequence) {
            Some(worker) if !in_time => {
                Err(NotPassed { worker, revision: self.current().revision, waited: limit })
            }
            _ => Ok(()),
        }
    }

    /// The revision that a worker works with.
    pub fn revision_of(&self, worker: usize) -> u64 {
        self.shared.acknowledged[worker].revision.load(Ordering::Relaxed)
    }

    /// States that are not freed yet, the current one among them.
    pub fn states_kept(&self) -> usize {
        self.kept.len()
    }

    fn free_passed(&mut self) {
        let passed = self.shared.slowest();
        self.kept.retain(|published| published.sequence >= passed);
    }
}

impl Publication {
    fn slowest(&self) -> u64 {
        self.sequences().min().unwrap_or(self.sequence.load(Ordering::Relaxed))
    }

    fn laggard(&self, sequence: u64) -> Option<usize> {
        self.sequences().position(|acknowledged| acknowledged < sequence)
    }

    fn sequences(&self) -> impl Iterator<Item = u64> {
        // Acquire pairs with the worker's release: it has dropped its older State by then.
        self.acknowledged.iter().map(|worker| worker.sequence.load(Ordering::Acquire))
    }
}

impl PublicationReader {
    /// The worker whose end this is.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The State to work with until the next `observe`.
    pub fn current(&self) -> &Published {
        &self.current
    }

    /// Takes the newest State, if there is a newer one, and acknowledges it. Between batches.
    pub fn observe(&mut self) -> bool {
        if self.shared.sequence.load(Ordering::Acquire) == self.current.sequence {
            return false;
        }
        // Not the last reference: the writer keeps one until the acknowledgement below.
        self.current = self.shared.current.load_full();
        let acknowledgement = &self.shared.acknowledged[self.worker];
        acknowledgement.revision.store(self.current.revision, Ordering::Relaxed);
        acknowledgement.sequence.store(self.current.sequence, Ordering::Release);
        self.shared.passed.notify_waiters();
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn wakes(count: usize) -> Vec<Arc<Wake>> {
        (0..count).map(|_| Arc::new(Wake::new().unwrap())).collect()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_state_is_kept_until_every_worker_has_passed_the_next() {
        let (mut writer, mut readers) = publication(State::new(1), wakes(2));
        let first = Arc::downgrade(&writer.current());
        writer.publish(1, State::new(1));
        readers[0].observe();
        writer.free_passed();
        assert!(first.upgrade().is_some(), "worker 1 still works with it");
        readers[1].observe();
        assert!(first.upgrade().is_some(), "a worker's acknowledgement frees nothing");
        writer.free_passed();
        assert!(first.upgrade().is_none());
        assert_eq!(writer.states_kept(), 1);
    }

    #[test]
    fn a_worker_that_does_not_pass_is_named() {
        let (mut writer, mut readers) = publication(State::new(1), wakes(2));
        let sequence = writer.publish(7, State::new(1));
        readers[0].observe();
        let refused =
            runtime().block_on(writer.passed(sequence, Duration::from_millis(20))).unwrap_err();
        assert_eq!((refused.worker, refused.revision), (1, 7));
        readers[1].observe();
        runtime().block_on(writer.passed(sequence, Duration::from_millis(20))).unwrap();
    }

    #[test]
    fn two_workers_pass_a_thousand_revisions_in_order_and_all_old_states_are_freed() {
        let (mut writer, readers) = publication(State::new(1), wakes(2));
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let (mut last, mut changes) = (0, 0_u32);
                    while !stop.load(Ordering::Relaxed) {
                        if reader.observe() {
                            let now = reader.current().revision;
                            assert!(now > last, "{now} after {last}");
                            (last, changes) = (now, changes + 1);
                        }
                        std::thread::yield_now();
                    }
                    (last, changes)
                })
            })
            .collect();
        let runtime = runtime();
        for revision in 1..=1000 {
            let sequence = writer.publish(revision, State::new(1));
            runtime.block_on(writer.passed(sequence, Duration::from_secs(10))).unwrap();
            assert_eq!(writer.revision_of(0), revision);
            assert_eq!(writer.states_kept(), 1);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert_eq!(worker.join().unwrap(), (1000, 1000));
        }
    }
}
