//! The XDP program of one interface: attached, pinned, found again, taken off.
//!
//! Link and maps are pinned, so they outlive the process: a datapath that is killed leaves a
//! program behind that finds no socket and drops. The next one takes the pins up again and
//! replaces the program, which may be newer, without a moment in which none is attached. Only
//! [`Attachment::detach`] ends it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use seine_pipeline::address::PortKind;

use super::bpf::{Link, Map, MapKind, MapShape, Program, Refusal};
use super::pod_program::{PodProgram, PodProgramError, PodSlots};
use super::program::{self, ClaimKey};
use crate::port::interface::Interface;
use crate::port::open::{AttachMode, OpenError};

/// Queues that a socket map has room for: one a worker.
const QUEUES_MAX: u32 = 256;

/// Claims that the uplink's program can hold: a few tunnels and one entry for each of their
/// addresses.
pub const CLAIMS_MAX: usize = 1024;

const SOCKETS_SHAPE: MapShape =
    MapShape { kind: MapKind::Sockets, key_bytes: 4, value_bytes: 4, entries_max: QUEUES_MAX };

const CLAIMS_SHAPE: MapShape = MapShape {
    kind: MapKind::Hash,
    key_bytes: size_of::<ClaimKey>() as u32,
    value_bytes: 4,
    entries_max: CLAIMS_MAX as u32,
};

const BPF_RIGHTS: &str = "CAP_BPF together with CAP_NET_ADMIN";

/// Traffic on the uplink that is the datapath's, not the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The destination address.
    pub address: IpAddr,
    /// The IP protocol: TCP (6) or UDP (17).
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
}

impl Claim {
    fn key(self) -> ClaimKey {
        let address = match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let port = self.port.to_be_bytes();
        ClaimKey { address: address.octets(), protocol: self.protocol, zero: 0, port }
    }
}

/// Mounts a BPF file system at `directory` unless one is there: the place for pins.
pub fn mount_pins(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    if statfs(directory)?.filesystem_type() != BPF_FS_MAGIC {
        let none: Option<&str> = None;
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .or_else(|_| mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), none))?;
    }
    Ok(())
}

/// A program on an interface. Dropped, it stays attached by its pins.
#[derive(Debug)]
pub struct Attachment {
    directory: PathBuf,
    link: Link,
    maps: Maps,
    reused: bool,
}

/// Where the program looks up sockets, and what else it looks up.
#[derive(Debug)]
enum Maps {
    Pod(PodSlots),
    Uplink { sockets: Map, claims: Map },
}

