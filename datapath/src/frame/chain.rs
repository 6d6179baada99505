//! A packet in segments: frames that one frame heads.
//!
//! ```text
//!  head       Ethernet, IP, TCP and the payload of the first segment: a packet like any other
//!    -> follower   the payload of the second segment, with room for headers in front
//!    -> follower   ...
//! ```
//!
//! A guest hands over up to 64 KiB with one header. Here its first segment is a packet of its own,
//! which the pipeline judges and rewrites without knowing of the rest; the others follow it. Where
//! they leave, each gets headers like the head's, or the whole gets its lengths back: see
//! [`segment`](crate::segment). Nothing is copied for either, and nothing allocated.
//!
//! What belongs to a chain stands in a table beside the frames, at the head's and the followers'
//! indexes: a `Frame` itself only says whether it heads one. Who has the head has the followers.

use std::cell::UnsafeCell;
use std::ops::Range;

use seine_pipeline::packet::Checksum;

use super::{Frame, FrameCache, Region};

/// The most segments of one packet: 64 KiB in those of the least that an IPv4 host must take.
pub const SEGMENTS_MAX: usize = 128;

/// How a packet lies in its chain. Distances count back from the end of the head, because headers
/// come and go at its front.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Payload bytes of each segment; the last may have fewer.
    pub size: u16,
    /// Bytes from the IP header to the end of the head.
    pub network: u16,
    /// Bytes from the TCP header to there.
    pub transport: u16,
}

/// What stands beside a frame.
#[derive(Clone, Copy)]
struct Link {
    /// The follower behind this frame; the last one's leads nowhere.
    next: u32,
    /// Of a follower: where its payload lies.
    start: u16,
    len: u16,
    /// Of a head: the last follower.
    last: u32,
    /// Followers, their bytes, and whether they belong to it still.
    followers: u16,
    alone: bool,
    bytes: u32,
    layout: Layout,
}

const NOTHING: Link = Link {
    next: 0,
    start: 0,
    len: 0,
    last: 0,
    followers: 0,
    alone: false,
    bytes: 0,
    layout: Layout { size: 0, network: 0, transport: 0 },
};

/// The links of all frames.
///
/// Invariant: the link of a frame is reached only by who has the frame, or the head of its chain.
pub(super) struct Links(Box<[UnsafeCell<Link>]>);

// SAFETY: by the invariant a link belongs to the one `Frame` it is reached by.
unsafe impl Sync for Links {}

impl Links {
    pub(super) fn new(frames: usize) -> Links {
        Links((0..frames).map(|_| UnsafeCell::new(NOTHING)).collect())
    }
}

impl Region {
    /// # Safety
    /// The caller must have the frame of this index, or the head of the chain it is in.
    unsafe fn link(&self, index: u32) -> Link {
        // SAFETY: as the caller says, nobody else reaches this link.
        unsafe { *self.links.0[index as usize].get() }
    }

    /// # Safety
    /// As of [`link`](Self::link).
    unsafe fn set_link(&self, index: u32, link: Link) {
        // SAFETY: as the caller says, nobody else reaches this link.
        unsafe { *self.links.0[index as usize].get() = link };
    }
}

