//! CNI calls: percentiles per command, bursts, and the distribution of ADD.

use super::grid::Grid;
use super::plot::{self, Curve};
use super::{figure, goal, maybe, median, spread};
use crate::record::{PluginBurst, PluginCall, Record, System};
use crate::statistics::{Summary, percentile};

/// ADD, one by one: milliseconds that half of the calls, and 99 of 100, may take.
const ADD_GOALS_MS: [(f64, f64); 2] = [(50.0, 8.0), (99.0, 15.0)];
/// All ADDs at once: milliseconds until the last has ended.
const BURST_GOAL_MS: f64 = 250.0;

fn calls(records: &[Record], system: System, command: &str, at_once: bool) -> Vec<f64> {
    let fits = |call: &&PluginCall| {
        call.system == system && call.command == command && call.at_once == at_once
    };
    let calls = records.iter().filter_map(|record| match record {
        Record::PluginCall(call) => Some(call),
        _ => None,
    });
    calls.filter(fits).map(|call| call.ms).collect()
}

fn bursts<'a>(records: &'a [Record], system: System, command: &str) -> Vec<&'a PluginBurst> {
    let bursts = records.iter().filter_map(|record| match record {
        Record::PluginBurst(burst) => Some(burst),
        _ => None,
    });
    bursts.filter(|it| it.system == system && it.command == command).collect()
}

/// Calls one by one, bursts, and the goals.
pub fn table(records: &[Record]) -> Option<String> {
    if calls(records, System::Seine, "ADD", false).is_empty() {
        return None;
    }
    let head = ["call", "system", "least", "p50", "p90", "p99", "most", "calls"];
    let mut single = Grid::new(&head, 2);
    for command in ["VERSION", "ADD", "DEL"] {
        for system in [System::Seine, System::Bridge] {
            single.row(percentiles(command, system, &calls(records, system, command, false)));
        }
    }
    let head = ["call", "system", "all ended after", "p50 of one", "steal ms", "load", "bursts"];
    let mut many = Grid::new(&head, 2);
    for command in ["ADD", "DEL"] {
        for system in [System::Seine, System::Bridge] {
            many.row(burst_row(records, system, command));
        }
    }
    let size = bursts(records, System::Seine, "ADD").first().map_or(0, |burst| burst.calls);
    let single = single.text("CNI calls one by one, ms from fork to exit; systems in turns.");
    let many = many.text(&format!("{size} CNI calls at once, ms: median [least-most]."));
    Some(format!("{single}\n{many}\n{}", goals(records)))
}

fn percentiles(command: &str, system: System, figures: &[f64]) -> Vec<String> {
    let at = |percent| maybe(percentile(figures, percent));
    let summary = Summary::of(figures);
    vec![
        command.to_owned(),
        system.name().to_owned(),
        maybe(summary.map(|it| it.least)),
        at(50.0),
        at(90.0),
        at(99.0),
        maybe(summary.map(|it| it.most)),
        figures.len().to_string(),
    ]
}

fn burst_row(records: &[Record], system: System, command: &str) -> Vec<String> {
    let bursts = bursts(records, system, command);
    let figures =
        |part: fn(&PluginBurst) -> f64| -> Vec<f64> { bursts.iter().map(|it| part(it)).collect() };
    vec![
        command.to_owned(),
        system.name().to_owned(),
        spread(Summary::of(&figures(|it| it.ms))),
        maybe(median(&calls(records, system, command, true))),
        maybe(median(&figures(|it| it.noise.steal_ms as f64))),
        maybe(median(&figures(|it| it.noise.load))),
        bursts.len().to_string(),
    ]
}

fn goals(records: &[Record]) -> String {
    let add = calls(records, System::Seine, "ADD", false);
    let mut text = "Goals for Seine:\n\n".to_owned();
    for (percent, limit) in ADD_GOALS_MS {
        let value = percentile(&add, percent);
        let met = goal(value, limit);
        text.push_str(&format!("- ADD p{percent} {} ms, goal {limit} ms: {met}\n", maybe(value)));
    }
    let bursts = bursts(records, System::Seine, "ADD");
    let value = median(&bursts.iter().map(|it| it.ms).collect::<Vec<_>>());
    let met = goal(value, BURST_GOAL_MS);
    text.push_str(&format!(
        "- all ADDs at once {} ms, goal {BURST_GOAL_MS} ms: {met}\n",
        maybe(value)
    ));
    text
}

/// How many ADDs had ended after how long.
pub fn plot(records: &[Record]) -> Option<String> {
    let curve = |(system, at_once): (System, bool)| {
        let figures = calls(records, system, "ADD", at_once);
        let middle = median(&figures)?;
        let how = if at_once { "all at once" } else { "one by one" };
        let label = format!("{}, {how}: median {} ms", system.name(), figure(middle));
        Some(Curve { system, dashed: at_once, label, figures })
    };
    let kinds = [
        (System::Seine, false),
        (System::Bridge, false),
        (System::Seine, true),
        (System::Bridge, true),
    ];
    let curves: Vec<Curve> = kinds.into_iter().filter_map(curve).collect();
    if curves.is_empty() {
        return None;
    }
    Some(plot::distribution("CNI ADD: share of calls that had ended", "ms", &curves))
}
