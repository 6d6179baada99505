//! AF_XDP ports for all Pods: the host ends of veths, in a namespace of their own, and AF_XDP
//! sockets at the Pods' ends, in another. Both go with the row, or are removed by the next run.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use seine_datapath::frame::{Batch, FrameCache, HEADROOM, Region};
use seine_datapath::netns::Namespace;
use seine_datapath::port::Queue;
use seine_datapath::port::af_xdp::{self, AfXdpOptions, AfXdpPort, Attachment, FrameMemory};
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::journal::{self, Journal};
use seine_e2e::namespace::Namespace as OwnNamespace;
use seine_pipeline::address::PortKind;

use super::far_ends::{Arrived, FarEnd, Shape};
use super::packets::Said;
use super::profile::Profile;
use super::switch::SwitchError;
use crate::topology::stage;

/// Frames that each queue may hold in flight, both sides of a veth alike.
const FRAMES_A_QUEUE: usize = 512;

/// Looks at the kernel after something was sent: it takes a part at a time.
const LOOKS: u8 = 64;

/// The room of both ends: two namespaces, and where programs are pinned.
pub struct Veths {
    journal: Journal,
    ends: [End; 2],
    opened: usize,
}

/// What one side of all veths has in common.
struct End {
    namespace: Namespace,
    memory: FrameMemory,
    region: &'static Region,
    pins: PathBuf,
    attachments: Vec<Attachment>,
}

impl Veths {
    /// Frames that the workers' region needs beside what is under way.
    pub fn frames(profile: &Profile) -> usize {
        profile.pods * FRAMES_A_QUEUE
    }

    /// A veth for each Pod, not opened yet; `region` is the workers'.
    pub fn new(profile: &Profile, region: &'static Region) -> Result<Veths, SwitchError> {
        stage::refuse_unless_root()?;
        let journal = Journal::create(&format!("{}{}", stage::RUN, std::process::id()))?;
        // From here on whatever fails is removed again.
        let guard = RemovedOnFailure(Some(journal.run().to_owned()));
        let far = Region::map(2 * profile.in_flight + Veths::frames(profile), 2048)?;
        let names = ["hosts", "pods"];
        let made = names.map(|name| OwnNamespace::create(&journal, name));
        let [hosts, pods] = made;
        let (hosts, pods) = (hosts?, pods?);
        for namespace in [&hosts, &pods] {
            // Nobody is to say anything of his own accord.
            for scope in ["all", "default"] {
                namespace.set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
            }
        }
        for pod in 0..profile.pods {
            let (queues, far) = ("numrxqueues 1 numtxqueues 1", pods.name());
            let link = format!("link add pod{pod} {queues} type veth");
            hosts.ip(&format!("{link} peer name eth{pod} {queues} netns {far}"))?;
            pods.ip(&format!("link set eth{pod} up"))?;
            hosts.ip(&format!("link set pod{pod} up"))?;
        }
        let end = |namespace: &OwnNamespace, region| {
            let pins = journal.directory().join(format!("pins-{}", namespace.name()));
            af_xdp::mount_pins(&pins).map_err(SwitchError::Open)?;
            let namespace = Namespace::named(namespace.name())
                .map_err(|error| Failure::Unmet(error.to_string()))?;
            let memory = FrameMemory::register(region, &namespace)?;
            Ok::<End, SwitchError>(End { namespace, memory, region, pins, attachments: Vec::new() })
        };
        let ends = [end(&hosts, region)?, end(&pods, far)?];
        guard.keep();
        Ok(Veths { journal, ends, opened: 0 })
    }

    /// Opens the port of the next Pod.
    pub fn open(&mut self) -> Result<Box<dyn Queue>, SwitchError> {
        let pod = self.opened;
        self.opened += 1;
        self.ends[0].open(&format!("pod{pod}"), pod)
    }

