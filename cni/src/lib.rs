//! Asks: the CNI plugin, and the gRPC words in which it asks the agent (`proto/cni.proto`).

/// Version 1 of the words between plugin and agent.
pub mod v1 {
    #![allow(missing_docs, reason = "generated; the proto file is the documentation")]
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("seine.cni.v1");
}
