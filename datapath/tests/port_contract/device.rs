//! Real devices for the contract: namespaces, links between them, and raw sockets as the far end
//! of the wire.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use seine_datapath::netns::Namespace;
use seine_pipeline::packet::Checksum;

use crate::{Sample, Wire};

/// A name that no other test, in this process or another, uses now.
pub fn unique(purpose: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("seine-{purpose}-{}-{count}", std::process::id())
}

/// Runs a command of the system; its failure is the test's.
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{line}`: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {said}");
}

/// A namespace that goes with the test, and all interfaces in it.
pub struct Room {
    pub name: String,
    pub namespace: Namespace,
}

impl Room {
    pub fn new(purpose: &str) -> Room {
        let name = unique(purpose);
        let namespace = Namespace::isolated(&name).expect("a namespace");
        Room { name, namespace }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Best effort while a test may already be failing.
        let _ = Namespace::remove(&self.name);
    }
}

/// A namespace with the host end `host` of a link, one with the Pod end `eth0`, and a BPF file
/// system for pins.
pub struct Pod {
    pub ports: Room,
    pub pod: Room,
    pub pins: PathBuf,
}

impl Pod {
    pub fn new(queues: usize, mtu: usize) -> Pod {
        let (ports, pod) = (Room::new("ports"), Room::new("pod"));
        let (host, guest) = (&ports.name, &pod.name);
        let link = format!("numtxqueues {queues} numrxqueues {queues}");
        run(&format!(
            "ip -n {host} link add host mtu {mtu} {link} \
             type veth peer name eth0 mtu {mtu} {link} netns {guest}"
        ));
        run(&format!("ip -n {guest} address add 10.99.0.2/24 dev eth0"));
        run(&format!("ip -n {guest} link set eth0 up"));
        run(&format!("ip -n {host} link set host up"));
        let pins = std::env::temp_dir().join(unique("pins"));
        seine_datapath::port::af_xdp::mount_pins(&pins).expect("a BPF file system");
        Pod { ports, pod, pins }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.pins);
    }
}

/// A raw socket on an interface: sends and receives whole frames with their checksum fact.
pub struct RawWire {
    socket: OwnedFd,
}

const HEADER_BYTES: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;

impl RawWire {
    pub fn open(namespace: &Namespace, interface: &str) -> RawWire {
        namespace.run(|| RawWire::open_here(interface)).expect("enter").expect("raw socket")
    }

    fn open_here(interface: &str) -> io::Result<RawWire> {
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, every_protocol.into()) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        for (level, option, value) in [
            (libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1),
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20),
        ] {
            let value: libc::c_int = value;
            // SAFETY: the options take an int.
            let answer = unsafe {
                libc::setsockopt(descriptor, level, option, (&raw const value).cast(), 4)
            };
            if answer < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let index = nix::net::if_::if_nametoindex(interface)?;
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = index as i32;
        let bytes = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address lives across the call.
        let answer = unsafe { libc::bind(descriptor, (&raw const address).cast(), bytes) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(RawWire { socket }) }
    }
}

impl Wire for RawWire {
    fn send(&mut self, sample: &Sample) -> bool {
        let mut bytes = vec![0; HEADER_BYTES];
        if let Checksum::Partial { start, offset } = sample.checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        bytes.extend(&sample.bytes);
        match nix::unistd::write(&self.socket, &bytes) {
            Ok(written) => written == bytes.len(),
            Err(nix::Error::ENOBUFS | nix::Error::EAGAIN) => false,
            Err(error) => panic!("raw send: {error}"),
        }
    }

    fn collect(&mut self) -> Option<Sample> {
        let mut bytes = vec![0; 65536];
        let len = match nix::unistd::read(&self.socket, &mut bytes) {
            Ok(len) => len,
            Err(nix::Error::EAGAIN) => return None,
            Err(error) => panic!("raw receive: {error}"),
        };
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let checksum = if bytes[0] & NEEDS_CHECKSUM != 0 {
            Checksum::Partial { start: half(6), offset: half(8) }
        } else {
            Checksum::Complete
        };
        Some(Sample { bytes: bytes[HEADER_BYTES..len].to_vec(), checksum })
    }
}

/// Waits until `descriptor` is readable or broken, as epoll does; `false` when it is not within
/// the time.
pub fn readable(descriptor: i32, timeout: Duration) -> bool {
    let mut polled = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, alive across the call.
    let count = unsafe { libc::poll(&raw mut polled, 1, timeout.as_millis() as i32) };
    count == 1 && polled.revents & (libc::POLLIN | libc::POLLERR) != 0
}
