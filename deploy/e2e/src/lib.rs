//! Runs a cluster of network namespaces: real daemons, the real plugin, real traffic.
//!
//! Nodes, an underlay between them and a host outside are network namespaces; on each node run a
//! `seine-datapath` and a `seine-agent`, and Pods are attached by running `seine-cni` as a
//! container runtime does. The demo, the cluster tests and `seine-perf` share this topology.
//!
//! Whatever is made is written to a [`journal`] first, so that [`journal::remove_run`] leaves
//! nothing behind, also after a crash. Only namespaces made here are changed; processes are
//! signalled by an id whose start time still matches.

pub mod attached;
pub mod attack;
pub mod bridge;
pub mod capture;
pub mod cases;
pub mod cluster;
pub mod cni;
pub mod counters;
pub mod daemon;
pub mod decided;
pub mod demo;
pub mod failure;
pub mod frames;
pub mod front_end;
pub mod journal;
pub mod machine;
pub mod manifest;
pub mod measure;
pub mod namespace;
pub mod node;
pub mod ovs;
pub mod pod;
pub mod raw;
pub mod report;
pub mod rows;
pub mod seeded;
pub mod testpmd;
pub mod underlay;
