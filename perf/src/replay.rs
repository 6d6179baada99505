//! Packets through Seine's pipeline and through Open vSwitch, side by side: the same States, the
//! same frames, and what leaves by which port compared byte for byte.
//!
//! The switch is Open vSwitch's own, in user space, with ports that are sockets of ours: private,
//! without root, a device or a namespace. What it is told is written by [`openflow`] from the
//! objects that Seine's node has. docs/decisions/0028-replay.md says what is compared, what must
//! differ, and what is skipped.
//!
//! [`openflow`]: crate::openflow

mod compare;
mod node;
mod peer;
pub mod report;
mod script;
mod state;
mod switch;
mod talk;

use node::Both;
use report::Summary;
use state::State;
use switch::Switch;

/// Why a replay could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Open vSwitch does not do as it is told.
    #[error("{what}: {told}")]
    Switch {
        /// What was asked of it.
        what: String,
        /// What it said.
        told: String,
    },
    /// A file or socket fails.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// A State cannot be made.
    #[error("seed {seed}: {reason}")]
    State {
        /// Of which cluster.
        seed: u64,
        /// Why.
        reason: String,
    },
}

impl ReplayError {
    fn io(what: &str) -> impl FnOnce(std::io::Error) -> ReplayError + '_ {
        move |source| ReplayError::Io { what: what.to_owned(), source }
    }
}

/// How much to replay.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// So many States at least.
    pub states: usize,
    /// So many packets at least, over all States.
    pub packets: usize,
    /// Where chance begins.
    pub seed: u64,
}

/// Replays. What differs is told one by one; there may be too much to tell.
pub fn replay(extent: Extent, mut tell: impl FnMut(&str)) -> Result<Summary, ReplayError> {
    let mut switch = Switch::start(node::PORTS)?;
    let mut summary = Summary { seed: extent.seed, ..Summary::default() };
    let mut seed = extent.seed;
    while summary.states < extent.states.max(1) {
        for state in state::generate(seed)? {
            if summary.states >= extent.states.max(1) {
                break;
            }
            let State { mut scene, mut machine } = state;
            let left = extent.states.saturating_sub(summary.states).max(1);
            let wanted = extent.packets.saturating_sub(summary.packets).div_ceil(left);
            summary.states += 1;
            let mut both = Both::begin(seed, &mut machine, &mut switch, &mut summary)?;
            talk::all(&mut scene, &mut both, wanted, &mut summary, &mut tell)?;
        }
        seed += 1;
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
