//! Idle daemons, and the first packet after a rest.

use super::grid::Grid;
use super::plot::{self, Curve};
use super::{figure, goal, maybe, median, spread};
use crate::record::{FirstPacket, Idle, Record, System};
use crate::statistics::{Summary, percentile};

/// Share of one core that both daemons may take together, in percent.
const CPU_GOAL: f64 = 2.0;
/// How far the first packet's p99 may lie above the bridge's, in microseconds.
const FIRST_PACKET_GOAL_US: f64 = 100.0;

fn idle(records: &[Record]) -> Vec<&Idle> {
    let rounds = records.iter().filter_map(|record| match record {
        Record::Idle(idle) => Some(idle),
        _ => None,
    });
    rounds.collect()
}

fn first_packets(records: &[Record], system: System, fillers: bool) -> Vec<&FirstPacket> {
    let packets = records.iter().filter_map(|record| match record {
        Record::FirstPacket(packet) => Some(packet),
        _ => None,
    });
    packets.filter(|it| it.system == system && it.fillers == fillers).collect()
}

/// Both tables, with their goals.
pub fn table(records: &[Record]) -> Option<String> {
    let rounds = idle(records);
    let first = rounds.first()?;
    let over = |part: fn(&Idle) -> u64, scale: f64| -> Vec<f64> {
        rounds.iter().map(|it| part(it) as f64 / it.seconds / scale).collect()
    };
    // One percent of a core is 10 ms in every second.
    let percent = |part| over(part, 10.0);
    let mut cpu = Grid::new(&["process", "CPU, % of a core", "wake-ups / s"], 1);
    let mut row = |name: &str, used, woken| {
        let cells = [percent(used), over(woken, 1.0)].map(|it| spread(Summary::of(&it)));
        cpu.row([name.to_owned()].into_iter().chain(cells).collect());
    };
    row("datapath", |it| it.datapath_cpu_ms, |it| it.datapath_wakeups);
    row("agent", |it| it.agent_cpu_ms, |it| it.agent_wakeups);
    row("both", both_cpu_ms, |it| it.datapath_wakeups + it.agent_wakeups);
    let noise = |part: fn(&Idle) -> f64| {
        maybe(median(&rounds.iter().map(|it| part(it)).collect::<Vec<_>>()))
    };
    let caption = format!(
        "{} Pods attached and idle for {:.0} s, {} rounds, steal {} ms, load {}: median \
         [least-most].",
        first.pods,
        first.seconds,
        rounds.len(),
        noise(|it| it.noise.steal_ms as f64),
        noise(|it| it.noise.load),
    );
    let cpu = cpu.text(&caption);
    let used = median(&percent(both_cpu_ms));
    let met = goal(used, CPU_GOAL);
    let goal = format!("Goal: both under {CPU_GOAL} % of a core; {} %: {met}.\n", maybe(used));
    Some(format!("{cpu}\n{goal}\n{}", packets_table(records)))
}

fn both_cpu_ms(idle: &Idle) -> u64 {
    idle.datapath_cpu_ms + idle.agent_cpu_ms
}

fn packets_table(records: &[Record]) -> String {
    let head = ["cores", "system", "least", "p50", "p90", "p99", "most", "steal ms", "samples"];
    let mut grid = Grid::new(&head, 2);
    let mut goals = String::new();
    for fillers in [false, true] {
        let cores = if fillers { "kept awake" } else { "may halt" };
        let mut tails = Vec::new();
        for system in [System::Seine, System::Bridge] {
            let packets = first_packets(records, system, fillers);
            let figures: Vec<f64> = packets.iter().map(|it| it.us).collect();
            let at = |percent| maybe(percentile(&figures, percent));
            tails.push(percentile(&figures, 99.0));
            grid.row(vec![
                cores.to_owned(),
                system.name().to_owned(),
                at(0.0),
                at(50.0),
                at(90.0),
                at(99.0),
                at(100.0),
                packets.iter().map(|it| it.steal_ms).sum::<u64>().to_string(),
                figures.len().to_string(),
            ]);
        }
        let behind = tails[0].zip(tails[1]).map(|(own, peer)| own - peer);
        let met = goal(behind, FIRST_PACKET_GOAL_US);
        goals.push_str(&format!("- cores {cores}: {} us behind, {met}\n", maybe(behind)));
    }
    let caption = "First round trip of a datagram after a rest of 0.2 to 1 s, in microseconds.";
    let goal = format!("Goal: p99 within {FIRST_PACKET_GOAL_US} us of the bridge's.");
    format!("{}\n{goal}\n\n{goals}", grid.text(caption))
}

/// How many first packets had come back after how long.
pub fn plot(records: &[Record]) -> Option<String> {
    let curve = |(system, fillers): (System, bool)| {
        let packets = first_packets(records, system, fillers);
        let figures: Vec<f64> = packets.iter().map(|it| it.us).collect();
        let middle = median(&figures)?;
        let cores = if fillers { "kept awake" } else { "may halt" };
        let label = format!("{}, cores {cores}: median {} us", system.name(), figure(middle));
        Some(Curve { system, dashed: !fillers, label, figures })
    };
    let kinds = [
        (System::Seine, true),
        (System::Bridge, true),
        (System::Seine, false),
        (System::Bridge, false),
    ];
    let curves: Vec<Curve> = kinds.into_iter().filter_map(curve).collect();
    if curves.is_empty() {
        return None;
    }
    Some(plot::distribution("First packet after a rest: share that had come back", "us", &curves))
}
