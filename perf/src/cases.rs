//! Other people's cases, as data: read, mapped, played.
//!
//! A [`file`] holds clusters and what must hold in them. See perf/cases/README.md for the format
//! and for where our copies come from.

pub mod address;
pub mod desired;
pub mod expectation;
pub mod file;
pub mod load;
pub mod manifest;
mod opinion;
pub mod segment;
pub mod settle;

pub use opinion::{opinion, query};
