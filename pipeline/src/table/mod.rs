//! The ways to match: an exact key or port, the longest prefix or all that hold an address, rules
//! by rank, and what is remembered for a time; and one to spread.
//!
//! The first four are persistent: a copy shares everything with its original, and a change copies
//! only the chunk or path that it touches, so a new State costs what changed and not what there is.
//! [`Expiring`] is for what workers learn: of fixed size, and written by all of them.

mod covering;
mod exact;
mod expiring;
mod hash;
mod longest;
mod maglev;
mod per_port;
mod ranked;
pub(crate) mod sequence;

pub use covering::Covering;
pub use exact::Exact;
pub use expiring::{Expiring, ExpiringEntry};
pub use hash::{KEY_WORDS_MAX, KeyedHash};
pub use longest::Longest;
pub use maglev::{MEMBERS_MAX, Maglev};
pub use per_port::PerPort;
pub use ranked::{Flow, Ranked};
