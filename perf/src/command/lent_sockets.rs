//! A Pod's program on AF_XDP sockets lent to it, beside one on a UDP socket of its kernel.
//!
//! Three Pods of one node: one asks by a UDP socket, one answers by `seine-echo` on lent sockets,
//! one by plain `recvfrom` and `sendto`, a call for each datagram. Both answers take the same way
//! through the datapath; what differs is the Pod's own end.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seine_e2e::cluster::Cluster;
use seine_e2e::daemon::{Daemon, until};
use seine_e2e::failure::{Failure, Outcome, expect};
use seine_e2e::front_end;
use seine_e2e::manifest::PodManifest;
use seine_e2e::node::binary;
use seine_e2e::pod::{Family, Pod};

use crate::noise::Meter;
use crate::output::Output;
use crate::peers::room::pin;
use crate::record::{PodEcho, PodSocket, Record};
use crate::statistics::percentile;
use crate::topology::daemons::Used;
use crate::topology::fillers::Fillers;
use crate::topology::{Stage, stage};

/// Where the generator runs, and where the program that answers does.
const GENERATOR_CORE: usize = 0;
const ECHO_CORE: usize = 1;
const CORES: usize = 2;
/// The port of both programs.
const PORT: u16 = 9000;
/// A datagram that is not back within this is lost.
const LOST_AFTER: Duration = Duration::from_millis(50);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 6)]
    pub rounds: usize,
    /// Seconds of each rate, and of each set of round trips.
    #[arg(long, default_value_t = 2)]
    pub seconds: u64,
    /// Bytes of each datagram's payload.
    #[arg(long, default_value_t = 64)]
    pub bytes: usize,
    /// Datagrams on their way at a time, for the rate.
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Questions a second, for the round trips.
    #[arg(long, default_value_t = 2000)]
    pub hz: u32,
}

/// The Pods and what runs in them.
struct Room {
    cluster: Cluster,
    /// By [`PodSocket`].
    clients: [UdpSocket; 2],
    _lent: Daemon,
    _kernel: KernelEcho,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let bounds = (8..=1400).contains(&arguments.bytes) && arguments.hz > 0 && arguments.window > 0;
    expect(bounds, || "8 to 1400 bytes, a window and a rate are needed".to_owned())?;
    let mut room = Room::open(output)?;
    pin(GENERATOR_CORE)?;
    output.expect_steps(arguments.rounds * 2);
    for round in 0..arguments.rounds {
        for socket in PodSocket::turns(round) {
            output.step(&format!("a Pod with a {} socket, round {}", socket.name(), round + 1));
            let record = room.measure(arguments, socket, round)?;
            output.add(Record::PodEcho(record))?;
        }
    }
    let Room { cluster, _lent, _kernel, .. } = room;
    drop((_lent, _kernel));
    cluster.close()
}

impl Room {
    fn open(output: &Output) -> Outcome<Room> {
        let mut cluster = Stage { nodes: 1, pods: 2, far: 0 }.start(output)?;
        let own = PodManifest { name: "lent".into(), ..stage::near(0) };
        let manifest = cluster.manifests.join("lent.yaml");
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {}\n  name: {}\n  \
             annotations: {{port.seine.io/kind: af-xdp}}\nspec:\n  nodeName: {}\n  \
             containers: [{{name: main, image: none}}]\n",
            own.namespace, own.name, own.node
        );
        std::fs::write(&manifest, text).map_err(Failure::io("write", &manifest))?;
        for pod in [&stage::near(0), &stage::near(1), &own] {
            cluster.attach(pod)?;
        }
        let [from, plain, lent] = cluster.pods.as_slice() else {
            return Err(Failure::Unmet("three Pods were attached".to_owned()));
        };
        let echo = start_lent(&cluster, lent)?;
        let kernel = KernelEcho::start(plain)?;
        let clients = [client(from, lent)?, client(from, plain)?];
        for client in &clients {
            until("an echo", 10, || {
                let mut answer = [0; 64];
                client.send(b"question").is_ok() && client.recv(&mut answer).is_ok()
            })?;
        }
        Ok(Room { cluster, clients, _lent: echo, _kernel: kernel })
    }

    fn measure(
        &mut self,
        arguments: &Arguments,
        socket: PodSocket,
        round: usize,
    ) -> Outcome<PodEcho> {
        let client = &self.clients[socket as usize];
        let used = Used::now(&mut self.cluster.nodes)?;
        let meter = Meter::start()?;
        let rate = rate(client, arguments)?;
        let noise = meter.stop()?;
        let used = Used::now(&mut self.cluster.nodes)?.since(&used);
        let fillers = Fillers::start(&self.cluster.journal, CORES)?;
        let trips = round_trips(client, arguments)?;
        drop(fillers);
        let of = |percent| percentile(&trips.us, percent).unwrap_or_default();
        expect(!trips.us.is_empty(), || "no question was answered".to_owned())?;
        Ok(PodEcho {
            round,
            socket,
            bytes: arguments.bytes,
            window: arguments.window,
            kpps: rate.kpps,
            answered: rate.answered,
            lost: rate.lost,
            asked_hz: arguments.hz,
            p50_us: of(50.0),
            p99_us: of(99.0),
            unanswered: trips.unanswered,
            datapath_cpu_ms: used.datapath_cpu_ms,
            noise,
        })
    }
}

