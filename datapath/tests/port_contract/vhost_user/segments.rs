//! Packets of up to 64 KiB that a guest leaves to be cut, or takes uncut.

use seine_datapath::frame::{Batch, Frame, FrameCache};
use seine_datapath::port::QueueStats;
use seine_datapath::port::vhost_user::{Mode, VhostUserPort};
use seine_datapath::segment::{self, SegmentKind, Segmentation};

use super::{PATIENCE, close};
use crate::guest::{Guest, HEADER_BYTES, Place, SPLIT, Shape, connect};
use crate::suite::sum;

const SHAPE: Shape = Shape { segments: true, ..SPLIT };
/// Ethernet, IPv4 and TCP with timestamps.
const HEADERS: usize = 14 + 20 + 32;
const SIZE: u16 = 1448;

/// A segment of TCP over IPv4 of so many bytes of payload, as Linux leaves it to the device.
pub fn segment(payload: usize) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
    packet.extend(((HEADERS - 14 + payload) as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let header = !sum(&packet[14..34], 0);
    packet[24..26].copy_from_slice(&header.to_be_bytes());
    packet.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x18, 1, 0]);
    let len = (32 + payload) as u16;
    let pseudo = [&packet[26..34], &[0, 6], &len.to_be_bytes()].concat();
    packet.extend(sum(&pseudo, 0).to_be_bytes());
    packet.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..payload).map(|at| (at / 7) as u8));
    packet
}

/// What its sender says of it: how long headers are is a hint that says anything.
fn header(kind: u8, size: u16) -> [u8; HEADER_BYTES] {
    let [low, high] = size.to_le_bytes();
    [1, kind, 7, 7, low, high, 34, 0, 16, 0, 0, 0]
}

fn receive(port: &mut VhostUserPort, frames: &mut FrameCache) -> Vec<Frame> {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut batch = Batch::new();
    while batch.is_empty() && std::time::Instant::now() < deadline {
        port.queues[0].receive(frames, &mut batch);
    }
    batch.into_iter().collect()
}

#[test]
fn a_packet_of_64_kib_goes_from_guest_to_guest_as_it_is() {
    for shape in [
        SHAPE,
        Shape { packed: true, ..SHAPE },
        Shape { indirect: true, ..SHAPE },
        Shape { packed: true, indirect: true, ..SHAPE },
    ] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(shape, connect(&place.socket()));
        let said = Segmentation { kind: SegmentKind::Tcp4, size: SIZE, congestion: false };
        assert!(port.queues[0].takes_segments(said));
        for payload in [65535 - 52, 2 * 1448, 1449, 1448, 1] {
            let packet = segment(payload);
            assert!(guest.send_large(1, header(1, SIZE), &packet));
            let mut batch: Batch = receive(&mut port, &mut frames).into_iter().collect();
            assert_eq!((batch.len(), batch[0].whole_len()), (1, packet.len()));
            let segments = payload.div_ceil(1448);
            assert_eq!(batch[0].followers() + 1, segments);
            port.queues[0].transmit(&mut frames, &mut batch);
            assert!(batch.is_empty());
            let arrived = guest.collect_raw(0).expect("it was sent");
            assert!(arrived[HEADER_BYTES..] == packet, "{payload} bytes, changed");
            let expected = match segments {
                1 => [1, 0, 0, 0, 0, 0],
                _ => [1, 1, HEADERS as u8, 0, SIZE as u8, (SIZE >> 8) as u8],
            };
            assert_eq!((&arrived[..6], &arrived[6..10]), (&expected[..], &[34, 0, 16, 0][..]));
        }
        assert_eq!(port.queues[0].stats().refused, 0);
        close(&place, port, frames);
    }
}

