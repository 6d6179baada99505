//! The contract.

use std::time::{Duration, Instant};

use seine_datapath::frame::Batch;
use seine_pipeline::packet::Checksum;

use crate::device::readable;
use crate::{Bench, Kind, Sample};

/// Longer than any machine takes, short enough to fail in.
const PATIENCE: Duration = Duration::from_secs(10);

/// Samples of all lengths that fit an MTU of 1450.
fn samples(count: u32) -> Vec<Sample> {
    (0..count).map(|number| Sample::numbered(number, 60 + (number as usize * 37) % 1390)).collect()
}

impl Bench {
    /// Receives `count` packets, sending `offered` meanwhile.
    fn receive(&mut self, count: usize, offered: &mut dyn Iterator<Item = Sample>) -> Vec<Sample> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = Vec::new();
        let mut next = offered.next();
        while received.len() < count && Instant::now() < deadline {
            for _ in 0..16 {
                if next.as_ref().is_some_and(|sample| self.wire.send(sample)) {
                    next = offered.next();
                }
            }
            let mut batch = Batch::new();
            self.queue.receive(&mut self.frames, &mut batch);
            for frame in batch {
                received.push(Sample { bytes: frame.bytes().to_vec(), checksum: frame.checksum });
                self.frames.free(frame);
            }
        }
        received
    }

    fn batch(&mut self, samples: &[Sample]) -> Batch {
        let mut batch = Batch::new();
        for sample in samples {
            let mut frame = self.frames.allocate().expect("a frame");
            assert!(frame.fill(&sample.bytes), "a sample must fit a frame");
            frame.checksum = sample.checksum;
            batch.push(frame);
        }
        batch
    }

    /// Transmits all, and collects as many as arrive.
    fn transmit(&mut self, samples: &[Sample]) -> Vec<Sample> {
        let deadline = Instant::now() + PATIENCE;
        let mut arrived = Vec::new();
        for part in samples.chunks(40) {
            let mut batch = self.batch(part);
            while !batch.is_empty() && Instant::now() < deadline {
                self.queue.transmit(&mut self.frames, &mut batch);
                self.queue.flush(&mut self.frames);
                arrived.extend(std::iter::from_fn(|| self.wire.collect()));
            }
            assert!(batch.is_empty(), "the queue took nothing for {PATIENCE:?}");
        }
        while arrived.len() < samples.len() && Instant::now() < deadline {
            self.queue.flush(&mut self.frames);
            arrived.extend(std::iter::from_fn(|| self.wire.collect()));
        }
        arrived
    }

    /// Closes the queue; every frame must be back.
    fn close(self) {
        let Bench { region, mut frames, queue, wire, surroundings } = self;
        queue.close(&mut frames);
        drop((frames, wire));
        assert_eq!(region.free_frames(), region.frames(), "frames were lost or doubled");
        drop(surroundings);
    }
}

pub fn packets_are_received_unchanged_and_in_order(kind: &dyn Kind) {
    let offered = samples(500);
    let (early, late) = if kind.live() { offered.split_at(0) } else { offered.split_at(500) };
    let mut bench = kind.open(early);
    let received = bench.receive(offered.len(), &mut late.iter().cloned());
    assert_eq!(received.len(), offered.len());
    assert_eq!(received, offered);
    bench.close();
}

pub fn packets_are_transmitted_unchanged_and_in_order(kind: &dyn Kind) {
    let samples = samples(500);
    let mut bench = kind.open(&[]);
    let arrived = bench.transmit(&samples);
    assert_eq!(arrived.len(), samples.len());
    assert_eq!(arrived, samples);
    assert_eq!(bench.queue.stats().refused, 0);
    bench.close();
}

pub fn a_batch_is_filled_and_no_further(kind: &dyn Kind) {
    let offered = samples(30);
    let mut bench = kind.open(if kind.live() { &[] } else { &offered });
    let mut batch = bench.batch(&samples(50));
    if kind.live() {
        assert!(offered.iter().all(|sample| bench.wire.send(sample)));
    }
    let deadline = Instant::now() + PATIENCE;
    while !batch.is_full() && Instant::now() < deadline {
        bench.queue.receive(&mut bench.frames, &mut batch);
    }
    let room = batch.capacity() - 50;
    let numbers: Vec<usize> = batch.iter().skip(50).map(|frame| number(frame.bytes())).collect();
    assert_eq!(numbers, (0..room).collect::<Vec<_>>());
    batch.drain(..).for_each(|frame| bench.frames.free(frame));
    let rest = bench.receive(offered.len() - room, &mut std::iter::empty());
    assert_eq!(rest, offered[room..]);
    bench.close();
}

fn number(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[14..18].try_into().unwrap()) as usize
}