fn start_lent(cluster: &Cluster, pod: &Pod) -> Outcome<Daemon> {
    let mut command = pod.namespace.command("taskset");
    command
        .args(["-c", &ECHO_CORE.to_string()])
        .arg(binary("seine-echo")?)
        .arg("--socket")
        .arg(front_end::socket(pod)?);
    let log = cluster.journal.directory().join("echo.log");
    let mut daemon = Daemon::start(&cluster.journal, "seine-echo", &mut command, &log)?;
    daemon.until("it has taken the sockets", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
    })?;
    Ok(daemon)
}

fn client(from: &Pod, to: &Pod) -> Outcome<UdpSocket> {
    let failed = || Failure::io("use", Path::new("a UDP socket"));
    let own = SocketAddr::new(from.address(Family::V4)?, 0);
    let socket = from.namespace.enter(|| UdpSocket::bind(own))?.map_err(failed())?;
    socket.connect(SocketAddr::new(to.address(Family::V4)?, PORT)).map_err(failed())?;
    socket.set_read_timeout(Some(LOST_AFTER)).map_err(failed())?;
    Ok(socket)
}

/// A thread that answers by its kernel until this is dropped.
struct KernelEcho {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KernelEcho {
    fn start(pod: &Pod) -> Outcome<KernelEcho> {
        let failed = || Failure::io("use", Path::new("a UDP socket"));
        let own = SocketAddr::new(pod.address(Family::V4)?, PORT);
        let socket = pod.namespace.enter(|| UdpSocket::bind(own))?.map_err(failed())?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(failed())?;
        let ending = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            // On a machine with one core it runs where it can.
            let _ = pin(ECHO_CORE);
            let mut datagram = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((bytes, peer)) = socket.recv_from(&mut datagram) {
                    // A lost answer is seen where it is missed.
                    let _ = socket.send_to(&datagram[..bytes], peer);
                }
            }
        });
        Ok(KernelEcho { ending, thread: Some(thread) })
    }
}

impl Drop for KernelEcho {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Rate {
    kpps: f64,
    answered: u64,
    lost: u64,
}

/// Keeps `window` datagrams on their way: for each that comes back, another one goes.
fn rate(client: &UdpSocket, arguments: &Arguments) -> Outcome<Rate> {
    let failed = || Failure::io("send by", Path::new("a UDP socket"));
    let (question, mut answer) = (vec![0; arguments.bytes], [0; 2048]);
    let limit = Duration::from_secs(arguments.seconds);
    let (begin, mut came, mut lost) = (Instant::now(), 0_u64, 0_u64);
    let mut under_way = 0;
    while begin.elapsed() < limit {
        while under_way < arguments.window {
            client.send(&question).map_err(failed())?;
            under_way += 1;
        }
        match client.recv(&mut answer) {
            Ok(_) => {
                came += 1;
                under_way -= 1;
            }
            Err(_) => {
                lost += under_way as u64;
                under_way = 0;
            }
        }
    }
    let kpps = came as f64 / begin.elapsed().as_secs_f64() / 1e3;
    // What is still under way must not answer the next question.
    while under_way > 0 && client.recv(&mut answer).is_ok() {
        under_way -= 1;
    }
    Ok(Rate { kpps, answered: came, lost })
}

struct Trips {
    us: Vec<f64>,
    unanswered: u64,
}

/// Asks at even intervals, each question when the one before is answered or lost.
fn round_trips(client: &UdpSocket, arguments: &Arguments) -> Outcome<Trips> {
    let failed = || Failure::io("send by", Path::new("a UDP socket"));
    let mut question = vec![0; arguments.bytes];
    let mut trips = Trips { us: Vec::new(), unanswered: 0 };
    let mut answer = [0; 2048];
    let interval = Duration::from_secs(1) / arguments.hz;
    let begin = Instant::now();
    for number in 0..arguments.seconds * u64::from(arguments.hz) {
        let due = interval * number as u32;
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        question[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        client.send(&question).map_err(failed())?;
        loop {
            match client.recv(&mut answer) {
                Ok(_) if answer[..8] == number.to_be_bytes() => {
                    trips.us.push(sent.elapsed().as_secs_f64() * 1e6);
                    break;
                }
                // Late, and counted already.
                Ok(_) => {}
                Err(_) => {
                    trips.unanswered += 1;
                    break;
                }
            }
        }
    }
    Ok(trips)
}
