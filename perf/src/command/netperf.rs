//! netperf between two Pods: Seine beside the bridge and VXLAN of the kernel, in turns.

use std::net::IpAddr;

use seine_e2e::cluster::Cluster;
use seine_e2e::daemon::{Daemon, until};
use seine_e2e::failure::{Failure, Outcome, expect};
use seine_e2e::measure::{Netperf as Test, pings};
use seine_e2e::namespace::Namespace;
use seine_e2e::pod::Family;

use crate::noise::Meter;
use crate::output::Output;
use crate::record::{Netperf, Record, System};
use crate::topology::daemons::Used;
use crate::topology::fillers::Fillers;
use crate::topology::plain::{PlainNode, PlainPod};
use crate::topology::{Stage, stage};

/// Cores that tests run on, and that idle fillers keep awake.
const CORES: usize = 2;
/// Where the client of every test runs.
const CLIENT_CORE: usize = 0;
/// Where its server runs.
const SERVER_CORE: usize = 1;
/// netserver's port.
const PORT: u16 = 12865;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How often each test is run on each system, in turns.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each test.
    #[arg(long, default_value_t = 2)]
    pub seconds: u32,
    /// Inner addresses: v4, v6 or both.
    #[arg(long, value_delimiter = ',', default_value = "v4,v6")]
    pub family: Vec<String>,
    /// Only these tests.
    #[arg(long, value_delimiter = ',', default_value = "TCP_STREAM,TCP_RR,TCP_CRR,UDP_STREAM")]
    pub test: Vec<String>,
    /// Only between these: "same node", "across".
    #[arg(long, value_delimiter = ',', default_value = "same node,across")]
    pub way: Vec<String>,
    /// Which tests run with idle fillers on both cores: request and response (rr), all, none.
    #[arg(long, value_enum, default_value_t = WithFillers::Rr)]
    pub fillers: WithFillers,
}

/// Which tests run with idle fillers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WithFillers {
    /// TCP_RR and TCP_CRR: without, they measure how fast the host wakes a virtual core.
    Rr,
    /// Every test.
    All,
    /// No test.
    None,
}

/// One test, for both systems.
#[derive(Clone, Copy, Debug)]
struct Case {
    across: bool,
    family: Family,
    test: Test,
}

/// Both systems, up.
struct Pair {
    cluster: Cluster,
    plain: [PlainPod; 3],
    _plain_nodes: [PlainNode; 2],
    servers: Vec<Daemon>,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let cases = cases(arguments)?;
    let mut pair = Pair::start(output)?;
    output.expect_steps(arguments.rounds * cases.len() * 2);
    for round in 0..arguments.rounds {
        for case in &cases {
            for system in System::turns(round) {
                output.step(&format!(
                    "{} {} {} on {}, round {}",
                    case.way(),
                    case.family.name(),
                    case.test.name(),
                    system.name(),
                    round + 1
                ));
                let record = pair.measure(arguments, *case, system, round)?;
                output.add(Record::Netperf(record))?;
            }
        }
    }
    pair.servers.clear();
    pair.cluster.close()
}

fn cases(arguments: &Arguments) -> Outcome<Vec<Case>> {
    let tests = [Test::TcpStream, Test::TcpRr, Test::TcpCrr, Test::UdpStream];
    let mut cases = Vec::new();
    for across in [false, true] {
        for family in Family::BOTH {
            cases.extend(tests.map(|test| Case { across, family, test }));
        }
    }
    let asked = |names: &[String], name: &str| names.iter().any(|it| it == name);
    cases.retain(|case| {
        asked(&arguments.way, case.way())
            && asked(&arguments.family, case.family.name())
            && asked(&arguments.test, case.test.name())
    });
    expect(!cases.is_empty(), || "no test is left: see `seine-perf netperf --help`".to_owned())?;
    Ok(cases)
}

