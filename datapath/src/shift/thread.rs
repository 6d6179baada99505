//! The thread of a shift, seen from outside: starting, calling, ending.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, process};

use core_affinity::CoreId;
use crossbeam::channel::{Sender, bounded, unbounded};

use super::{Order, Poll, Shift};
use crate::crash;
use crate::machine::Wake;
use crate::worker::Worker;

/// How long a thread may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

/// A shift, seen from outside. It ends when this is dropped, with the workers that it has then.
pub(crate) struct ShiftHandle {
    /// The core that it is meant to run on.
    pub core: Option<usize>,
    /// Whether it does.
    pub pinned: bool,
    /// Not bounded, for nothing gathers here: each order is waited for.
    orders: Option<Sender<Order>>,
    called: Arc<AtomicBool>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl ShiftHandle {
    /// Starts a thread for a core that runs these workers.
    pub fn start(
        core: Option<usize>,
        workers: Vec<Box<Worker>>,
        poll: Poll,
        crash_folder: &Path,
    ) -> io::Result<ShiftHandle> {
        let (orders, receiver) = unbounded();
        let (called, wake) = (Arc::<AtomicBool>::default(), Arc::new(Wake::new()?));
        let shift = Shift::new(workers, poll, receiver, called.clone(), wake.clone())?;
        let name = core.map_or_else(|| "any".to_owned(), |core| core.to_string());
        let (began, pinned) = bounded(1);
        let crash_folder = crash_folder.to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("{}{name}", crash::WORKER_THREAD_PREFIX))
            .spawn(move || {
                let pinned = core.is_none_or(|id| core_affinity::set_for_current(CoreId { id }));
                let _ = began.send(pinned);
                work(shift, &crash_folder);
            })?;
        let mut handle = ShiftHandle {
            core,
            pinned: false,
            orders: Some(orders),
            called,
            wake,
            thread: Some(thread),
        };
        handle.pinned = pinned.recv_timeout(BEGIN_LIMIT).unwrap_or(false);
        Ok(handle)
    }

    /// Gives an order. Its workers are to be woken, too.
    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The other end goes only with this one.
            let _ = orders.send(order);
        }
        self.call();
    }

    fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.wake.wake();
    }

    /// Lets it end once its workers are awake.
    pub fn dismiss(&mut self) {
        self.orders = None;
        self.call();
    }
}

impl Drop for ShiftHandle {
    fn drop(&mut self) {
        self.dismiss();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

fn work(mut shift: Shift, crash_folder: &Path) {
    if catch_unwind(AssertUnwindSafe(|| shift.serve())).is_err() {
        let message = crash::message();
        let (worker, in_hand) = shift.in_hand();
        match crash::save(crash_folder, worker, &message, in_hand.as_ref()) {
            Ok(report) => tracing::error!(worker, report = %report.display(), "panicked"),
            Err(error) => tracing::error!(worker, %error, "panicked, and no report"),
        }
        process::abort();
    }
}
