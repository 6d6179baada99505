//! What first packets cost, by how much is installed.

use super::grid::Grid;
use super::plot::growth::{self, Series};
use super::{figure, goal, maybe, median};
use crate::first_packets::record::{FirstPacketCost, Install, Join, TableMemory};
use crate::first_packets::scenario::Scenario;
use crate::record::Record;
use crate::statistics::percentile;

/// Goals: nanoseconds warm and cold, and how much more than with ten policies.
const WARM_NS: f64 = 2000.0;
const COLD_NS: f64 = 5000.0;
const RATIO: f64 = 2.0;
/// Milliseconds for everything, and microseconds for one address.
const INSTALL_MS: f64 = 1000.0;
const JOIN_US: f64 = 1000.0;

fn costs(records: &[Record]) -> Vec<&FirstPacketCost> {
    let costs = records.iter().filter_map(|record| match record {
        Record::FirstPacketCost(cost) => Some(cost),
        _ => None,
    });
    costs.collect()
}

fn nanoseconds(cost: &FirstPacketCost) -> Vec<f64> {
    cost.cycles.iter().map(|it| *it as f64 * cost.ns_per_cycle).collect()
}

/// The same with the fewest.
fn smallest<'a>(
    costs: &[&'a FirstPacketCost],
    like: &FirstPacketCost,
) -> Option<&'a FirstPacketCost> {
    let alike = costs.iter().filter(|it| it.scenario == like.scenario && it.caches == like.caches);
    alike.min_by_key(|it| it.size).copied()
}

/// How many times what it costs with the fewest.
fn ratio(costs: &[&FirstPacketCost], cost: &FirstPacketCost) -> Option<f64> {
    Some(median(&nanoseconds(cost))? / median(&nanoseconds(smallest(costs, cost)?))?)
}

/// All tables that there are figures for.
pub fn table(records: &[Record]) -> Option<String> {
    let costs = costs(records);
    let texts =
        [cost_table(&costs), install_table(records), join_table(records), memory_table(records)];
    let mut texts: Vec<String> = texts.into_iter().flatten().collect();
    if texts.is_empty() {
        return None;
    }
    texts.push(goals(&costs, records));
    Some(texts.join("\n"))
}

fn cost_table(costs: &[&FirstPacketCost]) -> Option<String> {
    costs.first()?;
    let head = [
        "what grows",
        "installed",
        "caches",
        "ns",
        "p10-p90",
        "x of 10",
        "cycles",
        "packets",
        "load",
    ];
    let mut grid = Grid::new(&head, 1);
    for cost in costs {
        let ns = nanoseconds(cost);
        let cycles: Vec<f64> = cost.cycles.iter().map(|it| *it as f64).collect();
        let spread = [10.0, 90.0].map(|percent| maybe(percentile(&ns, percent)));
        grid.row(vec![
            cost.scenario.clone(),
            cost.size.to_string(),
            cost.caches.clone(),
            maybe(median(&ns)),
            spread.join("-"),
            maybe(ratio(costs, cost)),
            maybe(median(&cycles)),
            cost.cycles.len().to_string(),
            figure(cost.noise.load),
        ]);
    }
    Some(grid.text("First packets, each from parsing to its place in the egress queue: medians."))
}

fn installs(records: &[Record]) -> Vec<&Install> {
    let installs = records.iter().filter_map(|record| match record {
        Record::Install(install) => Some(install),
        _ => None,
    });
    installs.collect()
}

fn install_table(records: &[Record]) -> Option<String> {
    let installs = installs(records);
    installs.first()?;
    let head = ["step", "policies", "Services", "objects", "ms", "CPU ms", "steal ms", "load"];
    let mut grid = Grid::new(&head, 1);
    for install in installs {
        grid.row(vec![
            install.step.clone(),
            install.policies.to_string(),
            install.services.to_string(),
            install.objects.to_string(),
            figure(install.wall_ms),
            maybe(install.cpu_ms),
            install.noise.steal_ms.to_string(),
            figure(install.noise.load),
        ]);
    }
    Some(grid.text("Installing everything on a node that has nothing, each run."))
}

fn joins(records: &[Record]) -> Vec<&Join> {
    let joins = records.iter().filter_map(|record| match record {
        Record::Join(join) => Some(join),
        _ => None,
    });
    joins.collect()
}

fn microseconds(figures: &[u64]) -> Vec<f64> {
    figures.iter().map(|it| *it as f64).collect()
}

