//! AF_XDP sockets on the Pod's own end of its link, in memory of their own: lent to the Pod.
//!
//! Made here, since a Pod has not the rights; used there, since nobody needs any to use them. Who
//! connects to a unix socket is handed the frame memory, a memfd, and a socket for each queue:
//!
//! ```text
//!  Pod: memory, rings  <-- XDP on eth0 --  veth  -- XDP on our end -->  AfXdpQueue
//! ```
//!
//! What the Pod sends by them comes out at our end like everything else that it sends. A kernel
//! stack of the Pod gets what arrives while no loan is open. Why a Pod can do no more with the
//! sockets than this is decision 0035.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::bpf::{Link, Map, MapKind, MapShape, Program};
use super::program;
use super::socket::{Rings, bind, make_rings, open_socket, register};
use crate::netns::Namespace;
use crate::port::interface::Interface;
use crate::port::open::OpenError;

/// Bytes of a frame.
const FRAME_BYTES: u32 = 2048;

/// Frames of each queue, half of them for each direction, and entries of each ring.
const QUEUE_FRAMES: u32 = 2048;
const RING_ENTRIES: u32 = QUEUE_FRAMES / 2;

/// Queues that one message can name descriptors of.
const QUEUES_MAX: usize = 64;

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What to lend.
#[derive(Clone, Copy, Debug)]
pub struct LoanOptions<'a> {
    /// The Pod's network namespace.
    pub namespace: &'a Namespace,
    /// Its end of the link.
    pub interface: &'a str,
    /// Where the Pod takes the loan.
    pub socket: &'a Path,
    /// Who may, besides root: user and group.
    pub owner: (u32, u32),
}

/// An open loan. It ends when it is dropped: the program comes off, so nothing arrives any more.
#[derive(Debug)]
pub struct Loan {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    _link: Link,
}

/// What is handed over, and when to stop.
#[derive(Debug)]
struct Shared {
    memory: File,
    // Memory is registered on this one, which carries no packet.
    _anchor: OwnedFd,
    sockets: Vec<OwnedFd>,
    words: String,
    closing: AtomicBool,
    wanted: EventFd,
}

impl Loan {
    /// Opens the sockets, and waits for the Pod on a thread of its own.
    pub fn open(options: LoanOptions<'_>) -> Result<Loan, OpenError> {
        let (shared, link) = options.namespace.run(|| lend(options.interface))??;
        let refused = |source| OpenError::Socket { path: options.socket.to_owned(), source };
        let listener = listen(options).map_err(refused)?;
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("loan".to_owned())
            .spawn(move || serving.serve(&listener))
            .map_err(refused)?;
        let path = options.socket.to_owned();
        Ok(Loan { shared, thread: Some(thread), path, _link: link })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        let _ = self.shared.wanted.write(1);
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic about.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn serve(&self, listener: &UnixListener) {
        while !self.closing.load(Ordering::Acquire) {
            let mut polled = [listener.as_fd(), self.wanted.as_fd()]
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
            // A signal is a wake like any other.
            let _ = poll(&mut polled, PollTimeout::NONE);
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.hand_over(&stream) {
                        tracing::warn!(%error, "a loan was not handed over");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // No descriptor to spare, perhaps: who waits will wait a little longer.
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    /// One message: what the descriptors are, and the descriptors.
    fn hand_over(&self, stream: &UnixStream) -> io::Result<()> {
        let mut descriptors: Vec<RawFd> = vec![self.memory.as_raw_fd()];
        descriptors.extend(self.sockets.iter().map(AsRawFd::as_raw_fd));
        let parts = [IoSlice::new(self.words.as_bytes())];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(stream.as_raw_fd(), &parts, &control, flags, None)?;
        Ok(())
    }
}

/// Listens with a socket that only its owner may connect to from the moment it has its name.
fn listen(options: LoanOptions<'_>) -> io::Result<UnixListener> {
    let mut fresh = options.socket.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let (user, group) = options.owner;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    chown(&fresh, Some(user), Some(group))?;
    std::fs::rename(&fresh, options.socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Opens everything, in the calling thread's namespace: the Pod's.
fn lend(interface: &str) -> Result<(Shared, Link), OpenError> {
    let interface = Interface::read(interface)?;
    let name = interface.name.as_str();
    let failed = |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", name, source);
    let queues = interface.queues;
    if queues > QUEUES_MAX {
        let interface = interface.name;
        return Err(OpenError::TooManyQueues { interface, have: queues, want: QUEUES_MAX });
    }
    let bytes = queues * (QUEUE_FRAMES * FRAME_BYTES) as usize;
    let memory = frame_memory(bytes).map_err(failed("making the Pod's frame memory"))?;
    let anchor = anchor(&memory, bytes)?;
    let sockets: Result<Vec<OwnedFd>, OpenError> =
        (0..queues as u32).map(|queue| socket(&interface, queue, anchor.as_fd())).collect();
    let (sockets, link) = (sockets?, attach(&interface)?);
    connect(&link.1, &sockets).map_err(failed("connecting the Pod's sockets"))?;
    let words = format!(
        "{{\"version\":1,\"frame_bytes\":{FRAME_BYTES},\"queue_frames\":{QUEUE_FRAMES},\
         \"ring_entries\":{RING_ENTRIES},\"queues\":{queues},\"mtu\":{}}}",
        interface.mtu
    );
    let wanted = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map_err(|errno| failed("making an eventfd")(errno.into()))?;
    let closing = AtomicBool::new(false);
    let shared = Shared { memory, _anchor: anchor, sockets, words, closing, wanted };
    Ok((shared, link.0))
}

/// A file in memory that keeps its size. A hole that its holder punches is the holder's own loss:
/// the kernel goes on with the pages that were registered.
fn frame_memory(bytes: usize) -> io::Result<File> {
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
    bind(socket.as_fd(), LOOPBACK, 1, 0, flags, 0)?;
    Ok(socket)
}

fn socket(interface: &Interface, queue: u32, anchor: BorrowedFd<'_>) -> Result<OwnedFd, OpenError> {
    let name = interface.name.as_str();
    let failed = |action| move |source| OpenError::kernel(action, "CAP_NET_RAW", name, source);
    let socket = open_socket().map_err(failed("opening an AF_XDP socket"))?;
    make_rings(socket.as_fd(), Rings::Queue, RING_ENTRIES).map_err(failed("making the rings"))?;
    let shared = anchor.as_raw_fd() as u32;
    bind(socket.as_fd(), name, interface.index, queue, libc::XDP_SHARED_UMEM, shared)?;
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
