//! Milliseconds until the first packet after somebody died.

use super::grid::Grid;
use super::{median, spread};
use crate::record::{Death, Record, Restart, Way};
use crate::statistics::Summary;

fn who(death: Death) -> &'static str {
    match death {
        Death::Worker => "worker process killed, its parent starts another",
        Death::Datapath => "datapath killed and started again",
        Death::Guest => "guest gone and back",
    }
}

fn whose(death: Death, way: Way) -> &'static str {
    match (death, way) {
        (Death::Guest, Way::Guests) => "from that guest",
        (_, Way::Guests) => "guest to guest, vhost-user",
        (_, Way::ToGuest) => "to that guest",
        (_, Way::Veths) => "Pod to Pod, veths",
    }
}

/// The rounds of each death and way, in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Restart>> {
    let mut rows: Vec<Vec<&Restart>> = Vec::new();
    for record in records {
        let Record::Restart(run) = record else { continue };
        let same = |row: &&mut Vec<&Restart>| (row[0].death, row[0].way) == (run.death, run.way);
        match rows.iter_mut().find(same) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

/// A row for each death and way.
pub fn table(records: &[Record]) -> Option<String> {
    let rows = rows(records);
    rows.first()?;
    let head = ["who", "packets", "ms from SIGKILL", "ms from its start", "load", "rounds"];
    let mut grid = Grid::new(&head, 2);
    for row in &rows {
        let run = row[0];
        let spread = |of: fn(&Restart) -> Option<f64>| {
            spread(Summary::of(&row.iter().filter_map(|run| of(run)).collect::<Vec<_>>()))
        };
        let loads: Vec<f64> = row.iter().map(|run| run.noise.load).collect();
        grid.row(vec![
            who(run.death).to_owned(),
            whose(run.death, run.way).to_owned(),
            spread(|run| run.from_death_ms),
            spread(|run| run.from_start_ms),
            super::maybe(median(&loads)),
            row.len().to_string(),
        ]);
    }
    Some(grid.text(
        "Time to the first packet, in milliseconds: from SIGKILL, and from when the next one began \
         to start or, of a guest, to connect. That packet was sent after the dead one was gone. \
         Guests and Pods send all the time, a packet every third of a millisecond; front ends try \
         to connect every millisecond; the agent goes on and tells the next datapath everything.",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::noise::Noise;

    #[test]
    fn each_death_has_a_row_for_each_way_with_its_median() {
        let record = |round, death, way, ms| {
            let (from_death_ms, from_start_ms) = match death {
                Death::Guest => (None, Some(ms)),
                _ => (Some(ms), None),
            };
            let noise = Noise::default();
            Record::Restart(Restart { round, death, way, from_death_ms, from_start_ms, noise })
        };
        let records = [
            record(0, Death::Worker, Way::Veths, 100.0),
            record(1, Death::Worker, Way::Veths, 300.0),
            record(2, Death::Worker, Way::Veths, 110.0),
            record(0, Death::Guest, Way::ToGuest, 5.0),
        ];
        let table = table(&records).unwrap();
        assert!(table.contains("110 [100-300]") && table.contains("| to that guest"), "{table}");
        assert_eq!(rows(&records).len(), 2);
    }
}
