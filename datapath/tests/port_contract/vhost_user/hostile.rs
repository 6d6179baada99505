//! A guest that breaks the rules takes its own port down, by name, and nobody else.

use std::fs::File;
use std::sync::atomic::Ordering;

use super::*;
use crate::guest::driver::{INDIRECT, Memory, NEXT, WRITE};
use crate::guest::{BUFFERS, SIZE};
use seine_datapath::port::{GuestFault, QueueFault};

/// What a port went down for; it is looked at from both sides until it is down.
pub fn fault_of(port: &mut VhostUserPort, frames: &mut FrameCache) -> GuestFault {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut received = Batch::new();
        port.queues[0].receive(frames, &mut received);
        received.drain(..).for_each(|frame| frames.free(frame));
        let mut batch = batch(frames, &numbered(0..3));
        port.queues[0].transmit(frames, &mut batch);
        batch.drain(..).for_each(|frame| frames.free(frame));
        match port.queues[0].fault() {
            Some(QueueFault::Guest { fault, .. }) => return fault,
            Some(other) => panic!("{other}"),
            None => assert!(Instant::now() < deadline, "the port is still up"),
        }
    }
}

pub fn outside(address: u64, bytes: u64) -> GuestFault {
    GuestFault::OutsideMemory { address, bytes }
}

/// Opens two ports, lets the guest of one do something, and returns what came of it; the other
/// one works all the time.
fn downfall(shape: Shape, act: impl FnOnce(&mut Guest)) -> GuestFault {
    let (place, neighbours) = (Place::new(), Place::new());
    let mut port = place.open(Mode::Server, 1, false);
    let mut neighbour = neighbours.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut others = FrameCache::new(neighbours.region);
    let mut guest = Guest::new(shape, connect(&place.socket()));
    let mut good = Guest::new(SPLIT, connect(&neighbours.socket()));
    act(&mut guest);
    let fault = fault_of(&mut port, &mut frames);
    assert!(guest.front_end.is_left_alone(), "the connection is ended");
    let deadline = Instant::now() + PATIENCE;
    while place.socket().exists() {
        assert!(Instant::now() < deadline, "nobody else is let in");
    }
    let mut refused = batch(&mut frames, &numbered(0..5));
    port.queues[0].transmit(&mut frames, &mut refused);
    assert!(refused.is_empty() && port.queues[0].stats().refused >= 5);

    assert!(numbered(0..20).iter().all(|sample| good.send(sample)));
    assert_eq!(receive(neighbour.queues[0].as_mut(), &mut others, 20).len(), 20);
    assert_eq!(neighbour.queues[0].fault(), None);
    close(&neighbours, neighbour, others);
    close(&place, port, frames);
    fault
}

/// Writes a descriptor of the transmit ring as it is given.
fn descriptor(guest: &Guest, slot: usize, address: u64, bytes: u32, third: u16, fourth: u16) {
    let mut raw = address.to_le_bytes().to_vec();
    raw.extend(bytes.to_le_bytes());
    raw.extend([third.to_le_bytes(), fourth.to_le_bytes()].as_flattened());
    guest.memory.write(guest.rings[1].driver.places[0] + 16 * slot, &raw);
}

/// Makes slot 0 of the transmit ring available.
fn expose(guest: &Guest) {
    let available = guest.rings[1].driver.places[1];
    guest.memory.half(available + 4).store(0, Ordering::Relaxed);
    guest.memory.half(available + 2).store(1, Ordering::Release);
}

#[test]
fn an_available_index_that_jumps_is_named() {
    let fault = downfall(SPLIT, |guest| {
        let available = guest.rings[1].driver.places[1];
        guest.memory.half(available + 2).store(SIZE + 1, Ordering::Release);
    });
    assert_eq!(fault, GuestFault::IndexJump { from: 0, to: SIZE + 1, size: SIZE });
    // In the ring to the guest, backwards.
    let fault = downfall(SPLIT, |guest| {
        let available = guest.rings[0].driver.places[1];
        guest.memory.half(available + 2).store(u16::MAX, Ordering::Release);
    });
    assert_eq!(fault, GuestFault::IndexJump { from: 0, to: u16::MAX, size: SIZE });
}

/// An address and a length, for a guest.
type Wild<'a> = &'a dyn Fn(&Guest) -> (u64, u32);