impl Case {
    fn way(&self) -> &'static str {
        if self.across { "across" } else { "same node" }
    }

    fn wants_fillers(&self, with: WithFillers) -> bool {
        match with {
            WithFillers::Rr => matches!(self.test, Test::TcpRr | Test::TcpCrr),
            WithFillers::All => true,
            WithFillers::None => false,
        }
    }
}

impl Pair {
    fn start(output: &Output) -> Outcome<Pair> {
        let mut cluster = Stage { nodes: 2, pods: 2, far: 1 }.start(output)?;
        for pod in [stage::near(0), stage::near(1), stage::far(0)] {
            cluster.attach(&pod)?;
        }
        let (journal, underlay) = (&cluster.journal, &cluster.underlay);
        let mut nodes =
            [PlainNode::create(journal, underlay, 1)?, PlainNode::create(journal, underlay, 2)?];
        let [first, second] = &mut nodes;
        first.tunnel_to(second)?;
        second.tunnel_to(first)?;
        let plain = [
            first.attach(journal, "pod0")?,
            first.attach(journal, "pod1")?,
            second.attach(journal, "far0")?,
        ];
        let near_and_far = cluster.pods.iter().skip(1).map(|pod| &pod.namespace);
        let namespaces = near_and_far.chain(plain.iter().skip(1).map(|pod| &pod.namespace));
        let servers: Outcome<Vec<Daemon>> =
            namespaces.map(|namespace| start_server(&cluster, namespace)).collect();
        let pair = Pair { servers: servers?, cluster, plain, _plain_nodes: nodes };
        pair.wait_until_reachable()?;
        Ok(pair)
    }

    /// Nothing is measured before every way is open on both systems.
    fn wait_until_reachable(&self) -> Outcome {
        for across in [false, true] {
            for family in Family::BOTH {
                let case = Case { across, family, test: Test::TcpRr };
                for system in System::turns(0) {
                    let (client, address) = self.ends(case, system)?;
                    let (way, family, system) = (case.way(), family.name(), system.name());
                    let what = format!("a ping {way} by {family} on {system}");
                    until(&what, 10, || pings(&client, address))?;
                }
            }
        }
        Ok(())
    }

    fn measure(
        &mut self,
        arguments: &Arguments,
        case: Case,
        system: System,
        round: usize,
    ) -> Outcome<Netperf> {
        let fillers = case.wants_fillers(arguments.fillers);
        let running = fillers.then(|| Fillers::start(&self.cluster.journal, CORES)).transpose()?;
        let (client, address) = self.ends(case, system)?;
        let used = Used::now(&mut self.cluster.nodes)?;
        let meter = Meter::start()?;
        let begin = std::time::Instant::now();
        let figures = netperf(&client, address, case, arguments.seconds)?;
        let wall_ms = begin.elapsed().as_secs_f64() * 1e3;
        let noise = meter.stop()?;
        let used = Used::now(&mut self.cluster.nodes)?.since(&used);
        drop(running);
        Ok(Netperf {
            round,
            system,
            way: case.way().to_owned(),
            family: case.family.name().to_owned(),
            test: case.test.name().to_owned(),
            value: figures.value,
            unit: figures.unit.to_owned(),
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            sent: figures.sent,
            fillers,
            wall_ms,
            datapath_cpu_ms: used.datapath_cpu_ms,
            agent_cpu_ms: used.agent_cpu_ms,
            noise,
        })
    }

    /// The client's namespace, and the server's address.
    fn ends(&self, case: Case, system: System) -> Outcome<(Namespace, IpAddr)> {
        let server = if case.across { 2 } else { 1 };
        Ok(match system {
            System::Seine => {
                let [client, address] = [&self.cluster.pods[0], &self.cluster.pods[server]];
                (client.namespace.clone(), address.address(case.family)?)
            }
            System::Bridge => {
                let [client, address] = [&self.plain[0], &self.plain[server]];
                (client.namespace.clone(), address.address(case.family))
            }
        })
    }
}

