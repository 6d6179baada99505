//! vhost-user ports for all Pods, in a directory that goes with them, and the guests at their
//! other ends.

use std::path::PathBuf;

use seine_datapath::frame::Region;
use seine_datapath::port::Queue;
use seine_datapath::port::vhost_user::{self, Control, Mode, SocketOwner, VhostUserOptions};
use seine_e2e::failure::{Failure, Outcome};
use tempfile::TempDir;

use super::objects::pod_mac;
use super::profile::{Profile, Rings};
use super::session::RING_SIZE;
use super::switch::SwitchError;
use crate::virtio::{FrontEnd, FrontEndOptions, feature};

/// Bytes of the largest packet, without its Ethernet header.
const MTU: usize = 1500;

/// The sockets of the ports, and who serves them. To be dropped after the worker.
pub struct Guests {
    sockets: Vec<PathBuf>,
    controls: Vec<Control>,
    directory: TempDir,
}

impl Guests {
    /// None yet.
    pub fn new() -> Result<Guests, SwitchError> {
        let directory = TempDir::with_prefix("seine-perf-").map_err(SwitchError::Open)?;
        Ok(Guests { sockets: Vec::new(), controls: Vec::new(), directory })
    }

    /// Opens the port of the next Pod.
    pub fn open(&mut self, region: &'static Region) -> Result<Box<dyn Queue>, SwitchError> {
        let pod = self.sockets.len();
        let socket = self.directory.path().join(format!("pod{pod}"));
        let options = VhostUserOptions {
            socket: &socket,
            mode: Mode::Server,
            owner: SocketOwner::default(),
            pairs: 1,
            queues: 1,
            mtu: MTU,
            mac: pod_mac(pod),
            polled: true,
        };
        let mut port = vhost_user::open(region, options)?;
        self.sockets.push(socket);
        self.controls.push(port.control);
        port.queues.pop().ok_or(SwitchError::NoQueue(pod))
    }

    /// A guest at each port.
    pub fn connect(&self, profile: &Profile) -> Outcome<Vec<FrontEnd>> {
        let options = front_end_options(profile, profile.size);
        let connect = |socket: &PathBuf| {
            FrontEnd::connect(socket, &options).map_err(|it| Failure::Unmet(it.to_string()))
        };
        self.sockets.iter().map(connect).collect()
    }
}

/// Guests as a profile has them, whose frames have so many bytes at most.
pub fn front_end_options(profile: &Profile, frame_bytes: usize) -> FrontEndOptions {
    let mut features = match profile.rings {
        Rings::Split => 0,
        Rings::Packed => feature::RING_PACKED,
    };
    let mut ring_size = RING_SIZE;
    if profile.tso {
        features |= feature::CSUM | feature::HOST_TSO4 | feature::GUEST_CSUM | feature::GUEST_TSO4;
        // All packets under way may meet in one ring; 64 KiB for each is much.
        ring_size = (profile.in_flight as u16).next_power_of_two();
    }
    FrontEndOptions { ring_size, frame_bytes_max: frame_bytes.max(64), features }
}
