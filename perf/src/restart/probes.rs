//! When probes were sent and when they came.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seine_e2e::daemon::until;
use seine_e2e::failure::Outcome;

/// Between two probes.
pub(super) const PAUSE: Duration = Duration::from_micros(300);
/// How long traffic may take to come back before nobody waits any more.
const BACK_SECONDS_MAX: u64 = 30;

/// The probes of one way, for who sends them, who takes them and who asks. Times are nanoseconds
/// since a moment that all ways have in common.
#[derive(Debug)]
pub struct Probes {
    base: Instant,
    came: Mutex<Vec<Came>>,
    stop: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Came {
    sent_ns: u64,
    at_ns: u64,
}

impl Probes {
    /// None yet, with times since `base`.
    pub fn since(base: Instant) -> Probes {
        Probes { base, came: Mutex::default(), stop: AtomicBool::default() }
    }

    /// Now.
    pub fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// One came that was sent then.
    pub(super) fn came(&self, sent_ns: u64) {
        let came = Came { sent_ns, at_ns: self.now_ns() };
        self.came.lock().unwrap_or_else(|it| it.into_inner()).push(came);
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        self.came.lock().unwrap_or_else(|it| it.into_inner()).clear();
    }

    fn first_after(&self, sent_ns: u64) -> Option<u64> {
        let came = self.came.lock().unwrap_or_else(|it| it.into_inner());
        came.iter().find(|it| it.sent_ns > sent_ns).map(|it| it.at_ns)
    }

    /// Waits until one came that was sent after `sent_ns`: when it did.
    pub fn back_ns(&self, what: &str, sent_ns: u64) -> Outcome<u64> {
        let mut at = None;
        until(&format!("packets {what}"), BACK_SECONDS_MAX, || {
            at = self.first_after(sent_ns);
            at.is_some()
        })?;
        Ok(at.unwrap_or_default())
    }

    /// Ends those who send.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_was_sent_before_a_death_does_not_count_however_late_it_comes() {
        let probes = Probes::since(Instant::now());
        let dead = probes.now_ns();
        probes.came(dead.saturating_sub(1));
        assert_eq!(probes.first_after(dead), None);
        probes.came(dead + 1);
        probes.came(dead + 2);
        let at = probes.back_ns("in a test", dead).unwrap();
        assert!(at >= dead && at <= probes.now_ns());
        probes.forget();
        assert_eq!(probes.first_after(0), None);
    }
}
