//! Other people's cases, played from their files through compile step and pipeline.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use seine_perf::cases::file::CaseFile;
use seine_perf::cases::report::Summary;
use seine_perf::command::cases::{Family, play_all};

/// Plays a file in these families; whatever does not hold fails the test.
fn played(name: &str, families: &[Family]) -> Summary {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(name);
    let file = CaseFile::read(&path).unwrap();
    let (summary, mut faults) = play_all(&[file], families).unwrap();
    faults.truncate(20);
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    summary
}

#[test]
fn admission_lets_in_and_refuses_what_antreas_webhook_does() {
    let summary = played("antrea/admission.json", &[Family::Ipv4]);
    assert_eq!((summary.cases, summary.passed, summary.skipped), (63, 63, 0));
}

const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

#[test]
fn packets_meet_the_policies_of_kubernetes_as_cyclonus_has_them() {
    let summary = played("cyclonus/cases.json", &BOTH);
    assert_eq!((summary.cases, summary.passed, summary.skipped), (161, 161, 0));
}

#[test]
fn packets_meet_admin_policies_as_network_policy_api_has_them() {
    let summary = played("anp/cases.json", &BOTH);
    assert_eq!((summary.cases, summary.passed, summary.skipped), (33, 33, 0));
}

#[test]
fn packets_meet_antreas_policies_as_antrea_has_them() {
    let summary = played("antrea/cases.json", &BOTH);
    assert_eq!((summary.cases, summary.passed, summary.skipped), (60, 58, 2));
    assert_eq!(summary.skipped_features.get("multicast"), Some(&2), "nothing else may be skipped");
}
