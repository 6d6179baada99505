//! docs/PERFORMANCE.md says what was measured, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use seine_perf::{record, report};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn records() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(docs().join("performance")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "jsonl"));
    paths.sort();
    assert!(!paths.is_empty(), "no records in docs/performance");
    paths
}

#[test]
fn every_figure_in_the_document_comes_from_a_record() {
    let document = std::fs::read_to_string(docs().join("PERFORMANCE.md")).unwrap();
    let updated = report::document::updated(&document, &records()).unwrap();
    assert!(
        document == updated,
        "run `seine-perf report docs/performance/*.jsonl --plots docs/performance \
         --document docs/PERFORMANCE.md`"
    );
    let blocks = document.matches("<!-- figures: ").count();
    assert_eq!(blocks, records().len(), "a block without records");
}

#[test]
fn every_plot_is_drawn_from_the_records() {
    let folder = std::env::temp_dir().join(format!("seine-perf-plots-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let plots = report::write_plots(&record::read(&records()).unwrap(), &folder).unwrap();
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    for plot in &plots {
        let name = plot.file_name().unwrap();
        let committed = read(docs().join("performance").join(name));
        assert!(committed == read(plot.clone()), "{name:?} is not drawn from the records");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!plots.is_empty());
}

#[test]
fn every_run_was_a_release_build_at_a_known_commit() {
    for path in records() {
        let records = record::read(&[&path]).unwrap();
        let Some(record::Record::Machine(machine)) = records.first() else {
            panic!("{} does not begin with its machine", path.display());
        };
        assert_eq!(machine.build, "release", "{}", path.display());
        assert!(!machine.commit.ends_with('+'), "{}: files were changed", path.display());
    }
}
