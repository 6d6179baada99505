//! Where a guest and its port meet: a socket in a directory of the test's own.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seine_datapath::frame::Region;
use seine_datapath::port::vhost_user::{
    self, Mode, QUEUE_PAIRS_MAX, SocketOwner, VhostUserOptions, VhostUserPort,
};
use seine_pipeline::address::Mac;

/// A port with its socket in a directory that goes with it.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub region: &'static Region,
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        Place { directory, region: Region::map(8192, 2048).unwrap() }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("port.sock")
    }

    pub fn open(&self, mode: Mode, queues: usize, polled: bool) -> VhostUserPort {
        let socket = self.socket();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let owner = SocketOwner::default();
        let pairs = QUEUE_PAIRS_MAX;
        let options = VhostUserOptions {
            socket: &socket,
            mode,
            owner,
            pairs,
            queues,
            mtu: 1500,
            mac,
            polled,
        };
        vhost_user::open(self.region, options).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Connects to a port as soon as it listens.
pub fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > deadline => panic!("{}: {error}", socket.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
