//! `seine-cni`: the plugin that a container runtime runs. `seine-cni --help` explains it.
//!
//! Seine's own error codes, beside those of the CNI specification. From the agent: 100 no address
//! is left, 101 the interface is there already, 102 the port's name is taken, 103 its record on
//! disk failed, 104 the kernel refused, 105 the datapath refused, 106 CHECK found a difference.
//! From the plugin: 110 the verb is not served yet (GC), 111 plugin and agent do not understand
//! each other.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use seine_cni::plugin::{self, STDIN_BYTES_MAX};
use seine_cni::{CniError, Code, help};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--help" | "-h") => return print(&help::text(), ExitCode::SUCCESS),
        Some("--version" | "-V") => return print(&help::version(), ExitCode::SUCCESS),
        _ => {}
    }
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!("seine-cni is run by a container runtime, which sets CNI_COMMAND.");
        eprintln!("`seine-cni --help` tells how to run it by hand, `--version` what it serves.");
    }
    let outcome = plugin::run(|name| std::env::var_os(name), read_stdin());
    let status = if outcome.success { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if outcome.stdout.is_empty() {
        return status;
    }
    print(&format!("{}\n", outcome.stdout), status)
}

/// All of stdin. A terminal counts as empty: somebody tries the plugin and would wait for ever.
fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut stdin = io::stdin().lock();
    let mut bytes = Vec::new();
    if stdin.is_terminal() {
        return Ok(bytes);
    }
    // One byte more than allowed tells a full input from one that is too long.
    let read = stdin.by_ref().take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes);
    let failed = |what: String| {
        let details = "the runtime writes the network configuration there";
        Err(CniError::new(Code::Io, format!("cannot read stdin: {what}"), details))
    };
    match read {
        Err(error) => failed(error.to_string()),
        Ok(_) if bytes.len() as u64 > STDIN_BYTES_MAX => {
            failed(format!("it has more than {STDIN_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(bytes),
    }
}

fn print(text: &str, status: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => status,
        Err(error) => {
            eprintln!("seine-cni: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}
