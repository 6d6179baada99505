//! What a packet costs, row by row.

use super::grid::Grid;
use super::plot::{self, Line};
use super::{figure, spread};
use crate::forward::profile::{Kind, Ports, Profile, Rings, Sum, Ways};
use crate::record::{Forward, Record, TableWork};
use crate::statistics::Summary;

/// What is shown of rows whose packets each begin a connection.
const NEW: [&str; 10] = [
    "connections",
    "policies",
    "Services",
    "new/s",
    "ended/s",
    "used before",
    "after",
    "expired",
    "evicted",
    "refused",
];

/// How many of these older records tell, too.
const NEW_ALWAYS: usize = 5;

/// A row for each profile whose packets each begin a connection.
fn new_connections(rows: &[Vec<&Forward>]) -> Option<String> {
    let rows: Vec<_> = rows.iter().filter(|row| row[0].new_connections_per_s.is_some()).collect();
    rows.first()?;
    let told = rows.iter().any(|row| row[0].table.is_some());
    let mut grid = Grid::new(if told { &NEW } else { &NEW[..NEW_ALWAYS] }, 0);
    for row in rows {
        let run = row[0];
        let ended = summary(row, |run| run.ended_per_s);
        let mut cells = vec![
            run.connections.to_string(),
            run.policies_per_side.to_string(),
            run.services.to_string(),
            spread(summary(row, |run| run.new_connections_per_s.unwrap_or_default())),
            ended.map_or_else(|| "-".to_owned(), |it| figure(it.median)),
        ];
        let figures =
            |it: TableWork| [it.used_before, it.used_after, it.expired, it.evicted, it.refused];
        match run.table.filter(|_| told) {
            Some(table) => cells.extend(figures(table).iter().map(u64::to_string)),
            None if told => cells.extend(std::iter::repeat_n("-".to_owned(), 5)),
            None => {}
        }
        grid.row(cells);
    }
    Some(grid.text("Connections begun a second, the table full all the time."))
}

/// A sweep needs so many points to be drawn.
const POINTS_MIN: usize = 3;

