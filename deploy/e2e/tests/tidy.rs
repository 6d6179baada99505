//! Style as a test: what `cargo tidy` runs.
//!
//! Each rule has its reason; each exception is named here with its reason, and an exception that
//! is no longer needed fails too.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree must stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use seine_pipeline::STAGES;
use seine_pipeline::verdict::DropReason;

const WIDTH_MAX: usize = 100;
const LINES_MAX: usize = 400;

/// Longer files, each with the reason why it is one thing.
const LONG_FILES: &[(&str, &str)] =
    &[("control/src/netlink.rs", "one request a function, and the messages they are made of")];

/// Files with wider lines, each with the reason.
const WIDE_FILES: &[(&str, &str)] = &[
    ("control/tests/seinectl/main.rs", "tables as they are printed"),
    ("control/src/ctl/arguments/trace.rs", "help as it is printed"),
];

/// The only places where `unsafe` may stand.
const UNSAFE_ROOMS: &[(&str, &str)] = &[
    ("datapath/src/frame.rs", "hands out the frames of the mapping"),
    ("datapath/src/port/", "rings and descriptors shared with the kernel"),
    ("pipeline/tests/allocation.rs", "an allocator that counts"),
    ("datapath/tests/allocation.rs", "an allocator that counts"),
    ("datapath/src/machine.rs", "the cycle counter"),
    ("datapath/src/processor.rs", "hints to the processor, and its widest comparison"),
    ("datapath/src/memory.rs", "hands out the words of a mapping"),
    ("datapath/tests/port_contract/", "drives the ports as their worker would"),
    ("perf/src/bin/seine-echo.rs", "shares rings and frames with the kernel; an example"),
    ("perf/src/virtio/memory.rs", "shares memory with a back end; is not in what ships"),
];

/// Rooms without a subject.
const NAMELESS: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "misc", "base"];

/// Which of our crates each may depend on.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("pipeline", &[]),
    ("datapath/api", &[]),
    ("datapath", &["seine-pipeline", "seine-datapath-api"]),
    ("cni", &[]),
    ("control", &["seine-datapath-api", "seine-cni"]),
    (
        "perf",
        &[
            "seine-pipeline",
            "seine-datapath",
            "seine-datapath-api",
            "seine-control",
            "seine-cni",
            "seine-e2e",
        ],
    ),
    ("deploy/e2e", &["seine-datapath-api", "seine-cni"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Every text file of ours by its path from the root: code, scripts, documents.
fn sources() -> BTreeMap<String, String> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let kinds = ["rs", "md", "toml", "proto", "yaml", ""];
    paths
        .into_iter()
        .filter(|path| kinds.contains(&path.extension().unwrap_or_default().to_str().unwrap()))
        .filter_map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            Some((name, fs::read_to_string(&path).ok()?))
        })
        .collect()
}

fn rust() -> BTreeMap<String, String> {
    sources().into_iter().filter(|(name, _)| name.ends_with(".rs")).collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn no_line_of_rust_is_wider_than_the_limit() {
    let mut faults = Vec::new();
    let narrow = |(name, _): &(String, String)| WIDE_FILES.iter().all(|(wide, _)| name != wide);
    for (name, text) in rust().into_iter().filter(narrow) {
        for (number, line) in text.lines().enumerate() {
            // A literal is not broken: what is searched for is found in one piece.
            if line.chars().count() > WIDTH_MAX && !line.contains('"') {
                faults.push(format!("{name}:{}: {} columns", number + 1, line.chars().count()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn no_file_is_longer_than_the_limit_unless_it_says_why() {
    let files = rust();
    let long: BTreeSet<&str> = files
        .iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(name, _)| name.as_str())
        .collect();
    let allowed: BTreeSet<&str> = LONG_FILES.iter().map(|(name, _)| *name).collect();
    assert_eq!(long, allowed, "left: too long; right: excepted");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let faults = rust()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!["))
        .map(|(name, _)| name)
        .collect();
    assert_none(faults);
}

#[test]
fn every_file_is_named_for_its_subject() {
    let faults = rust()
        .into_keys()
        .filter(|name| {
            let path = Path::new(name);
            path.with_extension("")
                .components()
                .any(|part| NAMELESS.contains(&part.as_os_str().to_str().unwrap()))
        })
        .collect();
    assert_none(faults);
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let mut faults = Vec::new();
    for (name, text) in rust() {
        let allowed = UNSAFE_ROOMS.iter().any(|(room, _)| name.starts_with(room));
        let lifts = text.contains(concat!("allow(", "unsafe_code"));
        if lifts && !allowed {
            faults.push(name);
        }
    }
    assert_none(faults);
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    let root = root();
    for (folder, allowed) in DIRECTIONS {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        for line in dependencies.lines() {
            let Some(name) = line.split(['.', ' ', '=']).next() else { continue };
            if name.starts_with("seine-") {
                assert!(allowed.contains(&name), "{folder} must not depend on {name}");
            }
        }
    }
    let members = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for line in members.lines().filter(|line| line.starts_with("members")) {
        assert_eq!(line.matches('"').count() / 2, DIRECTIONS.len(), "a crate without a direction");
    }
}

#[test]
fn nothing_is_left_for_later_without_a_name() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut faults = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                faults.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn every_table_and_every_drop_reason_has_its_place_in_the_pipeline_document() {
    let document = fs::read_to_string(root().join("docs/PIPELINE.md")).unwrap();
    let mut place = 0;
    for stage in STAGES {
        for table in stage.tables {
            let heading = format!("\n### {}\n", table.id().name());
            let found = document[place..].find(&heading);
            assert!(found.is_some(), "no page in order for table {}", table.id().name());
            place += found.unwrap();
        }
    }
    for reason in DropReason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.meaning());
        assert!(document.contains(&row), "docs/PIPELINE.md lacks the row\n{row}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = root();
    let mut faults = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.ends_with(".md")) {
        let folder = root.join(&name).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                faults.push(format!("{name}: {target}"));
            }
        }
    }
    assert_none(faults);
}
