//! How long packets stop when somebody dies: probes all the time, between two guests over
//! vhost-user and between two Pods over their veths, while a side is killed and comes back.
//!
//! A probe carries when it was sent. What counts is the first one that was sent *after* the dead
//! one was gone and still came out: so it went through its successor. Probes are a third of a
//! millisecond apart, so that the cores are not theirs; a figure is no finer than that.

mod guests;
mod probes;
mod veths;

pub use guests::Guests;
pub use probes::Probes;
pub use veths::Veths;