impl Frame {
    /// Whether other frames follow it.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.chained
    }

    /// Payload bytes of the frames that follow; 0 once they belong to it no more.
    #[inline]
    pub fn following(&self) -> usize {
        match self.chained {
            true => self.following_of_chain(),
            false => 0,
        }
    }

    /// Bytes of the packet and of what follows it.
    #[inline]
    pub fn whole_len(&self) -> usize {
        self.len() + self.following()
    }

    #[cold]
    fn following_of_chain(&self) -> usize {
        let link = self.own_link();
        if link.alone { 0 } else { link.bytes as usize }
    }

    fn own_link(&self) -> Link {
        // SAFETY: of this very frame.
        unsafe { self.region.link(self.index) }
    }

    fn set_own_link(&mut self, link: Link) {
        // SAFETY: of this very frame, borrowed exclusively.
        unsafe { self.region.set_link(self.index, link) };
    }

    /// Makes it the head of a chain that has no followers yet.
    pub fn begin_chain(&mut self, layout: Layout) {
        assert!(!self.chained, "it heads one already");
        self.set_own_link(Link { layout, next: self.index, last: self.index, ..NOTHING });
    }

    /// Puts a frame at the end of its chain; the packet in it is payload. To be called after
    /// [`begin_chain`](Self::begin_chain).
    pub fn append(&mut self, follower: Frame) {
        assert!(!follower.chained && follower.region.base == self.region.base);
        let (start, len) = (follower.start, follower.len);
        let mut head = self.own_link();
        let index = follower.release();
        // SAFETY: the follower was ours until just now, and is this head's from now on.
        unsafe { self.region.set_link(index, Link { next: index, start, len, ..NOTHING }) };
        if head.followers == 0 {
            head.next = index;
        } else {
            // SAFETY: the last one is a follower of this head.
            let last = unsafe { self.region.link(head.last) };
            // SAFETY: as above.
            unsafe { self.region.set_link(head.last, Link { next: index, ..last }) };
        }
        head.last = index;
        head.followers += 1;
        head.bytes += u32::from(len);
        assert!(usize::from(head.followers) < SEGMENTS_MAX, "more segments than one packet has");
        self.set_own_link(head);
        self.chained = true;
    }

    /// Takes the first follower out of its chain.
    pub fn detach(&mut self) -> Option<Frame> {
        if !self.chained {
            return None;
        }
        let mut head = self.own_link();
        let index = head.next;
        // SAFETY: it is a follower of this head.
        let link = unsafe { self.region.link(index) };
        let (start, len) = (usize::from(link.start), usize::from(link.len));
        // SAFETY: its index came from `release` in `append`, and it leaves the chain just now.
        let follower = unsafe { self.region.claim(index, start, len, Checksum::Complete) };
        head.next = link.next;
        head.followers -= 1;
        head.bytes -= u32::from(link.len);
        self.chained = head.followers > 0;
        self.set_own_link(head);
        Some(follower)
    }

    /// How the packet lies in its chain; `None` of a frame that heads none.
    pub fn layout(&self) -> Option<Layout> {
        self.chained.then(|| self.own_link().layout)
    }

    /// Frames that follow.
    pub fn followers(&self) -> usize {
        if self.chained { self.own_link().followers.into() } else { 0 }
    }

    /// Their payloads, in order.
    pub fn following_bytes(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.own_link().next;
        (0..self.followers()).map(move |_| {
            // SAFETY: it is a follower of this head.
            let link = unsafe { self.region.link(at) };
            let place = Range { start: link.start.into(), end: (link.start + link.len).into() };
            // SAFETY: an index in a chain came from `release`, so there is such a frame.
            let buffer = unsafe { self.region.address(at) };
            at = link.next;
            // SAFETY: a follower's buffer is reached by its head only, which is borrowed.
            let buffer =
                unsafe { std::slice::from_raw_parts(buffer.as_ptr(), self.region.frame_bytes) };
            &buffer[place]
        })
    }

    /// What follows it belongs to it no more: it was written anew.
    pub(super) fn stand_alone(&mut self) {
        let link = self.own_link();
        self.set_own_link(Link { alone: true, ..link });
    }

    /// Whether what follows belongs to it no more.
    pub fn stands_alone(&self) -> bool {
        self.chained && self.own_link().alone
    }
}

impl FrameCache {
    /// Takes back what follows a frame.
    #[cold]
    pub fn free_followers(&mut self, head: &mut Frame) {
        while let Some(follower) = head.detach() {
            self.free(follower);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(cache: &mut FrameCache, byte: u8) -> Frame {
        let mut frame = cache.allocate().expect("frame");
        assert!(frame.fill(&[byte; 100]));
        frame
    }

    #[test]
    fn followers_come_off_in_the_order_they_were_put_and_none_is_lost() {
        let region = Region::map(64, 2048).expect("memory");
        let mut cache = FrameCache::new(region);
        let mut head = filled(&mut cache, 0);
        assert_eq!((head.whole_len(), head.followers(), head.layout()), (100, 0, None));
        let layout = Layout { size: 100, network: 90, transport: 70 };
        head.begin_chain(layout);
        for byte in 1..=30 {
            head.append(filled(&mut cache, byte));
        }
        assert_eq!((head.whole_len(), head.followers()), (3100, 30));
        assert_eq!(head.layout(), Some(layout));
        let payloads: Vec<u8> = head.following_bytes().map(|bytes| bytes[0]).collect();
        assert_eq!(payloads, (1..=30).collect::<Vec<_>>());
        let first = head.detach().expect("follower");
        assert_eq!((first.bytes(), head.followers()), (&[1; 100][..], 29));
        cache.free(first);
        cache.free(head);
        drop(cache);
        assert_eq!(region.free_frames(), 64);
    }

    #[test]
    fn what_is_written_anew_has_nothing_behind_it() {
        let region = Region::map(64, 2048).expect("memory");
        let mut cache = FrameCache::new(region);
        let mut head = filled(&mut cache, 0);
        head.begin_chain(Layout::default());
        head.append(filled(&mut cache, 1));
        head.stand_alone();
        assert_eq!((head.following(), head.whole_len(), head.stands_alone()), (0, 100, true));
        cache.free_followers(&mut head);
        assert!(!head.is_chained() && !head.stands_alone());
        cache.free(head);
        drop(cache);
        assert_eq!(region.free_frames(), 64);
    }
}
