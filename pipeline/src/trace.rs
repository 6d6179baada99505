//! What each table decided about one packet, and why.

use std::fmt;

use crate::stage::TableId;
use crate::verdict::Verdict;

/// One table's part in a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The table.
    pub table: TableId,
    /// What matched, in the words of an operator; empty when nothing did.
    pub matched: String,
    /// What follows.
    pub verdict: Verdict,
}

/// The way of one packet through the tables. Only a traced packet allocates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// The tables it met, in order.
    pub steps: Vec<Step>,
    note: String,
}

impl Trace {
    /// Says what the table that is running has matched.
    pub fn note(&mut self, matched: fmt::Arguments<'_>) {
        self.note = matched.to_string();
    }

    /// Closes the running table's step.
    pub fn close(&mut self, table: TableId, verdict: Verdict) {
        let matched = std::mem::take(&mut self.note);
        self.steps.push(Step { table, matched, verdict });
    }
}