#[test]
fn what_is_said_wrongly_of_segments_is_dropped_by_name_and_the_port_stays_up() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::new(SHAPE, connect(&place.socket()));
    let packet = segment(10_000);
    let edited = |edit: fn(&mut [u8; HEADER_BYTES])| {
        let mut header = header(1, SIZE);
        edit(&mut header);
        header
    };
    let lies = [
        (header(1, 0), "of no bytes"),
        (header(1, 1), "ten thousand of them"),
        (header(1, 5000), "larger than the MTU"),
        (header(4, SIZE), "of IPv6"),
        (header(3, SIZE), "of UDP"),
        (header(5, SIZE), "of UDP, too"),
        (header(0x80, SIZE), "of nothing"),
        (header(0x7f, SIZE), "of what nobody knows"),
        (edited(|header| header[0] = 0), "without a checksum to be finished"),
        (edited(|header| header[6] = 26), "with TCP amid the addresses"),
        (edited(|header| header[8] = 4), "with the checksum in the sequence number"),
    ];
    for (header, what) in lies {
        let before = port.queues[0].stats().bad_segmentation;
        assert!(guest.send_large(1, header, &packet));
        port.queues[0].receive(&mut frames, &mut Batch::new());
        assert_eq!(port.queues[0].stats().bad_segmentation, before + 1, "{what}");
    }
    assert!(guest.send_large(1, header(1, SIZE), &packet[..packet.len() - 1]));
    assert!(guest.send_large(1, edited(|header| header[7] = 0x70), &packet));
    port.queues[0].receive(&mut frames, &mut Batch::new());
    let QueueStats { bad_segmentation, malformed, .. } = port.queues[0].stats();
    assert_eq!((bad_segmentation, malformed), (lies.len() as u64 + 1, 1), "short; sum outside");
    assert!(guest.send_large(1, header(1, SIZE), &packet));
    let received = receive(&mut port, &mut frames);
    assert_eq!(received.len(), 1);
    received.into_iter().for_each(|frame| frames.free(frame));
    assert_eq!(port.queues[0].fault(), None);
    close(&place, port, frames);
}

#[test]
fn segments_that_were_not_agreed_on_are_neither_taken_nor_given() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let said = Segmentation { kind: SegmentKind::Tcp4, size: SIZE, congestion: false };
    for shape in [SPLIT, Shape { checksum: false, ..SHAPE }] {
        let mut guest = Guest::new(shape, connect(&place.socket()));
        assert!(!port.queues[0].takes_segments(said));
        let checksum = seine_pipeline::packet::Checksum::Partial { start: 34, offset: 16 };
        let head = segment::take_in(&segment(10_000), checksum, said, &mut frames).unwrap();
        let mut batch: Batch = [head].into_iter().collect();
        let before = port.queues[0].stats().refused;
        port.queues[0].transmit(&mut frames, &mut batch);
        assert_eq!((batch.len(), port.queues[0].stats().refused), (0, before + 1));
        assert_eq!(guest.collect_raw(0), None);
    }
    let mut guest = Guest::new(SPLIT, connect(&place.socket()));
    assert!(guest.send_large(1, header(1, SIZE), &segment(10_000)));
    let deadline = std::time::Instant::now() + PATIENCE;
    while port.queues[0].stats().bad_segmentation == 0 {
        assert!(std::time::Instant::now() < deadline, "it was never dropped");
        port.queues[0].receive(&mut frames, &mut Batch::new());
    }
    close(&place, port, frames);
}

#[test]
fn packets_in_segments_take_no_frames_that_others_need() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::new(SHAPE, connect(&place.socket()));
    let mut taken = Vec::new();
    while place.region.free_frames() >= place.region.frames() / 8 {
        taken.extend(frames.allocate());
    }
    assert!(guest.send_large(1, header(1, SIZE), &segment(60_000)));
    let mut batch = Batch::new();
    port.queues[0].receive(&mut frames, &mut batch);
    assert_eq!((batch.len(), port.queues[0].stats().device_drops), (0, 1));
    assert!(guest.send_large(1, header(0, 0), &segment(1000)));
    port.queues[0].receive(&mut frames, &mut batch);
    assert_eq!(batch.len(), 1, "any other packet finds one");
    batch.into_iter().chain(taken).for_each(|frame| frames.free(frame));
    close(&place, port, frames);
}
