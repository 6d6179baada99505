//! Knows: Kubernetes state, addresses and attachments become objects of the datapath.
//!
//! `seine-agent` is this crate on a node. A manifest folder (or, later, an API server) is read by
//! [`watch`] into the [`model`], past [`admission`]; [`compile`] derives from it what this node's
//! network must be; [`datapath_session`] brings that into force in `seine-datapath`, and
//! [`host_network`] in the node's kernel; [`audit_log`]
//! writes down what policies decide. [`tables`] keeps policies and Services in step with the
//! cluster and with the Pods that are here. [`attach`] serves the CNI plugin through
//! [`cni_server`], with addresses from [`ipam`] and a record on disk in [`attachments`].
//! [`agent`] puts it together.
//!
//! [`ctl`] is `seinectl`, the operator's command.

pub mod admission;
pub mod agent;
pub mod attach;
pub mod attachments;
pub mod audit_log;
pub mod cni_server;
pub mod compile;
pub mod configuration;
pub mod ctl;
pub mod datapath_session;
mod durable;
pub mod host_network;
pub mod ipam;
pub mod model;
pub mod namespace;
pub mod netlink;
pub mod preflight;
pub mod tables;
pub mod watch;
