//! The command line: nouns, then verbs.

mod decided;
mod load;
mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use decided::{ConnectionFilter, ConnectionVerb, PolicyVerb, RuleVerb};
pub use load::{PodVerb, WorkerArguments, WorkerVerb};
pub use trace::{
    Ingress, Mac, MacError, NameError, Target, TcpFlags, TcpFlagsError, TraceArguments, What,
    WhatError,
};

const EXAMPLES: &str = "\
Examples:
  seinectl status
  seinectl port list --watch 2              packets and bits a second, every 2 s
  seinectl pod top                          which Pods use the cores up, most hungry first
  seinectl worker list --queues             which queue is on which core, and what it costs
  seinectl drop list                        why packets are lost, and what that means
  seinectl table show SpoofGuard
  seinectl connection list --pod default/client --service default/web
  seinectl connection count --rule K8sNetworkPolicy:default/allow-dns
  seinectl rule stats                       sessions, packets and bytes of each rule
  seinectl trace default/client default/server tcp/80
  seinectl trace default/client 10.10.2.7 udp/53 -o json | jq .verdict

Exit status: 0 done, 1 failed, 2 wrong command line. `-o json` has stable names.";

/// Looks into a node's datapath.
#[derive(Parser, Debug)]
#[command(name = "seinectl", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Arguments {
    /// Where seine-datapath listens
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SEINE_DATAPATH_SOCKET",
        default_value = "/run/seine/datapath.sock"
    )]
    pub socket: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// The noun.
    #[command(subcommand)]
    pub noun: Noun,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Text,
    /// One JSON object; with --watch one a line
    Json,
}

/// What it is about.
#[derive(Subcommand, Debug)]
pub enum Noun {
    /// Versions, the revision in force, workers and ports at a glance
    Status,
    /// Ports: of Pods, the gateway, the uplink
    #[command(subcommand)]
    Port(PortVerb),
    /// Dropped packets
    #[command(subcommand)]
    Drop(DropVerb),
    /// Pods: which of them use the cores
    #[command(subcommand)]
    Pod(PodVerb),
    /// Workers: their cores, their load
    #[command(subcommand)]
    Worker(WorkerVerb),
    /// Stages of the pipeline: what they cost
    #[command(subcommand)]
    Stage(StageVerb),
    /// Tables of the pipeline
    #[command(subcommand)]
    Table(TableVerb),
    /// Connections that are known
    #[command(subcommand)]
    Connection(ConnectionVerb),
    /// Policies that apply to Pods of this node
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Rules of policies
    #[command(subcommand)]
    Rule(RuleVerb),
    /// What the pipeline would do to one described packet, table by table
    #[command(after_help = trace::TRACE_EXAMPLES)]
    Trace(TraceArguments),
}

/// What to do with ports.
#[derive(Subcommand, Debug)]
pub enum PortVerb {
    /// All ports with their traffic
    List(Watch),
}

/// What to do with drops.
#[derive(Subcommand, Debug)]
pub enum DropVerb {
    /// Drops by reason and port since the datapath started, most first
    List(DropArguments),
}

/// Which drops.
#[derive(Args, Debug)]
pub struct DropArguments {
    /// Only those of this port
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// The interval.
    #[command(flatten)]
    pub watch: Watch,
}

/// What to do with stages.
#[derive(Subcommand, Debug)]
pub enum StageVerb {
    /// TSC cycles of each stage, for packets that take the stages (`worker list` says how many do)
    List,
}

/// What to do with tables.
#[derive(Subcommand, Debug)]
pub enum TableVerb {
    /// All tables, in the order in which a packet meets them
    List,
    /// The rows of one table
    Show {
        /// A name from `seinectl table list`
        name: String,
    },
}

/// Again and again.
#[derive(Args, Debug)]
pub struct Watch {
    /// Print again every so many seconds, with rates in place of totals
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
