//! What daemons cost when nothing happens, and how long the first packet takes after a rest.
//!
//! Both systems hold the same number of Pods at the same time. Round trips are taken in turns, so
//! each system rests while the other is asked.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::namespace::Namespace;
use seine_e2e::pod::Family;

use crate::noise::Meter;
use crate::output::Output;
use crate::record::{FirstPacket, Idle, Record, System};
use crate::topology::daemons::Used;
use crate::topology::fillers::Fillers;
use crate::topology::plain::{PlainNode, PlainPod};
use crate::topology::{Stage, stage};

/// Cores of this machine that the two ends run on.
const CORES: [usize; 2] = [0, 1];
/// Between two questions, whichever system is asked: one system rests twice that.
const REST_MS: [u64; 2] = [100, 500];
/// Ends an echo.
const LAST: &[u8] = b"last";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Pods attached on each system.
    #[arg(long, default_value_t = 30)]
    pub pods: usize,
    /// Seconds that the daemons' CPU is watched, in each round.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How often the daemons' CPU is watched.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Round trips on each system, after rests of 0.2 to 1 s. Half of them with idle fillers.
    #[arg(long, default_value_t = 400)]
    pub samples: usize,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let mut cluster = Stage { nodes: 1, pods: arguments.pods, far: 0 }.start(output)?;
    let mut plain = PlainNode::create(&cluster.journal, &cluster.underlay, 1)?;
    let mut peers = Vec::new();
    output.progress(&format!("attaching {} pods on each system ...", arguments.pods));
    for index in 0..arguments.pods {
        cluster.attach(&stage::near(index))?;
        peers.push(plain.attach(&cluster.journal, &format!("pod{index}"))?);
    }
    output.expect_steps(arguments.rounds + 2);
    std::thread::sleep(Duration::from_secs(2));
    for round in 0..arguments.rounds {
        output.step(&format!("{} idle seconds, round {}", arguments.seconds, round + 1));
        let record = idle(&mut cluster, round, arguments.seconds)?;
        output.add(Record::Idle(record))?;
    }
    let echoes = [seine_echo(&cluster)?, plain_echo(&peers)?];
    for fillers in [false, true] {
        let running = fillers.then(|| Fillers::start(&cluster.journal, CORES.len())).transpose()?;
        let kind = if fillers { "with" } else { "without" };
        let samples = arguments.samples / 2;
        output.step(&format!("{samples} first packets {kind} idle fillers"));
        first_packets(&echoes, samples, fillers, output)?;
        drop(running);
    }
    drop(echoes);
    cluster.close()
}

