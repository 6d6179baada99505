//! Seine beside Open vSwitch and DPDK, row by row, with the ratio.

use super::grid::Grid;
use super::{figure, spread};
use crate::record::{Peer, PeerSystem, Record};
use crate::statistics::Summary;

/// The runs of each row, rows in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Peer>> {
    let mut rows: Vec<Vec<&Peer>> = Vec::new();
    let runs = records.iter().filter_map(|record| match record {
        Record::Peer(peer) => Some(peer.as_ref()),
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
    (a.connections, a.size, a.services, &a.order) == (b.connections, b.size, b.services, &b.order)
}

/// Medians of cycles of the row that a system has for the same traffic.
fn cycles(rows: &[Vec<&Peer>], of: &Peer, system: PeerSystem) -> Option<f64> {
    let found = rows.iter().find(|row| {
        row[0].system == system
            && row[0].unavailable.is_none()
            && match system {
                // It looks at nothing but how long frames are.
                PeerSystem::TestpmdIo => row[0].size == of.size,
                _ => like(row[0], of),
            }
    });
    Some(summary(found?, |run| run.cycles_per_packet)?.median)
}

/// How many times ours a row's cycles are, with and without what vhost-user rings cost.
fn ratios(rows: &[Vec<&Peer>], row: &[&Peer]) -> [String; 2] {
    let own = cycles(rows, row[0], PeerSystem::Seine).filter(|own| *own > 0.0);
    let theirs = summary(row, |run| run.cycles_per_packet).map(|it| it.median);
    let (Some(own), Some(theirs)) = (own, theirs) else { return ["-", "-"].map(str::to_owned) };
    let ring = match row[0].ports.as_str() {
        "vhost-user" => cycles(rows, row[0], PeerSystem::TestpmdIo),
        _ => Some(0.0),
    };
    let without = ring.map(|ring| format!("{:.2} x", (theirs - ring) / own));
    [format!("{:.2} x", theirs / own), without.unwrap_or_else(|| "-".to_owned())]
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
        "of Seine's",
        "rings off",
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
         order {}. cycles: of the time stamp counter, that the poller spent on a packet. `of \
         Seine's`: how many times ours; `rings off`: the same without what testpmd spends on \
         its rings alone. (g): the poller was less than 95 % busy and waited for packets, so \
         that its cycles are an upper bound. `ct`: actions of connection tracking that packets \
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
    let traffic = |value: String| {
        if run.system == PeerSystem::TestpmdIo { "any".to_owned() } else { value }
    };
    let mut cells = vec![
        run.system.name().to_owned(),
        run.caches.clone(),
        run.ports.clone(),
        traffic(run.connections.to_string()),
        run.size.to_string(),
        traffic(run.services.to_string()),
    ];
    if run.unavailable.is_some() {
        cells.extend(std::iter::repeat_n("-".to_owned(), 13));
        cells.push(row.len().to_string());
        return cells;
    }
    let bound = if row.iter().any(|run| run.generator_bound) { " (g)" } else { "" };
    let [ratio, without_rings] = ratios(rows, row);
    let ct = run.ct_actions_first.zip(run.ct_actions_later);
    cells.extend([
        spread(summary(row, |run| run.mpps)),
        spread(summary(row, |run| run.cycles_per_packet)) + bound,
        ratio,
        without_rings,
        middle(row, |run| run.passes_per_packet),
        middle(row, |run| run.emc_hit_pct),
        middle(row, |run| run.smc_hit_pct),
        ct.map_or_else(|| "-".to_owned(), |(first, later)| format!("{first}/{later}")),
        middle(row, |run| Some(run.busy_pct)),
        middle(row, |run| Some(run.lost_pct)),
        middle(row, |run| Some(run.generator_cycles_per_packet)),
        middle(row, |run| Some(run.steal_pct)),
        middle(row, |run| Some(run.away_pct)),
        row.len().to_string(),
    ]);
    cells
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
            "profile":{{"ports":"memory","pods":64,"connections":1000,"order":"uniform","size":64,
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
            record("ovs-antrea", "vhost-user", 1400.0),
            record("seine", "memory", 200.0),
        ];
        let table = table(&records).unwrap();
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap().to_owned();
        let antrea = line("Antrea's flows");
        assert!(antrea.contains("7.00 x") && antrea.contains("6.00 x"), "{antrea}");
        assert_eq!(line("| Seine ").matches("1.00 x").count(), 2);
    }

    #[test]
    fn a_setting_that_a_build_lacks_is_a_row_and_says_why() {
        let Record::Peer(peer) = record("ovs-antrea", "vhost-user", 0.0) else { panic!("a peer") };
        let reason = Some("this build has none".to_owned());
        let row = Record::Peer(Box::new(Peer { unavailable: reason, ..*peer }));
        assert!(table(&[row]).unwrap().contains(": this build has none"));
    }
}
