//! What only vhost-user ports promise: guests that go and come back, as many rings as a guest
//! likes, memory that grows; and in [`hostile`], that a guest hurts nobody but itself.

mod events;
mod hostile;
mod segments;
mod testpmd;

use std::time::{Duration, Instant};

use seine_datapath::frame::{Batch, FrameCache};
use seine_datapath::port::Queue;
use seine_datapath::port::vhost_user::{Mode, QUEUE_PAIRS_MAX, VhostUserPort};
use seine_pipeline::packet::Checksum;

use crate::device::readable;
use crate::guest::front_end::{FrontEnd, request};
use crate::guest::{EVENT_INDEX, GUEST, Guest, PACKED, Place, SPLIT, Shape, USER, connect};
use crate::suite::{partial_udp, sum};
use crate::{Sample, Wire};

const PATIENCE: Duration = Duration::from_secs(10);

/// Receives until so many packets came; returns their numbers.
fn receive(queue: &mut dyn Queue, frames: &mut FrameCache, count: usize) -> Vec<u32> {
    let deadline = Instant::now() + PATIENCE;
    let mut numbers = Vec::new();
    while numbers.len() < count && Instant::now() < deadline {
        let mut batch = Batch::new();
        queue.receive(frames, &mut batch);
        for frame in batch {
            let sample = Sample { bytes: frame.bytes().to_vec(), checksum: frame.checksum };
            numbers.push(sample.number());
            frames.free(frame);
        }
    }
    numbers
}

/// Receives so many at most, in one look.
fn receive_at_most(queue: &mut dyn Queue, frames: &mut FrameCache, count: usize) -> Vec<u32> {
    let mut batch = Batch::new();
    let filler = batch.capacity() - count;
    batch.extend((0..filler).map(|_| frames.allocate().unwrap()));
    queue.receive(frames, &mut batch);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[14..18].try_into().unwrap());
    let numbers = batch.iter().skip(filler).map(|frame| number(frame.bytes())).collect();
    batch.drain(..).for_each(|frame| frames.free(frame));
    numbers
}

fn batch(frames: &mut FrameCache, samples: &[Sample]) -> Batch {
    let fill = |sample: &Sample| {
        let mut frame = frames.allocate().unwrap();
        assert!(frame.fill(&sample.bytes));
        frame.checksum = sample.checksum;
        frame
    };
    samples.iter().map(fill).collect()
}

fn close(place: &Place, port: VhostUserPort, mut frames: FrameCache) {
    port.queues.into_iter().for_each(|queue| queue.close(&mut frames));
    drop((frames, port.control));
    assert_eq!(place.region.free_frames(), place.region.frames(), "frames were lost or doubled");
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Sample> {
    numbers.map(|number| Sample::numbered(number, 100)).collect()
}

#[test]
fn a_guest_that_leaves_is_waited_for_and_another_one_served() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    for round in 0..3 {
        let shape = Shape { packed: round == 1, ..SPLIT };
        let mut guest = Guest::new(shape, connect(&place.socket()));
        assert!(port.control.is_connected());
        assert!(numbered(0..100).iter().all(|sample| guest.send(sample)));
        let received = receive(port.queues[0].as_mut(), &mut frames, 100);
        assert!(received.into_iter().eq(0..100));
        let mut batch = batch(&mut frames, &numbered(0..40));
        port.queues[0].transmit(&mut frames, &mut batch);
        assert!(batch.is_empty());
        assert_eq!(std::iter::from_fn(|| guest.collect()).count(), 40);
    }
    let deadline = Instant::now() + PATIENCE;
    while port.control.is_connected() {
        assert!(Instant::now() < deadline, "the guest is gone");
    }
    let mut batch = batch(&mut frames, &numbered(0..3));
    port.queues[0].transmit(&mut frames, &mut batch);
    assert_eq!(batch.len(), 3, "without a guest there is no room");
    batch.drain(..).for_each(|frame| frames.free(frame));
    assert_eq!(port.queues[0].fault(), None);
    close(&place, port, frames);
    assert!(!place.socket().exists(), "the socket goes with its port");
}

#[test]
fn rings_that_are_enabled_before_anything_is_agreed_on_carry_packets() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::that_enables_first(SPLIT, connect(&place.socket()));
    assert!(numbered(0..50).iter().all(|sample| guest.send(sample)));
    assert!(receive(port.queues[0].as_mut(), &mut frames, 50).into_iter().eq(0..50));
    let mut out = batch(&mut frames, &numbered(0..40));
    port.queues[0].transmit(&mut frames, &mut out);
    assert_eq!(std::iter::from_fn(|| guest.collect()).count(), 40);
    close(&place, port, frames);
}

#[test]
fn a_port_that_comes_back_loses_and_doubles_nothing_that_was_under_way() {
    for packed in [false, true] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(Shape { packed, ..SPLIT }, connect(&place.socket()));
        assert!(numbered(0..200).iter().all(|sample| guest.send(sample)));
        let mut seen = receive(port.queues[0].as_mut(), &mut frames, 64);
        close(&place, port, frames);

        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        guest.reconnect(connect(&place.socket()));
        let left = 200 - seen.len();
        seen.extend(receive(port.queues[0].as_mut(), &mut frames, left));
        assert!(seen.into_iter().eq(0..200));
        close(&place, port, frames);
    }
}

