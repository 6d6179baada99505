//! Two guests that send each other probes, and connect again whenever their device is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seine_e2e::cluster::Cluster;
use seine_e2e::daemon::until;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::frames::udp_with;
use seine_e2e::front_end;
use seine_e2e::manifest::PodManifest;
use seine_e2e::pod::Family;

use super::probes::{PAUSE, Probes};
use crate::virtio::{FrontEnd, FrontEndOptions};

/// Both ends of every probe.
const PORT: u16 = 7000;
/// Where a probe carries when it was sent: behind Ethernet, IPv4 and UDP.
const STAMP_AT: usize = 14 + 20 + 8;
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(1);
const NAMES: [&str; 2] = ["guest0", "guest1"];

/// What the guests' thread and those who ask have in common.
#[derive(Debug)]
struct Shared {
    /// From the first guest to the second, and back.
    ways: [Probes; 2],
    /// The first guest is to be gone.
    leave: AtomicBool,
    is_gone: AtomicBool,
    /// When the first guest began to connect last.
    connects_ns: AtomicU64,
}

/// A guest: where it connects, and what it sends.
struct Guest {
    socket: PathBuf,
    probe: Vec<u8>,
    device: Option<FrontEnd>,
}

/// Both guests, on a thread of their own until this is dropped.
pub struct Guests {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Guests {
    /// Attaches Pods for them to the first node, and lets them send.
    pub fn start(cluster: &mut Cluster, base: Instant) -> Outcome<Guests> {
        for name in NAMES {
            attach(cluster, name)?;
        }
        let guest = |own: usize| {
            let (pod, peer) = (cluster.pod(NAMES[own])?, cluster.pod(NAMES[1 - own])?);
            let ends = [pod.address(Family::V4)?, peer.address(Family::V4)?].map(|it| (it, PORT));
            let probe = udp_with(peer.mac()?, pod.mac()?, ends[0], ends[1], &[0; 8]);
            Ok::<Guest, Failure>(Guest { socket: front_end::socket(pod)?, probe, device: None })
        };
        let guests = [guest(0)?, guest(1)?];
        let shared = Arc::new(Shared {
            ways: [Probes::since(base), Probes::since(base)],
            leave: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            connects_ns: AtomicU64::new(0),
        });
        let own = shared.clone();
        let thread = std::thread::spawn(move || serve(guests, &own));
        Ok(Guests { shared, thread: Some(thread) })
    }

    /// The probes from the first guest to the second, and back.
    pub fn ways(&self) -> &[Probes; 2] {
        &self.shared.ways
    }

    /// The first guest goes, and comes back after so long: when it began to connect.
    pub fn away_and_back(&self, away: Duration) -> Outcome<u64> {
        let Shared { leave, is_gone, connects_ns, .. } = &*self.shared;
        leave.store(true, Ordering::Relaxed);
        until("the guest is gone", 5, || is_gone.load(Ordering::Relaxed))?;
        std::thread::sleep(away);
        let before = self.shared.ways[0].now_ns();
        leave.store(false, Ordering::Relaxed);
        let mut began = 0;
        until("the guest connects", 5, || {
            began = connects_ns.load(Ordering::Relaxed);
            began > before
        })?;
        Ok(began)
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.shared.ways.iter().for_each(Probes::stop);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("seine-perf: the guests' thread panicked; see above");
        }
    }
}

fn attach(cluster: &mut Cluster, name: &str) -> Outcome {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: perf\n  name: {name}\n  \
         annotations:\n    port.seine.io/kind: vhost-user\n    port.seine.io/mode: server\n    \
         port.seine.io/queues: \"1\"\n\
         spec:\n  nodeName: node1\n  containers:\n    - {{name: main, image: none}}\n"
    );
    let path = cluster.manifests.join(format!("{name}.yaml"));
    let part = cluster.manifests.join(".part");
    std::fs::write(&part, manifest).map_err(Failure::io("write", &part))?;
    std::fs::rename(&part, &path).map_err(Failure::io("write", &path))?;
    let manifest =
        PodManifest { namespace: "perf".into(), name: name.into(), node: "node1".into() };
    cluster.attach(&manifest).map(|_| ())
}

fn serve(mut guests: [Guest; 2], shared: &Shared) {
    let options = FrontEndOptions::default();
    while !shared.ways[0].is_stopped() {
        for (index, guest) in guests.iter_mut().enumerate() {
            let leaves = index == 0 && shared.leave.load(Ordering::Relaxed);
            if leaves || guest.device.as_ref().is_some_and(FrontEnd::is_closed) {
                guest.device = None;
            }
            if index == 0 {
                shared.is_gone.store(leaves, Ordering::Relaxed);
            }
            if guest.device.is_none() && !leaves {
                if index == 0 {
                    shared.connects_ns.store(shared.ways[0].now_ns(), Ordering::Relaxed);
                }
                guest.device = FrontEnd::connect(&guest.socket, &options).ok();
            }
        }
        let missing = guests.iter().any(|guest| guest.device.is_none());
        for (index, guest) in guests.iter_mut().enumerate() {
            guest.send(&shared.ways[index]);
            guest.take(&shared.ways[1 - index]);
        }
        std::thread::sleep(if missing { AGAIN } else { PAUSE });
    }
}

impl Guest {
    fn send(&mut self, way: &Probes) {
        let Some(device) = &mut self.device else { return };
        // A full ring loses the probe, as any wire may.
        if device.reclaim() > 0 {
            let now = way.now_ns().to_be_bytes();
            let (head, rest) = self.probe.split_at(STAMP_AT);
            device.transmit(&[head, &now, rest.get(now.len()..).unwrap_or_default()]);
        }
        device.flush();
    }

    fn take(&mut self, way: &Probes) {
        let Some(device) = &mut self.device else { return };
        device.receive(usize::MAX, |received| {
            let mut start = [0; 64];
            let start = received.copy_to(&mut start);
            // Others speak on this segment, too.
            let port = start.get(36..38).map(|it| u16::from_be_bytes([it[0], it[1]]));
            if port == Some(PORT)
                && let Some(stamp) = start.get(STAMP_AT..).and_then(|it| it.first_chunk())
            {
                way.came(u64::from_be_bytes(*stamp));
            }
        });
    }
}
