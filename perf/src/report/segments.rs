//! Packets of 64 KiB in segments: bytes a second, and what a byte costs.

use super::grid::Grid;
use super::{figure, spread};
use crate::forward::profile::{Profile, Rings, Ways};
use crate::record::{Forward, Peer, PeerSystem, Record};
use crate::statistics::Summary;

/// One run, whichever command it was of.
struct Run<'a> {
    system: PeerSystem,
    profile: &'a Profile,
    mpps: f64,
    cycles: f64,
    generator_cycles: f64,
    busy_pct: f64,
    lost_pct: f64,
    steal_pct: f64,
    away_pct: f64,
    is_bound: bool,
    unavailable: Option<&'a str>,
}

impl Run<'_> {
    fn gigabits(&self) -> f64 {
        self.mpps * self.profile.size as f64 * 8.0 / 1e3
    }
}

fn of_forward(run: &Forward) -> Run<'_> {
    Run {
        system: PeerSystem::Seine,
        profile: &run.profile,
        mpps: run.mpps,
        cycles: run.cycles_per_packet,
        generator_cycles: run.generator_cycles_per_packet,
        busy_pct: run.busy_pct,
        lost_pct: run.lost_pct,
        steal_pct: run.steal_pct,
        away_pct: run.away_pct,
        is_bound: run.generator_bound,
        unavailable: None,
    }
}

fn of_peer(run: &Peer) -> Run<'_> {
    Run {
        system: run.system,
        profile: &run.profile,
        mpps: run.mpps,
        cycles: run.cycles_per_packet,
        generator_cycles: run.generator_cycles_per_packet,
        busy_pct: run.busy_pct,
        lost_pct: run.lost_pct,
        steal_pct: run.steal_pct,
        away_pct: run.away_pct,
        is_bound: run.generator_bound,
        unavailable: run.unavailable.as_deref(),
    }
}

/// The runs of each row, rows in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<Run<'_>>> {
    let mut rows: Vec<Vec<Run<'_>>> = Vec::new();
    for record in records {
        let run = match record {
            Record::Forward(run) if run.profile.tso => of_forward(run),
            Record::Peer(run) if run.profile.tso => of_peer(run),
            _ => continue,
        };
        let same =
            |row: &&mut Vec<Run<'_>>| (row[0].system, row[0].profile) == (run.system, run.profile);
        match rows.iter_mut().find(same) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

fn summary(row: &[Run<'_>], of: impl Fn(&Run<'_>) -> f64) -> Option<Summary> {
    let taken = row.iter().filter(|run| run.unavailable.is_none());
    Summary::of(&taken.map(of).collect::<Vec<_>>())
}

fn ways(profile: &Profile) -> &'static str {
    match profile.ways {
        Ways::Both => "both sides",
        Ways::One => "one side",
        Ways::Echo => "one side, the other echoes",
    }
}

