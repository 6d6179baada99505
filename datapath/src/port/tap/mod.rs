//! Tap ports: `seine-gw0` and `seine-host0`, the node's own legs into the Pod network.
//!
//! A persistent multi-queue tap with a virtio-net header: it survives a restart of the datapath
//! with its addresses and routes, and carries checksums unfinished and TCP uncut both ways.
//!
//! Two ways to the device. [`uring`] reads and writes a batch with one system call, and waits for
//! packets without any. Where io_uring is missing or forbidden, [`plain`] makes one call a packet,
//! and the counters say so.

#![allow(unsafe_code, reason = "ioctls of /dev/net/tun, and io_uring's buffers")]

mod pieces;
mod plain;
mod uring;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use seine_pipeline::address::Mac;

use self::plain::PlainQueue;
use self::uring::UringQueue;
use super::interface::Interface;
use super::open::{OpenError, PortFacts};
use super::virtio_net::{Defect, Said};
use super::{Queue, QueueFault, QueueStats, virtio_net as header};
use crate::frame::{Frame, FrameCache, HEADROOM, Region};
use crate::netns::Namespace;
use crate::segment;

/// How often, and how long apart, a device that is in use is tried: a queue of a process that was
/// killed ends a moment after it.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// Room for what a frame has none for: the kernel gives up to 64 KiB at once.
const SPILL_BYTES: usize = 0x1_0000;
/// Bytes of the largest frame.
const FRAME_BYTES_MAX: usize = 4096;

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct TapOptions<'a> {
    /// Name of the device; made if it is not there.
    pub interface: &'a str,
    /// The namespace it is in, or to be in.
    pub namespace: &'a Namespace,
    /// Queues: as many as workers.
    pub queues: usize,
    /// Whether to use io_uring if the kernel has it.
    pub io_uring: bool,
    /// The MAC address that it gets; `None`: it keeps what it has.
    pub mac: Option<Mac>,
}

/// An open port.
pub struct TapPort {
    /// What is known of the device.
    pub facts: PortFacts,
    /// Its queues, in order.
    pub queues: Vec<Box<dyn Queue>>,
    /// Whether io_uring carries the packets.
    pub io_uring: bool,
}

/// Opens a tap, and makes it persistent. It stays when the queues are closed.
pub fn open(region: &'static Region, options: TapOptions<'_>) -> Result<TapPort, OpenError> {
    options.namespace.run(|| open_here(region, options))?
}

/// Removes the tap from the node. One that is not there is no error.
pub fn remove(namespace: &Namespace, interface: &str) -> Result<(), OpenError> {
    namespace.run(|| match Interface::read(interface) {
        Err(OpenError::NoSuchInterface(_)) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let file = attach(interface)?;
            command(&file, libc::TUNSETPERSIST, 0)
                .map_err(|source| kernel("letting go of the tap", interface, source))
        }
    })?
}

fn open_here(region: &'static Region, options: TapOptions<'_>) -> Result<TapPort, OpenError> {
    let name = options.interface;
    wait_until_free(name)?;
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(options.queues);
    let mut rings = options.io_uring;
    for _ in 0..options.queues {
        let file = attach(name)?;
        if let Some(mac) = options.mac {
            set_mac(&file, mac)
                .map_err(|source| kernel("setting the MAC address of the tap", name, source))?;
        }
        configure(&file).map_err(|source| kernel("setting up the tap", name, source))?;
        let device = Device { file, region, name: name.to_owned() };
        let ring = if rings { UringQueue::ring() } else { None };
        rings = ring.is_some();
        queues.push(match ring {
            Some(ring) => Box::new(UringQueue::new(device, ring)),
            None => Box::new(PlainQueue::new(device)),
        });
    }
    let interface = Interface::read(name)?;
    let facts = PortFacts {
        index: interface.index,
        mac: interface.mac,
        mtu: interface.mtu,
        attach_mode: interface.attach_mode,
        partial_checksum: true,
    };
    Ok(TapPort { facts, queues, io_uring: rings })
}

/// A tap with carrier has a queue open: two datapaths would each get some of the packets.
fn wait_until_free(name: &str) -> Result<(), OpenError> {
    let mut tries = 0;
    loop {
        match Interface::read(name) {
            Err(OpenError::NoSuchInterface(_)) => return Ok(()),
            Err(error) => return Err(error),
            Ok(interface) if !interface.carrier => return Ok(()),
            Ok(_) if tries < OPEN_TRIES => std::thread::sleep(OPEN_PAUSE),
            Ok(_) => {
                let source = io::Error::from_raw_os_error(libc::EBUSY);
                return Err(OpenError::DeviceTaken { interface: name.to_owned(), source });
            }
        }
        tries += 1;
    }
}

/// Opens a queue of the tap, which is made if it is not there.
fn attach(name: &str) -> Result<File, OpenError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options
        .open("/dev/net/tun")
        .map_err(|source| kernel("opening /dev/net/tun", name, source))?;
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *target = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, alive across the call.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer == 0 {
        return Ok(file);
    }
    let source = io::Error::last_os_error();
    Err(match source.raw_os_error() {
        Some(libc::EBUSY | libc::EINVAL | libc::E2BIG) => {
            OpenError::DeviceTaken { interface: name.to_owned(), source }
        }
        _ => kernel("opening a queue of the tap", name, source),
    })
}

