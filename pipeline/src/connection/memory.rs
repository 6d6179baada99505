//! The memory of the connection table: cache lines of atomic words, all zero at first.
//!
//! The table neither allocates nor maps it: the datapath lends what it has mapped, in huge pages
//! where there are any; tests and tools own theirs.

use std::fmt;
use std::ops::Deref;

use crate::sync::AtomicU64;

/// Words of a line.
pub const LINE_WORDS: usize = 8;

/// One cache line. Zero is a valid value of every word, and what a table begins with.
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; LINE_WORDS]);

impl Default for Line {
    fn default() -> Self {
        Line(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Lines that a table may use until the end of the process, or of itself.
pub enum ConnectionMemory {
    /// The table's own.
    Owned(Box<[Line]>),
    /// Mapped by somebody else.
    Lent(&'static [Line]),
}

impl ConnectionMemory {
    /// So many lines of the table's own.
    pub fn owned(lines: usize) -> ConnectionMemory {
        ConnectionMemory::Owned((0..lines).map(|_| Line::default()).collect())
    }
}

impl Deref for ConnectionMemory {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            ConnectionMemory::Owned(lines) => lines,
            ConnectionMemory::Lent(lines) => lines,
        }
    }
}

impl fmt::Debug for ConnectionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            ConnectionMemory::Owned(_) => "owned",
            ConnectionMemory::Lent(_) => "lent",
        };
        write!(f, "{} lines, {kind}", self.len())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }
}
