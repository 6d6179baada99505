//! The plugin against the CNI checklist (`../checklist.json`): the real binary, a fake agent.
//!
//! Every item of the list is either in `COVERED`, with the test that decides it, or in
//! `ELSEWHERE`, with the reason why it cannot be decided without a network.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod calls;
mod failures;
mod fake_agent;
mod runtime;
mod verbs;

use std::collections::BTreeSet;

use serde_json::Value;

macro_rules! covered {
    ($($id:literal => $module:ident::$test:ident,)+) => {
        /// Item, its test, and the source where the test must stand below `#[test]`.
        const COVERED: &[(&str, &str, &str)] = &[$((
            $id,
            stringify!($test),
            include_str!(concat!(stringify!($module), ".rs")),
        ),)+];
    };
}

covered! {
    "ALL-01" => failures::a_failure_is_one_json_object_on_stdout_and_a_status,
    "ALL-02" => failures::a_failure_is_one_json_object_on_stdout_and_a_status,
    "ALL-03" => failures::an_unknown_verb_is_named,
    "ALL-04" => failures::missing_variables_are_all_named,
    "ALL-05" => failures::a_container_id_that_could_be_a_path_is_refused,
    "ALL-06" => failures::an_interface_name_that_the_kernel_would_refuse_is_refused,
    "ALL-07" => failures::stdin_that_is_no_json_object_is_refused,
    "ALL-08" => failures::a_network_name_that_could_be_a_path_is_refused,
    "ALL-09" => failures::a_version_of_cni_that_is_not_served_is_refused,
    "ALL-10" => failures::what_is_not_served_yet_is_refused_by_key_and_value,
    "ALL-11" => failures::a_value_that_cannot_be_is_refused,
    "ALL-12" => failures::codes_are_those_of_the_specification_or_ours,
    "ALL-13" => failures::without_its_agent_the_plugin_asks_to_be_tried_again,
    "ALL-15" => verbs::keys_of_other_plugins_are_left_alone,
    "ADD-01" => verbs::add_needs_no_arguments_and_no_path,
    "ADD-04" => verbs::the_result_speaks_the_version_of_the_input,
    "ADD-08" => verbs::dns_of_the_configuration_is_passed_through,
    "ADD-12" => failures::a_namespace_that_is_missing_or_none_is_refused,
    "ADD-13" => failures::the_plugins_own_namespace_is_refused,
    "DEL-04" => verbs::del_of_a_namespace_that_is_gone_reaches_the_agent_without_it,
    "DEL-05" => verbs::del_needs_no_previous_result_and_says_nothing,
    "DEL-07" => verbs::del_needs_no_previous_result_and_says_nothing,
    "CHECK-01" => verbs::check_is_refused_before_0_4_0,
    "CHECK-02" => verbs::check_needs_the_result_of_add,
    "CHECK-03" => verbs::check_takes_the_result_of_add_and_says_nothing,
    "CHECK-10" => verbs::check_takes_the_result_of_add_and_says_nothing,
    "STATUS-01" => verbs::status_is_refused_before_1_1_0,
    "STATUS-02" => verbs::status_needs_nothing_but_the_verb,
    "STATUS-03" => failures::without_its_agent_the_plugin_asks_to_be_tried_again,
    "STATUS-06" => verbs::add_and_del_ask_one_question_each,
    "GC-01" => verbs::gc_is_refused_before_1_1_0,
    "GC-02" => verbs::gc_needs_the_path,
    "GC-06" => verbs::gc_without_its_list_removes_nothing,
    "VERSION-01" => verbs::version_echoes_its_input_without_an_agent,
    "VERSION-02" => verbs::version_echoes_its_input_without_an_agent,
    "VERSION-03" => verbs::version_echoes_its_input_without_an_agent,
    "VERSION-04" => verbs::version_does_not_wait_for_input,
}

const CLUSTER: &str = "cluster test: the agent decides it on a real namespace";
const NOT_YET_GC: &str = "not yet: GC (refused, see gc_is_refused_and_says_so)";
const NOT_YET_CHAIN: &str = "not yet: chaining (refused, see ALL-10)";
const NOT_YET_IPAM: &str = "not yet: delegated IPAM (refused, see ALL-10)";

const ELSEWHERE: &[(&str, &str)] = &[
    ("ALL-14", CLUSTER),
    ("ADD-02", CLUSTER),
    ("ADD-03", CLUSTER),
    ("ADD-05", CLUSTER),
    ("ADD-06", CLUSTER),
    ("ADD-07", CLUSTER),
    ("ADD-09", NOT_YET_CHAIN),
    ("ADD-10", NOT_YET_IPAM),
    ("ADD-11", CLUSTER),
    ("DEL-01", CLUSTER),
    ("DEL-02", CLUSTER),
    ("DEL-03", CLUSTER),
    ("DEL-06", NOT_YET_IPAM),
    ("DEL-08", CLUSTER),
    ("CHECK-04", CLUSTER),
    ("CHECK-05", CLUSTER),
    ("CHECK-06", CLUSTER),
    ("CHECK-07", CLUSTER),
    ("CHECK-08", CLUSTER),
    ("CHECK-09", NOT_YET_IPAM),
    ("STATUS-04", CLUSTER),
    ("STATUS-05", NOT_YET_IPAM),
    ("GC-03", NOT_YET_GC),
    ("GC-04", NOT_YET_GC),
    ("GC-05", NOT_YET_GC),
    ("GC-07", NOT_YET_GC),
    ("GC-08", NOT_YET_GC),
    ("GC-09", NOT_YET_GC),
    ("GC-10", NOT_YET_GC),
];

#[test]
fn every_item_of_the_checklist_has_a_test_or_a_reason() {
    let list: Value = serde_json::from_str(include_str!("../checklist.json")).unwrap();
    let items = list["items"].as_array().unwrap();
    let wanted: BTreeSet<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    let covered: BTreeSet<&str> = COVERED.iter().map(|(id, ..)| *id).collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(id, _)| *id).collect();
    assert_eq!(wanted.len(), items.len(), "an identifier is there twice");
    assert_eq!(covered.len() + elsewhere.len(), COVERED.len() + ELSEWHERE.len(), "listed twice");
    assert_eq!(covered.intersection(&elsewhere).count(), 0, "an item is in both tables");
    let decided: BTreeSet<&str> = covered.union(&elsewhere).copied().collect();
    assert_eq!(decided, wanted);
}

#[test]
fn every_test_that_covers_an_item_is_run() {
    for (id, test, source) in COVERED {
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "{id}: {test} is no #[test]");
    }
}
