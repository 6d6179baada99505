//! Cutting held against what a receiver makes of the segments, and against sending them apart.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use seine_pipeline::address::PortId;
use seine_pipeline::state::{Change, Object, Service, ServiceEndpoint};
use seine_pipeline::testbed::{Fate, Node, flags, tcp as segment_of};

use super::*;
use crate::frame::{FrameCache, Region};

const FRAMES: usize = 512;

/// A packet as a guest's kernel leaves it to the device.
#[derive(Clone, Debug)]
struct Large {
    v6: bool,
    tagged: bool,
    payload: usize,
    size: u16,
    /// Words of TCP options.
    options: u8,
    flags: u8,
    sequence: u32,
    identification: u16,
}

fn large() -> impl Strategy<Value = Large> {
    let sizes = (1..1400_u16, 1..SEGMENTS_MAX * 1000);
    let numbers = (any::<u32>(), any::<u16>());
    (any::<bool>(), any::<bool>(), sizes, 0..11_u8, any::<u8>(), numbers).prop_map(
        |(v6, tagged, (size, payload), options, flags, (sequence, identification))| {
            let payload = payload.min(usize::from(size) * SEGMENTS_MAX).min(64_000);
            Large { v6, tagged, payload, size, options, flags, sequence, identification }
        },
    )
}

/// The ones' complement sum of the bytes, two at a time.
fn naive_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fn pseudo(addresses: &[u8], len: usize) -> Vec<u8> {
    [addresses, &[0, tcp::PROTOCOL], &(len as u16).to_be_bytes()].concat()
}

impl Large {
    fn network(&self) -> usize {
        if self.tagged { 18 } else { 14 }
    }

    fn transport(&self) -> usize {
        self.network() + if self.v6 { 40 } else { 20 }
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        self.transport() - if self.v6 { 32 } else { 8 }..self.transport()
    }

    fn said(&self) -> Segmentation {
        let kind = if self.v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let congestion = self.flags & CONGESTION_WINDOW_REDUCED != 0;
        Segmentation { kind, size: self.size, congestion }
    }

    fn checksum(&self) -> Checksum {
        Checksum::Partial { start: self.transport() as u16, offset: 16 }
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        if self.tagged {
            bytes.extend([0x81, 0, 0, 5]);
        }
        let options = usize::from(self.options) * 4;
        let segment = 20 + options + self.payload;
        if self.v6 {
            bytes.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
            bytes.extend((segment as u16).to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend((0..32).map(|byte| byte * 3));
        } else {
            let mut header = vec![0x45, 0];
            header.extend((segment as u16 + 20).to_be_bytes());
            header.extend(self.identification.to_be_bytes());
            header.extend([0x40, 0, 64, 6, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6]);
            let sum = !naive_sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend([8, 0]);
            bytes.extend(header);
        }
        let partial = naive_sum(&pseudo(&bytes[self.addresses()], segment));
        bytes.extend([0x12, 0x34, 0x00, 0x50]);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9, (5 + self.options) << 4, self.flags, 1, 0]);
        bytes.extend(partial.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(std::iter::repeat_n(1, options));
        bytes.extend(self.payload());
        bytes
    }

    /// What a receiver of this segment checks; gives its payload.
    fn check(&self, segment: &Frame, number: usize, last: bool) -> Vec<u8> {
        let (bytes, at) = (segment.bytes(), self.transport());
        let network = &bytes[self.network()..at];
        let word = |at: usize| half(bytes, at);
        if self.v6 {
            assert_eq!(usize::from(half(network, 4)), bytes.len() - at);
        } else {
            assert_eq!(usize::from(half(network, 2)), bytes.len() - self.network());
            assert_eq!(half(network, 4), self.identification.wrapping_add(number as u16));
            assert_eq!(naive_sum(network), 0xffff);
        }
        let whole = [pseudo(&bytes[self.addresses()], bytes.len() - at), bytes[at..].to_vec()];
        match segment.checksum {
            Checksum::Complete => assert_eq!(naive_sum(&whole.concat()), 0xffff),
            partial => {
                assert_eq!(partial, self.checksum());
                assert_eq!(word(at + 16), naive_sum(&whole[0]));
            }
        }
        let sequence = u32::from(word(at + 4)) << 16 | u32::from(word(at + 6));
        let before = number as u32 * u32::from(self.size);
        assert_eq!(sequence, self.sequence.wrapping_add(before));
        let mut flags = self.flags;
        flags &= if last { 0xff } else { !0x09 };
        flags &= if number == 0 { 0xff } else { !0x80 };
        assert_eq!(bytes[at + 13], flags);
        bytes[at + 20 + usize::from(self.options) * 4..].to_vec()
    }
}

