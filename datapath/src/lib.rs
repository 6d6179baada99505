//! Moves: frames between ports and the pipeline, one worker a core.

pub mod frame;
pub mod netns;
pub mod port;
