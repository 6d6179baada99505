//! The pipeline against Open vSwitch with the flows that Antrea would give it, packet by packet.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use seine_perf::replay::{Extent, replay};

#[test]
#[ignore = "needs Open vSwitch, which deploy/test installs"]
fn open_vswitch_does_the_same_with_every_packet() {
    let seed = std::env::var("SEINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let extent = Extent { states: 100, packets: 10_000, seed };
    let summary = replay(extent, |told| println!("{told}")).unwrap();
    println!("{}", serde_json::to_string(&summary).unwrap());
    assert_eq!(summary.mismatches, 0, "see above; SEINE_SEED={seed} plays it again");
    assert!(summary.states >= extent.states && summary.packets >= extent.packets);
    // Packets that nothing happens to would agree with anything.
    for (what, count) in [
        ("forwarded", summary.forwarded),
        ("dropped", summary.dropped),
        ("refused", summary.refused),
    ] {
        assert!(count > extent.packets / 20, "only {count} packets were {what}");
    }
}
