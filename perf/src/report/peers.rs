//! Seine beside Open vSwitch and DPDK, row by row, with the ratio.

use super::grid::Grid;
use super::plot::{self, Line};
use super::{figure, spread};
use crate::forward::profile::Kind;
use crate::record::{Peer, PeerSystem, Record};
use crate::statistics::Summary;

/// A line needs so many points to be drawn.
const POINTS_MIN: usize = 3;

/// The runs of each row, rows in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Peer>> {
    let mut rows: Vec<Vec<&Peer>> = Vec::new();
    let runs = records.iter().filter_map(|record| match record {
        // Those in segments have a table of their own.
        Record::Peer(peer) if !peer.profile.tso => Some(peer.as_ref()),
        _ => None,
    });
    for run in runs {
        let same = |row: &&mut Vec<&Peer>| {
            let it = row[0];
            (it.system, &it.caches, &it.profile) == (run.system, &run.caches, &run.profile)
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

fn summary(row: &[&Peer], of: fn(&Peer) -> f64) -> Option<Summary> {
    Summary::of(&row.iter().map(|run| of(run)).collect::<Vec<_>>())
}

fn middle(row: &[&Peer], of: impl Fn(&Peer) -> Option<f64>) -> String {
    let figures: Vec<f64> = row.iter().filter_map(|run| of(run)).collect();
    Summary::of(&figures).map_or_else(|| "-".to_owned(), |it| figure(it.median))
}

/// What a row is compared by: everything but the system.
fn like(a: &Peer, b: &Peer) -> bool {
    let key = |it: &Peer| (it.connections, it.size, it.services, it.profile.kind == Kind::New);
    key(a) == key(b) && a.order == b.order
}

/// The row that a system has for the same traffic over such ports.
fn row_of<'a, 'p>(
    rows: &'a [Vec<&'p Peer>],
    of: &Peer,
    system: PeerSystem,
    ports: &str,
) -> Option<&'a Vec<&'p Peer>> {
    rows.iter().find(|row| {
        row[0].system == system
            && row[0].ports == ports
            && row[0].unavailable.is_none()
            && match system {
                // It looks at nothing but how long frames are.
                PeerSystem::TestpmdIo => row[0].size == of.size,
                _ => like(row[0], of),
            }
    })
}

fn cycles(row: &[&Peer]) -> Option<f64> {
    Some(summary(row, |run| run.cycles_per_packet)?.median)
}

fn ratio(theirs: Option<f64>, ours: Option<f64>) -> String {
    let of = |(theirs, ours): (f64, f64)| (ours > 0.0).then(|| format!("{:.2} x", theirs / ours));
    theirs.zip(ours).and_then(of).unwrap_or_else(|| "-".to_owned())
}

/// How a row compares with ours over vhost-user: our rate in times of its own, and its cycles in
/// times of ours, as they are and without what rings cost.
fn ratios(rows: &[Vec<&Peer>], row: &[&Peer]) -> [String; 4] {
    let run = row[0];
    if row.iter().any(|run| run.unavailable.is_some()) {
        return ["-", "-", "-", "-"].map(str::to_owned);
    }
    let over = |ports| row_of(rows, run, PeerSystem::Seine, ports);
    let (guests, memory) = (over("vhost-user"), over("memory"));
    let rate = |row: &[&Peer]| Some(summary(row, |run| run.mpps)?.median);
    let rings = match run.ports.as_str() {
        "vhost-user" => {
            row_of(rows, run, PeerSystem::TestpmdIo, "vhost-user").and_then(|it| cycles(it))
        }
        _ => Some(0.0),
    };
    let theirs = cycles(row);
    let bare = theirs.zip(rings).map(|(theirs, rings)| theirs - rings);
    let own = guests.and_then(|it| cycles(it));
    let own_bare = own.zip(rings).map(|(own, rings)| own - rings);
    let is_memory = run.ports == "memory";
    [
        if is_memory { "-".to_owned() } else { ratio(guests.and_then(|it| rate(it)), rate(row)) },
        if is_memory { "-".to_owned() } else { ratio(theirs, own) },
        if is_memory { "-".to_owned() } else { ratio(bare, own_bare) },
        ratio(bare, memory.and_then(|it| cycles(it))),
    ]
}

/// A row for each system, setting and traffic.
pub fn table(records: &[Record]) -> Option<String> {
    let rows = rows(records);
    let first = rows.first()?.first()?;
    let head = [
        "system",
        "caches",
        "ports",
        "connections",
        "size",
        "Services",
        "Mpps",
        "cycles",
        "Seine's Mpps",
        "of Seine's cycles",
        "rings off both",
        "of memory's",
        "passes",
        "EMC %",
        "SMC %",
        "ct first/later",
        "busy %",
        "lost %",
        "generator",
        "steal %",
        "away %",
        "runs",
    ];
    let mut grid = Grid::new(&head, 3);
    let mut missing = Vec::new();
    for row in &rows {
        let run = row[0];
        if let Some(reason) = &run.unavailable {
            let line = format!("- {}, {}: {reason}\n", run.system.name(), run.caches);
            if !missing.contains(&line) {
                missing.push(line);
            }
        }
        grid.row(cells(&rows, row));
    }
    let most = |of: fn(&Peer) -> usize| rows.iter().map(|row| of(row[0])).max().unwrap_or(0);
    let caption = format!(
        "The same traffic through each system, one poller on a core of its own: {} Pods, {} \
         policies a side where there are policies, {} packets under way, half of them replies, \
         order {}. cycles: of the time stamp counter, that the poller spent on a packet. `Seine's \
         Mpps`: how many times as many Seine forwards over vhost-user. `of Seine's cycles`: how \
         many times as many as Seine spends over vhost-user; `rings off both`: the same without \
         what testpmd spends on its rings alone; `of memory's`: the peer's without its rings, as \
         times of Seine's between memory ports. (g): the poller was less than 95 % busy and \
         waited for packets, so that its cycles are an upper bound. `ct`: actions of \
         connection tracking that packets \
         of a connection met, counted. `generator`: cycles of generator and sink, which are in \
         no other figure. `away`: the share of time that the poller had no core, which is in \
         its cycles as well.",
        most(|it| it.profile.pods),
        most(|it| it.policies_per_side),
        first.profile.in_flight,
        first.order,
    );
    let missing: String = missing.concat();
    let missing =
        if missing.is_empty() { missing } else { format!("\nWithout a figure:\n\n{missing}") };
    Some(format!("{}{missing}", grid.text(&caption)))
}

fn cells(rows: &[Vec<&Peer>], row: &[&Peer]) -> Vec<String> {
    let run = row[0];
    let is_new = run.profile.kind == Kind::New;
    let traffic = |value: String| {
        if run.system == PeerSystem::TestpmdIo { "any".to_owned() } else { value }
    };
    let mut cells = vec![
        run.system.name().to_owned(),
        run.caches.clone(),
        run.ports.clone(),
        traffic(run.connections.to_string()) + if is_new { ", each new" } else { "" },
        run.size.to_string(),
        traffic(run.services.to_string()),
    ];
    if run.unavailable.is_some() {
        cells.extend(std::iter::repeat_n("-".to_owned(), 15));
        cells.push(row.len().to_string());
        return cells;
    }
    let bound = if row.iter().any(|run| run.generator_bound) { " (g)" } else { "" };
    let number = |it: Option<usize>| it.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let (first, later) = (run.ct_actions_first, run.ct_actions_later);
    cells.extend([
        spread(summary(row, |run| run.mpps)),
        spread(summary(row, |run| run.cycles_per_packet)) + bound,
    ]);
    cells.extend(ratios(rows, row));
    cells.extend([
        middle(row, |run| run.passes_per_packet),
        middle(row, |run| run.emc_hit_pct),
        middle(row, |run| run.smc_hit_pct),
        first.map_or_else(|| "-".to_owned(), |_| format!("{}/{}", number(first), number(later))),
        middle(row, |run| Some(run.busy_pct)),
        middle(row, |run| Some(run.lost_pct)),
        middle(row, |run| Some(run.generator_cycles_per_packet)),
        middle(row, |run| Some(run.steal_pct)),
        middle(row, |run| Some(run.away_pct)),
        row.len().to_string(),
    ]);
    cells
}

/// A line for each system over the number of connections, of the frames that most rows have.
fn over_connections(
    records: &[Record],
    (title, up): (&str, &str),
    of: fn(&Peer) -> f64,
) -> Option<String> {
    let rows = rows(records);
    let size = rows.iter().map(|row| row[0].size).min()?;
    let mut lines: Vec<Line> = Vec::new();
    for row in &rows {
        let run = row[0];
        let plain = run.size == size && run.services == 0 && run.profile.kind != Kind::New;
        if !plain || run.system == PeerSystem::TestpmdIo || run.unavailable.is_some() {
            continue;
        }
        let parts = [run.system.name(), &run.caches, &run.ports];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let label = parts.collect::<Vec<_>>().join(", ");
        let point = (f64::from(run.connections), summary(row, of)?.median);
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, points: vec![point] }),
        }
    }
    lines.retain(|line| line.points.len() >= POINTS_MIN);
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    (!lines.is_empty()).then(|| {
        plot::logarithmic_lines(&format!("{title}, {size} bytes"), "connections", up, &lines)
    })
}

