//! The model becomes objects of the datapath. Pure, one file a feature.

mod node;
mod pod_connectivity;

pub use node::{LocalNode, NodeError, NodeNetwork, PeerNode, Underlay, node_network};
pub use pod_connectivity::endpoint;
