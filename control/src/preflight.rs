//! What the agent needs, looked at before anything on the node is changed. Each thing missing is
//! one line that names it and says how to get it.

use std::io;
use std::path::{Path, PathBuf};

use crate::configuration::Configuration;

/// Capabilities, with their numbers (linux/capability.h) and what they are for.
const CAPABILITIES: [(u32, &str, &str); 2] = [
    (12, "CAP_NET_ADMIN", "links, addresses and routes"),
    (21, "CAP_SYS_ADMIN", "entering the network namespaces of Pods"),
];

/// Where programs are besides PATH: a daemon's PATH often lacks the sbin folders.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Something that the agent cannot do without.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// A right.
    #[error("the right {name} is missing, needed for {purpose}: run seine-agent as root")]
    Capability {
        /// "CAP_NET_ADMIN".
        name: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// A program.
    #[error("the program `nft` is missing, needed for masquerading: install the package nftables")]
    Nft,
    /// The folder of manifests.
    #[error(
        "the folder of manifests `{}` cannot be read ({source}): create it, or set `manifests`",
        .path.display()
    )]
    Manifests {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder that must be written to.
    #[error("`{}` is not writable ({source}): give rights to it, or change `{key}`", .path.display())]
    NotWritable {
        /// Its path, or that of the nearest folder above that exists.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Looks for everything; all that is missing, not only the first.
pub fn check(configuration: &Configuration) -> Vec<Missing> {
    let mut missing = Vec::new();
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = effective_capabilities(&status);
    for (bit, name, purpose) in CAPABILITIES {
        if effective & (1 << bit) == 0 {
            missing.push(Missing::Capability { name, purpose });
        }
    }
    if program("nft").is_none() {
        missing.push(Missing::Nft);
    }
    if let Err(source) = std::fs::read_dir(&configuration.manifests) {
        missing.push(Missing::Manifests { path: configuration.manifests.clone(), source });
    }
    let socket_folder = configuration.cni_socket.parent().unwrap_or(Path::new("/"));
    for (key, folder) in
        [("cni_socket", socket_folder), ("state_dir", configuration.state_dir.as_path())]
    {
        if let Err((path, source)) = writable(folder) {
            missing.push(Missing::NotWritable { path, key, source });
        }
    }
    missing
}

/// The path of a program.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PROGRAM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether a folder, or the nearest one above it that exists, can be written to.
fn writable(folder: &Path) -> Result<(), (PathBuf, io::Error)> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let failed = |source: io::Error| (existing.to_owned(), source);
    if !existing.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK)
        .map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn every_missing_thing_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let configuration = Configuration {
            manifests: folder.path().join("absent"),
            state_dir: file.join("state"),
            cni_socket: folder.path().join("agent.sock"),
            ..Configuration::default()
        };
        let lines: Vec<String> = check(&configuration).iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|l| l.contains("absent") && l.contains("create it")), "{lines:?}");
        assert!(lines.iter().any(|l| l.contains("file") && l.contains("state_dir")), "{lines:?}");
        assert!(!lines.iter().any(|l| l.contains("cni_socket")), "{lines:?}");
    }

    #[test]
    fn capabilities_are_read_from_the_kernels_words() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000201000\n"), 0x20_1000);
        assert_eq!(effective_capabilities("nothing"), 0);
    }
}
