//! AF_XDP sockets on the Pod's own end of its link, in memory of their own: lent to the Pod.
//!
//! Made here, since a Pod has not the rights; used there, since nobody needs any to use them. Who
//! connects to a unix socket is handed the frame memory, a memfd, and a socket for each queue:
//!
//! ```text
//!  Pod: memory, rings  <-- XDP on eth0 --  veth  -- XDP on our end -->  AfXdpQueue
//! ```
//!
//! What the Pod sends by them comes out at our end like everything else that it sends. A loan lasts
//! as long as its connection: each program gets sockets that no other has used, one program at a
//! time, the next when the one before has gone. The Pod's kernel stack gets what arrives while
//! nobody has any. Why a Pod can do no more with the sockets than this is decision 0035.

mod sockets;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use self::sockets::{Frames, Lent, make};
use super::bpf::Map;
use super::socket::namespace_cookie;
use crate::netns::Namespace;
use crate::port::open::OpenError;

/// Between a loan and the next one, and after a connection that could not be accepted: whoever
/// comes and goes all the time costs no more than this allows.
const PAUSE: Duration = Duration::from_millis(100);

/// How often sockets are made anew while the program before still has its own open, or the kernel
/// is not done with them.
const TRIES: u32 = 20;

/// What to lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanOptions {
    /// The Pod's network namespace.
    pub namespace: PathBuf,
    /// Its end of the link.
    pub interface: String,
    /// Where the Pod takes the loan.
    pub socket: PathBuf,
    /// Who may, besides root: user and group.
    pub owner: (u32, u32),
}

/// An offer of loans. It ends when it is dropped, and what is lent then comes to its end: the
/// program comes off, so nothing arrives any more.
#[derive(Debug)]
pub struct Loan {
    lender: Arc<Lender>,
    thread: Option<JoinHandle<()>>,
    /// Device and inode of the unix socket.
    file: (u64, u64),
}

/// The end of the offer that waits for programs.
#[derive(Debug)]
struct Lender {
    options: LoanOptions,
    /// The namespace's own, for a path may come to name another one.
    cookie: u64,
    frames: Frames,
    /// Of the loan before: what of it is still held.
    last: Mutex<Option<Map>>,
    closing: AtomicBool,
    wanted: EventFd,
}

impl Loan {
    /// Offers sockets, and waits for the Pod on a thread of its own.
    pub fn open(options: LoanOptions) -> Result<Loan, OpenError> {
        // No longer than it takes: it must not outlive its Pod for our sake.
        let namespace = Namespace::at(&options.namespace)?;
        let interface = options.interface.as_str();
        let failed = |action| move |source| OpenError::kernel(action, "none", interface, source);
        let (frames, cookie) = namespace.run(|| {
            let cookie = namespace_cookie().map_err(failed("naming the network namespace"))?;
            Frames::make(interface).map(|frames| (frames, cookie))
        })??;
        let refused = |source| OpenError::Socket { path: options.socket.clone(), source };
        let wanted = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| failed("making an eventfd")(errno.into()))?;
        let (listener, file) = listen(&options).map_err(refused)?;
        let closing = AtomicBool::new(false);
        let (last, kept) = (Mutex::default(), options.clone());
        let lender = Arc::new(Lender { cookie, frames, last, closing, wanted, options: kept });
        let serving = Arc::clone(&lender);
        let thread = std::thread::Builder::new()
            .name("loan".to_owned())
            .spawn(move || serving.serve(&listener))
            .map_err(refused)?;
        Ok(Loan { lender, thread: Some(thread), file })
    }

    /// Whether this is that offer already, and programs can still find it.
    pub fn is(&self, options: &LoanOptions) -> bool {
        let found = std::fs::symlink_metadata(&options.socket);
        self.lender.options == *options && found.is_ok_and(|it| (it.dev(), it.ino()) == self.file)
    }

    /// Where programs take it.
    pub fn socket(&self) -> &Path {
        &self.lender.options.socket
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lender.closing.store(true, Ordering::Release);
        let _ = self.lender.wanted.write(1);
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic about.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(self.socket());
    }
}

