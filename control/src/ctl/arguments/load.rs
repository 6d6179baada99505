//! The verbs of workers and of Pods: who uses the cores.

use clap::{Args, Subcommand};

use super::Watch;

const POD_COLUMNS: &str = "\
A Pod pays for the packets it sends, from receiving them to transmitting them; what it gets is paid
by who sends it. What other nodes send is the uplink's.
  CORES    cores' worth of cycles: 1.000 is a whole core
  PACKETS  sent per second; those that were dropped, too
  CYCLES   TSC cycles a packet: some hundred for connections under way, some thousand for new
           connections and denied packets
  OF CORE  how much of which core

The first thing to look for is a Pod near the top with many CYCLES: it opens connections, or sends
what is denied (`seinectl drop list --port PORT`).

Examples:
  seinectl pod top
  seinectl pod top --watch 5                again every 5 s, over those 5 s
  seinectl pod top -o json | jq -r '.pods[0].name'";

const WORKER_COLUMNS: &str = "\
  BUSY        part of the core's cycles in rounds with packets
  USEFUL      those of them that are some port's; the rest polls idle queues and ends connections
  CYCLES      TSC cycles a packet
  COMPOSED    packets that needed no stage
  SAMPLES     packets decided about both ways, to be compared; of them rules JUDGED so many again
  OUTDATED    packets taken both ways that prove nothing: another worker was there meanwhile
  MISMATCHES  samples about which the two ways differed: 0, or Seine has a fault

Examples:
  seinectl worker list --watch 2
  seinectl worker list --queues             totals since the start; with --watch over each interval";

/// What to do with workers.
#[derive(Subcommand, Debug)]
pub enum WorkerVerb {
    /// All workers; or with --queues what each core spends on which queue
    #[command(after_help = WORKER_COLUMNS)]
    List(WorkerArguments),
    /// Has the datapath read its configuration again: cores, placement and polling take force at
    /// once, with connections kept; says what else has changed and takes a restart
    Reload,
}

/// What of workers.
#[derive(Args, Debug)]
pub struct WorkerArguments {
    /// Their queues in place of them: whose packets each core is busy with
    #[arg(long)]
    pub queues: bool,
    /// The interval.
    #[command(flatten)]
    pub watch: Watch,
}

/// What to do with Pods.
#[derive(Subcommand, Debug)]
pub enum PodVerb {
    /// How much of which core each Pod's packets use, most hungry first, over a second
    #[command(after_help = POD_COLUMNS)]
    Top(Watch),
}
