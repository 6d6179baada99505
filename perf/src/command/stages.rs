//! What each part of a packet's way costs, one by one.

use seine_e2e::failure::{Failure, Outcome};

use crate::forward::profile::{Kind, Profile, Tunnel, Ways};
use crate::forward::row::RowError;
use crate::forward::stages::{Cost, questions, steps, tables};
use crate::output::Output;
use crate::record::{Part, Record};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Connections, of those who have any.
    #[arg(long, default_value = "10000")]
    pub connections: u32,
    /// Runs of each.
    #[arg(long, default_value = "3")]
    pub runs: usize,
}

/// A question, and who answers it.
type Question = (&'static str, fn(&Profile) -> Result<Vec<Cost>, RowError>, Profile);

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let plain = |kind| Profile { connections: arguments.connections, ..Profile::plain(kind) };
    let established = plain(Kind::Established);
    let new = Profile { ways: Ways::One, ..plain(Kind::New) };
    let through = |profile: &Profile| Profile { services: 1000, ..profile.clone() };
    let across = |tunnel| Profile { tunnel, ways: Ways::One, ..established.clone() };
    let asked: [Question; 9] = [
        ("small things", questions, established.clone()),
        ("under way", steps, established.clone()),
        ("under way, Service", steps, through(&established)),
        ("under way, Geneve out", steps, across(Tunnel::GeneveOut)),
        ("under way, Geneve in", steps, across(Tunnel::GeneveIn)),
        ("tables, new", tables, new.clone()),
        ("tables, new, Service", tables, through(&new)),
        ("tables, under way", tables, established.clone()),
        ("tables, under way, Service", tables, through(&established)),
    ];
    output.expect_steps(asked.len() * arguments.runs);
    for round in 0..arguments.runs {
        for (of, ask, profile) in &asked {
            output.step(&format!("run {round}: {of}"));
            let costs = ask(profile).map_err(|error| Failure::Unmet(format!("{of}: {error}")))?;
            for Cost { what, cycles, share_pct } in costs {
                let of = (*of).to_owned();
                output.add(Record::Part(Part { round, of, what, cycles, share_pct }))?;
            }
        }
    }
    Ok(())
}
