//! DPDK's testpmd with a net_virtio_user device: a packet processor behind a vhost-user port.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::journal::Journal;

/// What one is started with.
#[derive(Clone, Debug)]
pub struct Testpmd {
    /// A name that no other has.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Whether testpmd listens at it. One that connects does so once, when it starts.
    pub listens: bool,
    /// Its MAC address.
    pub mac: String,
    /// The core that forwards.
    pub core: usize,
    /// What else the device is told: ",packed_vq=1".
    pub device: &'static str,
    /// What it does with packets: options of the application.
    pub application: Vec<String>,
}

/// Packets of one side, as testpmd counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// RX-packets.
    pub received: u64,
    /// TX-packets.
    pub sent: u64,
}

impl Testpmd {
    /// Starts it, with its log in `folder`.
    pub fn start(&self, journal: &Journal, folder: &Path) -> Outcome<Daemon> {
        let Testpmd { name, socket, mac, core, device, .. } = self;
        let listens = if self.listens { ",server=1" } else { "" };
        let path = socket.display();
        let device =
            format!("net_virtio_user0,path={path},mac={mac},queue_size=1024{listens}{device}");
        if self.listens {
            // What one that was killed has left: the next would not listen there.
            match std::fs::remove_file(socket) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failure::io("remove", socket)(error));
                }
                _ => {}
            }
        }
        let mut command = Command::new("dpdk-testpmd");
        // Without huge pages, which not every machine has to spare: its memory is then a memfd.
        command.args(["--no-pci", "--no-huge", "-m", "128", "--no-telemetry", "-l", "0,1"]);
        command.args([format!("--main-lcore={}", 1 - core), format!("--file-prefix={name}")]);
        command.args(["--vdev", &device, "--", "--auto-start", "--total-num-mbufs=8192"]);
        command.args(["--stats-period=1"]).args(&self.application);
        Daemon::start(journal, name, &mut command, &self.log(folder))
    }

    fn log(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.log", self.name))
    }

    /// What it counted last, of all that were started with this name.
    pub fn counted(&self, folder: &Path) -> Outcome<Counted> {
        let path = self.log(folder);
        let text = std::fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
        let last = |label: &str| {
            let lines = text.lines().rev().filter_map(|line| line.trim().strip_prefix(label));
            let mut numbers = lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
            numbers.next().unwrap_or_default()
        };
        Ok(Counted { received: last("RX-packets:"), sent: last("TX-packets:") })
    }
}
