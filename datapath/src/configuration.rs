//! The configuration: one TOML file, parsed once into valid types.
//!
//! `default.toml` is the documentation of every key and the source of `--print-default-config`; a
//! test holds it and the defaults here together.

mod connections;
mod workers;

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

pub use connections::Connections;
pub use workers::{PollMode, Queues, Workers};

use crate::memory::HugePages;
use crate::objects::INTERFACE_NAME_BYTES_MAX;
use crate::placement::PlacementError;

/// Every key with its default and the reason for it.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The most workers: one a core, on the largest machines that are sensible for one switch.
pub const WORKERS_MAX: usize = 64;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// No file.
    #[error("cannot read configuration `{}`: {source}; start from `--print-default-config`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the TOML that is wanted.
    #[error("configuration `{}`, line {line}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What, in one line.
        reason: Box<str>,
    },
    /// Workers that cannot be placed.
    #[error("configuration: workers: {0}")]
    Placement(#[from] PlacementError),
    /// A value that cannot be.
    #[error("configuration: {key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// How one node's datapath is set up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The node's name.
    #[serde(default = "host_name")]
    pub node: String,
    /// Where socket, pins, locks and crash reports live.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// The network namespace for host ends of Pod links.
    #[serde(default = "default_ports_namespace")]
    pub ports_namespace: String,
    /// The node's NIC.
    pub uplink: Uplink,
    /// The node's own leg into the Pod network.
    #[serde(default)]
    pub gateway: Gateway,
    /// The workers.
    #[serde(default)]
    pub workers: Workers,
    /// Packet memory.
    #[serde(default)]
    pub frames: Frames,
    /// What memory is made of.
    #[serde(default)]
    pub memory: Memory,
    /// The connection table.
    #[serde(default)]
    pub connections: Connections,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
}

/// The node's NIC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Its name.
    pub interface: String,
}

/// The node's own leg into the Pod network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// The name of the tap that leads to and from the world behind the node.
    pub interface: String,
    /// The name of the tap that the node itself sends by.
    pub host_interface: String,
}

/// Packet memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Frames {
    /// How many frames.
    pub count: usize,
    /// Bytes of each.
    pub bytes: usize,
}

/// What memory is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Whether frames and connections lie in huge pages.
    pub huge_pages: HugePages,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// From which level on something is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// In which form it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway { interface: "seine-gw0".to_owned(), host_interface: "seine-host0".to_owned() }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Frames { count: 16384, bytes: 2048 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: LogFormat::Text }
    }
}

fn default_run_dir() -> PathBuf {
    PathBuf::from("/run/seine")
}

fn default_ports_namespace() -> String {
    "seine-ports".to_owned()
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

impl Configuration {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Configuration, ConfigurationError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
        let configuration: Configuration = toml::from_str(&text).map_err(|source| {
            let before = source.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigurationError::Parse {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                reason: source.message().replace('\n', " ").into(),
            }
        })?;
        configuration.check()?;
        Ok(configuration)
    }

    /// Refuses values that cannot work on any machine.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        let refuse = |key, reason: String| Err(ConfigurationError::Value { key, reason });
        if !self.run_dir.is_absolute() {
            return refuse("run_dir", format!("`{}` is not absolute", self.run_dir.display()));
        }
        // The socket's path must fit a sockaddr_un.
        if self.socket().as_os_str().len() > 107 {
            return refuse("run_dir", "the path of the socket in it would exceed 107 bytes".into());
        }
        interface("uplink.interface", &self.uplink.interface)?;
        interface("gateway.interface", &self.gateway.interface)?;
        interface("gateway.host_interface", &self.gateway.host_interface)?;
        if self.uplink.interface == self.gateway.interface {
            return refuse("gateway.interface", "is the uplink's, too".into());
        }
        if [&self.uplink.interface, &self.gateway.interface].contains(&&self.gateway.host_interface)
        {
            return refuse("gateway.host_interface", "is another port's, too".into());
        }
        self.workers.check()?;
        if !matches!(self.frames.bytes, 2048 | 4096) {
            return refuse("frames.bytes", format!("{}; 2048 and 4096 work", self.frames.bytes));
        }
        // The offsets of AF_XDP are wide enough for more; 16 GiB of frames is a typing error.
        let bytes = self.frames.count.saturating_mul(self.frames.bytes);
        if self.frames.count < 4096 || bytes > 16 << 30 {
            return refuse("frames.count", format!("{}: from 4096 to 16 GiB", self.frames.count));
        }
        self.connections.check()
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("datapath.sock")
    }

    /// The BPF file system with the pinned programs.
    pub fn pins(&self) -> PathBuf {
        self.run_dir.join("bpf")
    }

    /// Where crash reports go.
    pub fn crash_folder(&self) -> PathBuf {
        self.run_dir.join("crash")
    }
}

