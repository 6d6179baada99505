//! How long packets took, counted in steps so that nothing is allocated while they pass.

/// Cycles of a step.
const STEP_CYCLES: u64 = 64;
/// Steps; what takes longer is counted in wide ones.
const STEPS: usize = 1 << 16;
/// Cycles of a wide step: 6 us where a nanosecond has 2.6 cycles.
const WIDE_STEP_CYCLES: u64 = STEP_CYCLES << 8;
/// Wide steps, 0.4 s; what takes longer counts as the last one.
const WIDE_STEPS: usize = 1 << 16;

/// How many packets took how long.
#[derive(Clone, Debug)]
pub struct Delays {
    counts: Vec<u32>,
    wide: Vec<u32>,
    total: u64,
}

impl Default for Delays {
    fn default() -> Delays {
        Delays { counts: vec![0; STEPS], wide: vec![0; WIDE_STEPS], total: 0 }
    }
}

impl Delays {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.wide.fill(0);
        self.total = 0;
    }

    /// Counts one that took so many cycles.
    #[inline]
    pub fn add(&mut self, cycles: u64) {
        match self.counts.get_mut((cycles / STEP_CYCLES).min(STEPS as u64) as usize) {
            Some(count) => *count += 1,
            None => {
                let step = (cycles / WIDE_STEP_CYCLES).min(WIDE_STEPS as u64 - 1) as usize;
                self.wide[step] += 1;
            }
        }
        self.total += 1;
    }

    /// Cycles that so many of a hundred did not exceed, to a step; none where nothing was counted.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = (percent / 100.0 * self.total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let mut reached = |count: &u32| {
            below += u64::from(*count);
            below >= rank
        };
        let middle = |step: usize, cycles: u64| (step as u64 * cycles + cycles / 2) as f64;
        if let Some(step) = self.counts.iter().position(&mut reached) {
            return Some(middle(step, STEP_CYCLES));
        }
        self.wide.iter().position(reached).map(|step| middle(step, WIDE_STEP_CYCLES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_counted() {
        let mut delays = Delays::default();
        assert_eq!(delays.percentile(50.0), None);
        for _ in 0..98 {
            delays.add(1000);
        }
        delays.add(64_000);
        delays.add(u64::MAX);
        assert_eq!(delays.percentile(50.0), Some(992.0));
        assert_eq!(delays.percentile(99.0), Some(64_032.0));
        assert!(delays.percentile(100.0) > Some(1e9));
        delays.clear();
        assert_eq!(delays.percentile(50.0), None);
    }

    #[test]
    fn what_takes_long_is_told_from_what_takes_longer() {
        let mut delays = Delays::default();
        for cycles in [5_000_000, 50_000_000, 500_000_000] {
            delays.add(cycles);
        }
        for (percent, cycles) in [(33.0, 5e6), (66.0, 5e7), (99.0, 5e8)] {
            let found = delays.percentile(percent).unwrap_or_default();
            assert!((found / cycles - 1.0_f64).abs() < 0.01, "{percent}: {found}");
        }
    }
}
