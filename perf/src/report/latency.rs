//! How long packets are under way at each load, system beside system.

use super::grid::Grid;
use super::plot::{self, Line};
use super::{figure, spread};
use crate::record::{Latency, LoadOf, PeerSystem, Record};
use crate::statistics::Summary;

/// A line needs so many points to be drawn.
const POINTS_MIN: usize = 2;

/// The rounds of each load, in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Latency>> {
    let mut rows: Vec<Vec<&Latency>> = Vec::new();
    for record in records {
        let Record::Latency(run) = record else { continue };
        let same = |row: &&mut Vec<&Latency>| {
            let key = |it: &Latency| (it.of, it.load_pct, it.system);
            key(row[0]) == key(run) && row[0].profile == run.profile
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

fn summary(row: &[&Latency], of: impl Fn(&Latency) -> Option<f64>) -> Option<Summary> {
    Summary::of(&row.iter().filter_map(|run| of(run)).collect::<Vec<_>>())
}

fn delay(row: &[&Latency], place: usize) -> Option<Summary> {
    summary(row, |run| Some(run.delay_us?[place]))
}

/// How a load is named: shares of what a system forwards at most, and of what another does.
fn load(run: &Latency) -> String {
    match run.of {
        LoadOf::Own if run.load_pct == 100 => "as fast as it goes".to_owned(),
        LoadOf::Own => format!("{} % of its own", run.load_pct),
        LoadOf::OvsAntrea => format!("{} % of {}", run.load_pct, PeerSystem::OvsAntrea.name()),
    }
}

/// The rows that are under the same load: what Open vSwitch has of its own with Antrea's flows is
/// what the others have of it.
fn ours<'a, 'r>(rows: &'a [Vec<&'r Latency>], row: &[&Latency]) -> Option<&'a Vec<&'r Latency>> {
    let run = row[0];
    let like = |of| {
        rows.iter().find(|it| {
            let (it, seine) = (it[0], PeerSystem::Seine);
            (it.system, it.of, it.load_pct) == (seine, of, run.load_pct)
                && it.profile == run.profile
        })
    };
    like(run.of)
}

fn times(theirs: Option<Summary>, ours: Option<Summary>) -> String {
    match theirs.zip(ours) {
        Some((theirs, ours)) if ours.median > 0.0 => {
            format!("{:.2} x", theirs.median / ours.median)
        }
        _ => "-".to_owned(),
    }
}

/// A row for each load and system.
pub fn table(records: &[Record]) -> Option<String> {
    let mut rows = rows(records);
    let first = rows.first()?.first()?.profile.clone();
    // Antrea's flows under shares of their own rate stand beside the others as well.
    let shared: Vec<Vec<Latency>> = rows
        .iter()
        .filter(|row| row[0].system == PeerSystem::OvsAntrea && row[0].load_pct < 100)
        .map(|row| {
            let of = LoadOf::OvsAntrea;
            row.iter().map(|run| Latency { of, ..(*run).clone() }).collect()
        })
        .collect();
    rows.extend(shared.iter().map(|row| row.iter().collect()));
    rows.sort_by_key(|row| (row[0].of, row[0].load_pct, row[0].system));
    let head = [
        "load",
        "system",
        "connections",
        "size",
        "Mpps",
        "p50 us",
        "p99 us",
        "of Seine's p50",
        "of Seine's p99",
        "busy %",
        "lost %",
        "steal %",
        "away %",
        "rounds",
    ];
    let mut grid = Grid::new(&head, 2);
    for row in &rows {
        let run = row[0];
        let middle = |of: fn(&Latency) -> f64| {
            summary(row, |run| Some(of(run))).map_or_else(|| "-".to_owned(), |it| figure(it.median))
        };
        let own = ours(&rows, row);
        let compared =
            |place: usize| times(delay(row, place), own.and_then(|own| delay(own, place)));
        grid.row(vec![
            load(run),
            run.system.name().to_owned(),
            run.profile.connections.to_string(),
            run.profile.size.to_string(),
            spread(summary(row, |run| Some(run.mpps))),
            spread(delay(row, 0)),
            spread(delay(row, 1)),
            compared(0),
            compared(1),
            middle(|run| run.busy_pct),
            middle(|run| run.lost_pct),
            middle(|run| run.steal_pct),
            middle(|run| run.away_pct),
            row.len().to_string(),
        ]);
    }
    let caption = format!(
        "How long packets are under way over vhost-user, one poller on a core of its own: {} Pods, \
         {} policies a side where there are policies, sent evenly and by the same generator. A \
         load is a share of what the system itself forwards at most, measured right before, or of \
         what Open vSwitch forwards at most with Antrea's flows: then all have the same packets a \
         second. A delay is counted from when the packet was due, so that one that had to wait for \
         room has its wait counted. `of Seine's`: how many times as long as through Seine.",
        first.pods, first.policies_per_side,
    );
    Some(grid.text(&caption))
}

/// A line for each system over shares of what it forwards at most.
fn over_loads(records: &[Record], title: &str, place: usize) -> Option<String> {
    let rows = rows(records);
    let profile = &rows.first()?.first()?.profile;
    let mut lines: Vec<Line> = Vec::new();
    for row in &rows {
        let run = row[0];
        if run.of != LoadOf::Own || run.load_pct == 100 || run.profile != *profile {
            continue;
        }
        let point = (f64::from(run.load_pct), delay(row, place)?.median);
        let label = run.system.name();
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label: label.to_owned(), points: vec![point] }),
        }
    }
    lines.retain(|line| line.points.len() >= POINTS_MIN);
    let across = "% of what it forwards at most";
    (!lines.is_empty()).then(|| plot::lines(title, across, "us", &lines))
}

