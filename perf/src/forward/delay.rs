//! How long packets took, counted in steps so that nothing is allocated while they pass.

/// Cycles of a step.
const STEP_CYCLES: u64 = 64;
/// Steps; what takes longer counts as the last one.
const STEPS: usize = 1 << 16;

/// How many packets took how long.
#[derive(Clone, Debug)]
pub struct Delays {
    counts: Vec<u32>,
    total: u64,
}

impl Default for Delays {
    fn default() -> Delays {
        Delays { counts: vec![0; STEPS], total: 0 }
    }
}

impl Delays {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// Counts one that took so many cycles.
    #[inline]
    pub fn add(&mut self, cycles: u64) {
        let step = (cycles / STEP_CYCLES).min(STEPS as u64 - 1) as usize;
        self.counts[step] += 1;
        self.total += 1;
    }

    /// Cycles that so many of a hundred did not exceed, to a step; none where nothing was counted.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = (percent / 100.0 * self.total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let step = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        })?;
        Some((step as u64 * STEP_CYCLES + STEP_CYCLES / 2) as f64)
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
        assert!(delays.percentile(100.0) > Some(4_000_000.0));
        delays.clear();
        assert_eq!(delays.percentile(50.0), None);
    }
}