impl Attachment {
    /// Attaches to an interface of the calling thread's namespace, or takes up what is pinned.
    pub(super) fn open(
        interface: &Interface,
        pins: &Path,
        kind: PortKind,
    ) -> Result<Attachment, OpenError> {
        let is_bpf = statfs(pins).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        if !is_bpf {
            return Err(OpenError::NotBpfFileSystem(pins.to_owned()));
        }
        let directory = pins.join(pin_name(&interface.name));
        let failed =
            |action| move |source| OpenError::kernel(action, BPF_RIGHTS, &interface.name, source);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making a directory for pins")(error));
            }
            _ => {}
        }
        let (program, maps) = match kind {
            PortKind::Uplink => uplink_program(&directory, &interface.name)?,
            _ => pod_program(pins, interface)?,
        };
        let id = program.id().map_err(failed("reading the program's id"))?;
        let (link, reused) = open_link(interface, &directory, &program)?;
        let attachment = Attachment { directory, link, maps, reused };
        attachment.verify(interface, id).inspect_err(|_| attachment.give_up())?;
        Ok(attachment)
    }

    /// The mode that the kernel shows is the one that counts.
    fn verify(&self, interface: &Interface, program: u32) -> Result<(), OpenError> {
        let now = Interface::read(&interface.name)?;
        if now.attach_mode != AttachMode::Native || now.program != program {
            return Err(OpenError::NotAttached {
                interface: interface.name.clone(),
                found: now.program,
                mode: now.attach_mode.name(),
                wanted: program,
            });
        }
        Ok(())
    }

    /// Hands what a queue receives to a socket.
    pub(super) fn connect(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        match &self.maps {
            Maps::Pod(slots) => slots.connect(queue, socket as u32),
            Maps::Uplink { sockets, .. } => sockets.update(&queue, &(socket as u32)),
        }
    }

    /// Claims exactly this traffic. New claims come in before old ones go. Nothing is claimed on a
    /// Pod port: all it sends is the datapath's.
    pub fn set_claims(&self, claims: &[Claim]) -> io::Result<()> {
        let Maps::Uplink { claims: map, .. } = &self.maps else {
            return Err(io::Error::other("only the uplink has claims"));
        };
        let wanted: Vec<ClaimKey> = claims.iter().map(|claim| claim.key()).collect();
        for key in &wanted {
            map.update(key, &1u32)?;
        }
        for key in map.keys::<ClaimKey>()? {
            if !wanted.contains(&key) {
                map.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Whether the program was found attached, left there by a datapath before this one.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Takes the program off the interface and the pins away. What the interface receives then is
    /// the kernel's. An interface that is gone is no error.
    pub fn detach(self) -> io::Result<()> {
        self.end()
    }

    /// After a failure to open: leaves no trace but that of an earlier datapath.
    pub(super) fn give_up(&self) {
        if !self.reused {
            // The failure to report is the one that led here.
            let _ = self.end();
        }
    }

    fn end(&self) -> io::Result<()> {
        let detached = match self.link.detach() {
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
            _ => Ok(()),
        };
        let freed = match &self.maps {
            Maps::Pod(slots) => slots.free(),
            Maps::Uplink { .. } => Ok(()),
        };
        remove_pins(&self.directory).and(freed).and(detached)
    }
}

fn uplink_program(directory: &Path, interface: &str) -> Result<(Program, Maps), OpenError> {
    let failed = |action| move |source| OpenError::kernel(action, BPF_RIGHTS, interface, source);
    let (sockets, _) =
        open_map("sockets", directory, SOCKETS_SHAPE).map_err(failed("making the socket map"))?;
    let (claims, _) =
        open_map("claims", directory, CLAIMS_SHAPE).map_err(failed("making the claims map"))?;
    let name = "seine_uplink";
    let program = Program::load(name, &program::uplink(&claims, &sockets), true)
        .map_err(|refusal| refused(name, interface, refusal))?;
    Ok((program, Maps::Uplink { sockets, claims }))
}

fn pod_program(pins: &Path, interface: &Interface) -> Result<(Program, Maps), OpenError> {
    let name = &interface.name;
    let failed = |action| move |source| OpenError::kernel(action, BPF_RIGHTS, name, source);
    let pods = PodProgram::open(pins).map_err(|error| match error {
        PodProgramError::Io(source) => failed("making the program of Pod ports")(source),
        PodProgramError::Refused(refusal) => refused("seine_pod", name, refusal),
    })?;
    let (program, slots) =
        pods.take_slots(interface.index).map_err(failed("finding a place for its sockets"))?;
    Ok((program, Maps::Pod(slots)))
}

fn refused(program: &'static str, interface: &str, refusal: Refusal) -> OpenError {
    match refusal.source.raw_os_error() {
        Some(libc::EPERM) => {
            OpenError::kernel("loading an XDP program", BPF_RIGHTS, interface, refusal.source)
        }
        _ => OpenError::Bpf { program, source: refusal.source, log: refusal.log },
    }
}

/// Takes up the pinned map if it looks the same, else makes a new one; and whether it did.
pub(super) fn open_map(
    name: &'static str,
    directory: &Path,
    shape: MapShape,
) -> io::Result<(Map, bool)> {
    let path = directory.join(name);
    match Map::pinned(&path) {
        Ok(map) if map.shape()? == Some(shape) => return Ok((map, false)),
        Ok(_) => fs::remove_file(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let map = Map::create(name, shape)?;
    map.pin(&path)?;
    Ok((map, true))
}

/// The pinned link with its program replaced, if it is this interface's; else a new one.
fn open_link(
    interface: &Interface,
    directory: &Path,
    program: &Program,
) -> Result<(Link, bool), OpenError> {
    let failed =
        |action| move |source| OpenError::kernel(action, BPF_RIGHTS, &interface.name, source);
    let path = directory.join("link");
    match Link::pinned(&path) {
        Ok(link) => {
            let target = link.interface().map_err(failed("reading the pinned link"))?;
            if target == Some(interface.index) && link.replace(program).is_ok() {
                return Ok((link, true));
            }
            // Of an interface that is gone. Its link ends with the pin.
            fs::remove_file(&path).map_err(failed("removing an old pin"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("opening the pinned link")(error)),
    }
    let name = interface.name.clone();
    let link =
        Link::create(program, interface.index).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => OpenError::ProgramTaken { interface: name },
            Some(libc::EOPNOTSUPP | libc::EINVAL) => {
                OpenError::NotNative { interface: name, source }
            }
            _ => failed("attaching an XDP program")(source),
        })?;
    link.pin(&path).map_err(failed("pinning the link"))?;
    Ok((link, false))
}

fn remove_pins(directory: &Path) -> io::Result<()> {
    for name in ["link", "sockets", "claims"] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a datapath left behind for an interface that has since gone. Its program goes
/// with it, if the interface is there after all.
pub fn forget_pins(pins: &Path, interface: &str) -> io::Result<()> {
    remove_pins(&pins.join(pin_name(interface)))
}

/// Whether `pins` hold a link for an interface: then the program on it is one of ours.
pub fn is_pinned(pins: &Path, interface: &str) -> bool {
    pins.join(pin_name(interface)).join("link").exists()
}

/// A BPF file system takes no dots in names; interface names may have them.
fn pin_name(interface: &str) -> String {
    interface.replace('_', "__").replace('.', "_d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_stay_apart_in_their_pins() {
        let names = ["a.b", "a_b", "a_db", "a__db", "adb", "a_.b"];
        let mut pins: Vec<String> = names.iter().map(|name| pin_name(name)).collect();
        assert!(pins.iter().all(|pin| !pin.contains('.')));
        pins.sort();
        pins.dedup();
        assert_eq!(pins.len(), names.len());
    }

    #[test]
    fn an_ipv4_claim_is_keyed_by_its_mapped_address() {
        let claim = Claim { address: [192, 0, 2, 1].into(), protocol: 17, port: 6081 };
        let mut address = [0; 16];
        address[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(claim.key(), ClaimKey { address, protocol: 17, zero: 0, port: [0x17, 0xc1] });
    }
}
