//! The control thread of a port: meets front ends, and listens to one at a time.
//!
//! As a server it waits for them at its socket; as a client it goes to theirs, again and again.
//! When a connection ends the rings are taken back and the next one is waited for. A guest that
//! broke the rules is not: the port stays down until it is opened again.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use super::device::Device;
use super::early::{self, Enable};
use super::shared::{QUEUE_PAIRS_MAX, Shared};
use super::{Mode, SocketOwner, VhostUserOptions};
use crate::port::OpenError;

/// Between two attempts to reach a front end.
const CONNECT_PAUSE_MS: u16 = 200;

/// Between two front ends, and after one that could not be accepted: whoever comes and goes all
/// the time costs no more than this allows.
const MEETING_PAUSE: Duration = Duration::from_millis(100);

/// How long the rest of a message may take.
const MESSAGE_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks whether the rest of a message's header has come.
const HEADER_PAUSE_MS: u16 = 10;

/// Keeps a port's control thread, and its socket. Both end when it is dropped.
pub struct Control {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Whether a front end is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        let _ = self.shared.control.write(1);
        // The library retries for ever what a front end does not let it finish.
        self.shared.hang_up();
        if let Some(thread) = self.thread.take() {
            // It panics in a test at most, and there it was seen.
            let _ = thread.join();
        }
    }
}

/// Starts the control thread.
pub(super) fn start(
    shared: Arc<Shared>,
    options: &VhostUserOptions<'_>,
) -> Result<Control, OpenError> {
    let path = options.socket;
    let refused = |source| OpenError::Kernel {
        action: "starting the control thread",
        interface: path.display().to_string(),
        source,
    };
    let meeting = match options.mode {
        Mode::Server => Meeting::Server(Listening::at(path, options.owner)?),
        Mode::Client => Meeting::Client(path.to_owned()),
    };
    let device = Mutex::new(Device::new(shared.clone(), options.pairs.clamp(1, QUEUE_PAIRS_MAX)));
    let mut host = Host { shared: shared.clone(), device: Arc::new(device) };
    let thread = std::thread::Builder::new()
        .name("vhost-user".to_owned())
        .spawn(move || host.run(meeting))
        .map_err(refused)?;
    Ok(Control { shared, thread: Some(thread) })
}

