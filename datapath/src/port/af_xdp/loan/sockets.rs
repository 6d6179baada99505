//! What is lent: frame memory, a socket for each queue, and the program that feeds them.
//!
//! The memory is the same for every program of a Pod: fresh memory for each could be kept by each.
//! Everything is made in the calling thread's network namespace, which is the Pod's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::port::af_xdp::bpf::{Link, Map, MapKind, MapShape, Program};
use crate::port::af_xdp::program;
use crate::port::af_xdp::socket::{Rings, bind_once, make_rings, open_socket, register};
use crate::port::interface::Interface;
use crate::port::open::OpenError;

/// Bytes of a frame.
const FRAME_BYTES: u32 = 2048;
/// What the kernel leaves free before a packet in it.
const HEADROOM_BYTES: usize = 256;
const ETHERNET_BYTES: usize = 14;

/// Frames of each queue, half of them for each direction, and entries of each ring.
const QUEUE_FRAMES: u32 = 2048;
const RING_ENTRIES: u32 = QUEUE_FRAMES / 2;

/// Queues that one message can name descriptors of.
const QUEUES_MAX: usize = 64;

/// The frames of a Pod: a file in memory that keeps its size, and has pages only while it is lent.
#[derive(Debug)]
pub(super) struct Frames {
    pub file: File,
    queues: usize,
}

impl Frames {
    /// Makes them, without pages, where sockets could be lent.
    pub fn make(interface: &str) -> Result<Frames, OpenError> {
        let interface = examine(interface)?;
        let (name, queues) = (interface.name.as_str(), interface.queues);
        let file = sealed_file(bytes(queues)).map_err(|source| {
            OpenError::kernel("making the Pod's frame memory", "none", name, source)
        })?;
        Ok(Frames { file, queues })
    }

    /// Gives the pages back, also where a program has kept the file.
    pub fn empty(&self) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Where it fails they serve the next program.
        let _ = fallocate(&self.file, flags, 0, bytes(self.queues) as i64);
    }
}

fn bytes(queues: usize) -> usize {
    queues * (QUEUE_FRAMES * FRAME_BYTES) as usize
}

/// What one program is handed beside them. Nothing of it is mapped here.
#[derive(Debug)]
pub(super) struct Lent {
    /// One for each queue.
    pub sockets: Vec<OwnedFd>,
    /// What they are, in JSON.
    pub words: String,
    /// While it lives, the interface's packets go to the sockets.
    pub link: Link,
    /// By which they do. The kernel takes a socket out of it when its last holder closes it.
    pub map: Map,
}

impl Lent {
    /// The queue whose socket of an earlier loan, in that one's map, is still held by somebody. It
    /// need not be bound any more, for who moves the interface frees its queues; but it keeps its
    /// memory.
    pub fn held_before(&self, earlier: &Map) -> Option<u32> {
        let held = |(queue, socket): (u32, &OwnedFd)| {
            let inserted = earlier.insert(&queue, &(socket.as_raw_fd() as u32));
            inserted.is_err_and(|it| it.raw_os_error() == Some(libc::EEXIST)).then_some(queue)
        };
        (0..).zip(&self.sockets).find_map(held)
    }
}

/// Finds out whether sockets could be lent there.
fn examine(interface: &str) -> Result<Interface, OpenError> {
    let interface = Interface::read(interface)?;
    let (have, want, mtu) = (interface.queues, QUEUES_MAX, interface.mtu);
    if have > want {
        return Err(OpenError::TooManyQueues { interface: interface.name, have, want });
    }
    let mtu_max = FRAME_BYTES as usize - HEADROOM_BYTES - ETHERNET_BYTES;
    if mtu > mtu_max {
        return Err(OpenError::MtuTooLarge {
            interface: interface.name,
            mtu,
            mtu_max,
            frame_bytes: FRAME_BYTES as usize,
            headroom: HEADROOM_BYTES,
        });
    }
    Ok(interface)
}

