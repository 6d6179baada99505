//! What is measured on: a Seine cluster and, on the same underlay, the kernel's own way.

pub mod daemons;
pub mod fillers;
pub mod plain;
pub mod stage;

pub use stage::Stage;
