//! The tables as an operator sees them.

use super::State;
use crate::STAGES;
use crate::adjacency::AdjacencyTable;

/// A table and how much it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// The stage it belongs to.
    pub stage: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: usize,
}

/// The entries of a table, as text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableView {
    /// The stage it belongs to.
    pub stage: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Names of the columns.
    pub columns: &'static [&'static str],
    /// One cell for each column.
    pub rows: Vec<Vec<String>>,
}

impl State {
    /// The tables in order, with the entries each holds.
    pub fn tables(&self) -> Vec<TableSummary> {
        let tables =
            STAGES.iter().flat_map(|stage| stage.tables.iter().map(move |table| (stage, table)));
        let summary = tables.map(|(stage, table)| TableSummary {
            stage: stage.name,
            name: table.id().name(),
            entries: table.entries(self),
        });
        summary.collect()
    }

    /// The entries of the table of that name, as text.
    pub fn show(&self, table: &str, adjacencies: &AdjacencyTable) -> Option<TableView> {
        STAGES.iter().find_map(|stage| {
            let table = stage.tables.iter().find(|candidate| candidate.id().name() == table)?;
            let mut rows = table.rows(self, adjacencies);
            rows.sort();
            Some(TableView {
                stage: stage.name,
                name: table.id().name(),
                columns: table.columns(),
                rows,
            })
        })
    }
}
