//! How long packets stop when the datapath or a guest dies and comes back.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::journal;

use crate::noise::Meter;
use crate::output::Output;
use crate::record::{Death, Record, Restart, Way};
use crate::restart::{Guests, Probes, Veths};
use crate::topology::Stage;

/// How long a guest stays away: its port has seen that it went.
const AWAY: Duration = Duration::from_millis(200);
/// How long traffic flows before somebody dies.
const REST: Duration = Duration::from_millis(700);
/// How long the dead may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether they are.
const LOOK: Duration = Duration::from_micros(200);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How often each dies.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
}

/// The cluster, and who sends in it.
struct Running<'a> {
    cluster: &'a mut Cluster,
    guests: &'a Guests,
    veths: &'a Veths,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let mut cluster = Stage { nodes: 1, pods: 2, far: 0 }.start(output)?;
    let base = Instant::now();
    let guests = Guests::start(&mut cluster, base)?;
    let veths = Veths::start(&mut cluster, base)?;
    let mut running = Running { cluster: &mut cluster, guests: &guests, veths: &veths };
    running.flows("at first")?;
    output.expect_steps(arguments.rounds);
    for round in 0..arguments.rounds {
        output.step(&format!("round {}", round + 1));
        for death in [Death::Worker, Death::Datapath, Death::Guest] {
            std::thread::sleep(REST);
            running.forget();
            let meter = Meter::start()?;
            let firsts = running.dies(death)?;
            running.flows("after a death")?;
            let noise = meter.stop()?;
            for First { way, from_death_ms, from_start_ms } in firsts {
                let restart = Restart { round, death, way, from_death_ms, from_start_ms, noise };
                output.add(Record::Restart(restart))?;
            }
        }
    }
    drop((guests, veths));
    cluster.close()
}

/// The first packet on one way.
struct First {
    way: Way,
    from_death_ms: Option<f64>,
    from_start_ms: Option<f64>,
}

fn ms(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

impl Running<'_> {
    /// The ways that packets go when the datapath dies.
    fn ways(&self) -> [(Way, &Probes); 2] {
        [(Way::Guests, &self.guests.ways()[0]), (Way::Veths, self.veths.way())]
    }

    /// All ways are open.
    fn flows(&self, when: &str) -> Outcome {
        for probes in [&self.guests.ways()[0], &self.guests.ways()[1], self.veths.way()] {
            probes.back_ns(when, probes.now_ns())?;
        }
        Ok(())
    }

    fn forget(&self) {
        for probes in [&self.guests.ways()[0], &self.guests.ways()[1], self.veths.way()] {
            probes.forget();
        }
    }

    fn now_ns(&self) -> u64 {
        self.veths.way().now_ns()
    }

    fn dies(&mut self, death: Death) -> Outcome<Vec<First>> {
        match death {
            Death::Worker => self.worker(),
            Death::Datapath => self.datapath(),
            Death::Guest => self.guest(),
        }
    }

    fn worker(&mut self) -> Outcome<Vec<First>> {
        let children = self.children()?;
        let killed = self.now_ns();
        for (child, ticks) in &children {
            journal::signal(*child, *ticks, Signal::SIGKILL);
        }
        gone(&children)?;
        let dead = self.now_ns();
        self.firsts("after a worker process", killed, dead, None)
    }

    fn datapath(&mut self) -> Outcome<Vec<First>> {
        let children = self.children()?;
        let killed = self.now_ns();
        self.cluster.node_mut("node1")?.datapath()?.kill()?;
        gone(&children)?;
        let dead = self.now_ns();
        self.cluster.node_mut("node1")?.start_datapath()?;
        self.firsts("after a datapath", killed, dead, Some(dead))
    }

    fn guest(&mut self) -> Outcome<Vec<First>> {
        let began = self.guests.away_and_back(AWAY)?;
        let [from, to] = self.guests.ways();
        let mut firsts = Vec::new();
        for (way, probes) in [(Way::Guests, from), (Way::ToGuest, to)] {
            let came = probes.back_ns("after a guest", began)?;
            firsts.push(First { way, from_death_ms: None, from_start_ms: Some(ms(began, came)) });
        }
        Ok(firsts)
    }

    fn firsts(
        &self,
        what: &str,
        killed: u64,
        dead: u64,
        start: Option<u64>,
    ) -> Outcome<Vec<First>> {
        let mut firsts = Vec::new();
        for (way, probes) in self.ways() {
            let came = probes.back_ns(what, dead)?;
            firsts.push(First {
                way,
                from_death_ms: Some(ms(killed, came)),
                from_start_ms: start.map(|start| ms(start, came)),
            });
        }
        Ok(firsts)
    }

    /// The datapath's processes that move packets, with when they began.
    fn children(&mut self) -> Outcome<Vec<(u32, u64)>> {
        let children = self.cluster.node_mut("node1")?.datapath()?.children();
        let children: Vec<_> =
            children.into_iter().filter_map(|id| Some((id, journal::start_time(id)?))).collect();
        if children.is_empty() {
            return Err(Failure::Unmet("the datapath has no worker process".to_owned()));
        }
        Ok(children)
    }
}

/// Waits until these processes are gone.
fn gone(processes: &[(u32, u64)]) -> Outcome {
    let begin = Instant::now();
    while processes.iter().any(|(id, ticks)| journal::start_time(*id) == Some(*ticks)) {
        if begin.elapsed() > GONE_MAX {
            let what = "the end of processes that were killed".to_owned();
            return Err(Failure::Late { what, seconds: GONE_MAX.as_secs() });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
