//! What each part of a packet's way costs.

use super::grid::Grid;
use super::{figure, spread};
use crate::record::{Part, Record};
use crate::statistics::Summary;

/// A row for each part, those of one kind of packet together.
pub fn table(records: &[Record]) -> Option<String> {
    let mut parts: Vec<(&Part, Vec<f64>)> = Vec::new();
    for record in records {
        let Record::Part(part) = record else { continue };
        let same = |it: &&mut (&Part, Vec<f64>)| it.0.of == part.of && it.0.what == part.what;
        match parts.iter_mut().find(same) {
            Some((_, cycles)) => cycles.push(part.cycles),
            None => parts.push((part, vec![part.cycles])),
        }
    }
    if parts.is_empty() {
        return None;
    }
    let mut grid = Grid::new(&["packets", "part", "cycles", "share %"], 2);
    for (part, cycles) in parts {
        let cycles = spread(Summary::of(&cycles));
        grid.row(vec![part.of.clone(), part.what.clone(), cycles, figure(part.share_pct)]);
    }
    let caption = "What each part costs a packet that meets it: cycles of the time stamp counter, \
                   over batches of 64 whose packets lie in the nearest cache.";
    Some(grid.text(caption))
}
