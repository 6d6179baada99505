//! `seine-datapath`: a small parent that starts the worker process again when it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use seine_datapath::check::{self, Lock};
use seine_datapath::configuration::{Configuration, DEFAULT_TOML, LogFormat, LogLevel};
use seine_datapath::process::{self, ProcessError};
use seine_datapath::service::with_sources;
use seine_datapath::supervisor::{EXIT_REFUSED, supervise};
use seine_datapath::{crash, descriptors};
use tracing::level_filters::LevelFilter;

/// Moves packets between the Pods of a node, its uplink and its gateway.
///
/// It knows nothing of Kubernetes: seine-agent tells it what is where, over the socket
/// `datapath.sock` in its run_dir. Until then, and for a Pod that the agent has not announced, it
/// drops everything.
///
/// To start: write a configuration (`--print-default-config` documents every key; only
/// `uplink.interface` must be set), try it with `--check`, then run it as root. To look inside use
/// `seinectl port list`, `seinectl drop list` and `seinectl trace`.
///
/// SIGHUP makes it read the configuration again: what [workers] says takes force at once, with
/// connections kept; all else that has changed is named in the log.
///
/// When the worker process crashes it is started again, five times a minute at most, and a report
/// with the packet it worked on is in `crash/` of the run_dir. When it is stopped, Pods stay cut
/// off from each other; `--remove` takes everything off the node.
///
/// Exit codes: 0 stopped by SIGTERM or SIGINT; 70 the worker process ended too often; 78 the
/// configuration or the machine does not fit, with one line for each thing that is missing.
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/seine/datapath.toml")]
    config: PathBuf,

    /// Says what is missing for this configuration on this machine, changes nothing and ends.
    #[arg(long, conflicts_with_all = ["remove", "print_default_config"])]
    check: bool,

    /// Takes pinned programs, gateway and ports namespace of this configuration off the node and
    /// ends. Works after a crash, and twice; refused while the datapath runs.
    #[arg(long, conflicts_with = "print_default_config")]
    remove: bool,

    /// Prints a configuration with every key, its default and the reason for it, and ends.
    #[arg(long)]
    print_default_config: bool,

    /// Runs as the worker process of the parent with this id.
    #[arg(long, hide = true, value_name = "PARENT")]
    worker_process: Option<i32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_default_config {
        print!("{DEFAULT_TOML}");
        return ExitCode::SUCCESS;
    }
    let configuration = match Configuration::read(&arguments.config) {
        Ok(configuration) => configuration,
        Err(error) => return refuse([error.to_string()]),
    };
    if let Some(parent) = arguments.worker_process {
        return worker_process(&configuration, &arguments.config, Pid::from_raw(parent));
    }
    if arguments.remove {
        return match process::remove(&configuration) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse([with_sources(&error)]),
        };
    }
    let findings = check::machine(&configuration);
    if !findings.is_empty() {
        return refuse(findings.iter().map(ToString::to_string));
    }
    if arguments.check {
        println!("this machine can run `{}`", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match parent(&arguments, &configuration) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("seine-datapath: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(lines: impl IntoIterator<Item = String>) -> ExitCode {
    for line in lines {
        eprintln!("seine-datapath: {line}");
    }
    ExitCode::from(EXIT_REFUSED)
}

/// Holds the lock on the run_dir and keeps a worker process running.
fn parent(arguments: &Arguments, configuration: &Configuration) -> anyhow::Result<u8> {
    start_log(configuration);
    process::prepare_run_dir(&configuration.run_dir)?;
    let Some(_lock) = check::lock(&configuration.run_dir, Lock::Parent, true)? else {
        return Err(ProcessError::Running(configuration.run_dir.clone()).into());
    };
    let own = std::env::current_exe().context("finding the own program")?;
    let id = nix::unistd::getpid().to_string();
    let config = arguments.config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ending = runtime.block_on(supervise(move || {
        let mut command = tokio::process::Command::new(&own);
        command.arg("--config").arg(&config).args(["--worker-process", &id]);
        command
    }))?;
    Ok(ending.exit_code())
}

fn worker_process(configuration: &Configuration, path: &Path, parent: Pid) -> ExitCode {
    // The kernel ends this process with its parent, however that ends.
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return refuse([format!("cannot tie the worker process to its parent: {error}")]);
    }
    if getppid() != parent {
        // It ended before the line above.
        return ExitCode::FAILURE;
    }
    start_log(configuration);
    crash::install_hook();
    if let Err(error) = descriptors::allow_all() {
        tracing::warn!(%error, "cannot raise the limit of descriptors: few ports can be open");
    }
    match serve(configuration, path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_sources(&error));
            // What does not start will not start in a second either, unless somebody mends it.
            match error {
                ProcessError::Serve { .. } | ProcessError::NextHopsEnded => ExitCode::FAILURE,
                _ => ExitCode::from(EXIT_REFUSED),
            }
        }
    }
}

fn serve(configuration: &Configuration, path: &Path) -> Result<(), ProcessError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ProcessError::System { what: "a runtime", source })?
        .block_on(process::serve(configuration, path))
}

fn start_log(configuration: &Configuration) {
    let level = match configuration.log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    match configuration.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