fn idle(cluster: &mut Cluster, round: usize, seconds: u64) -> Outcome<Idle> {
    let used = Used::now(&mut cluster.nodes)?;
    let (meter, begin) = (Meter::start()?, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let seconds = begin.elapsed().as_secs_f64();
    let noise = meter.stop()?;
    let used = Used::now(&mut cluster.nodes)?.since(&used);
    Ok(Idle {
        round,
        pods: cluster.pods.len(),
        seconds,
        datapath_cpu_ms: used.datapath_cpu_ms,
        agent_cpu_ms: used.agent_cpu_ms,
        datapath_wakeups: used.datapath_rests,
        agent_wakeups: used.agent_rests,
        noise,
    })
}

/// A client in one Pod, and a thread that echoes in another until this is dropped.
struct Echo {
    system: System,
    client: UdpSocket,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start(
        system: System,
        from: &Namespace,
        to: &Namespace,
        addresses: [IpAddr; 2],
    ) -> Outcome<Echo> {
        let [own, target] = addresses;
        let server = bind(to, target)?;
        let name = Path::new("an echo");
        let address = server.local_addr().map_err(Failure::io("name", name))?;
        let client = bind(from, own)?;
        client.connect(address).map_err(Failure::io("connect to", name))?;
        client
            .set_read_timeout(Some(Duration::from_secs(1)))
            .map_err(Failure::io("configure", name))?;
        let thread = std::thread::spawn(move || {
            pin(CORES[1]);
            let mut buffer = [0; 64];
            while let Ok((bytes, peer)) = server.recv_from(&mut buffer) {
                if buffer.starts_with(LAST) {
                    return;
                }
                // A lost answer is seen where it is missed.
                let _ = server.send_to(&buffer[..bytes], peer);
            }
        });
        Ok(Echo { system, client, thread: Some(thread) })
    }

    /// One round trip in microseconds.
    fn round_trip(&self, number: u64) -> Outcome<f64> {
        let name = Path::new("an echo");
        let begin = Instant::now();
        self.client.send(&number.to_be_bytes()).map_err(Failure::io("send to", name))?;
        let mut buffer = [0; 64];
        loop {
            let bytes = self.client.recv(&mut buffer).map_err(Failure::io("hear from", name))?;
            // An answer that comes after its time-out is not the one that is waited for.
            if buffer[..bytes] == number.to_be_bytes() {
                return Ok(begin.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if self.client.send(LAST).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn bind(at: &Namespace, address: IpAddr) -> Outcome<UdpSocket> {
    let socket = at.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
    socket.map_err(Failure::io("bind", Path::new(&address.to_string())))
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    // A machine with one core has no second one; then the thread runs where it can.
    let _ = cores.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
}

fn seine_echo(cluster: &Cluster) -> Outcome<Echo> {
    let [from, to, ..] = cluster.pods.as_slice() else {
        return Err(Failure::Unmet("a first packet takes at least two pods".to_owned()));
    };
    let addresses = [from.address(Family::V4)?, to.address(Family::V4)?];
    Echo::start(System::Seine, &from.namespace, &to.namespace, addresses)
}

fn plain_echo(pods: &[PlainPod]) -> Outcome<Echo> {
    let [from, to, ..] = pods else {
        return Err(Failure::Unmet("a first packet takes at least two pods".to_owned()));
    };
    let addresses = [from.address(Family::V4), to.address(Family::V4)];
    Echo::start(System::Bridge, &from.namespace, &to.namespace, addresses)
}

fn first_packets(
    echoes: &[Echo; 2],
    samples: usize,
    fillers: bool,
    output: &mut Output,
) -> Outcome {
    pin(CORES[0]);
    // The first one resolves neighbours: that is no rest.
    for echo in echoes {
        echo.round_trip(u64::MAX)?;
    }
    let mut asked = [Instant::now(); 2];
    for number in 0..samples {
        for system in System::turns(number) {
            let index = usize::from(system == System::Bridge);
            let meter = Meter::start()?;
            std::thread::sleep(rest(number * 2 + index));
            let rest_ms = asked[index].elapsed().as_secs_f64() * 1e3;
            let us = echoes[index].round_trip(number as u64)?;
            asked[index] = Instant::now();
            output.add(Record::FirstPacket(FirstPacket {
                system: echoes[index].system,
                rest_ms,
                us,
                fillers,
                steal_ms: meter.stop()?.steal_ms,
            }))?;
        }
    }
    Ok(())
}

/// Rests that are spread evenly without being a multiple of anything a scheduler does.
fn rest(number: usize) -> Duration {
    let [least, most] = REST_MS;
    let golden = (number as f64 * 0.618_033_988_75).fract();
    Duration::from_secs_f64((least as f64 + golden * (most - least) as f64) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_stay_within_their_bounds_and_differ() {
        let rests: Vec<Duration> = (0..100).map(rest).collect();
        let [least, most] = REST_MS.map(Duration::from_millis);
        assert!(rests.iter().all(|rest| (least..most).contains(rest)));
        let half = rests.iter().filter(|rest| **rest < (least + most) / 2).count();
        assert!((40..60).contains(&half), "{half} of 100 in the lower half");
    }
}
