//! Whether this machine can run this configuration: asked before anything on it is changed.
//!
//! Each finding is one line that names what is missing and how to get it; all are found at once,
//! so that nobody has to mend and try five times.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit};

use crate::configuration::Configuration;
use crate::placement::{Placement, PlacementError, usable_cores};
use crate::port::af_xdp::is_pinned;
use crate::port::{Interface, OpenError};

/// Rights that are needed, with their bit in the kernel's sets and what for.
const RIGHTS: [(&str, u32, &str); 4] = [
    ("CAP_NET_ADMIN", 12, "to attach programs and make the gateway"),
    ("CAP_NET_RAW", 13, "to open AF_XDP sockets"),
    ("CAP_SYS_ADMIN", 21, "to enter the ports namespace and mount a BPF file system"),
    ("CAP_BPF", 39, "to load programs and maps"),
];

/// Exempts from the limit on locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// What is missing, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// A right.
    #[error("the right {name} is missing, {purpose}; run as root, or give it to the process")]
    Right {
        /// The capability.
        name: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// Memory that may be locked.
    #[error(
        "packet memory takes {need} bytes of locked memory and {allowed} are allowed; \
         raise the limit (`LimitMEMLOCK=infinity`, `ulimit -l`), give CAP_IPC_LOCK, \
         or lower `frames.count`"
    )]
    LockedMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The cores.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The uplink.
    #[error("`uplink.interface`: {0}")]
    Uplink(#[from] OpenError),
    /// The uplink is not up.
    #[error("`uplink.interface`: `{0}` is down; `ip link set {0} up`")]
    UplinkDown(String),
    /// The uplink's queues do not fit the workers.
    #[error(
        "`uplink.interface`: `{interface}` has {have} queues and {want} workers want one each; \
         `ethtool -L {interface} combined {want}` (for a veth: `rx {want} tx {want}`), \
         or change `workers.queues`"
    )]
    UplinkQueues {
        /// The uplink.
        interface: String,
        /// Queues in use.
        have: usize,
        /// Queues of each port.
        want: usize,
    },
    /// The frames are too small for the uplink.
    #[error(
        "`uplink.interface`: MTU {mtu} of `{interface}` does not fit frames of {bytes} bytes; \
         set `frames.bytes` to 4096, or lower the MTU"
    )]
    UplinkMtu {
        /// The uplink.
        interface: String,
        /// Its MTU.
        mtu: usize,
        /// Bytes of a frame.
        bytes: usize,
    },
    /// The name of a tap belongs to something else.
    #[error(
        "`{key}`: `{name}` is there and not a tap; choose another name, or `ip link delete {name}`"
    )]
    TapTaken {
        /// The key that names it.
        key: &'static str,
        /// Its name.
        name: String,
    },
    /// No tap device can be made.
    #[error("/dev/net/tun cannot be opened: {0}; load the module `tun`")]
    Tun(io::Error),
    /// The run_dir is in use.
    #[error("another seine-datapath runs with run_dir `{0}`; end it first, or use another")]
    Running(String),
    /// The run_dir cannot be used.
    #[error("`run_dir`: `{path}`: {source}")]
    RunDir {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Everything that is missing on this machine; nothing is changed.
pub fn machine(configuration: &Configuration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rights = effective_rights();
    for (name, bit, purpose) in RIGHTS {
        if rights >> bit & 1 == 0 {
            findings.push(Finding::Right { name, purpose });
        }
    }
    locked_memory(configuration, rights, &mut findings);
    cores(configuration, &mut findings);
    uplink(configuration, &mut findings);
    taps(configuration, &mut findings);
    run_dir(&configuration.run_dir, &mut findings);
    findings
}

fn effective_rights() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

fn locked_memory(configuration: &Configuration, rights: u64, findings: &mut Vec<Finding>) {
    let need = (configuration.frames.count * configuration.frames.bytes) as u64;
    let allowed = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    if rights >> CAP_IPC_LOCK & 1 == 0 && allowed < need {
        findings.push(Finding::LockedMemory { need, allowed });
    }
}

fn cores(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let workers = &configuration.workers;
    if let Err(error) = Placement::of(workers, workers.queue_count(), &usable_cores()) {
        findings.push(error.into());
    }
}

fn uplink(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let interface = match Interface::read(&configuration.uplink.interface) {
        Ok(interface) => interface,
        Err(error) => return findings.push(error.into()),
    };
    let (have, want) = (interface.queues, configuration.workers.queue_count());
    if have != want {
        let interface = interface.name.clone();
        findings.push(Finding::UplinkQueues { interface, have, want });
    }
    // A queue is taken by way of a program; one that this run_dir pinned is taken up again.
    if interface.program != 0 && !is_pinned(&configuration.pins(), &interface.name) {
        findings.push(OpenError::ProgramTaken { interface: interface.name.clone() }.into());
    }
    if !interface.up {
        findings.push(Finding::UplinkDown(interface.name.clone()));
    }
    let (mtu, bytes) = (interface.mtu, configuration.frames.bytes);
    if mtu + 18 + crate::frame::HEADROOM > bytes {
        findings.push(Finding::UplinkMtu { interface: interface.name, mtu, bytes });
    }
}

fn taps(configuration: &Configuration, findings: &mut Vec<Finding>) {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        findings.push(Finding::Tun(error));
    }
    let names = &configuration.gateway;
    let taps = [
        ("gateway.interface", &names.interface),
        ("gateway.host_interface", &names.host_interface),
    ];
    for (key, name) in taps {
        if Interface::read(name).is_ok() && !is_tap(name) {
            findings.push(Finding::TapTaken { key, name: name.clone() });
        }
    }
}

