//! Holds the instructions that a packet takes against what was accepted before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use seine_e2e::failure::{Failure, Outcome};

use crate::forward::instructions::{COUNTED, PACKETS, play, workloads};

/// More than was accepted by this share fails.
const MORE_MAX: f64 = 0.05;

/// Which copy routines libc takes goes by the processor, even under Valgrind: those that every
/// x86-64 processor has are the same everywhere.
const PLAIN_LIBC: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-ERMS,-FSRM,-SSE4_2,-SSSE3,-BMI1,\
     -BMI2,-Fast_Unaligned_Copy,-AVX_Fast_Unaligned_Load",
);

/// What to count.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What was accepted: instructions a packet, by workload.
    #[arg(long, default_value = "perf/instructions.json")]
    pub baseline: PathBuf,
    /// Accept what is counted now.
    #[arg(long)]
    pub accept: bool,
}

/// Instructions a packet, by workload.
type Counts = BTreeMap<String, f64>;

/// Counts; false if a workload takes too many more than was accepted.
pub fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    anyhow::ensure!(
        !cfg!(debug_assertions),
        "a debug build's instructions say nothing: cargo build --release -p seine-perf"
    );
    let path = &arguments.baseline;
    let accepted: Counts = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) if arguments.accept => Counts::new(),
        Err(error) => {
            let error = Failure::io("read", path)(error);
            anyhow::bail!("{error}; what is accepted there is written by `--accept`");
        }
    };
    let mut counts = Counts::new();
    for (name, _) in workloads() {
        counts.insert(name.to_owned(), count(name)?);
    }
    println!("{:<12} {:>10} {:>10} {:>8}", "a packet", "accepted", "now", "more");
    for (name, now) in &counts {
        let before = accepted.get(name).copied();
        let shown = before.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
        let more =
            before.map_or_else(String::new, |it| format!("{:+.1} %", 100.0 * (now / it - 1.0)));
        println!("{name:<12} {shown:>10} {now:>10.1} {more:>8}");
    }
    if arguments.accept {
        let text = serde_json::to_string_pretty(&counts)? + "\n";
        std::fs::write(path, text).map_err(Failure::io("write", path))?;
        println!("accepted into {}; commit it with what it comes from", path.display());
        return Ok(true);
    }
    let worse = worse(&accepted, &counts);
    for name in &worse {
        println!("{}", complaint(name, accepted.get(name).copied(), counts[name], path));
    }
    Ok(worse.is_empty())
}

/// Workloads that take too many more than was accepted, or that nobody accepted.
fn worse(accepted: &Counts, now: &Counts) -> Vec<String> {
    let fits =
        |name: &String, now: f64| accepted.get(name).is_some_and(|before| !is_more(*before, now));
    now.iter().filter(|(name, now)| !fits(name, **now)).map(|(name, _)| name.clone()).collect()
}

/// What is wrong, and what to do.
fn complaint(name: &str, before: Option<f64>, now: f64, path: &Path) -> String {
    let path = path.display();
    let found = match before {
        Some(before) => format!(
            "a packet of `{name}` takes {now:.1} instructions, {:+.1} % beside the {before:.1} of \
             {path}; at most {:+.0} % passes",
            100.0 * (now / before - 1.0),
            100.0 * MORE_MAX,
        ),
        None => format!("a packet of `{name}` takes {now:.1} instructions; {path} has no figure"),
    };
    format!(
        "{found}. If that is meant: target/release/seine-perf instructions --accept, and commit \
         {path} with the reason"
    )
}

fn is_more(before: f64, now: f64) -> bool {
    now > before * (1.0 + MORE_MAX)
}

/// Plays one workload in this process.
pub fn run_one(name: &str) -> anyhow::Result<()> {
    let found = workloads().into_iter().find(|(known, _)| *known == name);
    let (_, profile) = found.ok_or_else(|| anyhow::anyhow!("no workload `{name}`"))?;
    Ok(play(&profile)?)
}

/// Instructions a packet of one workload.
fn count(name: &str) -> Outcome<f64> {
    let program = std::env::current_exe().map_err(Failure::io("find", Path::new("seine-perf")))?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{COUNTED}*"))
        .arg(&program)
        .args(["instructions-one", name])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env(PLAIN_LIBC.0, PLAIN_LIBC.1);
    let shown = format!("{command:?}");
    let ran = command
        .output()
        .map_err(|source| Failure::Start { command: "valgrind".to_owned(), source })?;
    let text = String::from_utf8_lossy(&ran.stderr).into_owned();
    let collected = collected(&text).filter(|count| *count > 0);
    match collected {
        Some(count) if ran.status.success() => Ok(count as f64 / PACKETS as f64),
        _ => Err(Failure::Command { command: shown, status: ran.status, output: text }),
    }
}

/// The figure of the line `==123== Collected : 456`.
fn collected(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once("Collected :"));
    lines.next()?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_more_passes_and_anything_above_does_not() {
        let counts = |figure| Counts::from([("new".to_owned(), figure)]);
        assert!(worse(&counts(1000.0), &counts(1050.0)).is_empty());
        assert_eq!(worse(&counts(1000.0), &counts(1051.0)), ["new"]);
        assert_eq!(worse(&Counts::new(), &counts(1.0)), ["new"], "never accepted");
    }

    #[test]
    fn a_complaint_names_the_row_both_figures_and_what_to_do() {
        let path = Path::new("perf/instructions.json");
        let text = complaint("geneve-out", Some(1000.0), 1080.0, path);
        for part in ["`geneve-out`", "1080.0", "+8.0 %", "1000.0", "--accept"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(complaint("new", None, 1.0, path).contains("no figure"));
    }

    #[test]
    fn the_count_is_read() {
        let text = "==7== Events    : Ir\n==7== Collected : 4031\n==7== \n";
        assert_eq!(collected(text), Some(4031));
        assert_eq!(collected("==7== Collected : none"), None);
    }
}
