//! The one XDP program of all Pod ports, with the two maps that tell them apart.
//!
//! One program, because the kernel waits for a grace period, 10 ms and more, whenever a program is
//! attached to its first interface or taken off its last: with a program for each port, every ADD
//! and DEL would wait. The maps are `ports`, interface index to the first of its slots, and
//! `sockets`, slot to socket. A slot names a socket, not a device: the kernel itself refuses to
//! hand a socket what another device or queue received.
//!
//! All three are pinned. A later datapath finds the program by a hash of its instructions and so
//! takes up the same one, or replaces it by a newer one, interface by interface.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::net::if_::if_nameindex;

use super::attach::open_map;
use super::bpf::{Map, MapKind, MapShape, Program, Refusal};
use super::program::{self, Instruction};

/// Where the three are pinned. No interface's pins are called so (see `attach::pin_name`).
const DIRECTORY: &str = "_pods";

/// Pod ports that there is room for: at least as many as there are ports in all.
const PORTS_MAX: u32 = 1024;

/// Slots of each: one a queue, and so one a worker.
const QUEUES_MAX: u32 = 64;

const _: () = assert!(PORTS_MAX as usize >= seine_pipeline::limits::PORTS_MAX);

const PORTS_SHAPE: MapShape =
    MapShape { kind: MapKind::Hash, key_bytes: 4, value_bytes: 4, entries_max: PORTS_MAX };

const SOCKETS_SHAPE: MapShape = MapShape {
    kind: MapKind::Sockets,
    key_bytes: 4,
    value_bytes: 4,
    entries_max: PORTS_MAX * QUEUES_MAX,
};

/// The program and its maps.
#[derive(Debug)]
pub(super) struct PodProgram {
    program: Program,
    ports: Map,
    sockets: Map,
}

/// A port's place in the maps.
#[derive(Debug)]
pub(super) struct PodSlots {
    ports: Map,
    sockets: Map,
    interface: u32,
    first: u32,
}

/// Why there is no program.
#[derive(Debug)]
pub(super) enum PodProgramError {
    /// A file or a map said no.
    Io(io::Error),
    /// The verifier did.
    Refused(Refusal),
}

impl From<io::Error> for PodProgramError {
    fn from(error: io::Error) -> PodProgramError {
        PodProgramError::Io(error)
    }
}

impl PodProgram {
    /// Takes up what is pinned, or makes and pins what is missing.
    pub fn open(pins: &Path) -> Result<PodProgram, PodProgramError> {
        let directory = pins.join(DIRECTORY);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let (ports, ports_made) = open_map("ports", &directory, PORTS_SHAPE)?;
        let (sockets, sockets_made) = open_map("sockets", &directory, SOCKETS_SHAPE)?;
        let path = directory.join(name_of(&program::pod(0, 0)));
        match Program::pinned(&path) {
            Ok(program) if !ports_made && !sockets_made => {
                return Ok(PodProgram { program, ports, sockets });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // What is pinned there speaks of other maps or is another program.
        for pin in fs::read_dir(&directory)? {
            let pin = pin?;
            if pin.file_name().to_string_lossy().starts_with(PROGRAM) {
                fs::remove_file(pin.path())?;
            }
        }
        let instructions = program::pod(ports.as_raw_fd(), sockets.as_raw_fd());
        let program =
            Program::load("seine_pod", &instructions, false).map_err(PodProgramError::Refused)?;
        program.pin(&path)?;
        Ok(PodProgram { program, ports, sockets })
    }

    /// The slots of an interface of the calling thread's namespace: those it has, or free ones.
    /// Until a socket is entered there, what the interface receives is dropped.
    pub fn take_slots(self, interface: u32) -> io::Result<(Program, PodSlots)> {
        let first = match self.ports.value::<u32, u32>(&interface)? {
            Some(first) => first,
            None => {
                let first = self.free_slots()?;
                self.ports.update(&interface, &first)?;
                first
            }
        };
        let PodProgram { program, ports, sockets } = self;
        Ok((program, PodSlots { ports, sockets, interface, first }))
    }

    fn free_slots(&self) -> io::Result<u32> {
        let all = || (0..PORTS_MAX).map(|port| port * QUEUES_MAX);
        let taken = self.taken()?;
        if let Some(free) = all().find(|first| !taken.contains(first)) {
            return Ok(free);
        }
        // Some may be of links that were deleted while no datapath ran.
        let interfaces = if_nameindex()?;
        for known in self.ports.keys::<u32>()? {
            if !interfaces.iter().any(|interface| interface.index() == known) {
                self.ports.delete(&known)?;
            }
        }
        let taken = self.taken()?;
        all().find(|first| !taken.contains(first)).ok_or_else(|| {
            io::Error::other(format!("{PORTS_MAX} Pod ports are in the map, which is its limit"))
        })
    }

    fn taken(&self) -> io::Result<Vec<u32>> {
        let mut taken = Vec::new();
        for interface in self.ports.keys::<u32>()? {
            taken.extend(self.ports.value::<u32, u32>(&interface)?);
        }
        Ok(taken)
    }
}

impl PodSlots {
    /// Hands what a queue receives to a socket.
    pub fn connect(&self, queue: u32, socket: u32) -> io::Result<()> {
        if queue >= QUEUES_MAX {
            let limit = format!("a Pod port has at most {QUEUES_MAX} queues");
            return Err(io::Error::other(limit));
        }
        self.sockets.update(&(self.first + queue), &socket)
    }

    /// Gives them back.
    pub fn free(&self) -> io::Result<()> {
        self.ports.delete(&self.interface)
    }
}

/// How the pin of a program begins.
const PROGRAM: &str = "program-";

/// The name of a program's pin: another program has another one.
fn name_of(instructions: &[Instruction]) -> String {
    // FNV-1a, 64 bit. Two versions that collide would have to be sought.
    let bytes = instructions.iter().flat_map(Instruction::bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{PROGRAM}{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_is_that_of_its_instructions() {
        let name = name_of(&program::pod(0, 0));
        assert_eq!(name, name_of(&program::pod(0, 0)));
        assert_ne!(name, name_of(&program::pod(0, 1)));
        assert!(name.starts_with(PROGRAM) && name.len() == PROGRAM.len() + 16);
    }
}
