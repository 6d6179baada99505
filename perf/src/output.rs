//! Where records go: to the screen as JSON lines or, at the end, as tables; and to a file.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use seine_e2e::failure::{Failure, Outcome};

use crate::machine::Machine;
use crate::record::Record;
use crate::report;

/// Takes the records of one run.
#[derive(Debug)]
pub struct Output {
    records: Vec<Record>,
    json: bool,
    save: Option<(PathBuf, File)>,
    begin: Instant,
    steps: (usize, usize),
}

impl Output {
    /// Begins a run: notes the machine. With `json`, records are printed as they come.
    pub fn begin(json: bool, save: Option<&Path>) -> Outcome<Output> {
        let save = match save {
            Some(path) => {
                let file = File::create(path).map_err(Failure::io("create", path))?;
                Some((path.to_owned(), file))
            }
            None => None,
        };
        let (records, begin) = (Vec::new(), Instant::now());
        let mut output = Output { records, json, save, begin, steps: (0, 0) };
        let machine = Machine::here();
        if machine.build == "debug" {
            output.progress("this is a debug build: its figures say nothing about Seine");
        }
        output.add(Record::Machine(machine))?;
        Ok(output)
    }

    /// Takes one record.
    pub fn add(&mut self, record: Record) -> Outcome {
        let line = serde_json::to_string(&record).map_err(std::io::Error::from);
        let line = line.map_err(Failure::io("write", Path::new("a record")))?;
        if self.json {
            println!("{line}");
        }
        if let Some((path, file)) = &mut self.save {
            writeln!(file, "{line}").map_err(Failure::io("write", path))?;
        }
        self.records.push(record);
        Ok(())
    }

    /// How many steps are to come, for [`Output::step`].
    pub fn expect_steps(&mut self, steps: usize) {
        self.steps = (0, steps);
    }

    /// Says which step begins, how many there are, and how long the rest will take.
    pub fn step(&mut self, what: &str) {
        let (done, all) = self.steps;
        self.steps.0 += 1;
        let elapsed = self.begin.elapsed().as_secs();
        let text = format!("[{}/{all}] {elapsed:>4} s  {what}", done + 1);
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{text}");
            if done + 1 == all {
                eprintln!();
            }
        } else {
            eprintln!("{text}");
        }
    }

    /// Says what is under way: on the standard error stream, so that JSON stays clean.
    pub fn progress(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Keeps a text beside the file of records, if there is one: `NAME.SUFFIX` for `NAME.jsonl`.
    pub fn keep_beside(&self, suffix: &str, text: &str) -> Outcome {
        let Some((path, _)) = &self.save else { return Ok(()) };
        let path = path.with_extension(suffix);
        std::fs::write(&path, text).map_err(Failure::io("write", &path))
    }

    /// Ends a run: the tables, unless JSON was asked for.
    pub fn end(self) {
        if !self.json {
            println!("\n{}", report::tables(&self.records));
        }
    }
}