/// Here, in another thread, and here again, with packets that wait for it each time.
pub fn a_queue_goes_on_in_another_thread(kind: &dyn Kind) {
    let mut bench = kind.open(&[]);
    for round in 0..4_u32 {
        let sent: Vec<Sample> =
            (0..30).map(|number| Sample::numbered(round * 30 + number, 200)).collect();
        assert!(sent.iter().all(|sample| bench.wire.send(sample)));
        let Bench { queue, frames, .. } = &mut bench;
        let mut echo = || {
            let (deadline, mut batch) = (Instant::now() + PATIENCE, Batch::new());
            while batch.len() < sent.len() && Instant::now() < deadline {
                queue.receive(frames, &mut batch);
            }
            assert_eq!(batch.len(), sent.len());
            queue.transmit(frames, &mut batch);
            queue.flush(frames);
            queue.uproot(frames).expect("a queue that can move");
        };
        match round % 2 {
            0 => echo(),
            _ => std::thread::scope(|scope| scope.spawn(echo).join().expect("an echo")),
        }
        let (deadline, mut arrived) = (Instant::now() + PATIENCE, Vec::new());
        while arrived.len() < sent.len() && Instant::now() < deadline {
            arrived.extend(std::iter::from_fn(|| bench.wire.collect()).map(|it| it.bytes));
        }
        assert!(arrived.iter().eq(sent.iter().map(|sample| &sample.bytes)), "round {round}");
    }
    bench.close();
}

pub fn transmit_leaves_what_does_not_fit(kind: &dyn Kind) {
    let mut bench = kind.open(&[]);
    let ring = kind.transmit_ring().unwrap_or(1000);
    let samples = samples(ring as u32 * 2);
    let mut sent = 0;
    // Without a flush, so that nothing leaves meanwhile; the last batch is cut.
    for part in samples.chunks(48) {
        let mut batch = bench.batch(part);
        bench.queue.transmit(&mut bench.frames, &mut batch);
        sent += part.len() - batch.len();
        let left: Vec<usize> = batch.iter().map(|frame| number(frame.bytes())).collect();
        let cut = &part[part.len() - left.len()..];
        assert!(left.iter().copied().eq(cut.iter().map(|sample| sample.number() as usize)));
        let full = !batch.is_empty();
        batch.drain(..).for_each(|frame| bench.frames.free(frame));
        if full {
            break;
        }
    }
    match kind.transmit_ring() {
        Some(ring) => assert_eq!(sent, ring),
        None => assert_eq!(sent, samples.len()),
    }
    let deadline = Instant::now() + PATIENCE;
    let mut arrived = Vec::new();
    while arrived.len() < sent && Instant::now() < deadline {
        bench.queue.flush(&mut bench.frames);
        arrived.extend(std::iter::from_fn(|| bench.wire.collect()));
    }
    assert_eq!(arrived, samples[..sent]);
    bench.close();
}

pub fn a_frame_too_long_for_the_device_is_refused_and_counted(kind: &dyn Kind) {
    let mut bench = kind.open(&[]);
    let mut batch = bench.batch(&samples(3));
    let middle = batch.get_mut(1).unwrap();
    let start = middle.buffer().len() - kind.oversize();
    middle.set_range(start, kind.oversize());
    let whole = samples(3);
    let deadline = Instant::now() + PATIENCE;
    let mut arrived = Vec::new();
    while arrived.len() < 2 && Instant::now() < deadline {
        bench.queue.transmit(&mut bench.frames, &mut batch);
        bench.queue.flush(&mut bench.frames);
        arrived.extend(std::iter::from_fn(|| bench.wire.collect()));
    }
    assert_eq!(arrived, [whole[0].clone(), whole[2].clone()]);
    assert_eq!(bench.queue.stats().refused, 1);
    bench.close();
}

pub fn an_empty_frame_is_refused_and_counted(kind: &dyn Kind) {
    let mut bench = kind.open(&[]);
    let mut batch = Batch::new();
    batch.push(bench.frames.allocate().expect("a frame"));
    bench.queue.transmit(&mut bench.frames, &mut batch);
    bench.queue.flush(&mut bench.frames);
    assert!(batch.is_empty());
    assert_eq!(bench.queue.stats().refused, 1);
    bench.close();
}

pub fn a_queue_at_rest_wakes(kind: &dyn Kind) {
    let mut bench = kind.open(&[]);
    for number in 0..3 {
        assert!(bench.receive_nothing());
        let descriptor = bench.queue.wake_source().expect("a live port wakes");
        assert!(!readable(descriptor, Duration::from_millis(20)), "woke for nothing");
        let sample = Sample::numbered(number, 100);
        assert!(bench.wire.send(&sample));
        assert!(readable(descriptor, PATIENCE), "did not wake");
        assert_eq!(bench.receive(1, &mut std::iter::empty()), [sample]);
    }
    bench.close();
}

impl Bench {
    /// A worker looks twice before it rests.
    fn receive_nothing(&mut self) -> bool {
        let mut batch = Batch::new();
        for _ in 0..2 {
            self.queue.receive(&mut self.frames, &mut batch);
        }
        let nothing = batch.is_empty();
        batch.drain(..).for_each(|frame| self.frames.free(frame));
        nothing
    }
}

