//! `seine-perf cases`: plays conformance cases through compile step and pipeline.

use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use crate::cases::file::CaseFile;
use crate::cases::play::play;
use crate::cases::report::{Fault, Summary};

/// What to play.
#[derive(clap::Args)]
pub struct Arguments {
    /// Files of format `conf-case/1`: see perf/cases/README.md.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only with every address mapped to IPv6, or only as written; both without this.
    #[arg(long, value_enum)]
    family: Option<Family>,
    /// Only cases whose id contains this.
    #[arg(long)]
    only: Option<String>,
}

/// Which addresses a case is played with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// Those that are written.
    Ipv4,
    /// All mapped to IPv6.
    Ipv6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        }
    }
}

/// Plays, prints what does not hold, and last the sum. True if everything holds.
pub fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let families = match arguments.family {
        Some(family) => vec![family],
        None => vec![Family::Ipv4, Family::Ipv6],
    };
    let mut files = Vec::new();
    for path in &arguments.files {
        let mut file = CaseFile::read(path)?;
        if let Some(only) = &arguments.only {
            file.cases.retain(|case| case.id.contains(only));
        }
        files.push(file);
    }
    let (summary, faults) = play_all(&files, &families)?;
    for fault in &faults {
        println!("{fault}");
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(summary.failed == 0)
}

/// Plays files in every family, one case a task, on every core. A case has passed if it has in
/// every family.
pub fn play_all(files: &[CaseFile], families: &[Family]) -> anyhow::Result<(Summary, Vec<Fault>)> {
    let mut tasks = Vec::new();
    for file in files {
        let settled = file.clone().settle()?;
        let mut forms = Vec::new();
        for family in families {
            forms.push((
                family.name(),
                match family {
                    Family::Ipv4 => settled.clone(),
                    Family::Ipv6 => settled.clone().in_ipv6(),
                },
            ));
        }
        for position in 0..file.cases.len() {
            let one = |(name, file): &(&'static str, CaseFile)| (*name, file.with_one(position));
            tasks.push(forms.iter().map(one).collect::<Vec<_>>());
        }
    }
    let next = Mutex::new(tasks.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let task = next.lock().ok().and_then(|mut next| next.next());
            let Some((position, forms)) = task else { break };
            let mut faults = Vec::new();
            let mut summary = Summary::default();
            for (family, file) in forms {
                summary.join(play(file, family, &mut faults));
            }
            if let Ok(mut done) = done.lock() {
                done.push((position, summary, faults));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    anyhow::ensure!(done.len() == tasks.len(), "a case broke its player off");
    done.sort_by_key(|(position, ..)| *position);
    let mut total = Summary::default();
    let mut all = Vec::new();
    for (_, summary, faults) in done {
        total.add(summary);
        all.extend(faults);
    }
    Ok((total, all))
}