#[test]
fn addresses_and_lengths_outside_of_the_memory_are_named() {
    let end = |guest: &Guest| GUEST + guest.memory.bytes as u64;
    let wild: [Wild; 6] = [
        &|_| (0, 100),
        &|_| (GUEST - 1, 100),
        &|guest| (end(guest) - 99, 100),
        &|guest| (end(guest) + 1, 0),
        &|_| (u64::MAX, 100),
        &|_| (GUEST, u32::MAX),
    ];
    for (index, place) in wild.iter().enumerate() {
        for packed in [false, true] {
            let mut expected = (0, 0);
            let fault = downfall(Shape { packed, ..SPLIT }, |guest| {
                let (address, bytes) = place(guest);
                expected = (address, bytes);
                let driver = &mut guest.rings[1].driver;
                driver.add(&guest.memory, 0, &[(address, bytes, false)]);
            });
            assert_eq!(fault, outside(expected.0, expected.1.into()), "case {index}");
        }
    }
    // The address lies within, of a buffer to be written.
    let fault = downfall(SPLIT, |guest| {
        let at = guest.memory.bytes - 50;
        let place = guest.rings[0].driver.places[0];
        guest.memory.write(place, &(GUEST + at as u64).to_le_bytes());
    });
    assert!(matches!(fault, GuestFault::OutsideMemory { .. }), "{fault}");
}

#[test]
fn loops_and_endless_chains_are_named() {
    let looped = downfall(SPLIT, |guest| {
        descriptor(guest, 0, GUEST, 1, NEXT, 1);
        descriptor(guest, 1, GUEST, 1, NEXT, 0);
        expose(guest);
    });
    assert_eq!(looped, GuestFault::ChainTooLong { max: 64 });
    let overlong = downfall(SPLIT, |guest| {
        (0..100).for_each(|slot| descriptor(guest, slot, GUEST, 1, NEXT, slot as u16 + 1));
        expose(guest);
    });
    assert_eq!(overlong, GuestFault::ChainTooLong { max: 64 });
    let packed = downfall(Shape { packed: true, ..SPLIT }, |guest| {
        (0..100).for_each(|slot| descriptor(guest, slot, GUEST, 1, 0, NEXT | 1 << 7));
    });
    assert_eq!(packed, GuestFault::ChainTooLong { max: 64 });
}

#[test]
fn descriptors_that_are_none_are_named() {
    let head = downfall(SPLIT, |guest| {
        let available = guest.rings[1].driver.places[1];
        guest.memory.half(available + 4).store(SIZE, Ordering::Relaxed);
        guest.memory.half(available + 2).store(1, Ordering::Release);
    });
    assert_eq!(head, GuestFault::DescriptorIndex { index: SIZE, size: SIZE });
    let next = downfall(SPLIT, |guest| {
        descriptor(guest, 0, GUEST, 100, NEXT, u16::MAX);
        expose(guest);
    });
    assert_eq!(next, GuestFault::DescriptorIndex { index: u16::MAX, size: SIZE });
    let id = downfall(Shape { packed: true, ..SPLIT }, |guest| {
        descriptor(guest, 0, GUEST, 100, SIZE, 1 << 7);
    });
    assert_eq!(id, GuestFault::DescriptorIndex { index: SIZE, size: SIZE });
    let direction = downfall(SPLIT, |guest| {
        descriptor(guest, 0, GUEST, 100, WRITE, 0);
        expose(guest);
    });
    assert_eq!(direction, GuestFault::Direction);
}

#[test]
fn indirect_tables_that_are_none_are_named() {
    for bytes in [0, 8, 40] {
        let fault = downfall(SPLIT, |guest| {
            descriptor(guest, 0, GUEST, bytes, INDIRECT, 0);
            expose(guest);
        });
        assert_eq!(fault, GuestFault::Indirect { bytes });
    }
    let nested = downfall(SPLIT, |guest| {
        let table = guest.rings[1].driver.places[0] as u64 + GUEST;
        descriptor(guest, 0, table + 16, 16, INDIRECT, 0);
        descriptor(guest, 1, table + 16, 16, INDIRECT, 0);
        expose(guest);
    });
    assert_eq!(nested, GuestFault::Indirect { bytes: 16 });
    let beside = downfall(SPLIT, |guest| {
        descriptor(guest, 0, GUEST, 16, INDIRECT | NEXT, 1);
        expose(guest);
    });
    assert_eq!(beside, GuestFault::Indirect { bytes: 16 });
}

