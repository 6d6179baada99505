//! `seine-perf first-packets` runs, and what it writes can be read and reported.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::process::Command;

use seine_perf::record::{self, Record};
use seine_perf::report;

#[test]
fn a_quick_run_measures_every_scenario_and_every_change() {
    let folder = std::env::temp_dir().join(format!("seine-perf-quick-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let saved = folder.join("first-packets.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_seine-perf"));
    let output = command.arg("--save").arg(&saved).args(["first-packets", "--quick"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let records = record::read(&[&saved]).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (mut costs, mut steps, mut joins, mut memories) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    for record in &records {
        match record {
            Record::FirstPacketCost(cost) => {
                assert!(!cost.cycles.is_empty() && cost.ns_per_cycle > 0.0);
                assert!(costs.insert((&cost.scenario, cost.size, &cost.caches)));
            }
            Record::Install(install) => {
                assert!(install.objects > install.policies, "a rule for each policy, and groups");
                steps.insert(&install.step);
            }
            Record::Join(join) => {
                assert_eq!(join.acknowledged_us.len(), join.round_trip_us.len());
                assert!(!join.round_trip_us.is_empty() && join.packets_per_s > 0.0, "no load");
                joins += 1;
            }
            Record::TableMemory(_) => memories += 1,
            _ => {}
        }
    }
    assert_eq!((costs.len(), steps.len(), joins, memories), (5 * 2 * 4, 4, 4, 3));
    let text = report::tables(&records);
    assert!(text.contains("policies, 40 a Pod") && text.contains("goal 2000 ns"), "{text}");
}
