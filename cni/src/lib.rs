//! Asks: the CNI plugin, and the gRPC words in which it asks the agent (`proto/cni.proto`).
//!
//! A call goes through four rooms: [`Environment`] and [`NetworkConfig`] check what the runtime
//! gave, [`plugin`] decides what to ask, [`agent`] asks, [`result`] says it in the words of the
//! version that the runtime speaks. Errors are [`CniError`] on every path, because the runtime
//! reads them as JSON from stdout.
//!
//! The agent shares [`v1`] and [`Code`].

#![forbid(unsafe_code)]

pub mod agent;
pub mod config;
mod environment;
mod error;
pub mod help;
pub mod plugin;
pub mod result;
mod version;

pub use config::NetworkConfig;
pub use environment::{Attachment, Command, Environment};
pub use error::{CniError, Code};
pub use version::SpecVersion;

/// Version 1 of the words between plugin and agent.
pub mod v1 {
    #![allow(missing_docs, reason = "generated; the proto file is the documentation")]
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("seine.cni.v1");
}
