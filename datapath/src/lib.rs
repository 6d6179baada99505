//! Moves: frames between ports and the pipeline, one worker a core.
//!
//! ```text
//!   service ── writer ── publish ──▶ worker 0, worker 1, ...   each: receive, run, transmit, rest
//!      │          └──── next_hop        │ owns queue w of every port
//!      └─ ports ── devices ─────────────┘
//! ```
//! The packet path is [`worker`], with [`port`] and [`frame`] below it and the pipeline beside it;
//! it shares nothing but what [`publish`] hands over and [`counters`] that others read. All else
//! runs on the main thread.

pub mod answers;
pub mod check;
pub mod configuration;
pub mod counters;
pub mod crash;
pub mod datapath;
pub mod descriptors;
pub mod devices;
pub mod frame;
pub mod ledger;
pub mod links;
pub mod listing;
pub mod machine;
pub mod memory;
pub mod netns;
pub mod next_hop;
pub mod node_devices;
pub mod objects;
mod parts;
pub mod placement;
pub mod port;
pub mod ports;
pub mod process;
pub mod processor;
pub mod publish;
pub mod reload;
pub mod segment;
pub mod service;
pub mod shift;
pub mod slot;
pub mod supervisor;
pub mod underlay;
pub mod upkeep;
pub mod worker;
pub mod workers;
pub mod writer;
