//! What a packet costs: rows of a sweep, each run a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use seine_e2e::failure::{Failure, Outcome};

use crate::forward::profile::{Kind, Order, Ports, Profile, Rings, Sum, Tunnel, Ways};
use crate::forward::{row, suite};
use crate::output::Output;
use crate::record::{Forward, Pair, Record};
use crate::topology::stage;

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// What to measure. Options that take a list make a row of every combination.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What packets come from and go to.
    #[arg(long, value_enum, default_value = "memory")]
    pub ports: Ports,
    /// How guests keep their rings, where there are guests.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "split")]
    pub rings: Vec<Rings>,
    /// Connections that send, up to 8388608; with --new, how many the table holds.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    pub connections: Vec<u32>,
    /// In which order they send.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uniform")]
    pub order: Vec<Order>,
    /// Bytes of a frame without its check sequence; in a tunnel, of the inner one.
    #[arg(long, value_delimiter = ',', default_value = "64")]
    pub size: Vec<usize>,
    /// Policies for every Pod and direction; each connection is let through by one of each.
    #[arg(long, value_delimiter = ',', default_value = "10")]
    pub policies_per_side: Vec<usize>,
    /// Services that all connections go through; 0: straight to the Pod.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub services: Vec<usize>,
    /// Whether packets cross nodes, and which way.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    pub tunnel: Vec<Tunnel>,
    /// Whether half of the packets are replies; through a tunnel all go one way.
    #[arg(long, value_enum, default_value = "both")]
    pub ways: Ways,
    /// What stands in the UDP checksum.
    #[arg(long, value_enum, default_value = "zero")]
    pub checksum: Sum,
    /// Each packet begins a connection: policy, Service, commit, and the end of an older one.
    #[arg(long)]
    pub new: bool,
    /// Cores that forward. Two take turns with a generator each, and share all connections.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub workers: Vec<usize>,
    /// Generator and worker take turns on one core: what no packet's way between cores costs.
    #[arg(long)]
    pub in_line: bool,
    /// Packets under way at once; 4096 unless given, 64 with --new.
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Pods of the node.
    #[arg(long, default_value = "64")]
    pub pods: usize,
    /// Pages of 2 MiB for the connection table; `off` takes 4 KiB.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "on")]
    pub huge_pages: Vec<Switch>,
    /// 10,000 more Services are installed; 100 policies and 50 Pods change every second.
    #[arg(long)]
    pub churn: bool,
    /// The rows of docs/PERFORMANCE.md in place of those that other options make; of those only
    /// --seconds and --runs count.
    #[arg(long)]
    pub suite: bool,
    /// So many percent of what could be forwarded is sent, evenly, and packets tell how long they
    /// were under way; not between memory ports.
    #[arg(long, value_delimiter = ',')]
    pub load: Vec<u8>,
    /// TCP of 64 KiB in segments, between 8 Pods whose guests leave them to their device; with
    /// --ports vhost-user.
    #[arg(long)]
    pub tso: bool,
    /// How long each run counts.
    #[arg(long, default_value = "2")]
    pub seconds: f64,
    /// Runs of each row, in turns.
    #[arg(long, default_value = "3")]
    pub runs: usize,
    /// So many pairs of runs instead, and an interval around the median of their ratios: with
    /// --churn and without it, this program and another (--against), or else through Services or a
    /// tunnel and without. A verdict takes 20.
    #[arg(long, conflicts_with_all = ["runs", "suite"])]
    pub pairs: Option<usize>,
    /// Another seine-perf, which the same rows run in.
    #[arg(long, requires = "pairs")]
    pub against: Option<PathBuf>,
    /// Losses of rate, in percent, that the interval is held against.
    #[arg(long, value_delimiter = ',', default_value = "5,2", requires = "pairs")]
    pub goals: Vec<f64>,
    /// Cycles of 2.3 GHz that Services or a tunnel may take more, that the interval is held
    /// against.
    #[arg(long, value_delimiter = ',', requires = "pairs")]
    pub goal_cycles: Vec<f64>,
}

