//! Other people's cases, as data: read, mapped, played.
//!
//! A [`file`] holds clusters and what must hold in them. See perf/cases/README.md for the format
//! and for where our copies come from.

pub mod address;
mod admission;
pub mod attempt;
pub mod desired;
mod expect;
pub mod expectation;
pub mod file;
pub mod load;
pub mod manifest;
mod opinion;
pub mod play;
pub mod report;
mod resolve;
pub mod segment;
pub mod settle;
pub mod stage;
pub mod world;

pub use opinion::{opinion, query};
