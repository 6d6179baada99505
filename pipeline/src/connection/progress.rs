//! How far a connection has come, what brings it further, and how long it may stay silent there.
//!
//! As Linux has it, without sequence numbers: a node that restarts must be able to go on in the
//! middle. So a TCP segment of no known connection may begin one, as in Linux and Open vSwitch: it
//! is judged by every table as a first packet is, and until the other side answers, its place is
//! among the first to be given up. A SYN/ACK, FIN or RST that belongs to nothing begins nothing.

use super::{Direction, Signal};
use crate::wire::{icmp, sctp};

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
    /// TCP: the side that began has sent its FIN.
    FinWait,
    /// TCP: both have, or a RST was seen. SCTP: shut down or aborted.
    Closed,
    /// UDP, SCTP, ICMP and others: no answer yet.
    Unanswered,
    /// UDP, SCTP, ICMP and others: answered.
    Answered,
    /// TCP: the other side has sent its FIN.
    CloseWait,
    /// TCP: seen from its middle on, and not answered yet.
    Midstream,
    /// UDP: more than a question and its answer.
    Stream,
    /// Any: rules forbid it since it was answered. Its packets are judged one by one.
    Revoked,
}

/// What follows from a packet of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The connection is here now, be it where it was.
    To(Progress),
    /// The connection is over, and this is the first packet of another.
    Anew,
    /// It cannot be a packet of this connection.
    Invalid,
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
        Progress::CloseWait,
        Progress::Midstream,
        Progress::Stream,
        Progress::Revoked,
    ];

    /// Where a connection begins that this packet opens; `None` when it can open none.
    pub const fn opened_by(signal: Signal) -> Option<Progress> {
        match signal {
            Signal::Syn => Some(Progress::SynSent),
            Signal::Ack => Some(Progress::Midstream),
            Signal::Data | Signal::Query | Signal::Init => Some(Progress::Unanswered),
            Signal::SynAck | Signal::Fin | Signal::Rst => None,
            Signal::InitAck | Signal::Abort | Signal::Answer | Signal::Nonsense => None,
        }
    }

    /// What follows from a packet of the connection.
    pub fn step(self, signal: Signal, direction: Direction) -> Step {
        match self {
            Progress::Unanswered | Progress::Answered | Progress::Stream => {
                self.step_of_others(signal, direction)
            }
            Progress::Closed | Progress::Revoked => match signal {
                Signal::Syn | Signal::Init => Step::Anew,
                Signal::SynAck | Signal::InitAck | Signal::Nonsense => Step::Invalid,
                _ => Step::To(self),
            },
            _ => self.step_of_tcp(signal, direction),
        }
    }

    fn step_of_others(self, signal: Signal, direction: Direction) -> Step {
        let next = match direction {
            Direction::Reply if self == Progress::Unanswered => Progress::Answered,
            // Another INIT is judged before it counts.
            Direction::Original if self == Progress::Answered && !signal.opens() => {
                Progress::Stream
            }
            _ => self,
        };
        match (signal, direction) {
            // Nobody but who began was heard of: that is judged as before, not under way.
            (Signal::Abort, Direction::Original) if self.is_unanswered() => Step::To(self),
            (Signal::Abort, _) => Step::To(Progress::Closed),
            // The side that did not begin cannot open again what is open, as with TCP.
            (Signal::Init, Direction::Reply) if !self.is_unanswered() => Step::Invalid,
            (Signal::Data | Signal::Init, _) => Step::To(next),
            (Signal::Query, Direction::Original) => Step::To(next),
            (Signal::InitAck, Direction::Reply) => Step::To(next),
            (Signal::Answer, Direction::Reply) => Step::To(next),
            _ => Step::Invalid,
        }
    }

    fn step_of_tcp(self, signal: Signal, direction: Direction) -> Step {
        use Direction::{Original, Reply};
        use Progress::{CloseWait, Closed, Established, FinWait, Midstream, SynReceived, SynSent};
        let next = match (self, signal, direction) {
            // Nobody but who began was heard of: that is judged as before, not under way.
            (SynSent | Midstream, Signal::Rst, Original) => self,
            (_, Signal::Rst, _) => Closed,
            // Both sides open at once (RFC 9293 section 3.5), or the other side answers.
            (SynSent, Signal::SynAck | Signal::Syn, Reply) => SynReceived,
            (SynSent, Signal::Syn, Original) => SynSent,
            // What the other side still has of an earlier connection (RFC 5961 section 4).
            (SynSent, Signal::Ack, Reply) => SynSent,
            (SynSent, _, _) => return Step::Invalid,

            (Midstream, Signal::Syn, Original) => return Step::Anew,
            // A FIN of the one side alone does not make it last longer.
            (Midstream, Signal::Ack | Signal::Fin, Original) => Midstream,
            (Midstream, Signal::Syn | Signal::SynAck, _) => return Step::Invalid,
            (Midstream, Signal::Ack, Reply) => Established,
            (SynReceived, Signal::Ack, Original) => Established,
            (SynReceived, Signal::Ack | Signal::Syn | Signal::SynAck, _) => SynReceived,

            (FinWait, Signal::Fin, Reply) | (CloseWait, Signal::Fin, Original) => Closed,
            (FinWait | CloseWait, Signal::Fin | Signal::Ack, _) => self,
            (_, Signal::Fin, Original) => FinWait,
            (_, Signal::Fin, Reply) => CloseWait,
            (_, Signal::Ack, _) => self,
            // Repeated, or of a side that has forgotten this connection: the other side has the
            // last word (RFC 5961 section 4).
            (_, Signal::Syn, Original) | (_, Signal::SynAck, Reply) => self,
            _ => return Step::Invalid,
        };
        Step::To(next)
    }

    /// Whether it stays here, answered as it is, when an ordinary packet of it comes: data, or a
    /// segment with no flag but ACK.
    #[inline]
    pub(crate) const fn stays(self, direction: Direction) -> bool {
        match self {
            Progress::Established | Progress::FinWait | Progress::CloseWait => true,
            Progress::Closed | Progress::Stream => true,
            Progress::SynReceived | Progress::Answered => matches!(direction, Direction::Reply),
            _ => false,
        }
    }

    /// Whether the other side has not been heard of.
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Progress::SynSent | Progress::Unanswered | Progress::Midstream)
    }

    /// Whether it gives way where room is short: nobody has answered, or it is over.
    pub const fn may_give_way(self) -> bool {
        self.is_unanswered() || matches!(self, Progress::Closed | Progress::Revoked)
    }

    /// How long a connection of this IP protocol may be silent here before it is forgotten.
    pub const fn timeout_s(self, protocol: u8) -> u32 {
        match (self, protocol) {
            // Linux: longer than the last pause between two SYNs, 63 s by default.
            (Progress::SynSent | Progress::Midstream, _) => 120,
            // Linux: SYN/ACKs are repeated for about as long.
            (Progress::SynReceived, _) => 60,
            // kube-proxy sets a day: keepalives are sent every two hours by default.
            (Progress::Established, _) => 86_400,
            // kube-proxy sets an hour: what is half closed may still be sending.
            (Progress::FinWait | Progress::CloseWait, _) => 3600,
            // Open vSwitch: the last ACK may have to be repeated; a new SYN need not wait.
            (Progress::Closed, _) => 30,
            // Linux: longer than the pause between two attempts to send a segment, 120 s.
            (Progress::Revoked, _) => 300,
            // Linux: a query without an answer, or answered for good.
            (_, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6) => 30,
            // Linux: seven heartbeats at their default of 30 s (RFC 9260 section 15).
            (Progress::Answered | Progress::Stream, sctp::PROTOCOL) => 210,
            // Linux: a question and its answer are over; a stream pauses longer.
            (Progress::Unanswered | Progress::Answered, UDP | sctp::PROTOCOL) => 30,
            (Progress::Stream, UDP) => 120,
            // Linux, for protocols that it knows nothing about.
            (Progress::Unanswered | Progress::Answered | Progress::Stream, _) => 600,
        }
    }
}

