//! One AF_XDP socket: its rings, its place in the shared frame memory, its system calls.
//!
//! Frame memory is registered once, on an *anchor* socket that is bound for life to `lo` of the
//! ports namespace and never carries a packet. Every other socket names the anchor when it binds
//! (`XDP_SHARED_UMEM`), also from other network namespaces, and has fill and completion rings of
//! its own. So ports come and go, and a frame moves between any two of them by its address.
//!
//! The kernel refuses a second socket on a queue: two datapaths cannot share a ports namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use super::ring::{Consumer, Producer};
use crate::frame::Region;
use crate::netns::Namespace;
use crate::port::open::OpenError;

/// Bytes in front of a packet that tell the kernel what to do to it: `struct xsk_tx_metadata`
/// with its checksum and launch-time fields.
pub(super) const METADATA_BYTES: usize = 24;

/// How often, and how long apart, a queue that is in use is tried: the kernel lets go of a closed
/// socket's queue a moment later, on a thread of its own.
const BIND_TRIES: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.18: descriptors sent by one system call.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Frame memory, registered with the kernel.
#[derive(Clone)]
pub struct FrameMemory {
    anchor: Arc<OwnedFd>,
    region: &'static Region,
    metadata: bool,
}

impl FrameMemory {
    /// Registers the region, with an anchor in the namespace given: the one that the host ends of
    /// Pod links live in.
    pub fn register(
        region: &'static Region,
        namespace: &Namespace,
    ) -> Result<FrameMemory, OpenError> {
        namespace.run(|| FrameMemory::register_here(region))?
    }

    fn register_here(region: &'static Region) -> Result<FrameMemory, OpenError> {
        const LOOPBACK: &str = "lo";
        let failed =
            |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", LOOPBACK, source);
        let socket = open_socket().map_err(failed("opening an AF_XDP socket"))?;
        // Kernels before 6.11 know no transmit metadata: then checksums are completed here.
        let metadata = match register_memory(socket.as_fd(), region, METADATA_BYTES) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                register_memory(socket.as_fd(), region, 0).map(|()| false)
            }
            other => other.map(|()| true),
        };
        let bytes = region.mapping().1;
        let metadata = metadata.map_err(|source| OpenError::FrameMemory { bytes, source })?;
        for ring in [libc::XDP_RX_RING, libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING] {
            set_option(socket.as_fd(), libc::SOL_XDP, ring, &1u32)
                .map_err(failed("making the anchor's rings"))?;
        }
        // Those that share the memory inherit copying and wake-ups from here.
        let flags = libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP;
        const LOOPBACK_INDEX: u32 = 1;
        bind(socket.as_fd(), LOOPBACK, LOOPBACK_INDEX, 0, flags, 0)?;
        Ok(FrameMemory { anchor: Arc::new(socket), region, metadata })
    }

    /// The memory that was registered.
    pub fn region(&self) -> &'static Region {
        self.region
    }

    /// Whether the kernel takes checksum requests in front of packets.
    pub(super) fn metadata(&self) -> bool {
        self.metadata
    }
}

/// Bytes at the foot of the rings' sizes: each ring of a socket has as many entries.
pub(super) struct Socket {
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    pub receive: Consumer<libc::xdp_desc>,
    pub transmit: Producer<libc::xdp_desc>,
    // Last: the mappings above hold the socket open.
    descriptor: OwnedFd,
}

impl Socket {
    /// Opens a socket on a queue, in the calling thread's network namespace.
    pub fn open(
        memory: &FrameMemory,
        interface: &str,
        index: u32,
        queue: u32,
        entries: u32,
    ) -> Result<Socket, OpenError> {
        let failed =
            |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", interface, source);
        let descriptor = open_socket().map_err(failed("opening an AF_XDP socket"))?;
        let socket = descriptor.as_fd();
        for ring in [
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
        ] {
            set_option(socket, libc::SOL_XDP, ring, &entries)
                .map_err(failed("making the rings"))?;
        }
        // Older kernels stop after 32 and say EAGAIN, which `kick` answers by calling again.
        let _ = set_option(socket, libc::SOL_XDP, MAX_TX_SKB_BUDGET, &entries);
        // Copies under way are charged to the socket; all of a ring must fit. Without the right
        // the system's limit holds, and EAGAIN says when it is reached.
        let bytes = entries as libc::c_int * 4096;
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);

