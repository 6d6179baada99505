//! Raw frames in and out of an interface, from inside a namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::failure::{Failure, Outcome};
use crate::frames::Marker;
use crate::namespace::Namespace;

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct RawSocket {
    descriptor: OwnedFd,
}

impl RawSocket {
    /// Opens one on `interface` of a namespace.
    pub fn open(namespace: &Namespace, interface: &str) -> Outcome<RawSocket> {
        let failed = |errno: Errno| {
            Failure::io("open a packet socket on", Path::new(interface))(io::Error::from(errno))
        };
        let descriptor = namespace.enter(|| -> Result<OwnedFd, Errno> {
            let protocol = SockProtocol::EthAll;
            let flags = SockFlag::SOCK_CLOEXEC;
            let descriptor = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
            let address = link_address(interface)?;
            bind(descriptor.as_raw_fd(), &address)?;
            setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
            Ok(descriptor)
        })?;
        Ok(RawSocket { descriptor: descriptor.map_err(failed)? })
    }

    /// Puts one frame on the wire.
    pub fn send(&self, frame: &[u8]) -> Outcome {
        // A full queue of the device says ENOBUFS: the frame was lost as on any wire.
        match send(self.descriptor.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(Failure::io("send on", Path::new("a packet socket"))(errno.into())),
        }
    }
}

/// The interface as the kernel names it to packet sockets; the list of interface addresses holds
/// it, so none has to be made up.
fn link_address(interface: &str) -> Result<SockaddrStorage, Errno> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address)
        .find(|address| address.as_link_addr().is_some())
        .ok_or(Errno::ENODEV)
}

/// Counts the frames that arrive at an interface with a marker, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch.
    pub fn start(namespace: &Namespace, interface: &str, marker: Marker) -> Outcome<Watch> {
        let socket = RawSocket::open(namespace, interface)?;
        let (seen, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !ended.load(Ordering::Relaxed) {
                // A time-out is how it comes to look at `ended`.
                if let Ok(bytes) =
                    recv(socket.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())
                    && marker.is_in(&buffer[..bytes])
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Watch { seen, stop, thread: Some(thread) })
    }

    /// Frames with the marker so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A watcher that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}
