//! What a replay comes to.

use std::collections::BTreeMap;

use serde::Serialize;

/// The sum of a replay: its last line, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Where chance began.
    pub seed: u64,
    /// States that were loaded into both.
    pub states: usize,
    /// Packets that both were given.
    pub packets: usize,
    /// Those that both let through, by the same port and with the same bytes.
    pub forwarded: usize,
    /// Those that both dropped.
    pub dropped: usize,
    /// Those that Seine answered itself and Open vSwitch handed to the agent, to be answered.
    pub refused: usize,
    /// Those that differ, and must not.
    pub mismatches: usize,
    /// Packets that were not compared, or only in part, by what stands in the way.
    pub skipped_features: BTreeMap<String, usize>,
    /// Parts of States that no flows are written for.
    pub left_out: BTreeMap<String, usize>,
}

impl Summary {
    pub(super) fn skip(&mut self, feature: &str) {
        *self.skipped_features.entry(feature.to_owned()).or_default() += 1;
    }
}
