//! Packets in segments: opened where they come in, cut or made whole where they leave.
//!
//! A guest with segmentation offload sends up to 64 KiB of TCP under one header, and says how it is
//! to be cut. [`open`] makes a packet of the first segment, which the pipeline decides about; the
//! rest follows it in a [chain](crate::frame). A port that takes such packets gets them whole again
//! ([`unite`]); for any other they are cut, once, right before it ([`cut`]): each segment's headers
//! are the first one's, as the pipeline has rewritten them, tunnel's included, with numbers of
//! their own. All of it is written in place; payload is not touched but to sum it.

mod headers;

use arrayvec::ArrayVec;
use seine_pipeline::packet::Checksum;
use seine_pipeline::wire::checksum;
use seine_pipeline::wire::ip::Ip;
use seine_pipeline::wire::ipv6::Fragment;
use seine_pipeline::wire::{ethernet, ipv4, tcp};

use self::headers::{
    DATA_OFFSET, FLAGS, HEADER_CHECKSUM, IDENTIFICATION, SEQUENCE, TAG_BYTES, enclose, half,
    network_of, put, put_summed, resize, said_len, sum_up,
};
use crate::frame::{Frame, FrameCache, HEADROOM, Layout, SEGMENTS_MAX};

/// Bytes of the longest headers that are repeated, tunnel's excluded: Ethernet with a tag, IPv6
/// with some extension headers, TCP with all its options.
pub const HEADERS_MAX: usize = 192;

/// A packet in segments is not taken when fewer than one in so many frames is free: nobody else is
/// to go without for it.
const RESERVE: usize = 8;

/// Room for those and a tunnel's.
const COPY_MAX: usize = 320;

const CONGESTION_WINDOW_REDUCED: u8 = 0x80;
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;

/// Of what kind a packet in segments is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// What its sender says of a packet that is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// Its kind.
    pub kind: SegmentKind,
    /// Payload bytes of each segment; the last may have fewer.
    pub size: u16,
    /// Whether its first segment, and no other, says that the congestion window was reduced.
    pub congestion: bool,
}

/// What is said of a packet contradicts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSegmentation;

/// How a packet begins that is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// How its segments lie.
    pub layout: Layout,
    /// Bytes of the headers in front of each of them.
    pub headers: usize,
    /// Bytes of headers and first segment: what the head keeps.
    pub first: usize,
}

/// Makes a packet of the first segment of `whole_len` bytes, whose first are in `head`. `None` when
/// that is all of it, and there is nothing to cut. Whatever is said wrongly is refused: a size of
/// 0 or of more than a frame, a type or lengths that are not the packet's own, a checksum elsewhere
/// than TCP's, more segments than [`SEGMENTS_MAX`].
pub fn open(
    head: &mut Frame,
    whole_len: usize,
    said: Segmentation,
) -> Result<Option<Opening>, BadSegmentation> {
    let Checksum::Partial { start, offset } = head.checksum else { return Err(BadSegmentation) };
    let transport = usize::from(start);
    let size = usize::from(said.size);
    let bytes = head.bytes_mut();
    let network = network_of(bytes, said.kind).ok_or(BadSegmentation)?;
    let data_offset = bytes.get(transport + DATA_OFFSET).ok_or(BadSegmentation)?;
    let headers = transport + usize::from(data_offset >> 4) * 4;
    let first = headers + size;
    let placed = usize::from(offset) == tcp::CHECKSUM_OFFSET
        && transport >= network + ipv4::LEN
        && (transport + tcp::LEN..=HEADERS_MAX).contains(&headers);
    if !placed || size == 0 || network + said_len(bytes, network) != whole_len {
        return Err(BadSegmentation);
    }
    let segments = whole_len.saturating_sub(headers).div_ceil(size);
    if segments <= 1 {
        return if whole_len <= bytes.len() { Ok(None) } else { Err(BadSegmentation) };
    }
    if segments > SEGMENTS_MAX || first > bytes.len() {
        return Err(BadSegmentation);
    }
    resize(bytes, (network, transport), whole_len, first);
    let ether_type = half(bytes, network - 2);
    let ip = Ip::parse(ether_type, &bytes[network..first]).ok_or(BadSegmentation)?;
    let ip = ip.map_err(|_| BadSegmentation)?;
    let own = ip.protocol == tcp::PROTOCOL && ip.fragment == Fragment::Whole;
    if !own || network + ip.upper != transport {
        return Err(BadSegmentation);
    }
    head.set_range(head.start(), first);
    let layout = Layout {
        size: said.size,
        network: (first - network) as u16,
        transport: (first - transport) as u16,
    };
    Ok(Some(Opening { layout, headers, first }))
}

/// Why a packet in segments is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// It cannot be cut as is said.
    Bad,
    /// There are too few frames.
    NoFrame,
}

/// Copies a packet that is to be cut into a chain of frames, each with room for headers.
pub fn take_in(
    packet: &[u8],
    checksum: Checksum,
    said: Segmentation,
    frames: &mut FrameCache,
) -> Result<Frame, NotTaken> {
    let mut head = frames.allocate().ok_or(NotTaken::NoFrame)?;
    let room = head.buffer().len() - HEADROOM;
    head.fill(&packet[..packet.len().min(room)]);
    head.checksum = checksum;
    let opening = match open(&mut head, packet.len(), said) {
        Ok(Some(opening)) => opening,
        Ok(None) => return Ok(head),
        Err(BadSegmentation) => {
            frames.free(head);
            return Err(NotTaken::Bad);
        }
    };
    let mut rest = &packet[opening.first..];
    let taken = follow(&mut head, opening, rest.len(), frames, |payload| {
        let (here, behind) = rest.split_at(payload.len());
        payload.copy_from_slice(here);
        rest = behind;
    });
    if !taken {
        frames.free(head);
        return Err(NotTaken::NoFrame);
    }
    Ok(head)
}