        let offsets = ring_offsets(socket).map_err(failed("reading the rings' layout"))?;
        let mapping = failed("mapping the rings");
        let fill_page = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let completion_page = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let fill = Producer::map(socket, fill_page, offsets.fr, entries).map_err(&mapping)?;
        let completion =
            Consumer::map(socket, completion_page, offsets.cr, entries).map_err(&mapping)?;
        let receive = Consumer::map(socket, libc::XDP_PGOFF_RX_RING, offsets.rx, entries)
            .map_err(&mapping)?;
        let transmit = Producer::map(socket, libc::XDP_PGOFF_TX_RING, offsets.tx, entries)
            .map_err(&mapping)?;
        let anchor = memory.anchor.as_raw_fd() as u32;
        bind(socket, interface, index, queue, libc::XDP_SHARED_UMEM, anchor)?;
        Ok(Socket { fill, completion, receive, transmit, descriptor })
    }

    /// Asks the kernel to send what the transmit ring holds.
    pub fn kick(&self) -> io::Result<()> {
        // SAFETY: no buffer is passed.
        let answer = unsafe {
            libc::sendto(
                self.descriptor.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// What the kernel counted.
    pub fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        let mut statistics = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        read_option(self.descriptor.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, &mut statistics)?;
        Ok(statistics)
    }

    /// An error that the kernel reported since last asked: ENETDOWN when the device went away.
    pub fn pending_error(&self) -> Option<i32> {
        let mut errno: libc::c_int = 0;
        read_option(self.descriptor.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR, &mut errno).ok()?;
        (errno != 0).then_some(errno)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// The rings that a socket needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rings {
    /// One that only registers memory.
    Anchor,
    /// One that receives and transmits.
    Queue,
}

/// Makes rings of so many entries.
pub(super) fn make_rings(socket: BorrowedFd<'_>, rings: Rings, entries: u32) -> io::Result<()> {
    let transmit = (rings == Rings::Queue).then_some(libc::XDP_TX_RING);
    [libc::XDP_RX_RING, libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING]
        .into_iter()
        .chain(transmit)
        .try_for_each(|ring| set_option(socket, libc::SOL_XDP, ring, &entries))
}

/// Registers plain memory: without transmit metadata.
pub(super) fn register(
    socket: BorrowedFd<'_>,
    address: u64,
    bytes: u64,
    frame_bytes: u32,
) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr: address,
        len: bytes,
        chunk_size: frame_bytes,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

pub(super) fn open_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers.
    let descriptor = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn register_memory(
    socket: BorrowedFd<'_>,
    region: &Region,
    metadata_bytes: usize,
) -> io::Result<()> {
    let (address, bytes) = region.mapping();
    let flags = if metadata_bytes > 0 { libc::XDP_UMEM_TX_METADATA_LEN } else { 0 };
    let registration = libc::xdp_umem_reg {
        addr: address.as_ptr() as u64,
        len: bytes as u64,
        chunk_size: region.frame_bytes() as u32,
        headroom: 0,
        flags,
        tx_metadata_len: metadata_bytes as u32,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    const NONE: libc::xdp_ring_offset =
        libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: NONE, tx: NONE, fr: NONE, cr: NONE };
    read_option(socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

/// Binds, waiting for a queue whose last owner has just gone.
fn bind(
    socket: BorrowedFd<'_>,
    interface: &str,
    index: u32,
    queue: u32,
    flags: u16,
    shared: u32,
) -> Result<(), OpenError> {
    for _ in 1..BIND_TRIES {
        match bind_once(socket, interface, index, queue, flags, shared) {
            Err(OpenError::QueueTaken { .. }) => std::thread::sleep(BIND_PAUSE),
            other => return other,
        }
    }
    bind_once(socket, interface, index, queue, flags, shared)
}

pub(super) fn bind_once(
    socket: BorrowedFd<'_>,
    interface: &str,
    index: u32,
    queue: u32,
    flags: u16,
    shared: u32,
) -> Result<(), OpenError> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    // SAFETY: the address lives across the call and its true size is given.
    let answer = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EBUSY) => Err(OpenError::QueueTaken { interface: interface.to_owned(), queue }),
        Some(libc::ENODEV) => Err(OpenError::NoSuchInterface(interface.to_owned())),
        _ => Err(OpenError::kernel("binding an AF_XDP socket", "CAP_NET_RAW", interface, source)),
    }
}

/// The calling thread's network namespace by a number that no other one ever has.
pub(super) fn namespace_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    read_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, &mut cookie)?;
    Ok(cookie)
}

/// `V` is the type that the option is defined with.
fn set_option<V>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &V,
) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `V` has.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<V>() as libc::socklen_t,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `V` is the type that the option is defined with, and holds only integers.
fn read_option<V>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut V,
) -> io::Result<()> {
    let mut bytes = size_of::<V>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `bytes` bytes, all of `V`, which any bits make valid.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut bytes,
        )
    };
    match answer {
        _ if answer < 0 => Err(io::Error::last_os_error()),
        _ if bytes as usize != size_of::<V>() => Err(io::Error::other("option of another size")),
        _ => Ok(()),
    }
}
