//! Any transactions, one after the other: refused or made, never a panic; the order within one does
//! not matter; and a State that grew is the State that its objects make at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seine_pipeline::testbed::assert_consistent;

fuzz_target!(|input: &[u8]| {
    assert_consistent(input);
});
