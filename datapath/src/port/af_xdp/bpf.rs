//! The few verbs of bpf(2) that an AF_XDP port takes: maps, programs, links, pins.
//!
//! Raw, because the two programs are short enough to be assembled here (see `program`), and so
//! the product builds without clang, libbpf or libxdp.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::program::Instruction;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const MAP_NEXT_KEY: i32 = 4;
const PROGRAM_LOAD: i32 = 5;
const OBJECT_PIN: i32 = 6;
const OBJECT_GET: i32 = 7;
const OBJECT_INFO: i32 = 15;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const PROGRAM_HAS_FRAGMENTS: u32 = 1 << 5;
const XDP_DRIVER_MODE: u32 = 1 << 2;
const LINK_TYPE_XDP: u32 = 6;

/// Bytes for the verifier to explain itself: enough for its last words about a short program.
const LOG_BYTES: usize = 16 << 10;

/// The kinds of map in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    Sockets = 17,
}

/// What a map looks like: one that was pinned is taken up again only if it looks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapShape {
    pub kind: MapKind,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub entries_max: u32,
}

/// An open map.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

impl Map {
    pub fn create(name: &'static str, shape: MapShape) -> io::Result<Map> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            key_bytes: u32,
            value_bytes: u32,
            entries_max: u32,
            flags: u32,
            inner: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let attributes = Attributes {
            kind: shape.kind as u32,
            key_bytes: shape.key_bytes,
            value_bytes: shape.value_bytes,
            entries_max: shape.entries_max,
            flags: 0,
            inner: 0,
            numa_node: 0,
            name: object_name(name),
        };
        Ok(Map(descriptor(MAP_CREATE, &attributes)?))
    }

