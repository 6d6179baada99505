//! `seine-agent`: the part of Seine that knows Kubernetes, on each node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use seine_control::configuration::{Configuration, DEFAULT_TOML};
use seine_control::namespace::Namespace;
use seine_control::{agent, host_network, preflight};
use tokio::signal::unix::{SignalKind, signal};

/// Attaches Pods to Seine and keeps this node's network as the cluster wants it.
///
/// It reads Nodes, Namespaces and Pods from a folder of Kubernetes manifests, gives Pods addresses
/// from this node's podCIDRs, answers the CNI plugin (seine-cni), steers seine-datapath, and keeps
/// seine-gw0, the routes to other nodes and masquerading in line.
///
/// It runs in the node's network namespace, as root. Start seine-datapath first or later: the agent
/// connects whenever it is there. Stopping the agent changes nothing for running Pods.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  seine-agent --print-default-config > /etc/seine/agent.toml
  seine-agent --config /etc/seine/agent.toml
  seine-agent --remove

Log: RUST_LOG=debug shows more; --log-json writes one JSON object per line.
Ends with 0 after SIGTERM or SIGINT, 1 when it cannot start or go on, 2 for a wrong command line."
)]
struct Arguments {
    /// The configuration, TOML. Without it every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the defaults, each with its reason, and ends.
    #[arg(long)]
    print_default_config: bool,
    /// Looks whether all that is needed is there, says what is not, and ends. Changes nothing.
    #[arg(long)]
    check: bool,
    /// Takes Seine's routes, rules, neighbours and address translations off this node, and ends.
    /// Works twice. Stop the agent first, for it would bring them back; the devices with their
    /// addresses go by `seine-datapath --remove`.
    #[arg(long, conflicts_with = "check")]
    remove: bool,
    /// Logs JSON, one object per line.
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_default_config {
        print!("{DEFAULT_TOML}");
        return ExitCode::SUCCESS;
    }
    start_log(arguments.log_json);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seine-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let configuration = Configuration::load(arguments.config.as_deref())?;
    let nft = preflight::program("nft").unwrap_or_else(|| "nft".into());
    if arguments.remove {
        host_network::remove(&Namespace::current()?, &nft)?;
        println!("Seine's routes, rules, neighbours and address translations are gone");
        return Ok(());
    }
    let missing = preflight::check(&configuration);
    if !missing.is_empty() {
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!("{}", lines.join("\nseine-agent: "));
    }
    if arguments.check {
        println!("all that seine-agent needs is there");
        return Ok(());
    }
    // One thread serves: the work is waiting, and what blocks runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        agent::run(configuration, nft, stop).await?;
        Ok(())
    })
}