/// A row for each system and traffic.
pub fn table(records: &[Record]) -> Option<String> {
    let rows = rows(records);
    let first = &rows.first()?.first()?.profile;
    let head = [
        "system",
        "sends",
        "rings",
        "connections",
        "Gbit/s",
        "thousand packets/s",
        "cycles a packet",
        "a byte",
        "Seine's Gbit/s",
        "busy %",
        "generator",
        "lost %",
        "steal %",
        "away %",
        "runs",
    ];
    let mut grid = Grid::new(&head, 3);
    let mut missing = Vec::new();
    for row in &rows {
        let Run { system, profile, .. } = row[0];
        for reason in row.iter().filter_map(|run| run.unavailable) {
            let line = format!("- {}, {}: {reason}\n", system.name(), ways(profile));
            if !missing.contains(&line) {
                missing.push(line);
            }
        }
        let middle = |of: fn(&Run<'_>) -> f64| {
            summary(row, of).map_or_else(|| "-".to_owned(), |it| figure(it.median))
        };
        let ours = rows
            .iter()
            .find(|it| it[0].system == PeerSystem::Seine && it[0].profile == profile)
            .and_then(|it| summary(it, |run| run.gigabits()));
        let ratio = ours.zip(summary(row, |run| run.gigabits()));
        let bound = if row.iter().any(|run| run.is_bound) { " (g)" } else { "" };
        grid.row(vec![
            system.name().to_owned(),
            ways(profile).to_owned(),
            if profile.rings == Rings::Packed { "packed" } else { "split" }.to_owned(),
            profile.connections.to_string(),
            spread(summary(row, |run| run.gigabits())),
            middle(|run| run.mpps * 1e3),
            spread(summary(row, |run| run.cycles)) + bound,
            summary(row, |run| run.cycles / run.profile.size as f64)
                .map_or_else(|| "-".to_owned(), |it| format!("{:.3}", it.median)),
            ratio.map_or_else(
                || "-".to_owned(),
                |(ours, theirs)| format!("{:.2} x", ours.median / theirs.median),
            ),
            middle(|run| run.busy_pct),
            middle(|run| run.generator_cycles),
            middle(|run| run.lost_pct),
            middle(|run| run.steal_pct),
            middle(|run| run.away_pct),
            row.len().to_string(),
        ]);
    }
    let caption = format!(
        "TCP in segments over vhost-user, one poller on a core of its own: frames of {} bytes that \
         {} guests leave to their device to cut and to sum, and take uncut; {} packets under way, \
         {} policies a side where there are policies. `Seine's`: how many times as much Seine \
         forwards of the same. (g): the poller was less than 95 % busy and waited for packets, so \
         that its cycles are an upper bound. `generator`: cycles of generator and sink, which are \
         in no other figure.",
        first.size, first.pods, first.in_flight, first.policies_per_side,
    );
    let missing: String = missing.concat();
    let missing =
        if missing.is_empty() { missing } else { format!("\nWithout a figure:\n\n{missing}") };
    Some(format!("{}{missing}", grid.text(&caption)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn record(system: &str, mpps: f64, unavailable: Option<&str>) -> Record {
        let profile = Profile::segmented();
        let value = json!({
            "kind": "peer", "round": 0, "system": system, "caches": "", "ports": "vhost-user",
            "unavailable": unavailable, "size": profile.size, "connections": 1000,
            "order": "uniform", "policies_per_side": 10, "services": 0, "tunnel": "none",
            "workers": 1, "mpps": mpps, "cycles_per_packet": 65214.0, "generator_bound": false,
            "new_connections_per_s": null, "bytes_per_connection": null, "steal_pct": 0.0,
            "away_pct": 0.0, "busy_pct": 100.0, "generator_cycles_per_packet": 100.0,
            "lost_pct": 0.0, "passes_per_packet": null, "ct_actions_first": null,
            "ct_actions_later": null, "emc_hit_pct": null, "smc_hit_pct": null, "upcalls": null,
            "flows": null, "packets_per_batch": null, "delay_us": null, "tsc_ghz": 2.6,
            "pages": "2 MiB", "profile": profile,
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn bits_a_second_stand_beside_what_a_byte_costs() {
        let records = [record("seine", 0.1, None), record("ovs-l2", 0.05, None)];
        let table = table(&records).unwrap();
        let line = |name: &str| table.lines().find(|it| it.contains(name)).unwrap().to_owned();
        assert!(line("| Seine ").contains("52.2 [52.2-52.2]"), "{table}");
        assert!(line("| OVS, L2 only").contains("2.00 x"), "{table}");
        assert!(line("| OVS, L2 only").contains(" 1.000 |"), "{table}");
    }

    #[test]
    fn a_peer_that_cannot_says_why() {
        let records = [record("ovs-l2", 0.0, Some("it has no TSO"))];
        assert!(table(&records).unwrap().contains("- OVS, L2 only, both sides: it has no TSO"));
    }
}
