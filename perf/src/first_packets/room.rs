//! Memory of what is installed: what a second State adds to the process that holds a first one.
//!
//! Whatever making a State leaves behind in the allocator is there after the first, and used again
//! by the second, so the difference of resident memory is the State's own.

use std::hint::black_box;

use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::state::{Change, State};

use super::record::TableMemory;
use super::scenario::{self, Scenario};
use crate::process;

/// States that are held at once; the last counts.
const STATES: usize = 3;

/// KiB of the last State of some that hold the same.
fn kib(changes: &[Change]) -> Outcome<u64> {
    let resident = || process::memory(std::process::id()).map(|memory| memory.anonymous_kib);
    let mut states = Vec::new();
    let mut grown = 0;
    for seed in 0..STATES as u64 {
        let before = resident()?;
        let state = State::new(seed).apply(changes);
        states.push(state.map_err(|refusal| Failure::Unmet(refusal.to_string()))?);
        grown = resident()?.saturating_sub(before);
    }
    black_box(&states);
    Ok(grown)
}

/// What policies, addresses and Services take, each beside a node with Pods.
pub fn measure(quick: bool) -> Outcome<Vec<TableMemory>> {
    let size = |full: usize| if quick { 100 } else { full };
    let base = kib(&scenario::pods_alone())?;
    let (policies, services, groups) = (size(40_000), size(10_000), size(15_000) / 1000);
    let groups = groups.max(1);
    let addresses = groups * scenario::ADDRESSES_OF_A_GROUP;
    let cases = [
        ("policy", policies, Scenario::Spread.changes(policies)),
        ("address", addresses, scenario::addresses(groups)),
        ("Service", services, Scenario::Services.changes(services)),
    ];
    let record = |(of, count, changes): (&str, usize, Vec<Change>)| {
        let kib = kib(&changes)?.saturating_sub(base);
        Ok(TableMemory { of: of.to_owned(), count, kib })
    };
    cases.into_iter().map(record).collect()
}
