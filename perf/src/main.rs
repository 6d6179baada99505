//! `seine-perf`: measures Seine beside the kernel, and makes reports of what it measured.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use seine_e2e::failure::Outcome;
use seine_perf::command::{
    cases, cni_add, first_packets, forward, idle, instructions, latency, lent_sockets, memory,
    netperf, peers, replay, restart, stages,
};
use seine_perf::output::Output;
use seine_perf::topology::fillers;
use seine_perf::{record, report};

const HELP: &str = "\
Every run brings up its own cluster of network namespaces, with both systems side by side on one
machine: Seine's real daemons and plugin, and the kernel's bridge and VXLAN with namespaces like
Pods. The systems are measured in turns, round by round, and who begins changes each round, so
that a drift of the machine hits both. Tables show medians with least and most, and the CPU time
that the host took away meanwhile (steal). A difference under 15 % is called not distinguishable
unless at least six pairs agree on its side.

Run as root, on an otherwise idle machine, from a release build:

  cargo build --release
  target/release/seine-perf netperf
  target/release/seine-perf cni-add --pods 50
  target/release/seine-perf --save idle.jsonl idle --pods 30 --seconds 60
  target/release/seine-perf forward --connections 1,1000,10000,100000,1000000
  target/release/seine-perf peers --quick
  target/release/seine-perf latency
  target/release/seine-perf restart
  target/release/seine-perf lent-sockets
  target/release/seine-perf report idle.jsonl --plots .

An interrupted run leaves namespaces behind; the next run removes them, and so does
`seine-e2e down`.";