#[test]
fn a_front_end_that_lost_count_is_told_by_what_the_port_left_with_it() {
    for packed in [false, true] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(Shape { packed, ..SPLIT }, connect(&place.socket()));
        guest.keep_track();
        let mut seen = Vec::new();
        // Several times round a ring of 1024.
        for round in 0..30 {
            let part = numbered(round * 50..round * 50 + 50);
            assert!(part.iter().all(|sample| guest.send(sample)));
            let count = if round == 29 { 20 } else { 50 };
            while seen.len() < (round * 50) as usize + count {
                seen.extend(receive_at_most(port.queues[0].as_mut(), &mut frames, 10));
            }
        }
        close(&place, port, frames);

        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        guest.reconnect_by_keepsake(connect(&place.socket()));
        let left = 1500 - seen.len();
        assert!(left > 0, "something was under way");
        seen.extend(receive(port.queues[0].as_mut(), &mut frames, left));
        assert!(seen.into_iter().eq(0..1500));
        let mut out = batch(&mut frames, &numbered(0..40));
        port.queues[0].transmit(&mut frames, &mut out);
        assert_eq!(std::iter::from_fn(|| guest.collect()).count(), 40);
        assert_eq!(port.queues[0].fault(), None);
        close(&place, port, frames);
    }
}

#[test]
fn a_ring_that_is_stopped_and_started_goes_on_where_it_was() {
    for packed in [false, true] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(Shape { packed, ..SPLIT }, connect(&place.socket()));
        assert!(numbered(0..10).iter().all(|sample| guest.send(sample)));
        assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 10).len(), 10);
        let ring = 1_u32.to_le_bytes();
        let body = [ring, [0; 4]];
        let base = guest.front_end.ask(request::GET_VRING_BASE, body.as_flattened()).unwrap();
        let expected = if packed { 10 | 1 << 15 } else { 10 };
        assert_eq!(base & 0xffff, expected);
        assert!(numbered(10..20).iter().all(|sample| guest.send(sample)));
        let mut batch = Batch::new();
        port.queues[0].receive(&mut frames, &mut batch);
        assert!(batch.is_empty(), "a ring that is stopped stands still");
        guest.restart(1, base as u32);
        let seen = receive(port.queues[0].as_mut(), &mut frames, 10);
        assert!(seen.into_iter().eq(10..20));
        close(&place, port, frames);
    }
}

#[test]
fn every_pair_of_rings_is_served_whatever_the_number_of_workers() {
    for (pairs, workers) in [(1, 2), (4, 2), (3, 4)] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, workers, false);
        let mut frames = FrameCache::new(place.region);
        let shape = Shape { pairs, packed: pairs == 3, ..SPLIT };
        let mut guest = Guest::new(shape, connect(&place.socket()));
        let queues = guest.front_end.ask(request::GET_QUEUE_NUM, &[]).unwrap();
        assert_eq!(queues, QUEUE_PAIRS_MAX as u64);
        for pair in 0..pairs {
            assert!(guest.send_on(2 * pair + 1, &Sample::numbered(pair as u32, 100)));
        }
        let mut numbers = Vec::new();
        for (worker, queue) in port.queues.iter_mut().enumerate() {
            let own = (worker..pairs).step_by(workers).count();
            numbers.extend(receive(queue.as_mut(), &mut frames, own));
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..pairs as u32), "{pairs} pairs, {workers} workers");
        for worker in 0..workers {
            let mut batch = batch(&mut frames, &[Sample::numbered(worker as u32, 100)]);
            port.queues[worker].transmit(&mut frames, &mut batch);
            assert!(batch.is_empty());
            let arrived = guest.collect_on(2 * (worker % pairs)).unwrap();
            assert_eq!(arrived.number(), worker as u32);
        }
        close(&place, port, frames);
    }
}

#[test]
fn a_pair_that_fills_every_batch_leaves_the_other_its_turn() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let queue = port.queues[0].as_mut();
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::new(Shape { pairs: 2, ..SPLIT }, connect(&place.socket()));
    for (ring, number) in [(1, 0), (3, 1)] {
        assert!(guest.send_on(ring, &Sample::numbered(number, 100)));
    }
    assert_eq!(receive(queue, &mut frames, 2).len(), 2, "both are at work");
    for number in 0..10 {
        assert!(guest.send_on(1, &Sample::numbered(number, 100)));
    }
    assert!(guest.send_on(3, &Sample::numbered(99, 100)));
    let mut numbers = receive_at_most(queue, &mut frames, 1);
    numbers.extend(receive_at_most(queue, &mut frames, 1));
    assert!(numbers.contains(&99), "{numbers:?}");
    close(&place, port, frames);
}

