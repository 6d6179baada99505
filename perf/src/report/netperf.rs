//! netperf: a row for each test, both systems side by side; bars with their spread.

use super::grid::Grid;
use super::plot::{self, Bar, Panel};
use super::{compared, figure, maybe, median, spread};
use crate::record::{Netperf, Record, System};
use crate::statistics::Summary;

/// What one row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    way: String,
    family: String,
    test: String,
}

fn samples(records: &[Record]) -> Vec<&Netperf> {
    let samples = records.iter().filter_map(|record| match record {
        Record::Netperf(sample) => Some(sample),
        _ => None,
    });
    samples.collect()
}

fn key(sample: &Netperf) -> Key {
    let Netperf { way, family, test, .. } = sample;
    Key { way: way.clone(), family: family.clone(), test: test.clone() }
}

/// The rows in the order they were measured first.
fn keys(samples: &[&Netperf]) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for key in samples.iter().map(|sample| key(sample)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn of<'a>(samples: &[&'a Netperf], wanted: &Key, system: System) -> Vec<&'a Netperf> {
    let fits = |it: &&&Netperf| it.system == system && key(it) == *wanted;
    samples.iter().filter(fits).copied().collect()
}

fn values(samples: &[&Netperf]) -> Vec<f64> {
    samples.iter().map(|sample| sample.value).collect()
}

/// The tables: figures first, then what they cost.
pub fn table(records: &[Record]) -> Option<String> {
    let samples = samples(records);
    let first = samples.first()?;
    let head = [
        "between",
        "ip",
        "test",
        "unit",
        "Seine",
        "bridge / VXLAN",
        "Seine is",
        "p50 us",
        "p99 us",
        "steal ms",
        "load",
        "runs",
    ];
    let mut figures = Grid::new(&head, 4);
    let mut costs = Grid::new(
        &["between", "ip", "test", "datapaths", "agents", "whole machine", "bridge: whole machine"],
        3,
    );
    for key in keys(&samples) {
        let [seine, bridge] =
            [System::Seine, System::Bridge].map(|system| of(&samples, &key, system));
        let Key { way, family, test } = key;
        let fillers = if seine.first().is_some_and(|it| it.fillers) { " (f)" } else { "" };
        costs.row(vec![
            way.clone(),
            family.clone(),
            test.clone(),
            cores(&seine, |it| it.datapath_cpu_ms),
            cores(&seine, |it| it.agent_cpu_ms),
            cores(&seine, |it| it.noise.busy_ms),
            cores(&bridge, |it| it.noise.busy_ms),
        ]);
        figures.row(vec![
            way,
            family,
            format!("{test}{fillers}"),
            seine.first().map(|it| it.unit.clone()).unwrap_or_default(),
            spread(Summary::of(&values(&seine))),
            spread(Summary::of(&values(&bridge))),
            compared(&pairs(&seine, &bridge)),
            beside(&seine, &bridge, |it| it.p50_us),
            beside(&seine, &bridge, |it| it.p99_us),
            beside(&seine, &bridge, |it| Some(it.noise.steal_ms as f64)),
            beside(&seine, &bridge, |it| Some(it.noise.load)),
            seine.len().to_string(),
        ]);
    }
    let caption = format!(
        "netperf, about {:.0} s a run: median [least-most]; Seine / bridge where two figures stand. \
         (f): with idle fillers.",
        first.wall_ms / 1e3
    );
    let costs = costs.text("CPU during these runs, in cores: 1.00 is one core all the time.");
    Some(format!("{}\n{costs}", figures.text(&caption)))
}

fn pairs(seine: &[&Netperf], bridge: &[&Netperf]) -> Vec<(f64, f64)> {
    let pair = |own: &&Netperf| {
        let peer = bridge.iter().find(|it| it.round == own.round)?;
        Some((own.value, peer.value))
    };
    seine.iter().filter_map(pair).collect()
}

/// "46 / 51": the medians of both systems.
fn beside(seine: &[&Netperf], bridge: &[&Netperf], part: fn(&Netperf) -> Option<f64>) -> String {
    let [own, peer] = [seine, bridge].map(|samples| {
        let figures: Vec<f64> = samples.iter().filter_map(|it| part(it)).collect();
        median(&figures)
    });
    if own.or(peer).is_none() {
        "-".to_owned()
    } else {
        format!("{} / {}", maybe(own), maybe(peer))
    }
}

/// Cores that something took, as a median.
fn cores(samples: &[&Netperf], part: fn(&Netperf) -> u64) -> String {
    let shares: Vec<f64> = samples.iter().map(|it| part(it) as f64 / it.wall_ms).collect();
    maybe(median(&shares))
}

/// A panel for each test, a group of bars for each way and family.
pub fn plot(records: &[Record]) -> Option<String> {
    let samples = samples(records);
    samples.first()?;
    let keys = keys(&samples);
    let mut tests: Vec<&str> = keys.iter().map(|key| key.test.as_str()).collect();
    tests.sort_unstable();
    tests.dedup();
    let panel = |test: &&str| {
        let groups = keys.iter().filter(|key| key.test == **test);
        let unit = samples.iter().find(|it| it.test == **test).map_or("", |it| it.unit.as_str());
        Panel {
            title: format!("{test}, {unit}"),
            groups: groups
                .map(|key| (format!("{} {}", key.way, key.family), bars(&samples, key)))
                .collect(),
        }
    };
    let panels: Vec<Panel> = tests.iter().map(panel).collect();
    Some(plot::bars("netperf: medians, with the least and most of all runs", &panels))
}

fn bars(samples: &[&Netperf], key: &Key) -> Vec<Bar> {
    let bar = |system| {
        let summary = Summary::of(&values(&of(samples, key, system)))?;
        Some(Bar { system, summary, label: figure(summary.median) })
    };
    [System::Seine, System::Bridge].into_iter().filter_map(bar).collect()
}