fn cut_up(head: Frame) -> Vec<Frame> {
    let mut segments = Vec::new();
    cut(head, |segment| segments.push(segment));
    segments
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_receiver_of_the_segments_has_what_was_sent(large in large(), partial: bool) {
        let region = Region::map(FRAMES, 2048).unwrap();
        let mut frames = FrameCache::new(region);
        let bytes = large.bytes();
        let mut head = take_in(&bytes, large.checksum(), large.said(), &mut frames).unwrap();
        if !partial && let Some(mut packet) = head.packet(PortId::new(0).unwrap()) {
            packet.complete_checksum();
            head.checksum = Checksum::Complete;
        }
        let segments = cut_up(head);
        prop_assert_eq!(segments.len(), large.payload.div_ceil(large.size.into()));
        let mut payload = Vec::new();
        let last = segments.len() - 1;
        for (number, segment) in segments.into_iter().enumerate() {
            payload.extend(large.check(&segment, number, number == last));
            frames.free(segment);
        }
        prop_assert!(payload == large.payload());
        drop(frames);
        prop_assert_eq!(region.free_frames(), FRAMES);
    }

    #[test]
    fn what_is_taken_in_and_united_is_what_it_was(large in large()) {
        let region = Region::map(FRAMES, 2048).unwrap();
        let mut frames = FrameCache::new(region);
        let bytes = large.bytes();
        let mut head = take_in(&bytes, large.checksum(), large.said(), &mut frames).unwrap();
        let mut whole = Vec::new();
        if large.payload > large.size.into() {
            prop_assert_eq!(of(&head), Some(large.said()));
            let headers = large.transport() + 20 + usize::from(large.options) * 4;
            prop_assert_eq!(unite(&mut head), headers);
            whole = head.following_bytes().flatten().copied().collect();
        }
        prop_assert!([head.bytes(), &whole].concat() == bytes);
        frames.free(head);
    }

    #[test]
    fn no_bytes_and_nothing_said_about_them_make_it_panic(
        large in large(),
        at in 0..70_usize,
        with: u8,
        keep in prop_oneof![Just(usize::MAX), 0..200_usize],
        start in prop_oneof![Just(34_u16), Just(54), any::<u16>()],
        offset in prop_oneof![Just(16_u16), any::<u16>()],
        size in prop_oneof![Just(1000_u16), any::<u16>()],
    ) {
        let region = Region::map(FRAMES, 2048).unwrap();
        let mut frames = FrameCache::new(region);
        let mut bytes = large.bytes();
        bytes.truncate(keep);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        let said = Segmentation { size, ..large.said() };
        let checksum = Checksum::Partial { start, offset };
        if let Ok(head) = take_in(&bytes, checksum, said, &mut frames) {
            cut_up(head).into_iter().for_each(|segment| frames.free(segment));
        }
        drop(frames);
        prop_assert_eq!(region.free_frames(), FRAMES);
    }
}

