//! The ways to match: an exact key, and the longest prefix.
//!
//! Both are persistent: a copy shares everything with its original, and a change copies only the
//! chunk or path that it touches, so a new State costs what changed and not what there is.

mod exact;
mod longest;

pub use exact::Exact;
pub use longest::Longest;