#[test]
fn a_guest_that_cuts_its_memory_short_hurts_only_itself() {
    for packed in [false, true] {
        let gone = downfall(Shape { packed, ..SPLIT }, |guest| {
            assert!(guest.send(&Sample::numbered(1, 1000)));
            // Rings stay, buffers go: the access is amid a packet.
            guest.memory.file.set_len(0x10_0000).unwrap();
        });
        assert_eq!(gone, GuestFault::MemoryGone);
    }
}

#[test]
fn headers_that_lie_are_dropped_and_counted_and_the_port_stays_up() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let mut guest = Guest::new(SPLIT, connect(&place.socket()));
    let bytes = Sample::numbered(0, 100).bytes;
    let mut segment = [0; 12];
    (segment[1], segment[4]) = (1, 0);
    let mut outside = [0; 12];
    (outside[0], outside[6]) = (1, 99);
    assert!(guest.send_raw(1, segment, &bytes), "segments were not agreed on");
    assert!(guest.send_raw(1, outside, &bytes), "a checksum past the end");
    assert!(guest.send_raw(1, [0; 12], &[0; 13]), "shorter than an Ethernet header");
    assert!(guest.send_raw(1, [0; 12], &[0; 1515]), "longer than the MTU");
    assert!(guest.send(&Sample::numbered(5, 100)));
    assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [5]);
    let stats = port.queues[0].stats();
    assert_eq!((stats.malformed, stats.bad_segmentation), (3, 1));
    assert_eq!(port.queues[0].fault(), None);
    assert!((0..BUFFERS.into()).all(|number| guest.send(&Sample::numbered(number, 100))));
    close(&place, port, frames);
}

/// What comes of sharing a file as memory.
fn shared(words: &[[u64; 4]], file: &File) -> GuestFault {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut front_end = FrontEnd::new(connect(&place.socket()));
    front_end.agree(SPLIT.features()).unwrap();
    let regions: Vec<_> = words.iter().map(|&words| (words, file)).collect();
    assert!(!front_end.share(&regions));
    assert!(front_end.is_left_alone());
    let mut frames = FrameCache::new(place.region);
    let fault = fault_of(&mut port, &mut frames);
    close(&place, port, frames);
    fault
}

#[test]
fn only_files_in_memory_that_nobody_else_can_open_are_guest_memory() {
    let page = [[GUEST, 4096, USER, 0]];
    let disk = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    disk.set_len(4096).unwrap();
    assert_eq!(shared(&page, &disk), GuestFault::MemoryKind);
    let named = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    named.as_file().set_len(4096).unwrap();
    assert_eq!(shared(&page, named.as_file()), GuestFault::MemoryKind);
    assert_eq!(shared(&page, &File::open("/dev/zero").unwrap()), GuestFault::MemoryKind);
    let memory = Memory::new(8192);
    let short = [[GUEST, 8192, USER, 4096]];
    let expected = GuestFault::MemoryShort { end: 12288, bytes: 8192 };
    assert_eq!(shared(&short, &memory.file), expected);
    let twice = [[GUEST, 4096, USER, 0], [GUEST + 4095, 4096, USER + 0x10000, 0]];
    let expected = GuestFault::MemoryLayout { address: GUEST + 4095 };
    assert_eq!(shared(&twice, &memory.file), expected);
}

#[test]
fn a_kick_that_is_no_eventfd_and_a_ring_outside_of_the_memory_are_named() {
    let no_event = downfall(SPLIT, |guest| {
        use std::os::fd::AsRawFd;
        let file = guest.memory.file.as_raw_fd();
        assert!(!guest.front_end.event(request::SET_VRING_CALL, 0, file));
    });
    assert_eq!(no_event, GuestFault::NotEventFd);
    for address in [USER + 0x30_0000 - 16, 0, u64::MAX - 15] {
        let place = downfall(SPLIT, |guest| {
            assert!(!guest.front_end.place(0, 0, [address, USER, USER]));
        });
        assert_eq!(place, GuestFault::RingPlace { address });
    }
}