#[test]
fn what_contradicts_the_packet_is_refused() {
    let region = Region::map(FRAMES, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let large = Large {
        v6: false,
        tagged: false,
        payload: 10_000,
        size: 1000,
        options: 3,
        flags: 0x18,
        sequence: 1,
        identification: 2,
    };
    let (bytes, said, checksum) = (large.bytes(), large.said(), large.checksum());
    let mut refused = |bytes: &[u8], checksum, said| {
        assert_eq!(take_in(bytes, checksum, said, &mut frames).err(), Some(NotTaken::Bad));
    };
    refused(&bytes, checksum, Segmentation { kind: SegmentKind::Tcp6, ..said });
    for size in [0, 1, 10_000 / 129, 9_999, u16::MAX] {
        refused(&bytes, checksum, Segmentation { size, ..said });
    }
    for (start, offset) in [(34, 6), (33, 16), (14, 16), (54, 16), (60_000, 16), (34, 60_000)] {
        refused(&bytes, Checksum::Partial { start, offset }, said);
    }
    refused(&bytes, Checksum::Complete, said);
    refused(&bytes[..bytes.len() - 1], checksum, said);
    refused(&bytes[..40], checksum, said);
    // Another protocol, a fragment, TCP's header cut short, IP's too long, another EtherType.
    for (at, with) in [(23, 17), (20, 0x20), (46, 0x40), (14, 0x4f), (12, 9)] {
        let mut bytes = bytes.clone();
        let before = bytes[at & !1..][..2].to_vec();
        bytes[at] = with;
        if (14..34).contains(&at) && at != 14 {
            let (old, new) = (half(&before, 0), half(&bytes, at & !1));
            let sum = checksum::replace(half(&bytes, 24), old, new);
            put(&mut bytes, 24, sum);
        }
        refused(&bytes, checksum, said);
    }
    drop(frames);
    assert_eq!(region.free_frames(), FRAMES);
}

/// A node whose Service leads to a Pod of its own or of its peer.
fn node(endpoint: &str, ipv6_underlay: bool) -> Node {
    let pods = ["a", "b"];
    let mut node = if ipv6_underlay { Node::over_ipv6(pods) } else { Node::with_pods(pods) };
    let endpoints = [false, true].map(|v6| ServiceEndpoint {
        address: node.address(endpoint, v6),
        port: 8080,
        cluster: true,
        local: endpoint != "remote",
    });
    node.apply(&[Change::Upsert(Object::Service(Service {
        name: "web".to_owned(),
        protocol: tcp::PROTOCOL,
        cluster_addresses: VIRTUAL.map(|address| address.parse().unwrap()).to_vec(),
        external_addresses: Vec::new(),
        port: 80,
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: endpoints.to_vec(),
    }))]);
    node
}

const VIRTUAL: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

/// Sends what is in a frame, and puts into it what left.
fn pass(node: &mut Node, frame: &mut Frame) -> String {
    node.following = frame.following();
    let fate = node.send_frame("a", frame.bytes(), frame.checksum);
    let Fate::Left(by, left) = fate else { panic!("dropped: {fate:?}") };
    assert_eq!(node.following, frame.following());
    let start = frame.start() + frame.len() - left.len();
    frame.buffer_mut()[start..start + left.len()].copy_from_slice(&left);
    frame.set_range(start, left.len());
    frame.checksum = node.checksum;
    by
}

#[test]
fn to_decide_and_then_cut_is_to_cut_and_then_decide() {
    let region = Region::map(FRAMES, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let cases = [("b", false), ("remote", false), ("remote", true)];
    for ((endpoint, ipv6_underlay), v6) in
        cases.into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let mut nodes = [0, 1].map(|_| node(endpoint, ipv6_underlay));
        let probe = segment_of().from("a").to(VIRTUAL[usize::from(v6)]).port(80).in_v6(v6);
        let probe = probe.flags(flags::ACK | PUSH | CONGESTION_WINDOW_REDUCED);
        let mut packet = nodes[0].frame(&probe.payload_bytes(10_000));
        let transport = if v6 { 54 } else { 34 };
        let addresses = transport - if v6 { 32 } else { 8 }..transport;
        let partial = naive_sum(&pseudo(&packet[addresses], packet.len() - transport));
        put(&mut packet, transport + 16, partial);
        let checksum = Checksum::Partial { start: transport as u16, offset: 16 };
        let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let said = Segmentation { kind, size: 1300, congestion: true };
        // The second one meets what the first has left: a connection.
        for _ in 0..2 {
            let [mut whole, apart] =
                [0, 1].map(|_| take_in(&packet, checksum, said, &mut frames).unwrap());
            let by = pass(&mut nodes[0], &mut whole);
            let segments = cut_up(whole);
            assert_eq!(segments.len(), 8);
            for (mut alone, mut of_whole) in cut_up(apart).into_iter().zip(segments) {
                assert_eq!(pass(&mut nodes[1], &mut alone), by);
                for frame in [&mut alone, &mut of_whole] {
                    let mut packet = frame.packet(PortId::new(0).unwrap()).unwrap();
                    packet.complete_checksum();
                }
                assert_eq!(of_whole.bytes(), alone.bytes(), "{endpoint}, IPv6 {v6}");
                frames.free(alone);
                frames.free(of_whole);
            }
        }
    }
    drop(frames);
    assert_eq!(region.free_frames(), FRAMES);
}
