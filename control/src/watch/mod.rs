//! Objects become the model. The only folder that knows Kubernetes' types.

pub mod manifests;