#[test]
fn workers_that_share_a_ring_lose_and_double_nothing() {
    let place = Place::new();
    let port = place.open(Mode::Server, 2, false);
    let mut guest = Guest::new(SPLIT, connect(&place.socket()));
    let VhostUserPort { facts, queues, control } = port;
    let region = place.region;
    let mut counts = [0; 2];
    let queues = std::thread::scope(|scope| {
        let sender = |(worker, mut queue): (u32, Box<dyn Queue>)| {
            scope.spawn(move || {
                let mut frames = FrameCache::new(region);
                for round in 0..200_u32 {
                    let base = (worker << 24) | (round * 10);
                    let mut batch = batch(&mut frames, &numbered(base..base + 10));
                    while !batch.is_empty() {
                        queue.transmit(&mut frames, &mut batch);
                        queue.flush(&mut frames);
                        std::thread::yield_now();
                    }
                }
                queue
            })
        };
        let threads: Vec<_> = (0..).zip(queues).map(sender).collect();
        let deadline = Instant::now() + PATIENCE;
        while counts != [2000; 2] && Instant::now() < deadline {
            if let Some(sample) = guest.collect() {
                let (worker, number) = (sample.number() >> 24, sample.number() & 0xff_ffff);
                assert_eq!(number, counts[worker as usize], "in order");
                counts[worker as usize] += 1;
            }
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(counts, [2000; 2]);
    close(&place, VhostUserPort { facts, queues, control }, FrameCache::new(region));
}

#[test]
fn a_guest_that_takes_no_partial_checksums_gets_finished_ones() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let shape = Shape { checksum: false, ..SPLIT };
    let mut guest = Guest::new(shape, connect(&place.socket()));
    let mut batch = batch(&mut frames, &[partial_udp([2, 0, 0, 0, 0, 9], b"to finish")]);
    port.queues[0].transmit(&mut frames, &mut batch);
    let arrived = guest.collect().unwrap();
    assert_eq!(arrived.checksum, Checksum::Complete);
    let segment = &arrived.bytes[34..];
    assert_eq!(
        sum(segment, u32::from(sum(&arrived.bytes[26..34], 17 + segment.len() as u32))),
        0xffff
    );
    close(&place, port, frames);
}

#[test]
fn memory_can_be_added_and_taken_away_while_packets_flow() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::new(SPLIT, connect(&place.socket()));
    assert_eq!(guest.front_end.ask(request::GET_MAX_MEM_SLOTS, &[]), Some(32));
    let more = crate::guest::driver::Memory::new(0x10000);
    let words = [GUEST + 0x1000_0000, 0x8000, USER + 0x1000_0000, 0x2000];
    assert!(guest.front_end.share_more(request::ADD_MEM_REG, words, Some(&more.file)));
    let sample = Sample::numbered(9, 100);
    let send = |guest: &mut Guest| {
        more.write(0x2000, &[0; 12]);
        more.write(0x200c, &sample.bytes);
        let driver = &mut guest.rings[1].driver;
        driver.add(&guest.memory, 200, &[(GUEST + 0x1000_0000, 112, false)]);
    };
    send(&mut guest);
    assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [9]);
    assert!(guest.send(&Sample::numbered(10, 100)), "and the old memory is there");
    assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [10]);
    assert!(guest.front_end.share_more(request::REM_MEM_REG, words, None));
    assert!(guest.send(&Sample::numbered(11, 100)));
    assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [11]);
    assert_eq!(port.queues[0].fault(), None);
    send(&mut guest);
    assert_eq!(
        hostile::fault_of(&mut port, &mut frames),
        hostile::outside(GUEST + 0x1000_0000, 112)
    );
    close(&place, port, frames);
}

#[test]
fn what_is_not_there_is_not_offered_and_cannot_be_asked_for() {
    const LOG_ALL: u64 = 1 << 26;
    const UDP_SEGMENTS: u64 = 1 << 10 | 1 << 14 | 7 << 54;
    let place = Place::new();
    let port = place.open(Mode::Server, 1, false);
    let mut front_end = FrontEnd::new(connect(&place.socket()));
    let offered = front_end.ask(request::GET_FEATURES, &[]).unwrap();
    assert_eq!(offered & (LOG_ALL | UDP_SEGMENTS), 0);
    assert_eq!(offered & (EVENT_INDEX | PACKED), EVENT_INDEX | PACKED);
    assert!(front_end.agree(LOG_ALL | 1 << 30).is_none(), "dirty-log is refused");
    assert!(front_end.is_left_alone());

    let mut guest = Guest::new(SPLIT, connect(&place.socket()));
    let places = guest.rings[0].driver.places.map(|place| USER + place as u64);
    assert!(!guest.front_end.place(0, 1, [places[0], places[2], places[1]]), "logged ring");
    assert!(guest.front_end.is_left_alone());

    let guest = Guest::new(SPLIT, connect(&place.socket()));
    let mut front_end = guest.front_end;
    front_end.mention(request::SET_LOG_BASE, &[0; 16]);
    assert!(front_end.is_left_alone());
    assert_eq!(port.queues[0].fault(), None, "asking is no crime: the next one is served");
    let _next = Guest::new(SPLIT, connect(&place.socket()));
    close(&place, port, FrameCache::new(place.region));
}