const UDP: u8 = crate::wire::udp::PROTOCOL;

#[cfg(test)]
mod tests {
    use Direction::{Original, Reply};
    use Progress::*;
    use Signal::*;

    use super::*;

    const SIGNALS: [Signal; 12] =
        [Syn, SynAck, Ack, Fin, Rst, Init, InitAck, Abort, Query, Answer, Data, Nonsense];

    /// Plays packets; gives where the connection is after each.
    fn play(packets: &[(Signal, Direction)]) -> Vec<Progress> {
        let (first, rest) = packets.split_first().expect("packets");
        let mut at = Progress::opened_by(first.0).expect("a first packet");
        let mut seen = vec![at];
        for (signal, direction) in rest {
            match at.step(*signal, *direction) {
                Step::To(next) => at = next,
                other => panic!("{signal:?} {direction:?} in {at:?}: {other:?}"),
            }
            seen.push(at);
        }
        seen
    }

    #[test]
    fn a_tcp_connection_opens_talks_and_closes_whoever_closes_first() {
        let open = [(Syn, Original), (SynAck, Reply), (Ack, Original), (Ack, Reply)];
        let opened = [SynSent, SynReceived, Established, Established];
        let close = |one, other| [open.as_slice(), &[(Fin, one), (Fin, other)]].concat();
        let closed = |wait| [opened.as_slice(), &[wait, Closed]].concat();
        assert_eq!(play(&close(Original, Reply)), closed(FinWait));
        assert_eq!(play(&close(Reply, Original)), closed(CloseWait));
    }

    #[test]
    fn a_fin_that_is_repeated_does_not_close_for_the_other_side() {
        for (one, wait) in [(Original, FinWait), (Reply, CloseWait)] {
            let Step::To(first) = Established.step(Fin, one) else { panic!("invalid") };
            assert_eq!(first, wait);
            assert_eq!(first.step(Fin, one), Step::To(wait));
            assert_eq!(first.step(Ack, one.reversed()), Step::To(wait), "it may still send");
        }
    }

