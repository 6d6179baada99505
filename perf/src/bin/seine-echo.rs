//! `seine-echo`: a packet processor in a Pod, on AF_XDP sockets that were lent to it.
//!
//! An example, whole in one file: takes the loan at a unix socket, maps frame memory and rings, and
//! sends every packet back to where it came from, without a copy. It needs no rights at all. The
//! loan lasts as long as the connection, so when that ends (the datapath has restarted) it gives
//! everything back and takes the next one.
//!
//! Each queue has a socket with four rings. Frames wait in `fill` for packets, come back in
//! `receive` with one, go to `transmit` with the answer, and come back in `completion`.

#![allow(unsafe_code, reason = "rings and frames are shared with the kernel")]

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::Deserialize;

/// Descriptors that one message can bring: the memory, and a socket for each queue.
const DESCRIPTORS_MAX: usize = 65;

/// Sends back every packet that its Pod gets.
#[derive(Parser)]
#[command(name = "seine-echo")]
struct Arguments {
    /// Where the loan is taken.
    #[arg(long)]
    socket: PathBuf,
    /// Answers in another's name: with this IPv4 source.
    #[arg(long)]
    source: Option<std::net::Ipv4Addr>,
}

/// Between two attempts to take a loan.
const PAUSE: Duration = Duration::from_millis(100);