fn join_table(records: &[Record]) -> Option<String> {
    let joins = joins(records);
    joins.first()?;
    let head = [
        "seen by",
        "workers",
        "addresses",
        "policies",
        "Services",
        "p50 us",
        "p99 us",
        "most us",
        "joins",
        "Mpps",
        "steal ms",
        "load",
    ];
    let mut grid = Grid::new(&head, 1);
    for join in joins {
        for (by, figures) in [("datapath", &join.acknowledged_us), ("caller", &join.round_trip_us)]
        {
            let figures = microseconds(figures);
            let [p50, p99, most] = [50.0, 99.0, 100.0].map(|it| maybe(percentile(&figures, it)));
            grid.row(vec![
                by.to_owned(),
                join.workers.to_string(),
                join.addresses.to_string(),
                join.policies.to_string(),
                join.services.to_string(),
                p50,
                p99,
                most,
                figures.len().to_string(),
                figure(join.packets_per_s / 1e6),
                join.noise.steal_ms.to_string(),
                figure(join.noise.load),
            ]);
        }
    }
    Some(
        grid.text("One address joins a group of 10,000, workers loaded, until all have passed it."),
    )
}

fn memory_table(records: &[Record]) -> Option<String> {
    let memories = records.iter().filter_map(|record| match record {
        Record::TableMemory(memory) => Some(memory),
        _ => None,
    });
    let mut grid = Grid::new(&["of each", "installed", "MiB", "bytes each"], 1);
    let mut any = false;
    for TableMemory { of, count, kib } in memories {
        any = true;
        let each = *kib as f64 * 1024.0 / (*count).max(1) as f64;
        grid.row(vec![of.clone(), count.to_string(), figure(*kib as f64 / 1024.0), figure(each)]);
    }
    any.then(|| grid.text("Memory, by the difference of resident memory."))
}

fn goals(costs: &[&FirstPacketCost], records: &[Record]) -> String {
    let mut text = String::from("Goals, at the largest sizes:\n\n");
    let mut say = |what: &str, value: Option<f64>, unit: &str, limit: f64| {
        let value_text = maybe(value);
        text.push_str(&format!(
            "- {what}: {value_text}{unit}, goal {limit}{unit}: {}\n",
            goal(value, limit)
        ));
    };
    for (caches, limit) in [("warm", WARM_NS), ("tables cold", COLD_NS), ("all cold", COLD_NS)] {
        for scenario in Scenario::ALL.map(Scenario::name) {
            let alike = costs.iter().filter(|it| it.scenario == scenario && it.caches == caches);
            let Some(cost) = alike.max_by_key(|it| it.size) else { continue };
            let what = format!("{} {scenario}, {caches}", cost.size);
            say(&what, median(&nanoseconds(cost)), " ns", limit);
            say(&format!("{what}, beside the fewest"), ratio(costs, cost), " x", RATIO);
        }
    }
    let installs = installs(records);
    let took = |step: &str| {
        let runs = installs.iter().filter(|it| it.step.starts_with(step));
        median(&runs.map(|it| it.wall_ms).collect::<Vec<f64>>())
    };
    say("install, State::apply", took("State::apply"), " ms", INSTALL_MS);
    say("install, by gRPC until acknowledged", took("transaction"), " ms", INSTALL_MS);
    for join in joins(records).into_iter().filter(|join| join.workers == 1) {
        let what = format!("an address joins, {} policies beside, p99", join.policies);
        say(&what, percentile(&microseconds(&join.acknowledged_us), 99.0), " us", JOIN_US);
    }
    text
}

/// Growth curves, warm and with cold tables.
pub fn plot(records: &[Record]) -> Option<String> {
    let costs = costs(records);
    costs.first()?;
    let mut series = Vec::new();
    for (caches, dashed) in [("warm", false), ("tables cold", true)] {
        for (colour, scenario) in Scenario::ALL.map(Scenario::name).into_iter().enumerate() {
            let points = costs.iter().filter(|it| it.scenario == scenario && it.caches == caches);
            let point = |it: &&FirstPacketCost| Some((it.size as f64, median(&nanoseconds(it))?));
            let points: Vec<(f64, f64)> = points.filter_map(point).collect();
            series.push(Series { label: format!("{scenario}, {caches}"), colour, dashed, points });
        }
    }
    Some(growth::curves("First packets by how much is installed", "installed", "ns", &series))
}