    #[test]
    fn only_requests_syns_and_segments_from_the_middle_open_connections() {
        let opening: Vec<_> =
            SIGNALS.into_iter().filter(|it| Progress::opened_by(*it).is_some()).collect();
        assert_eq!(opening, [Syn, Ack, Init, Query, Data]);
    }

    #[test]
    fn a_connection_that_began_in_its_middle_needs_an_answer_to_last() {
        assert!(Progress::opened_by(Ack).is_some_and(Progress::is_unanswered));
        assert_eq!(play(&[(Ack, Original), (Ack, Original), (Ack, Reply)])[2], Established);
        assert_eq!(Midstream.step(Syn, Original), Step::Anew);
        assert_eq!(Midstream.step(SynAck, Reply), Step::Invalid);
        assert_eq!(Midstream.step(Fin, Original), Step::To(Midstream), "nobody has answered");
    }

    #[test]
    fn a_closed_connection_makes_room_for_the_next_whoever_begins_it() {
        for direction in [Original, Reply] {
            assert_eq!(Closed.step(Syn, direction), Step::Anew);
            assert_eq!(Closed.step(Ack, direction), Step::To(Closed), "the last ACK");
        }
        assert_eq!(Closed.step(SynAck, Reply), Step::Invalid);
    }

    #[test]
    fn a_rst_ends_a_connection_but_for_that_of_a_sender_whom_nobody_has_answered() {
        for at in [SynReceived, Established, FinWait, CloseWait, Closed] {
            assert_eq!(at.step(Rst, Original), Step::To(Closed));
            assert_eq!(at.step(Rst, Reply), Step::To(Closed));
        }
        for at in [SynSent, Midstream] {
            assert_eq!(at.step(Rst, Original), Step::To(at));
            assert_eq!(at.step(Rst, Reply), Step::To(Closed));
            assert!(at.may_give_way() && Closed.may_give_way() && !Established.may_give_way());
        }
    }

    #[test]
    fn nothing_is_established_before_the_other_side_has_answered() {
        assert_eq!(SynSent.step(Ack, Original), Step::Invalid);
        assert_eq!(SynSent.step(Ack, Reply), Step::To(SynSent), "a challenge");
        assert_eq!(play(&[(Syn, Original), (Syn, Reply), (Ack, Original)])[2], Established);
    }

    #[test]
    fn a_question_and_its_answer_is_no_stream_yet() {
        let packets = [(Data, Original), (Data, Original), (Data, Reply), (Data, Reply)];
        assert_eq!(play(&packets), [Unanswered, Unanswered, Answered, Answered]);
        assert_eq!(Answered.step(Data, Original), Step::To(Stream));
        assert!(Answered.timeout_s(UDP) < Stream.timeout_s(UDP));
    }

    #[test]
    fn an_answer_to_a_query_goes_one_way_only() {
        assert_eq!(Unanswered.step(Answer, Reply), Step::To(Answered));
        assert_eq!(Unanswered.step(Answer, Original), Step::Invalid);
        assert_eq!(Answered.step(Query, Original), Step::To(Stream));
        assert_eq!(Unanswered.step(Query, Reply), Step::Invalid, "whoever is asked answers");
        assert_eq!(Progress::opened_by(Answer), None, "nobody has asked");
    }

    #[test]
    fn an_sctp_association_opens_and_is_shut_down() {
        let packets = [(Init, Original), (InitAck, Reply), (Data, Original), (Abort, Reply)];
        assert_eq!(play(&packets), [Unanswered, Answered, Stream, Closed]);
        assert_eq!(Closed.step(Init, Original), Step::Anew);
        assert_eq!(Progress::opened_by(Abort), None);
    }

    #[test]
    fn nonsense_belongs_to_no_connection() {
        for at in Progress::ALL {
            assert_eq!(at.step(Nonsense, Original), Step::Invalid);
            assert_eq!(at.step(Nonsense, Reply), Step::Invalid);
            assert!(at.timeout_s(6) > 0 && at.timeout_s(17) > 0 && at.timeout_s(47) > 0);
        }
        for flags in 0..=255u8 {
            let known = Signal::of_tcp(Some([flags])) != Nonsense;
            let relevant = flags & 0b1_0111;
            assert_eq!(known, [2, 18, 16, 17, 4, 20].contains(&relevant), "{flags:08b}");
        }
    }

    #[test]
    fn what_stays_is_answered_and_takes_no_step() {
        for at in Progress::ALL {
            for direction in [Original, Reply] {
                let takes = |signal| at.step(signal, direction) != Step::To(*at);
                // Of the two signals one is of another protocol. What was revoked is judged.
                let judged = at.is_unanswered() || *at == Revoked;
                let stays = !(judged || takes(Ack) && takes(Data));
                assert_eq!(at.stays(direction), stays, "{at:?} {direction:?}");
            }
        }
    }

    #[test]
    fn numbers_and_names_agree() {
        for (number, progress) in Progress::ALL.iter().enumerate() {
            assert_eq!(*progress as usize, number);
        }
    }
}