fn start_server(cluster: &Cluster, at: &Namespace) -> Outcome<Daemon> {
    let mut command = at.command("taskset");
    command.args(["-c", &SERVER_CORE.to_string(), "netserver", "-D"]);
    let log = cluster.journal.directory().join("netserver.log");
    let daemon = Daemon::start(&cluster.journal, "netserver", &mut command, &log)?;
    until("netserver listens", 5, || {
        at.run(&format!("ss -Hltn sport = :{PORT}")).is_ok_and(|text| !text.trim().is_empty())
    })?;
    Ok(daemon)
}

/// What netperf told.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    value: f64,
    unit: &'static str,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    sent: Option<f64>,
}

fn netperf(from: &Namespace, to: IpAddr, case: Case, seconds: u32) -> Outcome<Figures> {
    // netperf keeps datagrams off routed paths unless it is told not to.
    let own = if case.test == Test::UdpStream { "-R 1 -m 1024" } else { "" };
    let text = from.run(&format!(
        "taskset -c {CLIENT_CORE} timeout {} netperf {} -H {to} -t {} -l {seconds} -P 0 -- {own} \
         -k THROUGHPUT,REMOTE_RECV_THROUGHPUT,LOCAL_SEND_THROUGHPUT,P50_LATENCY,P99_LATENCY",
        seconds + 15,
        case.family.option(),
        case.test.name(),
    ))?;
    let figures = parse(case.test, &text);
    figures.filter(|figures| figures.value > 0.0).ok_or_else(|| {
        Failure::Unmet(format!("netperf {} to {to} moved nothing: {text}", case.test.name()))
    })
}

fn parse(test: Test, text: &str) -> Option<Figures> {
    let figure = |key: &str| -> Option<f64> {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(name, _)| *name == key)?;
        value.trim().parse().ok()
    };
    let none = Figures { value: 0.0, unit: "Mbit/s", p50_us: None, p99_us: None, sent: None };
    Some(match test {
        Test::TcpStream => Figures { value: figure("THROUGHPUT")?, ..none },
        Test::TcpRr | Test::TcpCrr => Figures {
            value: figure("THROUGHPUT")?,
            unit: "trans/s",
            p50_us: figure("P50_LATENCY"),
            p99_us: figure("P99_LATENCY"),
            sent: None,
        },
        Test::UdpStream => Figures {
            value: figure("REMOTE_RECV_THROUGHPUT")?,
            sent: figure("LOCAL_SEND_THROUGHPUT"),
            ..none
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const TEXT: &str = "THROUGHPUT=20454.1\nREMOTE_RECV_THROUGHPUT=812.5\n\
                        LOCAL_SEND_THROUGHPUT=900.0\nP50_LATENCY=46\nP99_LATENCY=91\n";

    #[test]
    fn datagrams_count_where_they_arrive() {
        let figures = parse(Test::UdpStream, TEXT).unwrap();
        assert_eq!((figures.value, figures.sent), (812.5, Some(900.0)));
    }

    #[test]
    fn transactions_have_a_latency_and_streams_have_none() {
        let figures = parse(Test::TcpRr, TEXT).unwrap();
        assert_eq!((figures.value, figures.p99_us), (20454.1, Some(91.0)));
        assert_eq!(parse(Test::TcpStream, TEXT).unwrap().p50_us, None);
        assert_eq!(parse(Test::TcpStream, "establish control: refused"), None);
    }

    #[test]
    fn a_wrong_name_leaves_nothing_and_says_so() {
        let mut arguments = Arguments {
            rounds: 1,
            seconds: 1,
            family: vec!["v4".into()],
            test: vec!["TCP_RR".into()],
            way: vec!["same node".into()],
            fillers: WithFillers::Rr,
        };
        assert_eq!(cases(&arguments).unwrap().len(), 1);
        arguments.test = vec!["TCP_FOO".into()];
        assert!(cases(&arguments).is_err());
    }
}
