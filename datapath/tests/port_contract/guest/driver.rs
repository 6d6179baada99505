//! The driver's half of split and packed rings, over memory shared with the port.

#![allow(unsafe_code, reason = "memory that another party writes to as well")]

use std::fs::File;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Memory of a guest: a memfd, mapped.
pub struct Memory {
    pub file: File,
    base: *mut u8,
    pub bytes: usize,
}

impl Memory {
    pub fn new(bytes: usize) -> Memory {
        let file = File::from(memfd_create(c"guest", MFdFlags::empty()).unwrap());
        file.set_len(bytes as u64).unwrap();
        Memory::of(file, bytes)
    }

    pub fn of(file: File, bytes: usize) -> Memory {
        use std::os::fd::AsRawFd;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            let (null, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
            libc::mmap(null, bytes, rights, shared, file.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        Memory { file, base: base.cast(), bytes }
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes);
        // SAFETY: within the mapping; the port copies at the same time, as a device does.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.bytes);
        let mut bytes = vec![0; len];
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    pub fn half(&self, at: usize) -> &AtomicU16 {
        assert!(at + 2 <= self.bytes && at.is_multiple_of(2));
        // SAFETY: within the mapping, aligned.
        unsafe { &*self.base.add(at).cast::<AtomicU16>() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// One part of a buffer: guest address, bytes, whether the device writes it.
pub type Part = (u64, u32, bool);

/// Where a ring lies in the memory, and how far the driver is.
pub struct DriverRing {
    pub packed: bool,
    pub event_index: bool,
    pub size: u16,
    /// Offsets in the memory: descriptors, driver's area, device's area.
    pub places: [usize; 3],
    /// Where an indirect table for each id may be, if tables are used.
    pub tables: Option<usize>,
    /// Guest address of offset 0.
    pub guest: u64,
    next: u16,
    wrap: bool,
    seen: u16,
    seen_wrap: bool,
    /// Slots that a buffer takes in a packed ring, by its id.
    slots: Vec<u16>,
    added: u16,
}

impl DriverRing {
    pub fn new(packed: bool, event_index: bool, size: u16, at: usize, guest: u64) -> DriverRing {
        // Room for the largest of each, aligned.
        let places = [at, at + 0x4000, at + 0x6000];
        DriverRing {
            packed,
            event_index,
            size,
            places,
            tables: None,
            guest,
            next: 0,
            wrap: true,
            seen: 0,
            seen_wrap: true,
            slots: vec![1; size.into()],
            added: 0,
        }
    }

    fn descriptor(&self, memory: &Memory, at: usize, part: Part, third: u16, fourth: u16) {
        let mut raw = part.0.to_le_bytes().to_vec();
        raw.extend(part.1.to_le_bytes());
        raw.extend(third.to_le_bytes());
        raw.extend(fourth.to_le_bytes());
        memory.write(at, &raw);
    }

    /// Makes a buffer available. `id` stands for up to four descriptors from `4 * id` on in a
    /// split ring.
    pub fn add(&mut self, memory: &Memory, id: u16, parts: &[Part]) {
        match self.tables {
            Some(tables) => {
                let table = tables + usize::from(id) * 64;
                for (index, part) in parts.iter().enumerate() {
                    let more = u16::from(index + 1 < parts.len()) * NEXT;
                    let flags = more | (u16::from(part.2) * WRITE);
                    let at = table + 16 * index;
                    match self.packed {
                        true => self.descriptor(memory, at, *part, 0, flags & WRITE),
                        false => self.descriptor(memory, at, *part, flags, index as u16 + 1),
                    }
                }
                let bytes = 16 * parts.len() as u32;
                let entry = (self.guest + table as u64, bytes, false);
                self.expose(memory, id, &[entry], INDIRECT);
            }
            None => self.expose(memory, id, parts, 0),
        }
        self.added += 1;
    }

    fn expose(&mut self, memory: &Memory, id: u16, parts: &[Part], extra: u16) {
        match self.packed {
            true => self.expose_packed(memory, id, parts, extra),
            false => self.expose_split(memory, id, parts, extra),
        }
    }

    fn expose_split(&mut self, memory: &Memory, id: u16, parts: &[Part], extra: u16) {
        let head = id * 4;
        for (index, part) in parts.iter().enumerate() {
            let slot = head + index as u16;
            let more = u16::from(index + 1 < parts.len()) * NEXT;
            let flags = extra | more | (u16::from(part.2) * WRITE);
            let at = self.places[0] + 16 * usize::from(slot);
            self.descriptor(memory, at, *part, flags, slot + 1);
        }
        let entry = self.places[1] + 4 + 2 * usize::from(self.next % self.size);
        memory.half(entry).store(head, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        memory.half(self.places[1] + 2).store(self.next, Ordering::Release);
    }

    fn expose_packed(&mut self, memory: &Memory, id: u16, parts: &[Part], extra: u16) {
        let first = self.next;
        let mut first_flags = 0;
        for (index, part) in parts.iter().enumerate() {
            let more = u16::from(index + 1 < parts.len()) * NEXT;
            let own = if self.wrap { 1 << 7 } else { 1 << 15 };
            let flags = extra | more | own | (u16::from(part.2) * WRITE);
            let at = self.places[0] + 16 * usize::from(self.next);
            if index == 0 {
                first_flags = flags;
                // Not available yet: both bits say so.
                let old = memory.half(at + 14).load(Ordering::Relaxed);
                self.descriptor(memory, at, *part, id, old);
            } else {
                self.descriptor(memory, at, *part, id, flags);
            }
            self.next += 1;
            if self.next == self.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        self.slots[usize::from(id)] = parts.len() as u16;
        let at = self.places[0] + 16 * usize::from(first) + 14;
        memory.half(at).store(first_flags, Ordering::Release);
    }

    /// A buffer that the device gave back: its id, and the bytes written.
    pub fn used(&mut self, memory: &Memory) -> Option<(u16, u32)> {
        let (at, id) = match self.packed {
            true => {
                let at = self.places[0] + 16 * usize::from(self.seen);
                let flags = memory.half(at + 14).load(Ordering::Acquire);
                if (flags & 1 << 7 != 0) != self.seen_wrap
                    || (flags & 1 << 15 != 0) != self.seen_wrap
                {
                    return None;
                }
                (at + 8, memory.half(at + 12).load(Ordering::Relaxed))
            }
            false => {
                if memory.half(self.places[2] + 2).load(Ordering::Acquire) == self.seen {
                    return None;
                }
                let at = self.places[2] + 4 + 8 * usize::from(self.seen % self.size);
                (at + 4, memory.half(at).load(Ordering::Relaxed) / 4)
            }
        };
        let written = u32::from_le_bytes(memory.read(at, 4).try_into().unwrap());
        if self.packed {
            self.seen += self.slots[usize::from(id)];
            if self.seen >= self.size {
                (self.seen, self.seen_wrap) = (self.seen - self.size, !self.seen_wrap);
            }
        } else {
            self.seen = self.seen.wrapping_add(1);
        }
        Some((id, written))
    }

    /// Whether the device wants a kick for what was added since this was last asked.
    pub fn wants_kick(&mut self, memory: &Memory) -> bool {
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.added);
        if self.packed {
            return memory.half(self.places[2] + 2).load(Ordering::Relaxed) != 1;
        }
        if self.event_index {
            let at = self.places[2] + 4 + 8 * usize::from(self.size);
            let event = memory.half(at).load(Ordering::Relaxed);
            return self.next.wrapping_sub(event).wrapping_sub(1) < added;
        }
        memory.half(self.places[2]).load(Ordering::Relaxed) & 1 == 0
    }

    /// Says whether to be called: at the next buffer, or never.
    pub fn want_calls(&self, memory: &Memory, wanted: bool) {
        match (self.packed, self.event_index) {
            (true, _) => {
                let word = self.places[1] + 2;
                memory.half(word).store(u16::from(!wanted), Ordering::Relaxed);
            }
            (false, true) => {
                let event = self.places[1] + 4 + 2 * usize::from(self.size);
                let at = if wanted { self.seen } else { self.seen.wrapping_sub(1) };
                memory.half(event).store(at, Ordering::Relaxed);
            }
            (false, false) => {
                memory.half(self.places[1]).store(u16::from(!wanted), Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
    }

    /// Where a device goes on that knows of nothing under way, as `SET_VRING_BASE` wants it.
    pub fn base(&self) -> u32 {
        match self.packed {
            true => u32::from(self.seen) | u32::from(self.seen_wrap) << 15,
            false => self.seen.into(),
        }
    }
}
