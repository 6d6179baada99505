//! `seine-perf first-packets`: what the first packet of a connection costs at any size, and how
//! soon what it is judged by is in force.

use seine_e2e::failure::{Failure, Outcome};

use crate::first_packets::cost::{
    BATCH, Bench, Samples, WALKED_MIB, Walk, learned, nanoseconds_per_cycle,
};
use crate::first_packets::install::{self, Amount};
use crate::first_packets::join::{self, Plan};
use crate::first_packets::record::FirstPacketCost;
use crate::first_packets::room;
use crate::first_packets::scenario::Scenario;
use crate::noise::Meter;
use crate::output::Output;
use crate::record::Record;

/// Policies and Services that are installed from cold.
const FULL: Amount = Amount { policies: 40_000, services: 10_000 };

const HELP: &str = "\
Each scenario is measured at growing sizes: 10 to 40,000 policies over 1000 Pods of this node, 10 to
10,000 policies of one Pod, CIDRs of one policy, Services. Every packet opens a connection from an
address and port that was not seen before, and is let through.

  warm                  after other first packets
  tables cold           after a walk over 256 MiB that evicts all caches, and then packets of
                        another node in memory: only the code has come back
  all cold              right after such a walk: even the code comes from memory
  all cold, batch of N  the mean of that packet and those behind it

Then: compiling and installing 40,000 policies and 10,000 Services; one address joining a group of
10,000 among 150,000 addresses, by gRPC to a datapath in this process, whose workers have as many
packets as they can take; and memory by what is installed. Needs no root, and two cores.

  target/release/seine-perf first-packets --quick
  target/release/seine-perf --save first-packets.jsonl first-packets
  target/release/seine-perf report first-packets.jsonl --plots .";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Few sizes and samples: shows that it works, and measures nothing.
    #[arg(long)]
    pub quick: bool,
    /// Samples with cold caches at each size; each walks over 256 MiB twice.
    #[arg(long, default_value_t = 100)]
    pub samples: usize,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let quick = arguments.quick;
    let sizes: usize = Scenario::ALL.iter().map(|scenario| scenario.sizes(quick).len()).sum();
    output.expect_steps(sizes + 5);
    output.step("memory by what is installed");
    for record in room::measure(quick)? {
        output.add(Record::TableMemory(record))?;
    }
    costs(arguments, output)?;
    changes(quick, output)
}

fn costs(arguments: &Arguments, output: &mut Output) -> Outcome {
    let quick = arguments.quick;
    let (own, others) = (learned()?, learned()?);
    let mut walk = Walk::new(if quick { 8 } else { WALKED_MIB });
    let samples = match quick {
        true => Samples { warm: 2 * BATCH, cold: 2 },
        false => Samples { warm: 1000, cold: arguments.samples },
    };
    let ns_per_cycle = nanoseconds_per_cycle();
    for scenario in Scenario::ALL {
        for &size in scenario.sizes(quick) {
            output.step(&format!("first packets, {size} {}", scenario.name()));
            let meter = Meter::start()?;
            let mut bench = Bench::new(scenario, size, own.clone())?;
            let mut other = Bench::new(scenario, 10, others.clone())?;
            let taken = bench.measure(samples, &mut walk, &mut other)?;
            let noise = meter.stop()?;
            let batch = format!("all cold, batch of {BATCH}");
            for (caches, cycles) in [
                ("warm", taken.warm),
                ("tables cold", taken.tables),
                ("all cold", taken.all),
                (&batch, taken.batch),
            ] {
                output.add(Record::FirstPacketCost(FirstPacketCost {
                    scenario: scenario.name().to_owned(),
                    size,
                    caches: caches.to_owned(),
                    ns_per_cycle,
                    cycles,
                    noise,
                }))?;
            }
        }
    }
    Ok(())
}

fn changes(quick: bool, output: &mut Output) -> Outcome {
    let amount = if quick { Amount { policies: 50, services: 10 } } else { FULL };
    output.step("compile, and State::apply");
    let objects = install::measure(amount, |record| output.add(Record::Install(record)))?;
    let folder = std::env::temp_dir().join(format!("seine-first-packets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Failure::io("create", &folder))?;
    let nothing = Amount { policies: 0, services: 0 };
    let (groups, joins) = if quick { (1, 5) } else { (15, 1000) };
    for workers in [1, 2] {
        for (amount, objects) in [(nothing, Vec::new()), (amount, objects.clone())] {
            let loaded = join::workers(workers);
            let beside = amount.policies;
            output.step(&format!("an address joins, {loaded} loaded, {beside} policies beside"));
            let plan = Plan { workers, groups, joins };
            let measured = join::measure(plan, amount, objects, &folder);
            let measured = measured.inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;
            if let Some(install) = measured.install {
                output.add(Record::Install(install))?;
            }
            output.add(Record::Join(measured.join))?;
        }
    }
    std::fs::remove_dir_all(&folder).map_err(Failure::io("remove", &folder))
}