/// Makes it.
pub(super) fn make(interface: &str, frames: &Frames) -> Result<Lent, OpenError> {
    let interface = examine(interface)?;
    let name = interface.name.as_str();
    let failed = |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", name, source);
    let (queues, want) = (interface.queues, frames.queues);
    if queues != want {
        return Err(OpenError::TooFewQueues { interface: interface.name, have: queues, want });
    }
    // It carries no packet; the others keep the memory registered once it is gone.
    let anchor = anchor(&frames.file, bytes(queues))?;
    let sockets: Result<Vec<OwnedFd>, OpenError> =
        (0..queues as u32).map(|queue| socket(&interface, queue, anchor.as_fd())).collect();
    let (sockets, (link, map)) = (sockets?, attach(&interface)?);
    connect(&map, &sockets).map_err(failed("connecting the Pod's sockets"))?;
    let words = format!(
        "{{\"version\":1,\"frame_bytes\":{FRAME_BYTES},\"queue_frames\":{QUEUE_FRAMES},\
         \"ring_entries\":{RING_ENTRIES},\"queues\":{queues},\"mtu\":{}}}",
        interface.mtu
    );
    Ok(Lent { sockets, words, link, map })
}

/// A file in memory that keeps its size. A hole that its holder punches is the holder's own loss:
/// the kernel goes on with the pages that were registered.
fn sealed_file(bytes: usize) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"seine-loan", flags)?);
    file.set_len(bytes as u64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// Registers the memory on a socket of the Pod's loopback. Mapped for as long as that takes.
fn anchor(memory: &File, bytes: usize) -> Result<OwnedFd, OpenError> {
    const LOOPBACK: &str = "lo";
    let failed = |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", LOOPBACK, source);
    let socket = open_socket().map_err(failed("opening an AF_XDP socket"))?;
    // SAFETY: a new mapping at a place of the kernel's choice, of a file that cannot shrink.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            memory.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(failed("mapping the Pod's frame memory")(io::Error::last_os_error()));
    }
    let registered = register(socket.as_fd(), address as u64, bytes as u64, FRAME_BYTES);
    // SAFETY: the mapping made above, which nothing refers to: the kernel holds its pages.
    unsafe { libc::munmap(address, bytes) };
    registered.map_err(|source| OpenError::FrameMemory { bytes, source })?;
    make_rings(socket.as_fd(), Rings::Anchor, 1).map_err(failed("making the anchor's rings"))?;
    let flags = libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP;
    bind_once(socket.as_fd(), LOOPBACK, 1, 0, flags, 0)?;
    Ok(socket)
}

fn socket(interface: &Interface, queue: u32, anchor: BorrowedFd<'_>) -> Result<OwnedFd, OpenError> {
    let name = interface.name.as_str();
    let failed = |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", name, source);
    let socket = open_socket().map_err(failed("opening an AF_XDP socket"))?;
    make_rings(socket.as_fd(), Rings::Queue, RING_ENTRIES).map_err(failed("making the rings"))?;
    let shared = anchor.as_raw_fd() as u32;
    bind_once(socket.as_fd(), name, interface.index, queue, libc::XDP_SHARED_UMEM, shared)?;
    Ok(socket)
}

/// Attaches a program that hands a queue's frames to its socket. Not pinned: it goes with us, and
/// the Pod's kernel has its interface back.
fn attach(interface: &Interface) -> Result<(Link, Map), OpenError> {
    const RIGHTS: &str = "CAP_BPF together with CAP_NET_ADMIN";
    let name = interface.name.as_str();
    let failed = |action| move |source| OpenError::kernel(action, RIGHTS, name, source);
    let shape = MapShape {
        kind: MapKind::Sockets,
        key_bytes: 4,
        value_bytes: 4,
        entries_max: QUEUES_MAX as u32,
    };
    let sockets = Map::create("sockets", shape).map_err(failed("making the socket map"))?;
    let program = Program::load("seine_loan", &program::loan(&sockets), true)
        .map_err(|refusal| failed("loading an XDP program")(refusal.source))?;
    let link =
        Link::create(&program, interface.index).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                OpenError::ProgramTaken { interface: interface.name.clone() }
            }
            _ => failed("attaching an XDP program")(source),
        })?;
    Ok((link, sockets))
}

fn connect(map: &Map, sockets: &[OwnedFd]) -> io::Result<()> {
    for (queue, socket) in (0_u32..).zip(sockets) {
        map.update(&queue, &(socket.as_raw_fd() as u32))?;
    }
    Ok(())
}
