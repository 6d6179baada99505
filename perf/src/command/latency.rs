//! How long packets are under way through Seine and through Open vSwitch, at 10, 50 and 90 % load.

use std::path::Path;
use std::process::{Command, Stdio};

use seine_e2e::failure::{Failure, Outcome};

use crate::forward::outside;
use crate::forward::profile::{Kind, Ports, Profile};
use crate::output::Output;
use crate::peers::room::Room;
use crate::peers::{delays, session};
use crate::record::{Latency, PeerSystem, Record};

/// Loads: 10, 50 and 90 % of what each forwards at most, and of what Open vSwitch does with
/// Antrea's flows.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Connections that send.
    #[arg(long, default_value = "10000")]
    pub connections: u32,
    /// Bytes of a frame without its check sequence.
    #[arg(long, default_value = "64")]
    pub size: usize,
    /// Policies for every Pod and direction; each connection is let through by one of each.
    #[arg(long, default_value = "10")]
    pub policies_per_side: usize,
    /// Pods of the node, each with a port.
    #[arg(long, default_value = "64")]
    pub pods: usize,
    /// How long each load counts.
    #[arg(long, default_value = "0.5")]
    pub seconds: f64,
    /// Rounds; in each every system has its turn, and who begins changes.
    #[arg(long, default_value = "3")]
    pub rounds: usize,
    /// Pages of 4 KiB for Open vSwitch, although there may be huge ones.
    #[arg(long)]
    pub no_huge: bool,
}

impl Arguments {
    fn profile(&self) -> Outcome<Profile> {
        let profile = Profile {
            ports: Ports::VhostUser,
            connections: self.connections,
            size: self.size,
            policies_per_side: self.policies_per_side,
            pods: self.pods,
            seconds: self.seconds,
            ..Profile::plain(Kind::Established)
        };
        profile.check().map_err(Failure::Unmet)?;
        Ok(profile)
    }
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let profile = arguments.profile()?;
    output.expect_steps(arguments.rounds * 2);
    // What Open vSwitch forwards at most with Antrea's flows, as it did last.
    let mut common_mpps = None;
    for round in 0..arguments.rounds {
        for turn in 0..2 {
            let ours = (round + turn) % 2 == 1;
            let name = if ours { "Seine" } else { "Open vSwitch with DPDK" };
            output.step(&format!("round {}: {name}", round + 1));
            let records = if ours {
                apart(&profile, common_mpps)?
            } else {
                let room = Room::open(output, !arguments.no_huge)?;
                session::beside(|| delays::open_vswitch(&room, &profile))?
            };
            let most = records.iter().find(|it| it.system == PeerSystem::OvsAntrea);
            common_mpps = most.map(|it| it.mpps).or(common_mpps);
            for record in records {
                output.add(Record::Latency(Box::new(Latency { round, ..record })))?;
            }
        }
    }
    Ok(())
}

/// Ours, in a process of its own.
fn apart(profile: &Profile, common_mpps: Option<f64>) -> Outcome<Vec<Latency>> {
    let program = std::env::current_exe().map_err(Failure::io("find", Path::new("seine-perf")))?;
    let parse = |error: serde_json::Error| Failure::Unmet(format!("delays of ours: {error}"));
    let profile = serde_json::to_string(profile).map_err(parse)?;
    let common = serde_json::to_string(&common_mpps).map_err(parse)?;
    let mut command = Command::new(&program);
    command.arg("latency-row").args([&profile, &common]).stderr(Stdio::inherit());
    let ran = command.output().map_err(Failure::io("run", &program))?;
    if !ran.status.success() {
        return Err(Failure::Unmet(format!("no delays for {profile}: see above")));
    }
    serde_json::from_slice(&ran.stdout).map_err(parse)
}

/// Measures ours in this process: prints the records.
pub fn run_row(profile: &str, common_mpps: &str) -> anyhow::Result<()> {
    let common_mpps = serde_json::from_str(common_mpps)?;
    let records = outside::delays(&serde_json::from_str(profile)?, common_mpps)?;
    println!("{}", serde_json::to_string(&records)?);
    Ok(())
}