/// What the message says of the descriptors.
#[derive(Debug, Deserialize)]
struct Terms {
    frame_bytes: u64,
    queue_frames: u64,
    ring_entries: u32,
    queues: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut told = String::new();
    loop {
        match Loan::take(&arguments.socket) {
            Ok(loan) => {
                println!("ready: {:?}", loan.terms);
                told.clear();
                serve(loan, arguments.source);
                println!("the loan has ended");
            }
            Err(error) => {
                let reason =
                    format!("taking the loan at {}: {error:#}", arguments.socket.display());
                if reason != told {
                    eprintln!("{reason}");
                    told = reason;
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Answers until the loan ends.
fn serve(mut loan: Loan, source: Option<std::net::Ipv4Addr>) {
    let (mut packets, mut told, mut since) = (0_u64, 0, Instant::now());
    loop {
        let Loan { memory, queues, .. } = &mut loan;
        let echoed: u64 = queues.iter_mut().map(|queue| queue.echo(memory, source)).sum();
        packets += echoed;
        if echoed == 0 && !loan.rest() {
            return;
        }
        if since.elapsed() >= Duration::from_secs(1) {
            if packets > told {
                let rate = (packets - told) as f64 / since.elapsed().as_secs_f64() / 1e3;
                println!("echoed {packets} packets, {rate:.0} kpps");
            }
            (told, since) = (packets, Instant::now());
        }
    }
}

/// What was lent, for as long as the connection lasts.
struct Loan {
    connection: UnixStream,
    terms: Terms,
    memory: Mapping,
    queues: Vec<Queue>,
}

impl Loan {
    fn take(path: &std::path::Path) -> anyhow::Result<Loan> {
        let connection = UnixStream::connect(path)?;
        let (terms, memory, sockets) = receive(&connection)?;
        let bytes = (u64::from(terms.queues) * terms.queue_frames * terms.frame_bytes) as usize;
        let memory = Mapping::new(&memory, bytes, 0).context("mapping the frame memory")?;
        let mut queues = Vec::new();
        for (number, socket) in (0..).zip(sockets) {
            queues.push(Queue::new(socket, &terms, number).context("mapping the rings")?);
        }
        Ok(Loan { connection, terms, memory, queues })
    }

    /// Waits until a packet is there; `false` once the loan has ended.
    fn rest(&self) -> bool {
        let own = PollFd::new(self.connection.as_fd(), PollFlags::POLLIN);
        let queues = self.queues.iter();
        let queues = queues.map(|it| PollFd::new(it.socket.as_fd(), PollFlags::POLLIN));
        let mut polled: Vec<PollFd<'_>> = std::iter::once(own).chain(queues).collect();
        // A signal is a wake like any other.
        let _ = poll(&mut polled, PollTimeout::from(100_u8));
        // Nothing is said on it after the first message.
        polled[0].revents().is_none_or(|events| events.is_empty())
    }
}

/// One message with descriptors.
fn receive(stream: &UnixStream) -> anyhow::Result<(Terms, OwnedFd, Vec<OwnedFd>)> {
    let mut words = [0; 1024];
    let mut parts = [IoSliceMut::new(&mut words)];
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(found) = control {
            // SAFETY: the kernel made these descriptors for this message, and nobody has them.
            descriptors.extend(found.into_iter().map(|it| unsafe { OwnedFd::from_raw_fd(it) }));
        }
    }
    let bytes = message.bytes;
    let words = &words[..bytes];
    let terms: Terms = serde_json::from_slice(words)
        .with_context(|| format!("it says `{}`", String::from_utf8_lossy(words)))?;
    let sockets = descriptors.split_off(1.min(descriptors.len()));
    let memory = descriptors.pop().context("no memory came")?;
    anyhow::ensure!(sockets.len() == terms.queues as usize, "not one socket for each queue");
    Ok((terms, memory, sockets))
}

/// A mapping. A socket stays open for as long as its rings are mapped.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(file: &impl AsRawFd, bytes: usize, offset: i64) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (none, file) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe { libc::mmap(none, bytes, protection, flags, file, offset) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A frame's packet. The kernel does not touch it between `receive` and `transmit`.
    fn packet(&mut self, address: u64, bytes: u32) -> &mut [u8] {
        let (start, bytes) = (address as usize, bytes as usize);
        assert!(start.checked_add(bytes).is_some_and(|end| end <= self.bytes), "outside of it");
        // SAFETY: within the mapping, and the frame is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and what refers to it lives no longer than this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// One ring: two counters and entries, the one end ours, the other the kernel's.
struct Ring<T> {
    mapping: Mapping,
    offsets: libc::xdp_ring_offset,
    entries: u32,
    /// Our own counter.
    next: u32,
    marker: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn new(
        socket: &OwnedFd,
        page: u64,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Ring<T>> {
        let bytes = offsets.desc as usize + entries as usize * size_of::<T>();
        let mapping = Mapping::new(socket, bytes, page as i64)?;
        Ok(Ring { mapping, offsets, entries, next: 0, marker: std::marker::PhantomData })
    }

    fn counter(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel says that an aligned counter of four bytes is there.
        unsafe { self.mapping.base.add(offset as usize).cast().as_ref() }
    }

    fn entry(&self, counter: u32) -> *mut T {
        let slot = (counter & (self.entries - 1)) as usize;
        // SAFETY: `slot` is one of the entries that were mapped.
        unsafe { self.mapping.base.add(self.offsets.desc as usize).cast::<T>().add(slot).as_ptr() }
    }

    /// Takes an entry of a ring that the kernel fills.
    fn pop(&mut self) -> Option<T> {
        if self.counter(self.offsets.producer).load(Ordering::Acquire) == self.next {
            return None;
        }
        // SAFETY: the kernel is past this entry, by the load above.
        let entry = unsafe { self.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        self.counter(self.offsets.consumer).store(self.next, Ordering::Release);
        Some(entry)
    }

    /// Puts an entry into a ring that the kernel empties; `false` when it is full.
    fn push(&mut self, entry: T) -> bool {
        let taken = self.counter(self.offsets.consumer).load(Ordering::Acquire);
        if self.next.wrapping_sub(taken) >= self.entries {
            return false;
        }
        // SAFETY: the kernel is done with this entry, by the load above.
        unsafe { self.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        self.counter(self.offsets.producer).store(self.next, Ordering::Release);
        true
    }
}

/// A socket and its rings.
struct Queue {
    socket: File,
    fill: Ring<u64>,
    completion: Ring<u64>,
    receive: Ring<libc::xdp_desc>,
    transmit: Ring<libc::xdp_desc>,
    frame_bytes: u64,
}

impl Queue {
    fn new(socket: OwnedFd, loan: &Terms, number: u64) -> io::Result<Queue> {
        let offsets = offsets(&socket)?;
        let entries = loan.ring_entries;
        let mut queue = Queue {
            fill: Ring::new(&socket, libc::XDP_UMEM_PGOFF_FILL_RING, offsets.fr, entries)?,
            completion: {
                let page = libc::XDP_UMEM_PGOFF_COMPLETION_RING;
                Ring::new(&socket, page, offsets.cr, entries)?
            },
            receive: Ring::new(&socket, libc::XDP_PGOFF_RX_RING as u64, offsets.rx, entries)?,
            transmit: Ring::new(&socket, libc::XDP_PGOFF_TX_RING as u64, offsets.tx, entries)?,
            frame_bytes: loan.frame_bytes,
            socket: File::from(socket),
        };
        // As many frames as a ring has entries: then no ring is ever too full.
        for frame in 0..u64::from(entries) {
            queue.fill.push((number * loan.queue_frames + frame) * loan.frame_bytes);
        }
        Ok(queue)
    }

    /// Sends back what has come; says how many packets.
    fn echo(&mut self, memory: &mut Mapping, source: Option<std::net::Ipv4Addr>) -> u64 {
        while let Some(address) = self.completion.pop() {
            self.fill.push(address - address % self.frame_bytes);
        }
        let mut packets = 0;
        while let Some(descriptor) = self.receive.pop() {
            let packet = memory.packet(descriptor.addr, descriptor.len);
            if turn(packet, source) && self.transmit.push(descriptor) {
                packets += 1;
            } else {
                self.fill.push(descriptor.addr - descriptor.addr % self.frame_bytes);
            }
        }
        let pending = self.transmit.counter(self.transmit.offsets.consumer);
        if pending.load(Ordering::Acquire) != self.transmit.next {
            let (none, flags) = (std::ptr::null::<libc::c_void>(), libc::MSG_DONTWAIT);
            // SAFETY: no buffer is passed. Where it sends nothing, the next round tries again.
            unsafe { libc::sendto(self.socket.as_raw_fd(), none.cast(), 0, flags, none.cast(), 0) };
        }
        packets
    }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: integers, all of which may be zero.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut bytes = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `bytes` bytes, all of them the structure's.
    let answer = unsafe {
        let target = (&raw mut offsets).cast();
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            target,
            &mut bytes,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(offsets) }
}

/// Makes a packet its own answer: addresses and ports change places, which leaves every checksum as
/// it was. `false` for what is neither TCP nor UDP over IPv4 without options.
fn turn(packet: &mut [u8], source: Option<std::net::Ipv4Addr>) -> bool {
    let is_known =
        packet.len() >= 42 && packet[12..15] == [8, 0, 0x45] && matches!(packet[23], 6 | 17);
    if !is_known {
        return false;
    }
    for (start, bytes) in [(0, 6), (26, 4), (34, 2)] {
        let (first, second) = packet[start..start + 2 * bytes].split_at_mut(bytes);
        first.swap_with_slice(second);
    }
    if let Some(source) = source {
        packet[26..30].copy_from_slice(&source.octets());
        packet[24..26].fill(0);
        let (words, _) = packet[14..34].as_chunks();
        let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = !((sum >> 16) + sum) as u16;
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    true
}