impl Lender {
    fn serve(&self, listener: &UnixListener) {
        while !self.closing.load(Ordering::Acquire) {
            self.wait(Some((listener.as_fd(), PollFlags::POLLIN)), PollTimeout::NONE);
            match listener.accept() {
                Ok((stream, _)) => self.lend_to(&stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // No descriptor to spare, perhaps: who waits will wait a little longer.
                Err(_) => {}
            }
            self.pause();
        }
    }

    /// Lends to one program, until it goes.
    fn lend_to(&self, stream: &UnixStream) {
        let interface = &self.options.interface;
        let Lent { sockets, words, link, map } = match self.make() {
            Ok(Some(lent)) => lent,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(interface, %error, "no AF_XDP sockets can be lent");
                let refusal = format!("{{\"version\":1,\"error\":{:?}}}", error.to_string());
                let _ = send(stream, &refusal, &[]);
                return;
            }
        };
        let mut descriptors = vec![self.frames.file.as_raw_fd()];
        descriptors.extend(sockets.iter().map(AsRawFd::as_raw_fd));
        if let Err(error) = send(stream, &words, &descriptors) {
            tracing::warn!(interface, %error, "a loan was not handed over");
            return;
        }
        // From here on they are the program's: where it closes them, they are gone.
        drop(sockets);
        // What it may write is never read. No event but its end is waited for.
        self.wait(Some((stream.as_fd(), PollFlags::empty())), PollTimeout::NONE);
        drop(link);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(map);
        self.frames.empty();
    }

    /// Makes what is lent; nothing when the offer has ended meanwhile.
    fn make(&self) -> Result<Option<Lent>, OpenError> {
        let Lender { options, cookie, frames, .. } = self;
        let in_namespace = || {
            let failed = |source| {
                OpenError::kernel("naming the namespace", "none", &options.interface, source)
            };
            if namespace_cookie().map_err(failed)? != *cookie {
                return Err(OpenError::OtherNamespace(options.namespace.clone()));
            }
            let lent = make(&options.interface, frames)?;
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match last.as_ref().and_then(|last| lent.held_before(last)) {
                Some(queue) => {
                    Err(OpenError::QueueTaken { interface: options.interface.clone(), queue })
                }
                None => Ok(lent),
            }
        };
        for tries in 1.. {
            if self.closing.load(Ordering::Acquire) {
                break;
            }
            match Namespace::at(&options.namespace)?.run(in_namespace)? {
                Err(OpenError::QueueTaken { .. } | OpenError::ProgramTaken { .. })
                    if tries < TRIES =>
                {
                    self.pause();
                }
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    fn pause(&self) {
        self.wait(None, PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO));
    }

    /// Waits for an event, the end of the offer or the end of the time.
    fn wait(&self, event: Option<(BorrowedFd<'_>, PollFlags)>, time: PollTimeout) {
        let end = (self.wanted.as_fd(), PollFlags::POLLIN);
        let mut polled: Vec<PollFd<'_>> =
            event.into_iter().chain([end]).map(|(it, flags)| PollFd::new(it, flags)).collect();
        // A signal ends no wait.
        while poll(&mut polled, time) == Err(nix::Error::EINTR) {}
    }
}

/// One message: what the descriptors are, and the descriptors.
fn send(stream: &UnixStream, words: &str, descriptors: &[RawFd]) -> io::Result<()> {
    let parts = [IoSlice::new(words.as_bytes())];
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(stream.as_raw_fd(), &parts, control, flags, None)?;
    Ok(())
}

/// Listens with a socket that only its owner may connect to from the moment it has its name. Says
/// which file it is.
fn listen(options: &LoanOptions) -> io::Result<(UnixListener, (u64, u64))> {
    let mut fresh = options.socket.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let (user, group) = options.owner;
    let mode = if options.owner == (0, 0) { 0o600 } else { 0o660 };
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    lchown(&fresh, Some(user), Some(group))?;
    let facts = std::fs::symlink_metadata(&fresh)?;
    std::fs::rename(&fresh, &options.socket)?;
    listener.set_nonblocking(true)?;
    Ok((listener, (facts.dev(), facts.ino())))
}
