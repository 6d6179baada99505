//! Workers: which cores poll, which queue goes where, and how they wait.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigurationError, WORKERS_MAX};
use crate::placement::places;
use crate::shift::Poll;

/// The workers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// The cores that poll.
    pub cores: Vec<usize>,
    /// Whether `cores` are indexes into those that this process was given.
    pub relative: bool,
    /// Queues of each port, and so workers; as many as cores when it is not said.
    pub queues: Option<usize>,
    /// Which core polls which queue.
    pub placement: Queues,
    /// How they wait.
    pub poll: PollMode,
    /// How long an adaptive worker looks before it sleeps, in microseconds.
    pub spin_us: u64,
}

/// Which core polls which queue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "QueuesText")]
pub enum Queues {
    /// They are dealt out to the cores in turn.
    Auto,
    /// Of each queue its core, as `cores` names it.
    Placed(Vec<usize>),
}

/// How that is written.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"auto\" or the core of each queue, like [0, 0, 1]")]
enum QueuesText {
    Word(String),
    Cores(Vec<usize>),
}

impl TryFrom<QueuesText> for Queues {
    type Error = String;

    fn try_from(text: QueuesText) -> Result<Queues, String> {
        match text {
            QueuesText::Cores(cores) => Ok(Queues::Placed(cores)),
            QueuesText::Word(word) if word == "auto" => Ok(Queues::Auto),
            QueuesText::Word(word) => {
                Err(format!("`{word}` is neither \"auto\" nor the core of each queue"))
            }
        }
    }
}

/// How workers wait for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PollMode {
    /// They sleep when there is nothing to do.
    Adaptive,
    /// They never sleep.
    Spin,
}

impl Default for Workers {
    fn default() -> Self {
        Workers {
            cores: vec![0, 1],
            relative: false,
            queues: None,
            placement: Queues::Auto,
            poll: PollMode::Adaptive,
            spin_us: 20,
        }
    }
}

impl Workers {
    /// Queues of each port, and so workers.
    pub fn queue_count(&self) -> usize {
        self.queues.unwrap_or(self.cores.len())
    }

    /// How they wait.
    pub fn poll(&self) -> Poll {
        match self.poll {
            PollMode::Spin => Poll::Spin,
            PollMode::Adaptive => Poll::Adaptive { spin: Duration::from_micros(self.spin_us) },
        }
    }

    /// Refuses what cannot work on any machine.
    pub(super) fn check(&self) -> Result<(), ConfigurationError> {
        let refuse = |key, reason: String| Err(ConfigurationError::Value { key, reason });
        let mut unique = self.cores.clone();
        unique.sort_unstable();
        unique.dedup();
        for (key, count) in
            [("workers.cores", self.cores.len()), ("workers.queues", self.queue_count())]
        {
            if !(1..=WORKERS_MAX).contains(&count) {
                return refuse(key, format!("{count}; 1 to {WORKERS_MAX} can be used"));
            }
        }
        if unique.len() != self.cores.len() {
            return refuse("workers.cores", "a core is named twice".into());
        }
        if self.spin_us > 1_000_000 {
            let reason = "above a second; `poll = \"spin\"` never rests".into();
            return refuse("workers.spin_us", reason);
        }
        places(self, self.queue_count())?;
        Ok(())
    }
}