/// Measures Seine beside the kernel's own way, in one run.
#[derive(Parser)]
#[command(name = "seine-perf", version, after_help = HELP)]
struct Arguments {
    /// One JSON object a line for every single figure, instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// Also write those JSON lines into this file, for `report`.
    #[arg(long, global = true)]
    save: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// netperf between Pods, on one node and across, beside the bridge and VXLAN.
    ///
    /// The client runs on core 0, its server on core 1; Seine's two workers of each node share
    /// these cores. CPU is counted for the daemons and for the whole machine.
    Netperf(netperf::Arguments),
    /// Latency of CNI ADD and DEL, beside Debian's `bridge` plugin with `host-local`.
    ///
    /// First one by one, the systems taking turns Pod by Pod; then all at once.
    CniAdd(cni_add::Arguments),
    /// CPU of idle daemons, then the first packet after a rest, beside the bridge.
    Idle(idle::Arguments),
    /// Resident and locked memory of each daemon, with more and more Pods.
    Memory(memory::Arguments),
    /// Cycles that a packet costs a worker, between rings in memory.
    ///
    /// The datapath's own worker loop on one core; generator and sink on another, which its cycles
    /// are free of. 64 Pods, 10 policies a side, 64-byte UDP frames, each connection answered
    /// before, all in random order. A lost or wrong packet ends the run. Needs no root.
    Forward(Box<forward::Arguments>),
    /// The same packets through Open vSwitch with DPDK, testpmd and Seine, side by side.
    ///
    /// Open vSwitch as a plain switch, then with the flows that Antrea would give it for the same
    /// Pods, policies and Services, its caches set in every way; testpmd shows what vhost-user
    /// rings cost alone. Wants Debian's openvswitch-switch-dpdk and dpdk (`./deploy/peers`
    /// installs them), two cores, and pages of 2 MiB, which it reserves for the time. With --save,
    /// the flows are kept beside the records.
    Peers(peers::Arguments),
    /// Milliseconds until the first packet when the datapath or a guest was killed and came back.
    ///
    /// Between guests over vhost-user, whose front ends connect again, and between Pods over their
    /// veths: the worker process is killed and its parent starts another, the whole datapath is
    /// killed and started, a guest goes and comes back. In half a minute.
    Restart(restart::Arguments),
    /// A Pod's program on AF_XDP sockets lent to it, beside one on a UDP socket of its kernel.
    ///
    /// Three Pods of one node; the generator, by plain sendto and recvfrom, on core 0, the program
    /// that answers on core 1: seine-echo, or recvfrom and sendto. The datapath's two workers share
    /// these cores, so the rate is what is left of them. Round trips at a fixed rate, with idle
    /// fillers.
    LentSockets(lent_sockets::Arguments),
    /// How long packets are under way through Seine and through Open vSwitch, over vhost-user.
    ///
    /// At 10, 50 and 90 % of what each forwards at most, and at the same packets a second; half of
    /// the packets and 99 of a hundred take no longer than is told. In about two minutes. Wants
    /// what `peers` wants.
    Latency(latency::Arguments),
    /// Measures our part of `latency` in this process.
    #[command(hide = true)]
    LatencyRow {
        /// Its profile, as JSON.
        profile: String,
        /// Another system's packets a second, in millions, or null.
        common_mpps: String,
    },
    /// Measures one row of `forward` in this process.
    #[command(hide = true)]
    ForwardRow {
        /// Its profile, as JSON.
        profile: String,
    },
    /// Cycles of each part of a packet's way: every table, and the steps of a packet under way.
    ///
    /// What does it cost to parse, to hash, to find one of a million connections, to rewrite? In
    /// loops over batches that lie in the nearest cache, on whatever core this runs on.
    Stages(stages::Arguments),
    /// Instructions that a packet takes, held against perf/instructions.json.
    ///
    /// Counted by callgrind in one thread, so the same on any machine; more than 5 % more than was
    /// accepted fails. `--accept` writes what is counted into that file: commit it with the change
    /// that it comes from, and with the reason. Another compiler may move them, too.
    Instructions(instructions::Arguments),
    /// Plays one workload of `instructions` in this process.
    #[command(hide = true)]
    InstructionsOne {
        /// Its name.
        workload: String,
    },
    /// What the first packet of a connection costs, with more and more installed.
    ///
    /// Warm and with evicted caches; and how soon policies and addresses are in force.
    FirstPackets(first_packets::Arguments),
    /// Conformance cases, as packets through compile step and pipeline; measures nothing.
    ///
    /// One line for each assertion that does not hold, and last the sum as JSON. Needs no root.
    Cases(cases::Arguments),
    /// Generated States and packets through the pipeline and through Open vSwitch with the flows
    /// that Antrea would give it; measures nothing.
    ///
    /// Told are packets that leave by another port, or with other bytes; last the sum as JSON, with
    /// what was not compared, by feature. Needs Debian's openvswitch-switch, and no root.
    Replay(replay::Arguments),
    /// Tables and plots of what was saved; measures nothing.
    Report {
        /// Files written by --save.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write plots as SVG into this folder.
        #[arg(long)]
        plots: Option<PathBuf>,
        /// Put the tables into this document, each file's into the block of its name, instead of
        /// printing them.
        #[arg(long)]
        document: Option<PathBuf>,
    },
    /// Fills a core until the parent is gone.
    #[command(hide = true)]
    Fill,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("seine-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False if something that was to be proven does not hold.
fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let Arguments { json, save, command } = arguments;
    let measure = |run: &dyn Fn(&mut Output) -> Outcome| {
        let mut output = Output::begin(json, save.as_deref())?;
        run(&mut output)?;
        output.end();
        Ok(true)
    };
    match command {
        Command::Netperf(arguments) => measure(&|output| netperf::run(&arguments, output)),
        Command::CniAdd(arguments) => measure(&|output| cni_add::run(&arguments, output)),
        Command::Idle(arguments) => measure(&|output| idle::run(&arguments, output)),
        Command::Memory(arguments) => measure(&|output| memory::run(&arguments, output)),
        Command::Forward(arguments) => measure(&|output| forward::run(&arguments, output)),
        Command::FirstPackets(arguments) => {
            measure(&|output| first_packets::run(&arguments, output))
        }
        Command::Peers(arguments) => measure(&|output| peers::run(&arguments, output)),
        Command::LentSockets(arguments) => measure(&|output| lent_sockets::run(&arguments, output)),
        Command::Restart(arguments) => measure(&|output| restart::run(&arguments, output)),
        Command::Latency(arguments) => measure(&|output| latency::run(&arguments, output)),
        Command::LatencyRow { profile, common_mpps } => {
            latency::run_row(&profile, &common_mpps).map(|()| true)
        }
        Command::ForwardRow { profile } => forward::run_row(&profile).map(|()| true),
        Command::Stages(arguments) => measure(&|output| stages::run(&arguments, output)),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::InstructionsOne { workload } => instructions::run_one(&workload).map(|()| true),
        Command::Cases(arguments) => cases::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Report { files, plots, document } => {
            report(&files, plots, document, json).map(|()| true)
        }
        Command::Fill => {
            fillers::fill();
            Ok(true)
        }
    }
}

fn report(
    files: &[PathBuf],
    plots: Option<PathBuf>,
    document: Option<PathBuf>,
    json: bool,
) -> anyhow::Result<()> {
    let records = record::read(files)?;
    if let Some(folder) = plots {
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for path in report::write_plots(&records, &folder)? {
            eprintln!("wrote {}", path.display());
        }
    }
    if let Some(document) = document {
        report::document::update(&document, files)?;
        return Ok(());
    }
    if json {
        for record in &records {
            println!("{}", serde_json::to_string(record)?);
        }
    } else {
        println!("{}", report::tables(&records));
    }
    Ok(())
}