fn configure(file: &File) -> io::Result<()> {
    command(file, libc::TUNSETPERSIST, 1)?;
    value(file, libc::TUNSETVNETHDRSZ, header::BYTES as libc::c_int)?;
    value(file, libc::TUNSETVNETLE, 1)?;
    let segments = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    command(file, libc::TUNSETOFFLOAD, (libc::TUN_F_CSUM | segments) as libc::c_ulong)
}

/// Gives the tap its MAC address.
fn set_mac(file: &File, mac: Mac) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is a valid one; the kernel takes the name from the open queue.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: Default::default() };
    for (target, byte) in address.sa_data.iter_mut().zip(mac.0) {
        *target = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR on a tap's queue reads one `ifreq`, alive across the call.
    let answer =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::SIOCSIFHWADDR as _, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An ioctl whose argument is the number itself.
fn command(file: &File, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the requests passed here take a number, no pointer.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An ioctl whose argument is a pointer to an int.
fn value(file: &File, request: libc::Ioctl, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the requests passed here read one int, alive across the call.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw const argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn kernel(action: &'static str, interface: &str, source: io::Error) -> OpenError {
    OpenError::kernel(action, "CAP_NET_ADMIN", interface, source)
}

/// Why a packet that was read is none.
enum Unread {
    /// It may have been cut, or is none that was asked for.
    Cut,
    /// It cannot be cut into segments as is said.
    Segmentation,
    /// There are too few frames for its segments.
    NoFrame,
}

impl Unread {
    fn count(self, stats: &mut QueueStats) {
        match self {
            Unread::Cut | Unread::NoFrame => stats.device_drops += 1,
            Unread::Segmentation => stats.bad_segmentation += 1,
        }
    }
}

/// What both kinds of queue know of the device.
struct Device {
    file: File,
    region: &'static Region,
    name: String,
}

impl Device {
    /// Where a packet is read to: its header ends where the headroom does.
    const READ_START: usize = HEADROOM - header::BYTES;

    /// Bytes that a read may take.
    fn read_bytes(&self) -> usize {
        self.region.frame_bytes() - Device::READ_START
    }

    /// Turns what a read of `bytes` bytes left in the frame, and behind it in `spill`, into a
    /// packet.
    fn finish_read(
        &self,
        frame: &mut Frame,
        bytes: usize,
        spill: &[u8],
        frames: &mut FrameCache,
    ) -> Result<(), Unread> {
        let room = self.read_bytes();
        // One that filled all there was may have been cut.
        if bytes <= header::BYTES || bytes >= room + spill.len() {
            return Err(Unread::Cut);
        }
        let len = bytes - header::BYTES;
        let here = len.min(room - header::BYTES);
        frame.set_range(HEADROOM, here);
        let head = &frame.buffer()[Device::READ_START..HEADROOM];
        let head = head.first_chunk().ok_or(Unread::Cut)?;
        let said = header::decode(header::number(head), len).map_err(|defect| match defect {
            Defect::Checksum => Unread::Cut,
            Defect::Segmentation => Unread::Segmentation,
        })?;
        frame.checksum = said.checksum;
        let Some(said) = said.segmentation else {
            return if here == len { Ok(()) } else { Err(Unread::Cut) };
        };
        let opening = segment::open(frame, len, said).map_err(|_| Unread::Segmentation)?;
        let Some(opening) = opening else { return Ok(()) };
        let mut behind = [0; FRAME_BYTES_MAX];
        let behind = &mut behind[..here - opening.first];
        behind.copy_from_slice(&frame.buffer()[HEADROOM + opening.first..HEADROOM + here]);
        let mut rest = behind.chain(&spill[..len - here]);
        let taken = segment::follow(frame, opening, len - opening.first, frames, |payload| {
            // There are as many bytes as are asked for.
            let _ = rest.read_exact(payload);
        });
        if taken { Ok(()) } else { Err(Unread::NoFrame) }
    }

    /// Puts the header in front of the packet; the range of the buffer to write, before what
    /// follows. `None` for a frame that no device takes.
    fn prepare_write(frame: &mut Frame) -> Option<std::ops::Range<usize>> {
        const ETHERNET_BYTES: usize = 14;
        let (start, len, checksum) = (frame.start(), frame.len(), frame.checksum);
        if len < ETHERNET_BYTES || start < header::BYTES {
            return None;
        }
        let range = start - header::BYTES..start + len;
        let segmentation = segment::of(frame);
        let headers = if segmentation.is_some() { segment::unite(frame) } else { 0 };
        let said = Said { checksum, segmentation };
        let said = header::encode(said, len, headers)?.to_le_bytes();
        frame.buffer_mut()[range.start..start].copy_from_slice(&said[..header::BYTES]);
        Some(range)
    }

    /// What an errno of a read or a write means; `None` for what passes.
    fn fault(&self, errno: i32) -> Option<QueueFault> {
        match errno {
            // Nothing there, out of memory, interrupted, or the interface is down.
            libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS | libc::EINTR | libc::EIO => None,
            libc::EBADFD => Some(QueueFault::DeviceGone(self.name.clone())),
            _ => Some(QueueFault::Device { interface: self.name.clone(), errno }),
        }
    }
}