    /// A socket at each Pod's end.
    pub fn connect(&mut self) -> Outcome<Vec<VethEnd>> {
        let far = &mut self.ends[1];
        let frames = Arc::new(Mutex::new(FrameCache::new(far.region)));
        let end = |pod| {
            let refused = |error: SwitchError| Failure::Unmet(error.to_string());
            let queue = far.open(&format!("eth{pod}"), pod).map_err(refused)?;
            let (staged, arrived) = (Batch::new(), Batch::new());
            Ok(VethEnd { queue, frames: frames.clone(), staged, arrived, looks: 0 })
        };
        (0..self.opened).map(end).collect()
    }
}

impl Drop for Veths {
    fn drop(&mut self) {
        remove(self.journal.run());
    }
}

/// Removes a run that did not come to be.
struct RemovedOnFailure(Option<String>);

impl RemovedOnFailure {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemovedOnFailure {
    fn drop(&mut self) {
        if let Some(run) = &self.0 {
            remove(run);
        }
    }
}

fn remove(run: &str) {
    if let Err(error) = journal::remove_run(run) {
        eprintln!("seine-perf: {error}");
    }
}

impl End {
    fn open(&mut self, interface: &str, pod: usize) -> Result<Box<dyn Queue>, SwitchError> {
        let End { namespace, memory, pins, attachments, .. } = self;
        let kind = PortKind::Pod;
        let options = AfXdpOptions { interface, namespace, queues: 1, pins, kind };
        let AfXdpPort { mut queues, attachment, .. } = af_xdp::open(memory, options)?;
        attachments.push(attachment);
        queues.pop().ok_or(SwitchError::NoQueue(pod))
    }
}

/// An AF_XDP socket at a Pod's end of its veth.
pub struct VethEnd {
    queue: Box<dyn Queue>,
    frames: Arc<Mutex<FrameCache>>,
    staged: Batch,
    arrived: Batch,
    /// Looks that are still to be taken after what was sent.
    looks: u8,
}

struct Bytes<'a>(&'a [u8]);

impl Arrived for Bytes<'_> {
    fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        let bytes = self.0.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&self.0[..bytes]);
        &buffer[..bytes]
    }

    fn said(&self) -> Said {
        Said::of(self.0)
    }
}

fn locked(frames: &Mutex<FrameCache>) -> MutexGuard<'_, FrameCache> {
    frames.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl FarEnd for VethEnd {
    fn transmit(&mut self, shape: Shape, start: &[u8]) -> bool {
        if self.staged.is_full() {
            return false;
        }
        let Some(mut frame) = locked(&self.frames).allocate() else { return false };
        let bytes = shape.bytes.max(start.len());
        let room = &mut frame.buffer_mut()[HEADROOM..HEADROOM + bytes];
        room[..start.len()].copy_from_slice(start);
        // Another packet may have lain there.
        room[start.len()..].fill(0);
        frame.set_range(HEADROOM, bytes);
        self.staged.push(frame);
        true
    }

    fn reclaim(&mut self) -> usize {
        self.flush();
        self.staged.remaining_capacity()
    }

    fn flush(&mut self) {
        if !self.staged.is_empty() {
            self.queue.transmit(&mut locked(&self.frames), &mut self.staged);
            self.looks = LOOKS;
        }
        if self.looks > 0 {
            self.looks -= 1;
            self.queue.flush(&mut locked(&self.frames));
        }
    }

    fn receive(&mut self, limit: usize, mut frame: impl FnMut(&dyn Arrived)) -> usize {
        debug_assert!(limit >= self.arrived.capacity(), "it takes a batch at once");
        let mut frames = locked(&self.frames);
        self.queue.receive(&mut frames, &mut self.arrived);
        let count = self.arrived.len();
        for arrived in self.arrived.drain(..) {
            frame(&Bytes(arrived.bytes()));
            frames.free(arrived);
        }
        count
    }

    fn is_closed(&self) -> bool {
        self.queue.fault().is_some()
    }
}
