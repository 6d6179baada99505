//! DPDK's testpmd, which carries packets between pairs of vhost-user ports and looks at none: the
//! limit of such ports, and what their rings alone cost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use seine_e2e::daemon::Daemon;
use seine_e2e::failure::{Failure, Outcome};

use super::figures;
use super::room::{GENERATOR_CORE, Room, SWITCH_CORE};
use crate::forward::session::{Figures, Poller};
use crate::process;
use crate::virtio::{FrontEnd, FrontEndOptions, Listener};

/// Debian's DPDK has no room for more ports.
pub const PORTS_MAX: usize = 32;
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// MiB of packet memory.
const MEMORY_MIB: &str = "256";
/// It answers within this, or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const PROMPT: &str = "testpmd> ";

/// A running testpmd. It ends when this is dropped.
pub struct Testpmd {
    process: Daemon,
    commands: File,
    log: PathBuf,
}

impl Testpmd {
    /// Starts it, with a front end connected to each of an even number of ports.
    pub fn start(
        room: &Room,
        ports: usize,
        options: &FrontEndOptions,
    ) -> Outcome<(Testpmd, Vec<FrontEnd>)> {
        let path = |name: String| room.path(&name);
        let pipe = path("testpmd.commands".to_owned());
        let log = path("testpmd.log".to_owned());
        let _ = std::fs::remove_file(&pipe);
        let _ = std::fs::remove_file(&log);
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).map_err(|error| Failure::Io {
            action: "create",
            path: pipe.clone(),
            source: error.into(),
        })?;
        let sockets: Vec<PathBuf> = (0..ports).map(|it| path(format!("port{it}.sock"))).collect();
        let listeners: Result<Vec<Listener>, _> =
            sockets.iter().map(|it| Listener::bind(it)).collect();
        let listeners = listeners.map_err(|error| Failure::Unmet(error.to_string()))?;
        let mut words = format!(
            "-l {SWITCH_CORE},{GENERATOR_CORE} --main-lcore {GENERATOR_CORE} {} -m {MEMORY_MIB}",
            room.dpdk_options()
        );
        for (index, socket) in sockets.iter().enumerate() {
            words += &format!(" --vdev net_vhost{index},iface={},client=1", socket.display());
        }
        words += " -- -i --nb-cores=1 --forward-mode=io --record-core-cycles --no-lsc-interrupt";
        // A shell, so that its commands come by a pipe; it becomes testpmd. Its prompt is written
        // at once, so what it prints must be as well.
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("{SWITCH_CORE},{GENERATOR_CORE}"), "sh", "-c"]);
        command.arg(format!("exec stdbuf -oL dpdk-testpmd {words} <'{}'", pipe.display()));
        let process = Daemon::start(&room.journal, "testpmd", &mut command, &log)?;
        // Opened both ways, it neither waits for a reader nor ends for the reader too early.
        let commands = OpenOptions::new().read(true).write(true).open(&pipe);
        let commands = commands.map_err(Failure::io("open", &pipe))?;
        let mut testpmd = Testpmd { process, commands, log };
        let accept = |it: &Listener| it.accept(options, CONNECT_MAX);
        let front_ends: Result<Vec<FrontEnd>, _> = listeners.iter().map(accept).collect();
        let front_ends = front_ends.map_err(|error| {
            Failure::Unmet(format!("{error}; testpmd says:\n{}", testpmd.process.log_tail(20)))
        })?;
        testpmd.answer("")?;
        testpmd.answer("start")?;
        Ok((testpmd, front_ends))
    }

    /// What it prints after a command, up to its next prompt.
    fn answer(&mut self, command: &str) -> Outcome<String> {
        let text = |log: &PathBuf| {
            let bytes = std::fs::read(log).map_err(Failure::io("read", log))?;
            Ok::<String, Failure>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let before = text(&self.log)?;
        let prompts = before.matches(PROMPT).count();
        let pipe = std::path::Path::new("the pipe to testpmd");
        writeln!(self.commands, "{command}").map_err(Failure::io("write to", pipe))?;
        let log = self.log.clone();
        let mut after = String::new();
        let more = prompts + 1;
        let result = seine_e2e::daemon::until("testpmd's prompt", ANSWER_MAX.as_secs(), || {
            after = text(&log).unwrap_or_default();
            after.matches(PROMPT).count() >= more
        });
        result.map_err(|error| {
            Failure::Unmet(format!("{error}; testpmd says:\n{}", self.process.log_tail(20)))
        })?;
        Ok(after.get(before.len()..).unwrap_or_default().to_owned())
    }
}

impl Poller for Testpmd {
    fn begin(&mut self) -> Outcome {
        self.answer("clear fwd stats all").map(|_| ())
    }

    fn end(&mut self) -> Outcome<Figures> {
        let text = self.answer("show fwd stats all")?;
        let read = figures::of_testpmd(&text);
        read.ok_or_else(|| Failure::Unmet(format!("testpmd's figures are not understood: {text}")))
    }

    fn on_core_ns(&self) -> Outcome<u64> {
        process::on_core_ns(self.process.id(), "rte-worker")
    }
}
