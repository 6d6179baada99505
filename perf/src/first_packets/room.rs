//! Memory of what is installed: what a second State adds to the process that holds a first one.
//!
//! Whatever making a State leaves behind in the allocator is there after the first, and used again
//! by the second, so the difference of resident memory is the State's own. For the same reason
//! nothing is given back before all is measured.

use std::hint::black_box;

use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::state::{Change, State};

use super::record::TableMemory;
use super::scenario::{self, Scenario};
use crate::process;

/// States that are held at once; the last counts.
const STATES: usize = 3;

/// KiB of the last State of some that hold the same; all of them are kept.
fn kib(changes: &[Change], kept: &mut Vec<State>) -> Outcome<u64> {
    let resident = || process::memory(std::process::id()).map(|memory| memory.anonymous_kib);
    let mut grown = 0;
    for seed in 0..STATES as u64 {
        let before = resident()?;
        let state = State::new(seed).apply(changes);
        kept.push(state.map_err(|refusal| Failure::Unmet(refusal.to_string()))?);
        grown = resident()?.saturating_sub(before);
    }
    Ok(grown)
}

/// What policies, addresses and Services take, each beside a node with Pods.
pub fn measure(quick: bool) -> Outcome<Vec<TableMemory>> {
    let size = |full: usize| if quick { 100 } else { full };
    let mut kept = Vec::new();
    let pods = scenario::pods_alone();
    let base = kib(&pods, &mut kept)?;
    let (policies, services, groups) = (size(40_000), size(10_000), size(15_000) / 1000);
    let groups = groups.max(1);
    let addresses = groups * scenario::ADDRESSES_OF_A_GROUP;
    let cases = [
        ("policy", policies, Scenario::Spread.changes(policies)),
        ("address", addresses, scenario::addresses(groups)),
        ("Service", services, Scenario::Services.changes(services)),
    ];
    let mut records = Vec::new();
    for (of, count, changes) in &cases {
        let kib = kib(changes, &mut kept)?.saturating_sub(base);
        records.push(TableMemory { of: (*of).to_owned(), count: *count, kib });
    }
    black_box((&kept, &pods, &cases));
    Ok(records)
}