/// A socket that is listened at, and goes when this does.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Listens, with a socket that only its owner may connect to from the moment it has its name.
    fn at(path: &Path, owner: SocketOwner) -> Result<Listening, OpenError> {
        let refused = |source| OpenError::Socket { path: path.to_owned(), source };
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(refused(io::Error::from_raw_os_error(libc::EEXIST)));
            }
            match reach(path) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                _ => return Err(OpenError::SocketTaken(path.to_owned())),
            }
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(refused)?;
        let mode = if owner == SocketOwner::default() { 0o600 } else { 0o660 };
        let named = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))
            .and_then(|()| lchown(&fresh, Some(owner.user), Some(owner.group)))
            .and_then(|()| std::fs::rename(&fresh, path))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| std::fs::symlink_metadata(path));
        match named {
            Ok(metadata) => {
                Ok(Listening { listener, path: path.to_owned(), inode: metadata.ino() })
            }
            Err(error) => {
                let _ = std::fs::remove_file(&fresh);
                Err(refused(error))
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Somebody else's by now, it stays.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|it| it.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

enum Meeting {
    Server(Listening),
    Client(PathBuf),
}

/// Connects to a front end's socket. Whoever may write to its directory must not be able to lead us
/// to somebody else's: what is connected to is what was looked at, and that is no link.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    reach(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// Connects at once or not at all: whoever listens may accept nobody, and have us wait for ever.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(stream))
}

/// Whom the thread listens to, and what it does for them.
struct Host {
    shared: Arc<Shared>,
    device: Arc<Mutex<Device>>,
}

impl Host {
    fn run(&mut self, meeting: Meeting) {
        while self.goes_on() {
            let Some(stream) = self.meet(&meeting) else { continue };
            let began = Instant::now();
            self.serve(stream);
            if matches!(meeting, Meeting::Client(_)) {
                self.wait(None, Some(CONNECT_PAUSE_MS));
            } else if began.elapsed() < MEETING_PAUSE {
                self.pause();
            }
        }
        drop(meeting);
        if let Some(fault) = self.shared.fault() {
            tracing::error!(socket = self.shared.socket, %fault, "vhost-user port is down");
        }
    }

    fn goes_on(&self) -> bool {
        !self.shared.closing.load(Ordering::Acquire) && !self.shared.is_broken()
    }

    fn meet(&self, meeting: &Meeting) -> Option<UnixStream> {
        match meeting {
            Meeting::Server(listening) => {
                self.wait(Some(listening.listener.as_fd()), None);
                match listening.listener.accept() {
                    Ok((stream, _)) => Some(stream),
                    Err(error) => {
                        // No descriptor to spare, perhaps; who waits still does.
                        if error.kind() != io::ErrorKind::WouldBlock {
                            self.pause();
                        }
                        None
                    }
                }
            }
            Meeting::Client(path) => {
                connect(path).inspect_err(|_| self.wait(None, Some(CONNECT_PAUSE_MS))).ok()
            }
        }
    }

    fn pause(&self) {
        self.wait(None, u16::try_from(MEETING_PAUSE.as_millis()).ok());
    }

    /// Waits until a descriptor is readable, somebody wants the thread, or the time is over.
    fn wait(&self, descriptor: Option<std::os::fd::BorrowedFd<'_>>, limit_ms: Option<u16>) {
        let wanted = PollFd::new(self.shared.control.as_fd(), PollFlags::POLLIN);
        let mut polled = vec![wanted];
        polled.extend(descriptor.map(|it| PollFd::new(it, PollFlags::POLLIN)));
        let limit = limit_ms.map_or(PollTimeout::NONE, PollTimeout::from);
        // A signal is a wake like any other.
        let _ = poll(&mut polled, limit);
    }

    /// Listens to one front end until it goes.
    fn serve(&self, stream: UnixStream) {
        let socket = self.shared.socket.as_str();
        tracing::info!(socket, "front end connected");
        self.shared.connected.store(true, Ordering::Relaxed);
        let reason = self.listen(stream);
        self.shared.talk_to(None);
        self.device.lock().unwrap_or_else(PoisonError::into_inner).disconnect();
        self.shared.connected.store(false, Ordering::Relaxed);
        match reason {
            Ok(()) | Err(Error::Disconnected) => tracing::info!(socket, "front end left"),
            Err(error) => tracing::warn!(socket, %error, "connection to the front end ended"),
        }
    }

    fn listen(&self, stream: UnixStream) -> Result<(), Error> {
        stream.set_nonblocking(false).map_err(Error::SocketError)?;
        stream.set_read_timeout(Some(MESSAGE_LIMIT)).map_err(Error::SocketError)?;
        stream.set_write_timeout(Some(MESSAGE_LIMIT)).map_err(Error::SocketError)?;
        let watched = stream.try_clone().map_err(Error::SocketError)?;
        self.shared.talk_to(Some(stream.try_clone().map_err(Error::SocketError)?));
        let mut handler = BackendReqHandler::from_stream(stream, self.device.clone());
        loop {
            self.wait(Some(watched.as_fd()), None);
            if !self.goes_on() {
                return Ok(());
            }
            self.await_header(&watched)?;
            let early = Enable::next(&watched);
            match handler.handle_request() {
                Err(Error::InactiveFeature(_)) => {
                    if let Some(Enable { ring, on }) = early {
                        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
                        device.set_vring_enable(ring, on)?;
                    }
                }
                result => result?,
            }
        }
    }

    /// Waits until the header of the next message is there as a whole, or the connection is over.
    fn await_header(&self, stream: &UnixStream) -> Result<(), Error> {
        let looks = MESSAGE_LIMIT.as_millis() / u128::from(HEADER_PAUSE_MS);
        for _ in 0..looks {
            if !early::is_header_cut(stream) {
                return Ok(());
            }
            self.wait(None, Some(HEADER_PAUSE_MS));
            if !self.goes_on() {
                return Err(Error::Disconnected);
            }
        }
        Err(Error::PartialMessage)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write;
    use std::sync::mpsc::channel;

    use nix::sys::socket::{Backlog, listen};
    use seine_pipeline::address::Mac;

    use super::*;

    /// A port at a socket in a folder of its own.
    fn open(path: &Path, mode: Mode) -> Control {
        let shared = Shared::new(path.display().to_string(), 1, false, 1514).unwrap();
        let options = VhostUserOptions {
            socket: path,
            mode,
            owner: SocketOwner::default(),
            pairs: 1,
            queues: 1,
            mtu: 1500,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            polled: false,
        };
        start(Arc::new(shared), &options).unwrap()
    }

    /// Closes the port, for which whoever changes anything on the node has to wait.
    fn close(control: Control) {
        std::thread::sleep(Duration::from_millis(300));
        let (closed, wait) = channel();
        std::thread::spawn(move || {
            drop(control);
            let _ = closed.send(());
        });
        wait.recv_timeout(Duration::from_secs(20)).expect("the port closes");
    }

    fn connected(path: &Path, control: &Control) -> UnixStream {
        let stream = UnixStream::connect(path).unwrap();
        while !control.is_connected() {
            std::thread::sleep(Duration::from_millis(5));
        }
        stream
    }

    #[test]
    fn half_a_message_keeps_no_port_from_closing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let control = open(&path, Mode::Server);
        let mut stream = connected(&path, &control);
        stream.write_all(&[1, 0, 0, 0]).unwrap();
        close(control);
    }

    #[test]
    fn whoever_reads_no_answers_keeps_no_port_from_closing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let control = open(&path, Mode::Server);
        let mut stream = connected(&path, &control);
        // VHOST_USER_GET_FEATURES, of version 1, without a body.
        stream.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(4000)).unwrap();
        close(control);
    }

    #[test]
    fn whoever_accepts_nobody_keeps_no_port_from_closing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        close(open(&path, Mode::Client));
        assert!(matches!(
            Listening::at(&path, SocketOwner::default()),
            Err(OpenError::SocketTaken(_))
        ));
    }
}
