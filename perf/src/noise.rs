//! What else the machine did while something was measured, and how much it worked in all.

use std::fs;
use std::path::Path;

use seine_e2e::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};

/// Milliseconds of one tick of /proc: USER_HZ is 100 on every Linux that Rust runs on.
pub const TICK_MS: u64 = 10;

/// What the machine did during one measurement, all cores together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Milliseconds that the host took from our cores: the noise floor.
    pub steal_ms: u64,
    /// Milliseconds that the cores worked, softirqs included; idle fillers excepted.
    pub busy_ms: u64,
    /// Load average of the last minute, when it ended.
    pub load: f64,
}

/// The counters of the machine at one time.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    steal: u64,
    busy: u64,
}

impl Meter {
    /// Reads them now.
    pub fn start() -> Outcome<Meter> {
        let path = Path::new("/proc/stat");
        let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
        let meter = text.lines().next().and_then(parse);
        meter.ok_or_else(|| Failure::Unmet("/proc/stat does not begin with `cpu`".to_owned()))
    }

    /// What happened since then.
    pub fn stop(&self) -> Outcome<Noise> {
        let now = Meter::start()?;
        Ok(Noise {
            steal_ms: now.steal.saturating_sub(self.steal) * TICK_MS,
            busy_ms: now.busy.saturating_sub(self.busy) * TICK_MS,
            load: load()?,
        })
    }
}

/// Load average of the last minute.
pub fn load() -> Outcome<f64> {
    let path = Path::new("/proc/loadavg");
    let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| Failure::Unmet(format!("/proc/loadavg holds no number: {text}")))
}

/// The line `cpu user nice system idle iowait irq softirq steal ...`.
///
/// `nice` is left out of what is busy: idle fillers run there (see `topology::fillers`).
fn parse(line: &str) -> Option<Meter> {
    let ticks: Vec<u64> =
        line.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, _nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    Some(Meter { steal, busy: user + system + irq + softirq })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn fillers_and_idling_are_not_work() {
        let meter = parse("cpu  100 1000 20 5000 50 3 4 7 0 0").unwrap();
        assert_eq!((meter.busy, meter.steal), (127, 7));
    }

    #[test]
    fn the_line_of_one_core_is_refused() {
        assert!(parse("cpu0 1 2 3 4 5 6 7 8").is_none());
    }
}
