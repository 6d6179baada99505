//! The rows of docs/PERFORMANCE.md: the default profile, and what each thing beside it adds.

use super::profile::{Kind, Order, Ports, Profile, Rings, Sum, Tunnel, Ways};

/// All of them, each counted for so long.
pub fn rows(seconds: f64) -> Vec<Profile> {
    let plain = Profile { seconds, ..Profile::plain(Kind::Established) };
    let new = Profile { seconds, connections: 1_000_000, ..Profile::plain(Kind::New) };
    let mut rows = Vec::new();
    let mut row = |change: fn(&mut Profile, usize), values: &[usize], base: &Profile| {
        for value in values {
            let mut row = base.clone();
            change(&mut row, *value);
            rows.push(row);
        }
    };
    let connections: fn(&mut Profile, usize) = |row, value| row.connections = value as u32;
    row(connections, &[1, 1000, 10_000, 100_000, 1_000_000], &plain);
    row(connections, &[1_000_000], &Profile { huge_pages: false, ..plain.clone() });
    row(connections, &[10_000, 100_000], &Profile { order: Order::Zipf, ..plain.clone() });
    row(|row, value| row.services = value, &[1, 100, 1000, 10_000], &plain);
    let summed = Profile { checksum: Sum::Complete, ..plain.clone() };
    row(|row, value| row.services = value, &[1000], &summed);
    row(|row, value| row.policies_per_side = value, &[1, 100, 1000], &plain);
    row(|row, value| row.size = value, &[256, 512, 1024, 1500], &plain);
    for tunnel in [Tunnel::None, Tunnel::GeneveOut, Tunnel::GeneveIn] {
        row(connections, &[10_000], &Profile { tunnel, ways: Ways::One, ..plain.clone() });
    }
    row(connections, &[10_000], &Profile { churn: true, ..plain.clone() });
    row(connections, &[10_000], &Profile { in_line: true, ..plain.clone() });
    row(connections, &[10_000], &Profile { workers: 2, in_line: true, ..plain.clone() });
    row(|row, value| row.services = value, &[0, 1000], &new);
    rows
}

/// Those over vhost-user, each counted for so long.
pub fn guests(seconds: f64) -> Vec<Profile> {
    let plain = Profile { seconds, ports: Ports::VhostUser, ..Profile::plain(Kind::Established) };
    let with = |change: fn(&mut Profile)| {
        let mut row = plain.clone();
        change(&mut row);
        row
    };
    let counts = [1, 1000, 10_000, 100_000];
    let mut rows: Vec<Profile> =
        counts.into_iter().map(|connections| Profile { connections, ..plain.clone() }).collect();
    rows.extend([
        with(|row| row.rings = Rings::Packed),
        with(|row| row.ways = Ways::One),
        with(|row| row.ways = Ways::Echo),
        with(|row| row.services = 1000),
        with(|row| row.size = 512),
        with(|row| row.size = 1500),
        with(|row| (row.size, row.rings) = (1500, Rings::Packed)),
        with(|row| (row.size, row.ways) = (1500, Ways::Echo)),
    ]);
    rows.extend([10, 50, 90].map(|load| Profile { load_pct: Some(load), ..plain.clone() }));
    let new = Profile { kind: Kind::New, ways: Ways::One, connections: 100_000, ..plain };
    let in_flight = Profile::plain(Kind::New).in_flight;
    rows.extend([0, 1000].map(|services| Profile { services, in_flight, ..new.clone() }));
    rows.extend(segmented(seconds));
    rows.push(Profile { rings: Rings::Packed, seconds, ..Profile::segmented() });
    rows
}

/// Those of packets in segments that every system has, each counted for so long.
pub fn segmented(seconds: f64) -> Vec<Profile> {
    let plain = Profile { seconds, ..Profile::segmented() };
    let ways = [Ways::Both, Ways::One, Ways::Echo].map(|ways| Profile { ways, ..plain.clone() });
    [ways.to_vec(), vec![Profile { connections: 1, ..plain }]].concat()
}

/// Those over veths, each counted for so long.
pub fn veths(seconds: f64) -> Vec<Profile> {
    let plain = Profile { seconds, ports: Ports::AfXdp, ..Profile::plain(Kind::Established) };
    let mut rows: Vec<Profile> =
        [1, 10_000].map(|connections| Profile { connections, ..plain.clone() }).to_vec();
    rows.extend([
        Profile { size: 1500, ..plain.clone() },
        Profile { ways: Ways::One, ..plain.clone() },
        Profile { ways: Ways::Echo, ..plain.clone() },
        Profile { load_pct: Some(50), ..plain },
    ]);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_measured_and_stands_there_once() {
        let rows = [rows(1.0), guests(1.0), veths(1.0)].concat();
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(row.check(), Ok(()));
            assert!(!rows[..at].contains(row), "twice: {row:?}");
        }
    }
}
