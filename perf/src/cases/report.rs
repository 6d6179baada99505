//! What playing cases found: a line for each assertion that does not hold, and the sum of all.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// An assertion that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of which case.
    pub case: String,
    /// In which of its steps, and how it was played.
    pub step: String,
    /// Who sends; empty where it is not about a packet.
    pub source: String,
    /// Who is meant.
    pub target: String,
    /// Protocol and port.
    pub port: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub got: String,
    /// What decided so, as the pipeline tells.
    pub rule: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { case, step, source, target, port, expected, got, rule } = self;
        write!(f, "{case} | {step} | ")?;
        if !source.is_empty() {
            write!(f, "{source} > {target} {port} | ")?;
        }
        write!(f, "expected {expected}, got {got} | {rule}")
    }
}

/// The sum of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub cases: usize,
    /// In how many everything holds, however they are played.
    pub passed: usize,
    /// In how many something does not.
    pub failed: usize,
    /// How many were not played.
    pub skipped: usize,
    /// What was looked at.
    pub assertions: usize,
    /// Why cases were not played.
    pub skipped_features: BTreeMap<String, usize>,
}

impl Summary {
    /// The same one case, played once more in another form.
    pub fn join(&mut self, other: Summary) {
        let assertions = self.assertions + other.assertions;
        let failed = self.failed.max(other.failed);
        let cases = self.cases.max(other.cases);
        let skipped = self.skipped.max(other.skipped);
        let passed = cases - failed - skipped;
        *self = Summary { cases, passed, failed, skipped, assertions, ..other };
    }

    /// Both together.
    pub fn add(&mut self, other: Summary) {
        self.cases += other.cases;
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.assertions += other.assertions;
        for (feature, count) in other.skipped_features {
            *self.skipped_features.entry(feature).or_default() += count;
        }
    }
}

impl Fault {
    /// One that is about a step as a whole.
    pub(super) fn of_step(got: String) -> Fault {
        Fault {
            case: String::new(),
            step: String::new(),
            source: String::new(),
            target: String::new(),
            port: String::new(),
            expected: "it can be played".to_owned(),
            got,
            rule: String::new(),
        }
    }
}
