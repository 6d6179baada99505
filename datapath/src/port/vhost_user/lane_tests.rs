//! Rings of random content: whatever a guest writes, nothing panics, no frame is lost, and not a
//! byte outside of its memory is read or written.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::collection::vec;
use proptest::prelude::*;

use super::features::{self, EVENT_INDEX, OFFERED, RING_PACKED};
use super::lane::Lane;
use super::memory::{GuestMemory, RegionPlace};
use super::ring::{Direction, Ring, RingAddresses, RingSetup};
use crate::frame::{Batch, Frame, FrameCache, Region};
use crate::port::QueueStats;

const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000;
/// The region lies amid pages of its file; what is around it is not the guest's to name.
const OFFSET: u64 = 0x1800;
const BYTES: u64 = 0xc000;
const FILE_BYTES: u64 = 0x1_0000;
const SECRET: u8 = 0xee;
const SIZE: u16 = 8;

/// Offsets of ring parts in the region.
const DRIVER: u64 = 0x100;
const DEVICE: u64 = 0x200;

/// A guest's memory, with secrets around it.
fn memory() -> (File, GuestMemory) {
    let file = File::from(memfd_create(c"guest", MFdFlags::empty()).unwrap());
    file.write_all_at(&vec![SECRET; FILE_BYTES as usize], 0).unwrap();
    file.write_all_at(&vec![0; BYTES as usize], OFFSET).unwrap();
    let place = RegionPlace { guest: GUEST, user: USER, bytes: BYTES, offset: OFFSET };
    let memory = GuestMemory::default().with(place, &file).unwrap();
    (file, memory)
}

fn lane(memory: &GuestMemory, direction: Direction, features: u64) -> Lane {
    let addresses =
        RingAddresses { descriptors: USER, driver: USER + DRIVER, device: USER + DEVICE };
    let packed = features & RING_PACKED != 0;
    let setup = RingSetup {
        addresses,
        size: SIZE,
        base: if packed { 1 << 15 } else { 0 },
        direction,
        event_index: features & EVENT_INDEX != 0,
    };
    let ring = Ring::new(memory, packed, setup, None).unwrap();
    Lane::new(ring, Arc::new(memory.clone()), features::agreement(features, 1514), false)
}

/// Something a guest does.
#[derive(Clone, Debug)]
enum Deed {
    Descriptor { slot: u8, address: u64, bytes: u32, flags: u16, next: u16 },
    Available { entry: u8, head: u16 },
    Advance(u16),
    Scribble { at: u16, with: u64 },
    CutShort,
    Look,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..BYTES).prop_map(|at| GUEST + at),
        1 => (0..64_u64).prop_map(|back| GUEST + BYTES - back),
        1 => (0..64_u64).prop_map(|back| GUEST - back),
        1 => any::<u64>(),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let bytes =
        prop_oneof![8 => 0..3000_u32, 1 => any::<u32>(), 1 => (0..8_u32).prop_map(|it| it * 16)];
    // The bits that mean something in either kind of ring.
    let flags = (0..8_u16, 0..4_u16).prop_map(|(low, own)| low | (own & 1) << 7 | (own & 2) << 14);
    let next = prop_oneof![9 => 0..SIZE, 1 => any::<u16>()];
    prop_oneof![
        8 => (0..SIZE as u8, address(), bytes, flags, next).prop_map(
            |(slot, address, bytes, flags, next)| {
                Deed::Descriptor { slot, address, bytes, flags, next }
            }
        ),
        4 => (0..SIZE as u8, 0..SIZE + 1).prop_map(|(entry, head)| Deed::Available { entry, head }),
        4 => (0..4_u16).prop_map(Deed::Advance),
        1 => (any::<u16>(), any::<u64>()).prop_map(|(at, with)| Deed::Scribble { at, with }),
        1 => Just(Deed::CutShort),
        6 => Just(Deed::Look),
    ]
}

impl Deed {
    fn act(&self, file: &File, packed: bool) {
        let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, OFFSET + at).unwrap();
        match *self {
            Deed::Descriptor { slot, address, bytes, flags, next } => {
                let (third, fourth) = if packed { (next, flags) } else { (flags, next) };
                let mut raw = address.to_le_bytes().to_vec();
                raw.extend(bytes.to_le_bytes());
                raw.extend([third.to_le_bytes(), fourth.to_le_bytes()].as_flattened());
                write(u64::from(slot) * 16, &raw);
            }
            Deed::Available { entry, head } => {
                write(DRIVER + 4 + 2 * u64::from(entry), &head.to_le_bytes());
            }
            Deed::Advance(by) => {
                let mut index = [0; 2];
                file.read_exact_at(&mut index, OFFSET + DRIVER + 2).unwrap();
                let index = u16::from_le_bytes(index).wrapping_add(by);
                write(DRIVER + 2, &index.to_le_bytes());
            }
            Deed::Scribble { at, with } => {
                write(u64::from(at) % (BYTES - 8), &with.to_le_bytes());
            }
            // And back, so that later deeds have something to write to.
            Deed::CutShort => {
                file.set_len(OFFSET + 0x300).unwrap();
                file.set_len(FILE_BYTES).unwrap();
            }
            Deed::Look => {}
        }
    }
}

/// Whether a packet holds what is not the guest's.
fn tells_secrets(frame: &Frame) -> bool {
    frame.bytes().windows(8).any(|bytes| bytes == [SECRET; 8])
}