impl Arguments {
    /// What is to be measured.
    fn rows(&self) -> Outcome<Vec<Profile>> {
        let mut rows = match (self.suite, self.ports) {
            (true, Ports::Memory) => suite::rows(self.seconds),
            (true, Ports::VhostUser) => suite::guests(self.seconds),
            (true, Ports::AfXdp) => suite::veths(self.seconds),
            (false, _) => self.combinations(),
        };
        for row in &mut rows {
            if row.tunnel != Tunnel::None || row.kind == Kind::New && row.ways == Ways::Both {
                row.ways = Ways::One;
            }
            row.check().map_err(Failure::Unmet)?;
        }
        Ok(rows)
    }

    /// Every combination.
    fn combinations(&self) -> Vec<Profile> {
        let mut rows = vec![self.first()];
        fn vary<T: Copy>(rows: &mut Vec<Profile>, values: &[T], set: fn(&mut Profile, T)) {
            let with = |row: &Profile, value| {
                let mut row = row.clone();
                set(&mut row, value);
                row
            };
            *rows = rows
                .iter()
                .flat_map(|row| values.iter().map(move |value| with(row, *value)))
                .collect();
        }
        vary(&mut rows, &self.workers, |row, value| row.workers = value);
        vary(&mut rows, &self.huge_pages, |row, value| row.huge_pages = value == Switch::On);
        vary(&mut rows, &self.rings, |row, value| row.rings = value);
        if !self.load.is_empty() {
            vary(&mut rows, &self.load, |row, value| row.load_pct = Some(value));
        }
        vary(&mut rows, &self.order, |row, value| row.order = value);
        if !self.tso {
            vary(&mut rows, &self.size, |row, value| row.size = value);
        }
        vary(&mut rows, &self.policies_per_side, |row, value| row.policies_per_side = value);
        vary(&mut rows, &self.services, |row, value| row.services = value);
        vary(&mut rows, &self.tunnel, |row, value| row.tunnel = value);
        vary(&mut rows, &self.connections, |row, value| row.connections = value);
        rows
    }

    fn first(&self) -> Profile {
        if self.tso {
            let (ports, ways, seconds) = (self.ports, self.ways, self.seconds);
            return Profile { ports, ways, seconds, ..Profile::segmented() };
        }
        let kind = if self.new { Kind::New } else { Kind::Established };
        let plain = Profile::plain(kind);
        Profile {
            ports: self.ports,
            pods: self.pods,
            ways: self.ways,
            checksum: self.checksum,
            in_line: self.in_line,
            in_flight: self.in_flight.unwrap_or(plain.in_flight),
            churn: self.churn,
            seconds: self.seconds,
            ..plain
        }
    }
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let rows = arguments.rows()?;
    if arguments.ports == Ports::AfXdp {
        stage::remove_what_was_left(output)?;
    }
    if let Some(pairs) = arguments.pairs {
        return in_pairs(arguments, pairs, &rows, output);
    }
    output.expect_steps(rows.len() * arguments.runs);
    for round in 0..arguments.runs {
        for row in &rows {
            let what = [
                format!("{} connections", row.connections),
                format!("{} B", row.size),
                format!("{} policies a side", row.policies_per_side),
                format!("{} Services", row.services),
                format!("tunnel {}", row.tunnel.name()),
            ];
            output.step(&format!("run {round}: {}", what.join(", ")));
            let forward = apart(row)?;
            output.add(Record::Forward(Box::new(Forward { round, ..forward })))?;
        }
    }
    Ok(())
}

/// What a pair compares a row with.
enum Without {
    /// The same row in another program.
    Program(PathBuf),
    /// Another row, and the name of what that has not.
    Row(String, Box<Profile>),
}

