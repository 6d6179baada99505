//! What of a packet counts for its connection: TCP flags, SCTP chunks, questions and answers.

use crate::wire::field::{Field, read};
use crate::wire::ip::Ip;
use crate::wire::{bytes_at, icmp, sctp, tcp};

/// What of a packet counts for the connection it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Signal {
    /// TCP: SYN.
    Syn,
    /// TCP: SYN with ACK.
    SynAck,
    /// TCP: ACK.
    Ack,
    /// TCP: FIN with ACK.
    Fin,
    /// TCP: RST.
    Rst,
    /// SCTP: INIT.
    Init,
    /// SCTP: INIT ACK.
    InitAck,
    /// SCTP: ABORT or SHUTDOWN COMPLETE.
    Abort,
    /// ICMP: a query.
    Query,
    /// ICMP: a query's answer.
    Answer,
    /// A packet like any other.
    Data,
    /// Flags that no sender sets together, or a message that no router forwards.
    Nonsense,
}

impl Signal {
    /// That of the packet `bytes`, from its IP header on, whose upper-layer header is in it.
    pub fn of(ip: &Ip, bytes: &[u8]) -> Signal {
        match (ip.protocol, ip.icmp_type(bytes)) {
            (tcp::PROTOCOL, _) => {
                read(Field::TcpFlags);
                Self::of_tcp(bytes_at(bytes, ip.upper + tcp::FLAGS_OFFSET))
            }
            (sctp::PROTOCOL, _) => match chunk(bytes, ip.upper) {
                Some([sctp::INIT]) => Signal::Init,
                Some([sctp::INIT_ACK]) => Signal::InitAck,
                Some([sctp::ABORT | sctp::SHUTDOWN_COMPLETE]) => Signal::Abort,
                Some(_) => Signal::Data,
                None => Signal::Nonsense,
            },
            (_, Some(kind)) if icmp::is_answer(ip.is_v6(), kind) => Signal::Answer,
            (_, Some(kind)) if icmp::is_query(ip.is_v6(), kind) => Signal::Query,
            (_, Some(_)) => Signal::Nonsense,
            (_, None) => Signal::Data,
        }
    }

    /// Whether its sender means to open a connection.
    pub const fn opens(self) -> bool {
        matches!(self, Signal::Syn | Signal::Init)
    }

    /// By the flags that matter. RFC 9293 section 3.10.7 has no use for the rest.
    pub(super) fn of_tcp(flags: Option<[u8; 1]>) -> Signal {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        const SYN_ACK: u8 = SYN | ACK;
        const RST_ACK: u8 = RST | ACK;
        const FIN_ACK: u8 = FIN | ACK;
        match flags.map(|[flags]| flags & (FIN | SYN | RST | ACK)) {
            Some(SYN) => Signal::Syn,
            Some(SYN_ACK) => Signal::SynAck,
            Some(ACK) => Signal::Ack,
            Some(FIN_ACK) => Signal::Fin,
            Some(RST | RST_ACK) => Signal::Rst,
            _ => Signal::Nonsense,
        }
    }
}

/// The type of the first chunk of SCTP.
fn chunk(bytes: &[u8], upper: usize) -> Option<[u8; 1]> {
    read(Field::Chunk);
    bytes_at(bytes, upper + sctp::LEN)
}