/// What half of the packets take at most.
pub fn medians(records: &[Record]) -> Option<String> {
    over_loads(records, "Delay that half of the packets do not exceed", 0)
}

/// What 99 of a hundred take at most.
pub fn tails(records: &[Record]) -> Option<String> {
    over_loads(records, "Delay that 99 of 100 packets do not exceed", 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::forward::profile::{Kind, Profile};

    fn record(system: PeerSystem, of: LoadOf, load_pct: u8, us: f64) -> Record {
        Record::Latency(Box::new(Latency {
            round: 0,
            system,
            of,
            load_pct,
            offered_mpps: 1.0,
            mpps: 1.0,
            delay_us: (load_pct < 100).then_some([us, 10.0 * us]),
            busy_pct: 50.0,
            lost_pct: 0.0,
            steal_pct: 0.0,
            away_pct: 0.0,
            profile: Profile::plain(Kind::Established),
        }))
    }

    #[test]
    fn antreas_flows_stand_beside_ours_at_their_own_rate_too() {
        let (seine, antrea) = (PeerSystem::Seine, PeerSystem::OvsAntrea);
        let records = [
            record(antrea, LoadOf::Own, 100, 0.0),
            record(antrea, LoadOf::Own, 50, 30.0),
            record(seine, LoadOf::Own, 50, 20.0),
            record(seine, LoadOf::OvsAntrea, 50, 10.0),
        ];
        let table = table(&records).unwrap();
        let line = |load: &str| {
            let mut lines = table.lines().filter(|line| line.contains(load));
            lines.find(|line| line.contains("| OVS, Antrea's flows |")).unwrap().to_owned()
        };
        assert_eq!(line("50 % of its own").matches("1.50 x").count(), 2, "{table}");
        assert_eq!(line("50 % of OVS").matches("3.00 x").count(), 2, "{table}");
    }

    #[test]
    fn a_line_is_drawn_for_each_system() {
        let of = |system| [10, 50, 90].map(|load| record(system, LoadOf::Own, load, 10.0));
        let records = [of(PeerSystem::Seine), of(PeerSystem::OvsL2)].concat();
        let plot = medians(&records).unwrap();
        assert_eq!(plot.matches("<circle").count(), 6);
        assert!(tails(&records).is_some() && medians(&[]).is_none());
    }
}
