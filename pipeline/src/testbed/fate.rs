//! What became of a packet that a test has sent.

use crate::verdict::DropReason;

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It left by this port, as these bytes.
    Left(String, Vec<u8>),
    /// Copies of it left by these ports, as these bytes.
    Copied(Vec<String>, Vec<u8>),
    /// It was dropped.
    Dropped(DropReason),
}

impl Fate {
    /// Its bytes, if it left by this port; panics otherwise.
    #[track_caller]
    pub fn left_by(self, port: &str) -> Vec<u8> {
        match self {
            Fate::Left(by, frame) if by == port => frame,
            other => panic!("left not by {port}: {other:?}"),
        }
    }
}
