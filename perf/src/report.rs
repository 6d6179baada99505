//! Tables and plots of records: what a run prints, and what docs/PERFORMANCE.md holds.

mod cni;
pub mod document;
mod first_packets;
mod forward;
mod grid;
mod idle;
mod latency;
mod lent_sockets;
mod memory;
mod netperf;
mod pairs;
mod peers;
mod plot;
mod restart;
mod segments;
mod stages;

use std::path::{Path, PathBuf};

use seine_e2e::failure::{Failure, Outcome};

use crate::machine::Machine;
use crate::record::Record;
use crate::statistics::{Comparison, Summary};

/// Every table that the records have figures for, as Markdown that is aligned to be read as is.
pub fn tables(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        if let Record::Machine(machine) = record {
            text.push_str(&describe(machine));
        }
    }
    let kinds = [
        netperf::table,
        cni::table,
        idle::table,
        memory::table,
        forward::table,
        pairs::table,
        stages::table,
        first_packets::table,
        peers::table,
        segments::table,
        latency::table,
        restart::table,
        lent_sockets::table,
    ];
    for table in kinds {
        if let Some(table) = table(records) {
            text.push('\n');
            text.push_str(&table);
        }
    }
    text
}

/// Writes every plot that the records have figures for into a folder.
pub fn write_plots(records: &[Record], folder: &Path) -> Outcome<Vec<PathBuf>> {
    let plots = [
        ("netperf.svg", netperf::plot(records)),
        ("cni-add.svg", cni::plot(records)),
        ("first-packet.svg", idle::plot(records)),
        ("memory.svg", memory::plot(records)),
        ("growth.svg", first_packets::plot(records)),
        ("forward-connections.svg", forward::over_connections(records)),
        ("forward-policies.svg", forward::over_policies(records)),
        ("forward-services.svg", forward::over_services(records)),
        ("forward-sizes.svg", forward::over_sizes(records)),
        ("peers-mpps.svg", peers::rates(records)),
        ("peers-cycles.svg", peers::costs(records)),
        ("latency-p50.svg", latency::medians(records)),
        ("latency-p99.svg", latency::tails(records)),
    ];
    let mut written = Vec::new();
    for (name, plot) in plots {
        if let Some(plot) = plot {
            let path = folder.join(name);
            std::fs::write(&path, plot).map_err(Failure::io("write", &path))?;
            written.push(path);
        }
    }
    Ok(written)
}

fn describe(machine: &Machine) -> String {
    let Machine { date, command, commit, build, cpu, cores, kernel, hypervisor, memory_gib } =
        machine;
    let under = if hypervisor.is_empty() { String::new() } else { format!(" under {hypervisor}") };
    format!(
        "`{command}` at commit {commit} ({build}), {date}\n{cores} cores of {cpu}{under}, \
         {memory_gib} GiB, Linux {kernel}\n"
    )
}

/// "1234 [1200-1300]": median, least and most.
fn spread(summary: Option<Summary>) -> String {
    match summary {
        Some(Summary { least, median, most, .. }) => {
            format!("{} [{}-{}]", figure(median), figure(least), figure(most))
        }
        None => "-".to_owned(),
    }
}

/// As many digits as mean something.
fn figure(value: f64) -> String {
    match value {
        value if value.abs() >= 100.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// "0.54 x", or that no difference can be told.
fn compared(pairs: &[(f64, f64)]) -> String {
    match Comparison::of(pairs) {
        Some(Comparison { ratio, distinguishable: true }) => format!("{ratio:.2} x"),
        Some(Comparison { ratio, .. }) => format!("{ratio:.2} x, not distinguishable"),
        None => "-".to_owned(),
    }
}

/// "1234", or "-" for nothing.
fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), figure)
}

/// The median alone.
fn median(figures: &[f64]) -> Option<f64> {
    Summary::of(figures).map(|summary| summary.median)
}

/// Whether a goal is met, in words.
fn goal(value: Option<f64>, limit: f64) -> &'static str {
    match value {
        Some(value) if value <= limit => "met",
        Some(_) => "missed",
        None => "not measured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_nobody_took_makes_no_table() {
        assert_eq!(tables(&[]), "");
    }

    #[test]
    fn noise_is_called_noise() {
        assert!(compared(&[(101.0, 100.0); 5]).contains("not distinguishable"));
        assert_eq!(compared(&[(50.0, 100.0); 5]), "0.50 x");
        assert_eq!(compared(&[]), "-");
    }
}