/// The runs of each row, rows in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Forward>> {
    let mut rows: Vec<Vec<&Forward>> = Vec::new();
    let runs = records.iter().filter_map(|record| match record {
        // Those in segments have a table of their own.
        Record::Forward(forward) if !forward.profile.tso => Some(forward.as_ref()),
        _ => None,
    });
    for run in runs {
        match rows.iter_mut().find(|row| row[0].profile == run.profile) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

fn summary(row: &[&Forward], of: fn(&Forward) -> f64) -> Option<Summary> {
    Summary::of(&row.iter().map(|run| of(run)).collect::<Vec<_>>())
}

/// What is not as in the default profile and has no column of its own.
fn remarks(run: &Forward) -> String {
    let pages = (!run.profile.huge_pages || run.pages == "4 KiB").then(|| run.pages.clone());
    let described = described(&run.profile);
    [described].into_iter().chain(pages).filter(|it| !it.is_empty()).collect::<Vec<_>>().join(", ")
}

/// What of a profile is not as in the default one and has no column of its own.
pub(super) fn described(profile: &Profile) -> String {
    let Profile { ways, checksum, kind, in_line, workers, churn, pods, .. } = profile;
    let mut remarks = Vec::new();
    let mut remark = |applies: bool, text: String| {
        if applies {
            remarks.push(text);
        }
    };
    remark(profile.ports != Ports::Memory, profile.ports.name().to_owned());
    remark(profile.rings == Rings::Packed, "packed rings".to_owned());
    remark(*kind == Kind::New, "new".to_owned());
    remark(*kind != Kind::New && *ways == Ways::One, "one way".to_owned());
    remark(*ways == Ways::Echo, "echo".to_owned());
    let load = profile.load_pct.map(|it| format!("{it} % load"));
    remark(load.is_some(), load.unwrap_or_default());
    remark(*checksum == Sum::Complete, "checksums".to_owned());
    remark(*checksum == Sum::Partial, "partial checksums".to_owned());
    remark(*churn, "churn".to_owned());
    remark(*workers > 1, format!("{workers} workers"));
    remark(*in_line || *workers > 1, "in line".to_owned());
    remark(*pods != 64, format!("{pods} Pods"));
    remarks.join(", ")
}

/// A row for each profile.
pub fn table(records: &[Record]) -> Option<String> {
    let rows = rows(records);
    let tsc_ghz = rows.first()?.first()?.tsc_ghz;
    let head = [
        "tunnel",
        "order",
        "and",
        "connections",
        "size",
        "policies",
        "Services",
        "Mpps",
        "cycles",
        "ns",
        "generator",
        "hits %",
        "batch",
        "busy %",
        "steal %",
        "away %",
        "runs",
    ];
    let mut grid = Grid::new(&head, 3);
    let head = ["of", "connections", "size", "Mpps", "p50 us", "p99 us", "lost %"];
    let (mut delays, mut any_delay) = (Grid::new(&head, 1), false);
    for row in &rows {
        let run = row[0];
        let middle = |of| summary(row, of).map_or_else(|| "-".to_owned(), |it| figure(it.median));
        let bound = row.iter().any(|run| run.generator_bound);
        grid.row(vec![
            run.tunnel.clone(),
            run.order.clone(),
            remarks(run),
            run.connections.to_string(),
            run.size.to_string(),
            run.policies_per_side.to_string(),
            run.services.to_string(),
            spread(summary(row, |run| run.mpps)),
            spread(summary(row, |run| run.cycles_per_packet)) + if bound { " (g)" } else { "" },
            middle(Forward::ns_per_packet),
            middle(|run| run.generator_cycles_per_packet),
            middle(|run| run.hit_pct),
            middle(|run| run.packets_per_batch),
            middle(|run| run.busy_pct),
            middle(|run| run.steal_pct),
            middle(|run| run.away_pct),
            row.len().to_string(),
        ]);
        if run.delay_us.is_some() {
            let delay = |place: usize| {
                let of = |run: &&Forward| Some(run.delay_us?[place]);
                spread(Summary::of(&row.iter().filter_map(of).collect::<Vec<_>>()))
            };
            delays.row(vec![
                remarks(run),
                run.connections.to_string(),
                run.size.to_string(),
                middle(|run| run.mpps),
                delay(0),
                delay(1),
                middle(|run| run.lost_pct),
            ]);
            any_delay = true;
        }
    }
    let memory = rows.iter().all(|row| row[0].profile.ports == Ports::Memory);
    let between = if memory { " between memory ports" } else { "" };
    let caption = format!(
        "What a packet costs the worker{between}: cycles of its time stamp counter \
         ({tsc_ghz:.3} GHz), of rounds that moved packets. `generator`: cycles of generator and \
         sink, which are in no other figure. (g): the worker was less than 95 % busy and waited \
         for the generator, so that its cycles are an upper bound. `away`: the share of \
         time that the worker had no core, which is in its cycles as well."
    );
    let mut text = grid.text(&caption);
    if let Some(new) = new_connections(&rows) {
        text.push('\n');
        text.push_str(&new);
    }
    if any_delay {
        text.push('\n');
        text.push_str(&delays.text(
            "How long packets were under way, sent evenly at so many percent of what was forwarded \
             at most: from when each was due, so that one that had to wait for room has its wait \
             counted. To 64 cycles.",
        ));
    }
    Some(text)
}

/// What a sweep varies.
struct Sweep {
    title: &'static str,
    across: &'static str,
    of: fn(&Profile) -> f64,
    /// The profile with that taken out, so that rows of one line are equal.
    without: fn(&mut Profile),
}

fn sweep(records: &[Record], sweep: &Sweep) -> Option<String> {
    let rows = rows(records);
    let mut lines: Vec<(Profile, Line)> = Vec::new();
    for row in &rows {
        let run = row[0];
        let mut rest = run.profile.clone();
        (sweep.without)(&mut rest);
        let point = ((sweep.of)(&run.profile), summary(row, |it| it.cycles_per_packet)?.median);
        match lines.iter_mut().find(|(profile, _)| *profile == rest) {
            Some((_, line)) => line.points.push(point),
            None => {
                let label = label(run, sweep.title);
                lines.push((rest, Line { label, points: vec![point] }));
            }
        }
    }
    let mut lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
    lines.retain(|line| line.points.len() >= POINTS_MIN);
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    if lines.is_empty() {
        return None;
    }
    let title = format!("Cycles a packet over {}", sweep.title);
    Some(plot::logarithmic_lines(&title, sweep.across, "cycles", &lines))
}

/// What a line of a plot has in common.
fn label(run: &Forward, varied: &str) -> String {
    let parts = [
        ("connections", format!("{} connections", run.connections)),
        ("sizes", format!("{} B", run.size)),
        ("policies", format!("{} policies", run.policies_per_side)),
        ("Services", format!("{} Services", run.services)),
        ("", format!("tunnel {}", run.tunnel)),
        ("", run.order.clone()),
        ("", remarks(run)),
    ];
    let kept = parts.into_iter().filter(|(name, text)| *name != varied && !text.is_empty());
    kept.map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

/// Over the number of connections.
pub fn over_connections(records: &[Record]) -> Option<String> {
    sweep(
        records,
        &Sweep {
            title: "connections",
            across: "connections",
            of: |profile| f64::from(profile.connections),
            without: |profile| profile.connections = 0,
        },
    )
}

/// Over the number of policies.
pub fn over_policies(records: &[Record]) -> Option<String> {
    sweep(
        records,
        &Sweep {
            title: "policies",
            across: "policies a side",
            of: |profile| profile.policies_per_side as f64,
            without: |profile| profile.policies_per_side = 0,
        },
    )
}

/// Over the number of Services.
pub fn over_services(records: &[Record]) -> Option<String> {
    sweep(
        records,
        &Sweep {
            title: "Services",
            across: "Services",
            of: |profile| profile.services as f64,
            without: |profile| profile.services = 0,
        },
    )
}

/// Over the size of frames.
pub fn over_sizes(records: &[Record]) -> Option<String> {
    sweep(
        records,
        &Sweep {
            title: "sizes",
            across: "bytes",
            of: |profile| profile.size as f64,
            without: |profile| profile.size = 0,
        },
    )
}