/// Packets a second over connections, each system a line.
pub fn rates(records: &[Record]) -> Option<String> {
    over_connections(records, ("Packets over connections", "Mpps"), |run| run.mpps)
}

/// Cycles of a packet over connections, each system a line.
pub fn costs(records: &[Record]) -> Option<String> {
    let of = |run: &Peer| run.cycles_per_packet;
    over_connections(records, ("Cycles a packet over connections", "cycles"), of)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A row as it is saved; `cycles` is all that differs.
    fn record(system: &str, ports: &str, cycles: f64) -> Record {
        let text = format!(
            r#"{{"kind":"peer","round":0,"system":"{system}","caches":"","unavailable":null,
            "ports":"{ports}","size":64,"connections":1000,"order":"uniform",
            "policies_per_side":10,"services":0,"tunnel":"none","workers":1,"mpps":1.0,
            "cycles_per_packet":{cycles},"generator_bound":false,"new_connections_per_s":null,
            "bytes_per_connection":null,"steal_pct":0,"away_pct":0,"busy_pct":100,
            "generator_cycles_per_packet":100,"lost_pct":0,"passes_per_packet":null,
            "ct_actions_first":4,"ct_actions_later":1,"emc_hit_pct":null,"smc_hit_pct":null,
            "upcalls":null,"flows":null,"packets_per_batch":null,"tsc_ghz":2.3,"pages":"2 MiB",
            "profile":{{"ports":"{ports}","pods":64,"connections":1000,"order":"uniform","size":64,
            "policies_per_side":10,"services":0,"tunnel":"none","ways":"both","checksum":"zero",
            "kind":"established","workers":1,"in_line":false,"in_flight":4096,"huge_pages":true,
            "churn":false,"seconds":1.0}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_rings_are_taken_off_where_there_are_any() {
        let records = [
            record("testpmd-io", "vhost-user", 200.0),
            record("ovs-antrea", "vhost-user", 1600.0),
            record("seine", "vhost-user", 400.0),
            record("seine", "memory", 280.0),
        ];
        let table = table(&records).unwrap();
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap().to_owned();
        let antrea = line("Antrea's flows");
        for ratio in ["4.00 x", "7.00 x", "5.00 x"] {
            assert!(antrea.contains(ratio), "{ratio}: {antrea}");
        }
        let memory = table.lines().find(|line| line.contains("| memory ")).unwrap();
        assert_eq!(memory.matches("1.00 x").count(), 1, "{memory}");
    }

    #[test]
    fn a_setting_that_a_build_lacks_is_a_row_and_says_why() {
        let Record::Peer(peer) = record("ovs-antrea", "vhost-user", 0.0) else { panic!("a peer") };
        let reason = Some("this build has none".to_owned());
        let row = Record::Peer(Box::new(Peer { unavailable: reason, ..*peer }));
        assert!(table(&[row]).unwrap().contains(": this build has none"));
    }
}
