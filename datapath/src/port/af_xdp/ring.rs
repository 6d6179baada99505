//! The rings that socket and kernel share: one producer, one consumer, entries between them.
//!
//! Both sides run free-running 32-bit counters, published with release and read with acquire
//! order: who sees the counter sees the entries below it. A socket has four: it produces into
//! fill and transmit, and consumes from receive and completion.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the parts of a ring lie in its mapping: `struct xdp_ring_offset`.
pub(super) use libc::xdp_ring_offset as RingOffsets;

/// A mapping of one ring.
///
/// Invariant: `address` is mapped for `bytes` bytes until this is dropped, and holds both
/// counters, the flags and `entries` entries of `T` at aligned offsets.
struct Mapping<T> {
    address: NonNull<u8>,
    bytes: usize,
    offsets: RingOffsets,
    entries: u32,
    entry: PhantomData<T>,
}

impl<T: Copy> Mapping<T> {
    fn new(
        socket: BorrowedFd<'_>,
        page: libc::off_t,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Mapping<T>> {
        assert!(entries.is_power_of_two());
        let bytes = offsets.desc as usize + entries as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that
        // exists; the kernel checks that the ring is as long.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(address) = NonNull::new(address.cast()) else {
            return Err(io::Error::other("ring mapped at address zero"));
        };
        Ok(Mapping { address, bytes, offsets, entries, entry: PhantomData })
    }

    fn counter(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the invariant places an aligned 32-bit word there, and both sides use it only
        // atomically.
        unsafe { self.address.add(offset as usize).cast::<AtomicU32>().as_ref() }
    }

