//! A capture on the underlay, judged by tshark with every checksum checked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome, expect};
use crate::journal::Journal;
use crate::namespace::{Namespace, output};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Daemon,
    file: PathBuf,
}

/// What tshark found in a capture.
#[derive(Debug)]
pub struct Judgement {
    /// Frames that it dissected as Geneve.
    pub tunnelled: usize,
    /// Protocols seen inside tunnels: "tcp", "udp", "icmp", "icmpv6".
    pub inner: Vec<String>,
}

/// Expert items that speak of a frame's bytes; sequence analysis speaks of timing.
const FAULTS: &str = "_ws.malformed || _ws.expert.group == \"Malformed\" || \
                      _ws.expert.group == \"Protocol\" || _ws.expert.group == \"Checksum\"";

/// What a capture holds. All else that tshark knows is switched off: above TCP and UDP are random
/// bytes to and from random ports, some of which it would take for protocols that they are not.
const PROTOCOLS: [&str; 12] = [
    "frame",
    "eth",
    "ethertype",
    "ip",
    "ipv6",
    "udp",
    "tcp",
    "icmp",
    "icmpv6",
    "arp",
    "geneve",
    "data",
];

impl Capture {
    /// Begins to capture tunnel packets at an interface.
    pub fn start(
        journal: &Journal,
        namespace: &Namespace,
        interface: &str,
        file: &Path,
    ) -> Outcome<Capture> {
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-s", "0", "-U", "-Z", "root", "-w"]);
        command.arg(file).args(["udp", "port", "6081"]);
        let log = journal.directory().join("tcpdump.log");
        let mut tcpdump = Daemon::start(journal, "tcpdump", &mut command, &log)?;
        // The file's header is written once the capture runs.
        tcpdump.until("the capture runs", || {
            file.metadata().is_ok_and(|metadata| metadata.len() >= 24)
        })?;
        Ok(Capture { tcpdump, file: file.to_owned() })
    }

    /// Ends it and has it judged; any fault in any frame is a failure.
    pub fn judge(mut self) -> Outcome<Judgement> {
        std::thread::sleep(Duration::from_millis(300));
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait(Duration::from_secs(5))?;
        let faults = self.tshark(&[
            "-Y",
            FAULTS,
            "-T",
            "fields",
            "-e",
            "frame.number",
            "-e",
            "_ws.col.Info",
            "-e",
            "_ws.expert.message",
        ])?;
        expect(faults.trim().is_empty(), || {
            let few: Vec<&str> = faults.lines().take(5).collect();
            format!("tshark finds faults in {} frames: {}", faults.lines().count(), few.join(" | "))
        })?;
        let stacks = self.tshark(&["-Y", "geneve", "-T", "fields", "-e", "frame.protocols"])?;
        let mut inner: Vec<String> = stacks
            .lines()
            .filter_map(|stack| stack.split_once(":geneve:"))
            .flat_map(|(_, inside)| inside.split(':'))
            .map(str::to_owned)
            .collect();
        inner.sort_unstable();
        inner.dedup();
        Ok(Judgement { tunnelled: stacks.lines().count(), inner })
    }

    fn tshark(&self, words: &[&str]) -> Outcome<String> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&self.file);
        for check in ["ip", "tcp", "udp"] {
            command.args(["-o", &format!("{check}.check_checksum:TRUE")]);
        }
        let known = output(Command::new("tshark").args(["-G", "protocols"]))?;
        let names = known.lines().filter_map(|line| line.split('\t').nth(2));
        for name in names.filter(|name| !PROTOCOLS.contains(name) && !name.starts_with("_ws")) {
            command.args(["--disable-protocol", name]);
        }
        output(command.args(words))
    }
}

impl Judgement {
    /// Fails unless tunnels carried all of these.
    pub fn expect_inner(&self, wanted: &[&str]) -> Outcome {
        let missing = wanted.iter().find(|name| !self.inner.iter().any(|it| it == *name));
        match missing {
            Some(name) => Err(Failure::Unmet(format!("no {name} was captured: {:?}", self.inner))),
            None => Ok(()),
        }
    }
}
