//! What keeps an AF_XDP port from opening: each hindrance has its name, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::netns::NamespaceError;
use seine_datapath::port::OpenError;
use seine_datapath::port::af_xdp::{self, AfXdpOptions, FrameMemory};
use seine_pipeline::address::PortKind;

use crate::af_xdp::{close, memory};
use crate::device::{Pod, readable, run};

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn what_hinders_a_port_is_named_and_leaves_nothing_behind() {
    let pod = Pod::new(2, 1450);
    let (region, memory) = memory(&pod);
    let namespace = &pod.ports.namespace;
    let options = AfXdpOptions {
        interface: "host",
        namespace,
        queues: 2,
        pins: &pod.pins,
        kind: PortKind::Pod,
    };
    let error = |options| af_xdp::open(&memory, options).err().expect("it must not open");
    assert!(matches!(
        error(AfXdpOptions { interface: "nobody", ..options }),
        OpenError::NoSuchInterface(name) if name == "nobody"
    ));
    assert!(matches!(
        error(AfXdpOptions { queues: 3, ..options }),
        OpenError::TooFewQueues { have: 2, want: 3, .. }
    ));
    assert!(matches!(
        error(AfXdpOptions { queues: 1, ..options }),
        OpenError::TooManyQueues { have: 2, want: 1, .. }
    ));
    assert!(matches!(
        error(AfXdpOptions { pins: Path::new("/tmp"), ..options }),
        OpenError::NotBpfFileSystem(_)
    ));
    run(&format!("ip -n {} link set host mtu 1900", pod.ports.name));
    assert!(matches!(
        error(options),
        OpenError::MtuTooLarge { mtu: 1900, mtu_max: 1774, frame_bytes: 2048, .. }
    ));
    run(&format!("ip -n {} link set host mtu 1450", pod.ports.name));
    assert!(!pod.pins.join("host").exists(), "no pins are left");

    let port = af_xdp::open(&memory, options).unwrap();
    let elsewhere = pod.pins.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let taken = error(AfXdpOptions { pins: &elsewhere, ..options });
    assert!(matches!(taken, OpenError::ProgramTaken { .. }), "{taken}");
    let taken = error(options);
    assert!(matches!(taken, OpenError::QueueTaken { queue: 0, .. }), "{taken}");
    assert!(!readable(port.queues[0].wake_source().unwrap(), Duration::ZERO));
    close(port, FrameCache::new(region), region);
}

const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// Runs a closure on a thread that has lost a capability.
fn without<T: Send>(capability: u32, closure: impl FnOnce() -> T + Send) -> T {
    const VERSION_3: u32 = 0x2008_0522;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let header = [VERSION_3, 0];
            // Effective, permitted, inheritable; first the low 32 capabilities.
            let mut sets = [[0u32; 3]; 2];
            // SAFETY: both structures live across the call, and have the sizes of this version.
            let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) };
            assert_eq!(read, 0);
            sets[0][0] &= !(1 << capability);
            // SAFETY: as above.
            let set =
                unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
            assert_eq!(set, 0);
            closure()
        });
        thread.join().unwrap()
    })
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_missing_right_is_named() {
    let pod = Pod::new(1, 1450);
    let namespace = &pod.ports.namespace;
    let small = Region::map(64, 2048).unwrap();
    let refused = without(CAP_NET_RAW, || FrameMemory::register(small, namespace).err());
    let Some(OpenError::NoRight { capability, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(capability, "CAP_NET_RAW");

    let refused = without(CAP_SYS_ADMIN, || FrameMemory::register(small, namespace).err());
    let named = matches!(refused, Some(OpenError::Namespace(NamespaceError::NoRight { .. })));
    assert!(named, "{refused:?}");
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn too_little_locked_memory_is_named_with_its_size() {
    let pod = Pod::new(1, 1450);
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    // The whole process's, but other tests have the right that makes it not count.
    setrlimit(Resource::RLIMIT_MEMLOCK, hard.min(8 << 20), hard).unwrap();
    let bytes = 32 << 20;
    let large = Region::map(bytes / 2048, 2048).unwrap();
    let register = || FrameMemory::register(large, &pod.ports.namespace).err();
    let refused = without(CAP_IPC_LOCK, register);
    let named =
        matches!(refused, Some(OpenError::FrameMemory { bytes: named, .. }) if named == bytes);
    assert!(named, "{refused:?}");
    assert!(register().is_none(), "with the right it is registered");
}
