//! Any conversation on a node whose objects change meanwhile, with leaps of the clock and by one
//! worker or two: what was composed decides as the stages do, packets, connections and counts.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "tests use more of it")]
#[path = "../../tests/policy/mod.rs"]
mod policy;
#[path = "../../tests/service/mod.rs"]
mod service;
#[path = "../../tests/talk/mod.rs"]
mod talk;

fuzz_target!(|input: &[u8]| {
    talk::assert_composed(input);
});