/// Puts `bytes` bytes of payload behind the first segment, each segment in a frame with room for
/// headers; `fill` writes them, one segment after the other. `false`, and nothing follows, when
/// frames run out, or are so few that others need them.
pub fn follow(
    head: &mut Frame,
    opening: Opening,
    bytes: usize,
    frames: &mut FrameCache,
    mut fill: impl FnMut(&mut [u8]),
) -> bool {
    if frames.region().free_frames() < frames.region().frames() / RESERVE {
        return false;
    }
    head.begin_chain(opening.layout);
    let (size, start) = (usize::from(opening.layout.size), HEADROOM + opening.headers);
    let mut left = bytes;
    while left > 0 {
        let len = left.min(size);
        let Some(mut follower) = frames.allocate() else {
            frames.free_followers(head);
            return false;
        };
        fill(&mut follower.buffer_mut()[start..start + len]);
        follower.set_range(start, len);
        head.append(follower);
        left -= len;
    }
    true
}

/// Gives every segment headers of its own and hands them out in order. What is known of the head's
/// checksum is known of all.
pub fn cut(mut head: Frame, mut out: impl FnMut(Frame)) {
    let Some(layout) = head.layout() else { return out(head) };
    let template = Template::of(&head, layout);
    let followers: ArrayVec<Frame, SEGMENTS_MAX> = std::iter::from_fn(|| head.detach()).collect();
    template.begin(&mut head);
    out(head);
    let last = followers.len();
    for (number, mut segment) in (1..).zip(followers) {
        template.write(&mut segment, number, number as usize == last);
        out(segment);
    }
}

/// How the packet that a chain holds is to be cut; `None` of a frame that heads none.
pub fn of(head: &Frame) -> Option<Segmentation> {
    let layout = head.layout()?;
    let bytes = head.bytes();
    let (network, transport) = places(bytes, layout);
    let kind = match bytes[network] >> 4 {
        4 => SegmentKind::Tcp4,
        _ => SegmentKind::Tcp6,
    };
    let congestion = bytes[transport + FLAGS] & CONGESTION_WINDOW_REDUCED != 0;
    Some(Segmentation { kind, size: layout.size, congestion })
}

/// Writes the lengths of the whole into the head, for a device that takes head and followers for
/// one packet. Gives the bytes of its headers. The frame is nothing but that from then on.
pub fn unite(head: &mut Frame) -> usize {
    let Some(layout) = head.layout() else { return 0 };
    let (first, whole) = (head.len(), head.whole_len());
    let bytes = head.bytes_mut();
    resize(bytes, places(bytes, layout), first, whole);
    first - usize::from(layout.size)
}

/// The headers that every segment gets.
struct Template {
    headers: ArrayVec<u8, COPY_MAX>,
    size: u32,
    network: usize,
    transport: usize,
    checksum: Checksum,
}

impl Template {
    fn of(head: &Frame, layout: Layout) -> Template {
        let bytes = head.bytes();
        let (network, transport) = places(bytes, layout);
        let headers = &bytes[..bytes.len() - usize::from(layout.size)];
        Template {
            headers: headers.iter().copied().collect(),
            size: layout.size.into(),
            network,
            transport,
            checksum: head.checksum,
        }
    }

    /// The first segment: what only the last may say is said there.
    fn begin(&self, head: &mut Frame) {
        let bytes = head.bytes_mut();
        let at = self.transport + FLAGS - 1;
        let flags = half(bytes, at);
        let cleared = flags & !u16::from(FIN | PUSH);
        put(bytes, at, cleared);
        if self.checksum == Checksum::Complete {
            let at = self.transport + tcp::CHECKSUM_OFFSET;
            put(bytes, at, checksum::replace(half(bytes, at), flags, cleared));
        }
    }

    fn write(&self, segment: &mut Frame, number: u32, last: bool) {
        let headers = self.headers.len();
        let (start, len) = (segment.start() - headers, segment.len() + headers);
        segment.set_range(start, len);
        segment.checksum = self.checksum;
        let bytes = segment.bytes_mut();
        bytes[..headers].copy_from_slice(&self.headers);
        if bytes[self.network] >> 4 == 4 {
            let at = self.network + IDENTIFICATION;
            let identification = half(bytes, at).wrapping_add(number as u16);
            put_summed(bytes, at, self.network + HEADER_CHECKSUM, identification);
        }
        let at = self.transport + SEQUENCE;
        let sequence = u32::from_be_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let sequence = sequence.wrapping_add(number.wrapping_mul(self.size));
        bytes[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
        let never = if last { 0 } else { FIN | PUSH };
        bytes[self.transport + FLAGS] &= !(never | CONGESTION_WINDOW_REDUCED);
        resize(bytes, (self.network, self.transport), headers + self.size as usize, len);
        if self.checksum == Checksum::Complete {
            sum_up(bytes, self.network, self.transport);
        }
        if self.network > ethernet::LEN + TAG_BYTES {
            enclose(bytes);
        }
    }
}

/// Where the IP and the TCP header of a head begin.
fn places(bytes: &[u8], layout: Layout) -> (usize, usize) {
    let end = bytes.len();
    (end - usize::from(layout.network), end - usize::from(layout.transport))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