fn interface(key: &'static str, name: &str) -> Result<(), ConfigurationError> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:".contains(&byte);
    if (1..=INTERFACE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(ConfigurationError::Value { key, reason: format!("`{name}` is no name of an interface") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn parse(text: &str) -> Result<Configuration, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("datapath.toml");
        fs::write(&path, text).unwrap();
        Configuration::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented = DEFAULT_TOML.replace("# interface = \"eth0\"", "interface = \"eth0\"");
        let short = parse("[uplink]\ninterface = \"eth0\"").unwrap();
        assert_eq!(parse(&documented).unwrap(), short);
    }

    #[test]
    fn every_key_is_documented() {
        let all = toml::from_str::<toml::Table>(
            &DEFAULT_TOML
                .replace("# interface = \"eth0\"", "interface = \"eth0\"")
                .replace("# node =", "node =")
                .replace("# queues =", "queues ="),
        )
        .unwrap();
        let keys = |table: &str| {
            let table = all[table].as_table().unwrap();
            table.keys().cloned().collect::<Vec<String>>()
        };
        assert_eq!(keys("gateway"), ["host_interface", "interface"]);
        assert_eq!(
            keys("workers"),
            ["cores", "placement", "poll", "queues", "relative", "spin_us"]
        );
        assert_eq!(keys("frames"), ["bytes", "count"]);
        let connections = [
            "first_packets_burst",
            "first_packets_per_second",
            "max",
            "per_port_max",
            "sample_every",
        ];
        assert_eq!(keys("connections"), connections);
        assert_eq!(keys("memory"), ["huge_pages"]);
        assert_eq!(keys("log"), ["format", "level"]);
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn queues_are_placed_by_the_word_auto_or_by_the_core_of_each() {
        let placement = |text: &str| {
            let uplink = "[uplink]\ninterface = \"eth0\"\n[workers]\nqueues = 3\n";
            parse(&format!("{uplink}placement = {text}")).map(|it| it.workers.placement)
        };
        assert_eq!(placement("\"auto\""), Ok(Queues::Auto));
        assert_eq!(placement("[0, 1, 1]"), Ok(Queues::Placed(vec![0, 1, 1])));
        let refused = placement("\"even\"").unwrap_err();
        assert!(refused.contains("`even` is neither \"auto\" nor the core of each"), "{refused}");
        let refused = placement("3").unwrap_err();
        assert!(refused.contains("expected \"auto\" or the core of each queue"), "{refused}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse("[uplink]\ninterface = \"eth0\"\n[workers]\ncoers = [1]").unwrap_err();
        assert!(error.contains("unknown field `coers`"), "{error}");
        let error = parse("uplnik = 1").unwrap_err();
        assert!(error.contains("unknown field `uplnik`"), "{error}");
    }

    #[test]
    fn a_missing_uplink_is_refused_by_name() {
        let error = parse("").unwrap_err();
        assert!(error.contains("missing field `uplink`"), "{error}");
    }

    #[test]
    fn impossible_values_are_refused() {
        let uplink = "[uplink]\ninterface = \"eth0\"\n";
        for (text, key) in [
            ("run_dir = \"seine\"\n[uplink]\ninterface = \"eth0\"", "run_dir"),
            ("[uplink]\ninterface = \"a/b\"", "uplink.interface"),
            (&format!("{uplink}[gateway]\ninterface = \"eth0\"") as &str, "gateway.interface"),
            (&format!("{uplink}[gateway]\nhost_interface = \"eth0\""), "gateway.host_interface"),
            (&format!("{uplink}[workers]\ncores = []"), "workers.cores"),
            (&format!("{uplink}[workers]\ncores = [1, 1]"), "workers.cores"),
            (&format!("{uplink}[workers]\nqueues = 1"), "workers"),
            (&format!("{uplink}[workers]\nqueues = 65"), "workers.queues"),
            (&format!("{uplink}[workers]\nplacement = [0]"), "workers"),
            (&format!("{uplink}[workers]\nplacement = [0, 7]"), "workers"),
            (&format!("{uplink}[frames]\nbytes = 1500"), "frames.bytes"),
            (&format!("{uplink}[frames]\ncount = 7"), "frames.count"),
            (&format!("{uplink}[connections]\nmax = 10"), "connections.max"),
            (&format!("{uplink}[connections]\nmax = 100000000"), "connections.max"),
            (&format!("{uplink}[connections]\nper_port_max = 0"), "connections.per_port_max"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("configuration: {key}: ")), "{error}");
        }
    }
}
