//! What workers learn from packets, and share: bounded, and written by all of them.
//!
//! Everything here may be lost without harm to who is allowed what: it is found out again.

/// What all workers of a datapath share beside the State.
#[derive(Debug)]
pub struct Learned {}

impl Learned {
    /// Nothing learnt yet.
    pub fn new() -> Learned {
        Learned {}
    }
}

impl Default for Learned {
    fn default() -> Self {
        Self::new()
    }
}

/// What one worker keeps to itself from packet to packet.
#[derive(Debug)]
pub struct WorkerMemory {}

impl WorkerMemory {
    /// That of a worker that has seen no packet.
    pub fn new() -> WorkerMemory {
        WorkerMemory {}
    }
}

impl Default for WorkerMemory {
    fn default() -> Self {
        Self::new()
    }
}
