//! The fields of a packet's headers, and a record of which of them were read.
//!
//! Views say so when they are asked, in builds with debug assertions; elsewhere that costs nothing.
//! What is composed may stand for the stages only while every field that they read of such a packet
//! is part of the flow key, or seen to packet by packet: [`Field::composed`] says which is which,
//! and the test bed holds every packet that it sends to it.

/// A field of a packet's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Field {
    /// Ethernet: to whom.
    EthernetDestination,
    /// Ethernet: from whom.
    EthernetSource,
    /// What follows the Ethernet header.
    EtherType,
    /// IP version, and the length of an IPv4 header.
    Version,
    /// DSCP and ECN.
    TrafficClass,
    /// Bytes of the IP packet.
    Length,
    /// Identification, flags and offset of fragments; extension headers.
    Fragment,
    /// TTL or hop limit.
    Ttl,
    /// The upper-layer protocol.
    Protocol,
    /// The checksum of an IPv4 header.
    HeaderChecksum,
    /// IP: from whom.
    Source,
    /// IP: to whom.
    Destination,
    /// From which port.
    SourcePort,
    /// To which port.
    DestinationPort,
    /// Flags of TCP.
    TcpFlags,
    /// Sequence and acknowledgement numbers of TCP.
    TcpNumbers,
    /// Bytes of a TCP header or UDP datagram.
    UpperLength,
    /// The checksum of TCP, UDP, SCTP or ICMP.
    UpperChecksum,
    /// Type, code and identifier of ICMP, and what its errors quote.
    Icmp,
    /// The first chunk of SCTP.
    Chunk,
    /// What names a server has answered for.
    Name,
    /// The header between a tunnel's UDP and the inner packet.
    Tunnel,
}

/// How what is composed sees to a field that the stages read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Composed {
    /// It is part of the flow key.
    InKey,
    /// Each packet is held against what is expected; any other takes the stages.
    Checked,
    /// Each packet's own is used or rewritten, as the stages do.
    PerPacket,
    /// Packets whose stages read it are never composed.
    Never,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 22] = [
        Field::EthernetDestination,
        Field::EthernetSource,
        Field::EtherType,
        Field::Version,
        Field::TrafficClass,
        Field::Length,
        Field::Fragment,
        Field::Ttl,
        Field::Protocol,
        Field::HeaderChecksum,
        Field::Source,
        Field::Destination,
        Field::SourcePort,
        Field::DestinationPort,
        Field::TcpFlags,
        Field::TcpNumbers,
        Field::UpperLength,
        Field::UpperChecksum,
        Field::Icmp,
        Field::Chunk,
        Field::Name,
        Field::Tunnel,
    ];

    /// How what is composed sees to it.
    pub const fn composed(self) -> Composed {
        match self {
            Field::Protocol | Field::Source | Field::Destination => Composed::InKey,
            Field::SourcePort | Field::DestinationPort => Composed::InKey,
            // Both by what is known of the ports' stations; the one by a tunnel, by its own node.
            Field::EthernetDestination | Field::EthernetSource => Composed::Checked,
            // IPv4 without options or IPv6, and which of them is in the key, too.
            Field::EtherType | Field::Version => Composed::Checked,
            // Against the MTU, and the bytes that there are.
            Field::Length | Field::UpperLength => Composed::Checked,
            Field::Fragment | Field::HeaderChecksum | Field::TcpFlags => Composed::Checked,
            // More than 1 where it is lowered.
            Field::Ttl => Composed::Checked,
            // Changed by the difference, or finished.
            Field::UpperChecksum => Composed::PerPacket,
            // What a tunnel's headers take over, and what stands in them: by the stages' functions.
            Field::TrafficClass | Field::Tunnel => Composed::PerPacket,
            Field::TcpNumbers | Field::Icmp | Field::Chunk | Field::Name => Composed::Never,
        }
    }
}

/// Some fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fields(u32);

impl Fields {
    /// These and those.
    pub fn with(self, others: Fields) -> Fields {
        Fields(self.0 | others.0)
    }

    /// As a list.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |field| self.0 & (1 << *field as u8) != 0)
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static READ: std::cell::Cell<Fields> = const { std::cell::Cell::new(Fields(0)) };
}

/// A field is read.
#[inline(always)]
pub(crate) fn read(field: Field) {
    #[cfg(debug_assertions)]
    READ.with(|read| read.set(Fields(read.get().0 | 1 << field as u8)));
    #[cfg(not(debug_assertions))]
    let _ = field;
}

/// The fields that this thread has read since this was last asked; none in a build without debug
/// assertions.
pub fn take_read() -> Fields {
    #[cfg(debug_assertions)]
    return READ.with(std::cell::Cell::take);
    #[cfg(not(debug_assertions))]
    Fields::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_listed_in_the_order_of_their_bits() {
        for (number, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(number, field as usize);
        }
    }

    #[test]
    fn what_was_read_is_told_once() {
        take_read();
        read(Field::Ttl);
        read(Field::Tunnel);
        assert_eq!(take_read().iter().collect::<Vec<_>>(), [Field::Ttl, Field::Tunnel]);
        assert_eq!(take_read(), Fields::default());
    }
}
