//! What the connection table is told, and what it tells.

use super::record::Snapshot;
use super::{Connection, ConnectionId, Decision, Direction, FlowKey, Progress};

/// Packets and bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the first after the Ethernet header on, as whoever notes them counts.
    pub bytes: u64,
}

/// A connection that was found by the key of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Which.
    pub id: ConnectionId,
    /// In which direction the packet goes.
    pub direction: Direction,
    /// The connection as it was then.
    pub connection: Connection,
}

/// A connection to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewConnection {
    /// What its original direction will be found by.
    pub original: FlowKey,
    /// What its reply direction will be found by.
    pub reply: FlowKey,
    /// What was decided about it.
    pub decision: Decision,
    /// How far its first packet brings it.
    pub progress: Progress,
}

/// Why a connection could not begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotInserted {
    /// No record is free, and none of those looked at is unanswered.
    #[error("the connection table is full")]
    Full,
    /// The port has as many connections as it may have, all of those looked at answered.
    #[error("the port has used up its quota of connections")]
    Quota,
    /// The port has sent more first packets than it may.
    #[error("the port has used up its budget of first packets")]
    Budget,
    /// A connection with one of the keys is there, or another worker is just inserting it. The
    /// packet that looks again may find it.
    #[error("a connection with this key exists")]
    Exists,
}

/// A connection that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// What its id was.
    pub id: ConnectionId,
    /// What was decided about it.
    pub decision: Decision,
    /// What went in the original and in the reply direction.
    pub counts: [Counts; 2],
    /// When it was opened.
    pub opened_ms: u64,
    /// The connection, of which hardly anybody wants to know more than the above.
    pub(super) remains: Snapshot,
}

impl Ended {
    /// The connection, as far as it had come.
    pub fn connection(&self) -> Option<Connection> {
        self.remains.connection()
    }
}

/// A connection as it is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: ConnectionId,
    /// The connection.
    pub connection: Connection,
    /// What went in the original and in the reply direction so far.
    pub counts: [Counts; 2],
    /// How long it is there.
    pub age_ms: u64,
    /// How long no packet of it was seen.
    pub idle_ms: u64,
}

/// How full the table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occupancy {
    /// Connections in it.
    pub used: u64,
    /// Connections that fit.
    pub capacity: u64,
    /// Connections that ended because nothing was seen of them for their timeout.
    pub expired: u64,
    /// Connections that had to give way before anybody had answered them.
    pub evicted: u64,
    /// Connections under way that ended because rules that changed forbid them.
    pub revoked: u64,
}
