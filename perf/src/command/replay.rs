//! `seine-perf replay`: the same packets through Seine's pipeline and through Open vSwitch.

use crate::replay::{Extent, replay};

/// How much is replayed, and which.
#[derive(clap::Args)]
pub struct Arguments {
    /// States: nodes of generated clusters, with policies and Services.
    #[arg(long, default_value_t = 100)]
    states: usize,
    /// Packets, over all States.
    #[arg(long, default_value_t = 10_000)]
    packets: usize,
    /// Where chance begins: the same number gives the same States and packets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Replays, prints what differs, and last the sum. True if nothing does.
pub fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { states, packets, seed } = *arguments;
    let summary = replay(Extent { states, packets, seed }, |told| println!("{told}"))?;
    println!("{}", serde_json::to_string(&summary)?);
    Ok(summary.mismatches == 0)
}
