//! How far a connection has come, and how long it may stay silent there.

/// The state of a connection, of whatever protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Progress {
    /// TCP: SYN seen.
    SynSent,
    /// TCP: SYN answered.
    SynReceived,
    /// TCP: the handshake is done.
    Established,
    /// TCP: one side has sent its FIN.
    FinWait,
    /// TCP: both have, or a RST was seen.
    Closed,
    /// UDP, ICMP and others: no answer yet.
    Unanswered,
    /// UDP, ICMP and others: answered.
    Answered,
}

impl Progress {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [Progress] = &[
        Progress::SynSent,
        Progress::SynReceived,
        Progress::Established,
        Progress::FinWait,
        Progress::Closed,
        Progress::Unanswered,
        Progress::Answered,
    ];

    /// Whether the other side has not been heard of: such connections give way where room is short.
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Progress::SynSent | Progress::Unanswered)
    }
}