impl Without {
    fn of(arguments: &Arguments, row: &Profile) -> Outcome<Without> {
        let than = |name: &str, other| Ok(Without::Row(name.to_owned(), Box::new(other)));
        match &arguments.against {
            Some(program) => Ok(Without::Program(program.clone())),
            None if row.churn => than("churn", Profile { churn: false, ..row.clone() }),
            None if row.tunnel != Tunnel::None => {
                than(row.tunnel.name(), Profile { tunnel: Tunnel::None, ..row.clone() })
            }
            None if row.services > 0 => than("Services", Profile { services: 0, ..row.clone() }),
            None => Err(Failure::Unmet(
                "--pairs compares --churn, --services or --tunnel with none, or this program with \
                 one given --against"
                    .to_owned(),
            )),
        }
    }

    fn name(&self) -> String {
        match self {
            Without::Program(program) => format!("this program; without: {}", program.display()),
            Without::Row(name, _) => name.clone(),
        }
    }

    fn measure(&self, row: &Profile) -> Outcome<Forward> {
        match self {
            Without::Program(program) => apart_in(program, row),
            Without::Row(_, other) => apart(other),
        }
    }
}

/// Each row with something and without it, one right after the other.
fn in_pairs(arguments: &Arguments, pairs: usize, rows: &[Profile], output: &mut Output) -> Outcome {
    let others = rows.iter().map(|row| Without::of(arguments, row));
    let others = others.collect::<Outcome<Vec<Without>>>()?;
    output.expect_steps(pairs * rows.len());
    for round in 0..pairs {
        for (row, without) in rows.iter().zip(&others) {
            let (what, connections) = (without.name(), row.connections);
            output.step(&format!("pair {round}: {what}, {connections} connections"));
            let (one, other) = if round % 2 == 0 {
                let one = apart(row)?;
                (one, without.measure(row)?)
            } else {
                let other = without.measure(row)?;
                (apart(row)?, other)
            };
            let pair = paired(arguments, (round, what), row, [&one, &other]);
            output.add(Record::Pair(Box::new(pair)))?;
        }
    }
    Ok(())
}

fn paired(
    arguments: &Arguments,
    (round, against): (usize, String),
    row: &Profile,
    [one, other]: [&Forward; 2],
) -> Pair {
    // Both kinds of goals at once would be two verdicts about the same thing.
    let goals_pct = if arguments.goal_cycles.is_empty() { &arguments.goals[..] } else { &[] };
    Pair {
        round,
        against,
        cycles: [one.cycles_per_packet, other.cycles_per_packet],
        mpps: [one.mpps, other.mpps],
        generator_bound: one.generator_bound || other.generator_bound,
        steal_pct: one.steal_pct.max(other.steal_pct),
        away_pct: one.away_pct.max(other.away_pct),
        goals_pct: goals_pct.to_vec(),
        goals_cycles: arguments.goal_cycles.clone(),
        tsc_ghz: one.tsc_ghz,
        profile: row.clone(),
    }
}

/// Measures one row in this process: prints its record.
pub fn run_row(profile: &str) -> anyhow::Result<()> {
    let record = row::measure(&serde_json::from_str(profile)?)?;
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

/// Measures one row in a process of its own.
pub(crate) fn apart(profile: &Profile) -> Outcome<Forward> {
    let program = std::env::current_exe().map_err(Failure::io("find", Path::new("seine-perf")))?;
    apart_in(&program, profile)
}

fn apart_in(program: &Path, profile: &Profile) -> Outcome<Forward> {
    let parse = |error: serde_json::Error| Failure::Unmet(format!("a row's record: {error}"));
    let profile = serde_json::to_string(profile).map_err(parse)?;
    let mut command = Command::new(program);
    command.arg("forward-row").arg(&profile).stderr(Stdio::inherit());
    let ran = command.output().map_err(Failure::io("run", program))?;
    if !ran.status.success() {
        return Err(Failure::Unmet(format!("no figure for {profile}: see above")));
    }
    serde_json::from_slice(&ran.stdout).map_err(parse)
}