/// 100,000 random steps of a worker and of the far end; then everything must be back, and what
/// arrived must be what was sent, in order.
pub fn no_frame_is_lost_or_doubled(kind: &dyn Kind) {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut random = Random(seed.as_nanos() as u64 | 1);
    println!("seed {}", random.0);
    let offered = if kind.live() { Vec::new() } else { samples(20_000) };
    let mut bench = kind.open(&offered);
    let (mut sent, mut transmitted) = (offered.len() as u32, 0);
    let (mut received, mut collected) = (Order::default(), Order::default());
    let mut batch = Batch::new();
    for _ in 0..100_000 {
        match random.below(8) {
            0 | 1 if kind.live() => {
                for _ in 0..random.below(8) {
                    let len = 60 + random.below(1300);
                    if bench.wire.send(&Sample::numbered(sent, len)) {
                        sent += 1;
                    }
                }
            }
            0..=3 => {
                let kept = batch.len();
                bench.queue.receive(&mut bench.frames, &mut batch);
                batch.iter().skip(kept).for_each(|frame| received.next(number(frame.bytes())));
            }
            4 => {
                // What was received goes back to its frames, in part.
                let gone = random.below(batch.len() + 1);
                batch.drain(..gone).for_each(|frame| bench.frames.free(frame));
            }
            5 | 6 => {
                let mut out = Batch::new();
                for _ in 0..random.below(10) {
                    let Some(mut frame) = bench.frames.allocate() else { break };
                    let len = 60 + random.below(1300);
                    let sample = Sample::numbered(transmitted + out.len() as u32, len);
                    assert!(frame.fill(&sample.bytes));
                    out.push(frame);
                }
                let wanted = out.len();
                bench.queue.transmit(&mut bench.frames, &mut out);
                transmitted += (wanted - out.len()) as u32;
                out.drain(..).for_each(|frame| bench.frames.free(frame));
            }
            _ => {
                bench.queue.flush(&mut bench.frames);
                while let Some(sample) = bench.wire.collect() {
                    collected.next(sample.number() as usize);
                }
            }
        }
    }
    batch.drain(..).for_each(|frame| bench.frames.free(frame));
    assert_eq!(bench.queue.fault(), None);
    println!(
        "sent {sent}, received {}; transmitted {transmitted}, collected {}",
        received.count, collected.count
    );
    assert!(received.count > 1000 && collected.count > 1000, "too little happened");
    bench.close();
}

/// Numbers must rise: gaps are a full device's drops, repetition is a fault of ours.
#[derive(Default)]
struct Order {
    next: usize,
    count: usize,
}

impl Order {
    fn next(&mut self, number: usize) {
        assert!(number >= self.next, "{number} came when at least {} was due", self.next);
        self.next = number + 1;
        self.count += 1;
    }
}

/// Xorshift: enough for choosing steps, and its seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// A UDP packet from 10.99.0.1 to 10.99.0.2 port 9 whose checksum is left to the device.
pub fn partial_udp(target: [u8; 6], payload: &[u8]) -> Sample {
    let mut bytes = target.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 8, 0x08, 0x00, 0x45, 0]);
    bytes.extend(((28 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2]);
    let header = !sum(&bytes[14..34], 0);
    bytes[24..26].copy_from_slice(&header.to_be_bytes());
    let length = (8 + payload.len()) as u16;
    bytes.extend([0x30, 0, 0, 9]);
    bytes.extend(length.to_be_bytes());
    let pseudo = sum(&bytes[26..34], u32::from(length) + 17);
    bytes.extend(pseudo.to_be_bytes());
    bytes.extend(payload);
    Sample { bytes, checksum: Checksum::Partial { start: 34, offset: 6 } }
}

/// The folded sum of big-endian words.
pub fn sum(bytes: &[u8], initial: u32) -> u16 {
    let pairs = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum = pairs.sum::<u32>() + initial;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn a_partial_checksum_passes_both_ways_or_is_refused(kind: &dyn Kind) {
    let sample = partial_udp([2, 0, 0, 0, 0, 9], b"unfinished");
    let mut bench = kind.open(&[]);
    if bench.queue.takes_partial_checksum() {
        let alone = std::slice::from_ref(&sample);
        assert_eq!(bench.transmit(alone), alone);
        assert!(bench.wire.send(&sample));
        assert_eq!(bench.receive(1, &mut std::iter::empty()), [sample]);
    } else {
        let mut batch = bench.batch(&[sample]);
        bench.queue.transmit(&mut bench.frames, &mut batch);
        bench.queue.flush(&mut bench.frames);
        assert!(batch.is_empty() && bench.wire.collect().is_none());
        assert_eq!(bench.queue.stats().refused, 1);
    }
    bench.close();
}