    pub fn shape(&self) -> io::Result<Option<MapShape>> {
        /// The head of `struct bpf_map_info`.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            key_bytes: u32,
            value_bytes: u32,
            entries_max: u32,
            flags: u32,
        }
        let found: Info = info(self.0.as_fd())?;
        let kind = match found.kind {
            1 => MapKind::Hash,
            17 => MapKind::Sockets,
            _ => return Ok(None),
        };
        let Info { key_bytes, value_bytes, entries_max, .. } = found;
        Ok(Some(MapShape { kind, key_bytes, value_bytes, entries_max }))
    }

    /// Sets the value of a key. Lengths are those of the map's shape.
    pub fn update<K, V>(&self, key: &K, value: &V) -> io::Result<()> {
        self.set(key, value, 0)
    }

    /// As that, of a key that has none: else it fails with EEXIST.
    pub fn insert<K, V>(&self, key: &K, value: &V) -> io::Result<()> {
        const BPF_NOEXIST: u64 = 1;
        self.set(key, value, BPF_NOEXIST)
    }

    fn set<K, V>(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        let attributes = ElementAttributes {
            map: self.0.as_raw_fd() as u32,
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            flags,
        };
        call(MAP_UPDATE, &attributes).map(drop)
    }

    /// The value of a key. Lengths are those of the map's shape.
    pub fn value<K, V: Default>(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let attributes = ElementAttributes {
            map: self.0.as_raw_fd() as u32,
            key: std::ptr::from_ref(key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        match call(MAP_LOOKUP, &attributes) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a key; one that is not there is no error.
    pub fn delete<K>(&self, key: &K) -> io::Result<()> {
        let attributes = ElementAttributes {
            map: self.0.as_raw_fd() as u32,
            key: std::ptr::from_ref(key) as u64,
            value: 0,
            flags: 0,
        };
        match call(MAP_DELETE, &attributes) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// The keys in it.
    pub fn keys<K: Copy + Default>(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = K::default();
            let attributes = ElementAttributes {
                map: self.0.as_raw_fd() as u32,
                key: keys.last().map_or(0, |key| std::ptr::from_ref(key) as u64),
                value: (&raw mut next) as u64,
                flags: 0,
            };
            match call(MAP_NEXT_KEY, &attributes) {
                Ok(_) => keys.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    pub fn pinned(path: &Path) -> io::Result<Map> {
        Ok(Map(pinned(path)?))
    }
}

impl AsRawFd for Map {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[repr(C, align(8))]
struct ElementAttributes {
    map: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A loaded XDP program.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

/// The verifier's refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub source: io::Error,
    pub log: String,
}

impl Program {
    pub fn load(
        name: &'static str,
        instructions: &[Instruction],
        fragments: bool,
    ) -> Result<Program, Refusal> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            licence: u64,
            log_level: u32,
            log_bytes: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            attach_type: u32,
        }
        let mut log = vec![0u8; LOG_BYTES];
        let mut attributes = Attributes {
            kind: PROGRAM_TYPE_XDP,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            licence: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: if fragments { PROGRAM_HAS_FRAGMENTS } else { 0 },
            name: object_name(name),
            interface: 0,
            attach_type: ATTACH_XDP,
        };
        if let Ok(program) = descriptor(PROGRAM_LOAD, &attributes) {
            return Ok(Program(program));
        }
        // Again, to be told why.
        attributes.log_level = 1;
        attributes.log_bytes = LOG_BYTES as u32;
        attributes.log = log.as_mut_ptr() as u64;
        descriptor(PROGRAM_LOAD, &attributes).map(Program).map_err(|source| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
            Refusal { source, log: String::from_utf8_lossy(&log[..end]).trim().to_owned() }
        })
    }

    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    pub fn pinned(path: &Path) -> io::Result<Program> {
        Ok(Program(pinned(path)?))
    }

    /// The kernel's id of it.
    pub fn id(&self) -> io::Result<u32> {
        let [_kind, id]: [u32; 2] = info(self.0.as_fd())?;
        Ok(id)
    }
}

/// A program attached to an interface: attached as long as the link is open or pinned.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches in native mode.
    pub fn create(program: &Program, interface: u32) -> io::Result<Link> {
        let attributes = [program.0.as_raw_fd() as u32, interface, ATTACH_XDP, XDP_DRIVER_MODE];
        Ok(Link(descriptor(LINK_CREATE, &attributes)?))
    }

    /// Replaces the program; no packet meets none.
    pub fn replace(&self, program: &Program) -> io::Result<()> {
        let attributes = [self.0.as_raw_fd() as u32, program.0.as_raw_fd() as u32, 0, 0];
        call(LINK_UPDATE, &attributes).map(drop)
    }

    /// The index of the interface it is attached to; `None` when that is gone, or the link is
    /// none of XDP's.
    pub fn interface(&self) -> io::Result<Option<u32>> {
        /// The head of `struct bpf_link_info`, as XDP fills it.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            padding: u32,
            interface: u32,
            padding2: u32,
        }
        let found: Info = info(self.0.as_fd())?;
        Ok((found.kind == LINK_TYPE_XDP && found.interface != 0).then_some(found.interface))
    }

    /// Takes the program off the interface.
    pub fn detach(&self) -> io::Result<()> {
        call(LINK_DETACH, &[self.0.as_raw_fd() as u32, 0]).map(drop)
    }

    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    pub fn pinned(path: &Path) -> io::Result<Link> {
        Ok(Link(pinned(path)?))
    }
}

#[repr(C)]
struct ObjectAttributes {
    path: u64,
    object: u32,
    flags: u32,
}

fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectAttributes {
        path: path.as_ptr() as u64,
        object: object.as_raw_fd() as u32,
        flags: 0,
    };
    call(OBJECT_PIN, &attributes).map(drop)
}

fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(OBJECT_GET, &ObjectAttributes { path: path.as_ptr() as u64, object: 0, flags: 0 })
}

/// Reads the head of an object's info. `I` holds only integers.
fn info<I: Default>(object: BorrowedFd<'_>) -> io::Result<I> {
    #[repr(C)]
    struct Attributes {
        object: u32,
        bytes: u32,
        info: u64,
    }
    let mut info = I::default();
    let attributes = Attributes {
        object: object.as_raw_fd() as u32,
        bytes: size_of::<I>() as u32,
        info: (&raw mut info) as u64,
    };
    call(OBJECT_INFO, &attributes)?;
    Ok(info)
}

/// Object names take letters, digits, `_` and `.`, and end with a zero.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

fn descriptor<A>(command: i32, attributes: &A) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: these commands return a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `A` is the head of `union bpf_attr` for the command; the kernel takes the rest as zero. The
/// pointers in it are to memory that outlives the call, of the lengths that the command implies.
fn call<A>(command: i32, attributes: &A) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes of attributes, and follows pointers in them
    // that each caller made from references alive across the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}
