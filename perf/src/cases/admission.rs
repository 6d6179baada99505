//! Admissions: what the controller's webhook would say to a change of an object.

use seine_control::admission::{Operation, Review, review};

use super::expectation::{Admission, AdmissionExpected};
use super::report::Fault;

/// Asks, and holds the answer against what is expected. A refusal must say something; its text is
/// ours, not upstream's.
pub(super) fn look(admission: &Admission, faults: &mut Vec<Fault>) -> usize {
    let operation = match admission.operation.as_str() {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        other => {
            faults.push(Fault::of_step(format!("there is no operation `{other}`")));
            return 1;
        }
    };
    let verdict = review(&Review {
        operation,
        object: admission.object.clone(),
        old_object: admission.old_object.clone(),
        existing: admission.existing.clone().unwrap_or_default(),
        feature_gates: admission.feature_gates.clone().unwrap_or_default(),
        user: admission.user.clone().unwrap_or_default(),
    });
    let holds = match admission.expect {
        AdmissionExpected::Allow => verdict.allowed,
        AdmissionExpected::Deny => !verdict.allowed && !verdict.reason.is_empty(),
    };
    let expects_warnings = admission.warnings.as_ref().is_some_and(|list| !list.is_empty());
    if !holds || expects_warnings && verdict.warnings.is_empty() {
        let because = admission.reason.clone().unwrap_or_default();
        faults.push(Fault {
            expected: format!("{:?} {because}", admission.expect),
            ..Fault::of_step(format!("{verdict:?}"))
        });
    }
    1
}