    fn entry(&self, counter: u32) -> *mut T {
        let slot = (counter & (self.entries - 1)) as usize;
        // SAFETY: `slot < entries`, so by the invariant it lies within the mapping.
        unsafe { self.address.add(self.offsets.desc as usize).cast::<T>().add(slot).as_ptr() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and whoever could reach it borrows `self`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

/// Our end of a ring that the kernel consumes.
///
/// Invariant: entries from the consumer's counter up to `next` are the consumer's to read; the
/// others are ours to write.
pub(super) struct Producer<T> {
    mapping: Mapping<T>,
    /// The counter of the entry written next.
    next: u32,
    /// The consumer's counter when last looked at.
    consumed: u32,
}

// SAFETY: the mapping is reached through this value only, and not tied to a thread.
unsafe impl<T: Send> Send for Producer<T> {}

impl<T: Copy> Producer<T> {
    pub fn map(
        socket: BorrowedFd<'_>,
        page: libc::off_t,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Producer<T>> {
        Ok(Producer::over(Mapping::new(socket, page, offsets, entries)?))
    }

    fn over(mapping: Mapping<T>) -> Producer<T> {
        let next = mapping.counter(mapping.offsets.producer).load(Ordering::Relaxed);
        let consumed = mapping.counter(mapping.offsets.consumer).load(Ordering::Acquire);
        Producer { mapping, next, consumed }
    }

    /// Entries that can be pushed now. Looks at the consumer only if fewer than `wanted` were
    /// known to be free.
    pub fn room(&mut self, wanted: u32) -> u32 {
        let mut room = self.mapping.entries - self.next.wrapping_sub(self.consumed);
        if room < wanted {
            self.unconsumed();
            room = self.mapping.entries - self.next.wrapping_sub(self.consumed);
        }
        room
    }

    /// Writes an entry; the consumer sees it after [`publish`](Self::publish).
    pub fn push(&mut self, entry: T) {
        assert!(self.next.wrapping_sub(self.consumed) < self.mapping.entries, "ring is full");
        // SAFETY: by the invariant the entry is ours to write.
        unsafe { self.mapping.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    pub fn publish(&mut self) {
        self.mapping.counter(self.mapping.offsets.producer).store(self.next, Ordering::Release);
    }

    /// Entries that the consumer has not taken yet.
    pub fn unconsumed(&mut self) -> u32 {
        let consumed = self.mapping.counter(self.mapping.offsets.consumer).load(Ordering::Acquire);
        // A consumer ahead of us, or behind where it was, is not believed.
        if self.next.wrapping_sub(consumed) <= self.next.wrapping_sub(self.consumed) {
            self.consumed = consumed;
        }
        self.next.wrapping_sub(self.consumed)
    }

    pub fn entries(&self) -> u32 {
        self.mapping.entries
    }
}

/// Our end of a ring that the kernel produces into.
///
/// Invariant: entries from `next` up to the producer's counter are ours to read.
pub(super) struct Consumer<T> {
    mapping: Mapping<T>,
    /// The counter of the entry read next.
    next: u32,
    /// The producer's counter when last looked at.
    produced: u32,
}

// SAFETY: the mapping is reached through this value only, and not tied to a thread.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T: Copy> Consumer<T> {
    pub fn map(
        socket: BorrowedFd<'_>,
        page: libc::off_t,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Consumer<T>> {
        Ok(Consumer::over(Mapping::new(socket, page, offsets, entries)?))
    }

    fn over(mapping: Mapping<T>) -> Consumer<T> {
        let next = mapping.counter(mapping.offsets.consumer).load(Ordering::Relaxed);
        Consumer { mapping, next, produced: next }
    }

    /// Entries that can be popped. Looks at the producer.
    pub fn available(&mut self) -> u32 {
        let produced = self.mapping.counter(self.mapping.offsets.producer).load(Ordering::Acquire);
        // A producer that claims more than the ring holds is not believed.
        if produced.wrapping_sub(self.next) <= self.mapping.entries {
            self.produced = produced;
        }
        self.produced.wrapping_sub(self.next)
    }

    /// Takes an entry that [`available`](Self::available) counted. Its place is the producer's
    /// again after [`release`](Self::release).
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            return None;
        }
        // SAFETY: by the invariant the entry is ours to read, and the acquire load of the
        // producer's counter made its bytes visible.
        let entry = unsafe { self.mapping.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    pub fn release(&mut self) {
        self.mapping.counter(self.mapping.offsets.consumer).store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proptest::prelude::*;

    use super::*;

    const OFFSETS: RingOffsets = RingOffsets { producer: 0, consumer: 64, desc: 128, flags: 192 };

    /// Both ends of one ring over shared memory, its counters starting at `start`.
    fn pair(entries: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        let memory = memfd_create(c"ring", MFdFlags::empty()).expect("memfd");
        nix::unistd::ftruncate(&memory, 128 + 8 * i64::from(entries)).expect("truncate");
        let map = || Mapping::new(memory.as_fd(), 0, OFFSETS, entries).expect("map");
        let mapping: Mapping<u64> = map();
        for offset in [OFFSETS.producer, OFFSETS.consumer] {
            mapping.counter(offset).store(start, Ordering::Relaxed);
        }
        (Producer::over(mapping), Consumer::over(map()))
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8),
        Publish,
        Pop(u8),
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..12u8).prop_map(Step::Push),
            Just(Step::Publish),
            (0..12u8).prop_map(Step::Pop),
            Just(Step::Release),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        /// The oracle: a queue with what is written, what is published and what is not yet given
        /// back.
        #[test]
        fn a_ring_is_a_bounded_queue(steps in steps(), start in any::<u32>()) {
            let (mut producer, mut consumer) = pair(8, start);
            let (mut written, mut published) = (VecDeque::new(), VecDeque::new());
            let (mut unreleased, mut number) = (0, 0u64);
            for step in steps {
                match step {
                    Step::Push(count) => {
                        let used = written.len() + published.len() + unreleased;
                        prop_assert_eq!(producer.room(9) as usize, 8 - used);
                        for _ in 0..u32::from(count).min(producer.room(u32::from(count))) {
                            producer.push(number);
                            written.push_back(number);
                            number += 1;
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        published.append(&mut written);
                    }
                    Step::Pop(count) => {
                        prop_assert_eq!(consumer.available() as usize, published.len());
                        for _ in 0..count {
                            let popped = consumer.pop();
                            prop_assert_eq!(popped, published.pop_front());
                            unreleased += usize::from(popped.is_some());
                        }
                    }
                    Step::Release => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                // What was written but not published waits as well.
                let waiting = written.len() + published.len() + unreleased;
                prop_assert_eq!(producer.unconsumed() as usize, waiting);
            }
        }
    }

    #[test]
    fn a_ring_between_two_threads_loses_and_changes_nothing() {
        let (mut producer, mut consumer) = pair(64, u32::MAX - 1000);
        const COUNT: u64 = 200_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut number = 0;
                while number < COUNT {
                    for _ in 0..producer.room(1) {
                        producer.push(number * 7);
                        number += 1;
                    }
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut number = 0;
            while number < COUNT {
                consumer.available();
                while let Some(entry) = consumer.pop() {
                    assert_eq!(entry, number * 7);
                    number += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn counters_that_cannot_be_are_not_believed() {
        let (mut producer, mut consumer) = pair(8, 0);
        consumer.mapping.counter(OFFSETS.producer).store(9, Ordering::Relaxed);
        assert_eq!(consumer.available(), 0);
        producer.mapping.counter(OFFSETS.consumer).store(1, Ordering::Relaxed);
        assert_eq!(producer.room(8), 8);
    }
}
