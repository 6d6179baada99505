//! `seine-e2e`: the demo, its removal, and the cluster tests.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use seine_e2e::cases;
use seine_e2e::demo::Demo;
use seine_e2e::journal;
use seine_e2e::report::Format;

/// Runs a Seine cluster of network namespaces on this machine.
#[derive(Parser)]
#[command(name = "seine-e2e", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a cluster, run every row, print a table.
    Demo {
        /// The folder of manifests.
        #[arg(long, default_value = "deploy/cluster")]
        cluster: PathBuf,
        /// The run's name, part of every namespace's.
        #[arg(long, default_value = "demo")]
        run: String,
        /// One JSON object a line instead of the table.
        #[arg(long)]
        json: bool,
        /// Leave the cluster up.
        #[arg(long)]
        keep: bool,
    },
    /// Remove a run, or every run whose maker is gone.
    Down {
        /// The run's name; without it, all that nobody holds.
        run: Option<String>,
    },
    /// Run the cluster tests.
    Test {
        /// Only those whose name holds this.
        filter: Option<String>,
        /// List the names and run nothing.
        #[arg(long)]
        list: bool,
        /// Leave the clusters of failed tests up, to be looked at.
        #[arg(long)]
        keep_failed: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo { cluster, run, json, keep } => demo(cluster, run, json, keep),
        Command::Down { run } => down(run.as_deref()),
        Command::Test { filter, list, keep_failed } => test(filter.as_deref(), list, keep_failed),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seine-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(cluster: PathBuf, run: String, json: bool, keep: bool) -> anyhow::Result<ExitCode> {
    let folder = cluster.canonicalize().with_context(|| format!("folder {}", cluster.display()))?;
    let format = if json { Format::Json } else { Format::Text };
    let failed = Demo { run: &run, folder: &folder, format, keep }.play()?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn down(run: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut removed = 0;
    for found in journal::runs()? {
        if run.map_or(!found.owned, |name| name == found.name) {
            journal::remove_run(&found.name)?;
            println!("removed run `{}`", found.name);
            removed += 1;
        }
    }
    if removed == 0 {
        println!("nothing to remove");
    }
    Ok(ExitCode::SUCCESS)
}

fn test(filter: Option<&str>, list: bool, keep_failed: bool) -> anyhow::Result<ExitCode> {
    let chosen = cases::matching(filter.unwrap_or_default());
    anyhow::ensure!(!chosen.is_empty(), "no test has a name like that; see `test --list`");
    if list {
        chosen.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let failed = cases::run(&chosen, keep_failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
