//! Two ordinary Pods, one of which sends the other probes by its kernel.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::pod::{Family, Pod};

use super::probes::{PAUSE, Probes};
use crate::topology::stage::near;

const PORT: u16 = 7000;

/// Both Pods' sockets, on a thread of their own until this is dropped.
pub struct Veths {
    probes: Arc<Probes>,
    thread: Option<JoinHandle<()>>,
}

impl Veths {
    /// Attaches the Pods to the first node, and lets one send.
    pub fn start(cluster: &mut Cluster, base: Instant) -> Outcome<Veths> {
        let (from, to) = (bind(cluster.attach(&near(0))?)?, bind(cluster.attach(&near(1))?)?);
        let failed = || Failure::io("connect", Path::new("a Pod's socket"));
        let address = to.local_addr().map_err(failed())?;
        from.connect(address).map_err(failed())?;
        let probes = Arc::new(Probes::since(base));
        let own = probes.clone();
        let thread = std::thread::spawn(move || {
            let mut stamp = [0; 8];
            while !own.is_stopped() {
                // What cannot be sent is lost, as on any wire.
                let _ = from.send(&own.now_ns().to_be_bytes());
                std::thread::sleep(PAUSE);
                while to.recv(&mut stamp).is_ok_and(|bytes| bytes == stamp.len()) {
                    own.came(u64::from_be_bytes(stamp));
                }
            }
        });
        Ok(Veths { probes, thread: Some(thread) })
    }

    /// The probes from the one to the other.
    pub fn way(&self) -> &Probes {
        &self.probes
    }
}

impl Drop for Veths {
    fn drop(&mut self) {
        self.probes.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("seine-perf: the Pods' thread panicked; see above");
        }
    }
}

fn bind(pod: &Pod) -> Outcome<UdpSocket> {
    let address = SocketAddr::new(pod.address(Family::V4)?, PORT);
    let failed = || Failure::io("bind", Path::new("a Pod's socket"));
    let socket = pod.namespace.enter(|| UdpSocket::bind(address))?.map_err(failed())?;
    socket.set_nonblocking(true).map_err(failed())?;
    Ok(socket)
}