/// Whether the interface is a tap, so one of ours or free to become it.
fn is_tap(name: &str) -> bool {
    crate::links::kind(name).is_ok_and(|kind| kind.as_deref() == Some("tun"))
}

fn run_dir(path: &Path, findings: &mut Vec<Finding>) {
    let name = path.display().to_string();
    match lock(path, Lock::Parent, false) {
        Ok(Some(_)) => {}
        Ok(None) => findings.push(Finding::Running(name)),
        // It is made at start.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => findings.push(Finding::RunDir { path: name, source }),
    }
}

/// Who locks a run_dir: each by a file of its own, so that a parent can start its next child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// The parent.
    Parent,
    /// The worker process.
    WorkerProcess,
}

/// Locks a run_dir for the life of the returned value; `None` when another process has it. With
/// `create`, makes what is missing.
pub fn lock(run_dir: &Path, who: Lock, create: bool) -> io::Result<Option<Flock<File>>> {
    let name = match who {
        Lock::Parent => "parent.lock",
        Lock::WorkerProcess => "worker.lock",
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(run_dir.join(name))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::configuration::{Connections, Frames, Gateway, Log, Memory, Uplink, Workers};

    fn configuration(run_dir: &Path) -> Configuration {
        Configuration {
            node: "n".into(),
            run_dir: run_dir.to_owned(),
            ports_namespace: "seine-test".into(),
            uplink: Uplink { interface: "seine-nobody".into() },
            gateway: Gateway { interface: "lo".into(), ..Gateway::default() },
            workers: Workers { cores: vec![0, 4095], ..Workers::default() },
            frames: Frames::default(),
            memory: Memory::default(),
            connections: Connections::default(),
            log: Log::default(),
        }
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), Lock::Parent, true).unwrap().unwrap();
        let lines: Vec<String> =
            machine(&configuration(folder.path())).iter().map(Finding::to_string).collect();
        let all = lines.join("\n");
        for expected in [
            "core 4095 in `workers.cores` is not there",
            "no interface `seine-nobody`",
            "`lo` is there and not a tap",
            "another seine-datapath runs",
        ] {
            assert!(all.contains(expected), "{expected:?} not in:\n{all}");
        }
        drop(held);
    }

    #[test]
    fn a_check_makes_no_run_dir() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("absent");
        machine(&configuration(&run_dir));
        assert!(!run_dir.exists());
    }

    #[test]
    fn parent_and_worker_process_lock_the_same_run_dir_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let parent = lock(folder.path(), Lock::Parent, true).unwrap();
        let child = lock(folder.path(), Lock::WorkerProcess, true).unwrap();
        assert!(parent.is_some() && child.is_some());
        assert!(lock(folder.path(), Lock::Parent, true).unwrap().is_none());
        drop(child);
        assert!(lock(folder.path(), Lock::WorkerProcess, true).unwrap().is_some());
    }
}
