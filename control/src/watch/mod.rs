//! Objects become the model. Only this folder, and [`crate::admission`], know Kubernetes' types.

pub(crate) mod api;
pub mod manifests;
pub mod object;