fn secrets_are_whole(file: &File) -> bool {
    let mut bytes = vec![0; FILE_BYTES as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let (start, end) = (OFFSET as usize, (OFFSET + BYTES) as usize);
    bytes[..start].iter().chain(&bytes[end..]).all(|&byte| byte == SECRET)
}

/// Works on a lane once, as a worker does. `false` when the guest broke the rules.
fn work(lane: &mut Lane, direction: Direction, frames: &mut FrameCache) -> bool {
    let mut stats = QueueStats::default();
    let mut batch = Batch::new();
    let result = match direction {
        Direction::FromGuest => lane.receive(frames, &mut batch, &mut stats),
        Direction::ToGuest => {
            for number in 0..12_usize {
                let mut frame = frames.allocate().unwrap();
                assert!(frame.fill(&vec![0x22; 14 + 120 * number]));
                batch.push(frame);
            }
            lane.transmit(frames, &mut batch, &mut stats)
        }
    };
    let told = batch.iter().any(tells_secrets);
    batch.drain(..).for_each(|frame| frames.free(frame));
    assert!(!told, "a packet holds what is not the guest's");
    result.is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_a_guest_writes_only_its_own_memory_is_touched(
        deeds in vec(deed(), 1..60),
        to_guest in any::<bool>(),
        packed in any::<bool>(),
        features in any::<u64>(),
    ) {
        static REGION: std::sync::OnceLock<&'static Region> = std::sync::OnceLock::new();
        let region = *REGION.get_or_init(|| Region::map(4096, 2048).unwrap());
        let before = region.free_frames();
        let features = features & OFFERED & !RING_PACKED | if packed { RING_PACKED } else { 0 };
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let (file, memory) = memory();
        let mut frames = FrameCache::new(region);
        let mut lane = lane(&memory, direction, features);
        let mut cut = false;
        for deed in &deeds {
            deed.act(&file, packed);
            cut |= matches!(deed, Deed::CutShort);
            if matches!(deed, Deed::Look) && !work(&mut lane, direction, &mut frames) {
                break;
            }
        }
        prop_assert!(cut || secrets_are_whole(&file));
        drop(frames);
        prop_assert_eq!(region.free_frames(), before);
    }
}

#[test]
fn a_guest_that_writes_while_it_is_read_gets_no_further() {
    let region = Region::map(256, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let mut served = 0;
    for features in [OFFERED, OFFERED & !RING_PACKED] {
        let (file, memory) = memory();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64;
                while !stop.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let slot = random % u64::from(SIZE);
                    let address = match random >> 60 {
                        0 => random,
                        _ => GUEST + (random >> 8) % BYTES,
                    };
                    let bytes = (random >> 32) as u32 % 1500;
                    let (third, fourth) = ((random >> 40) as u16 & 7, (random >> 50) as u16 & 7);
                    let deed = Deed::Descriptor {
                        slot: slot as u8,
                        address,
                        bytes,
                        flags: third | (fourth & 1) << 7 | (fourth & 2) << 14,
                        next: fourth,
                    };
                    deed.act(&file, features & RING_PACKED != 0);
                    Deed::Advance(1).act(&file, false);
                }
            });
            for _ in 0..3000 {
                // A new lane each time: most are broken soon.
                let mut lane = lane(&memory, Direction::FromGuest, features);
                while work(&mut lane, Direction::FromGuest, &mut frames) {
                    served += 1;
                    if served % 50 == 0 {
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(secrets_are_whole(&file));
    }
    assert!(served > 0, "nothing was served");
    drop(frames);
    assert_eq!(region.free_frames(), region.frames());
}

#[test]
fn a_guest_whose_buffers_lie_in_many_pieces_keeps_its_port() {
    let region = Region::map(256, 2048).unwrap();
    let mut frames = FrameCache::new(region);
    let (file, memory) = memory();
    let features = OFFERED & !RING_PACKED;
    // Eight buffers of sixteen pieces of ten bytes, each in a table of its own.
    for slot in 0..SIZE as u8 {
        let table = 0x1000 + 0x100 * u64::from(slot);
        for piece in 0..16_u64 {
            let mut raw = (GUEST + 0x4000 + 16 * piece).to_le_bytes().to_vec();
            raw.extend(10_u32.to_le_bytes());
            let flags: u16 = if piece < 15 { 3 } else { 2 };
            raw.extend([flags.to_le_bytes(), (piece as u16 + 1).to_le_bytes()].as_flattened());
            file.write_all_at(&raw, OFFSET + table + 16 * piece).unwrap();
        }
        let address = GUEST + table;
        Deed::Descriptor { slot, address, bytes: 256, flags: 4, next: 0 }.act(&file, false);
        Deed::Available { entry: slot, head: slot.into() }.act(&file, false);
    }
    Deed::Advance(SIZE).act(&file, false);
    let mut lane = lane(&memory, Direction::ToGuest, features);
    let (mut batch, mut frame) = (Batch::new(), frames.allocate().unwrap());
    assert!(frame.fill(&[0x22; 1000]));
    batch.push(frame);
    let sent = lane.transmit(&mut frames, &mut batch, &mut QueueStats::default());
    assert_eq!(sent, Ok(()), "a long packet goes, or is refused");
    batch.drain(..).for_each(|frame| frames.free(frame));
}
