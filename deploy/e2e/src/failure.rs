//! Why a step of the cluster did not work.

use std::io;
use std::path::{Path, PathBuf};

/// Why a step of the cluster did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A command ran and said no.
    #[error("`{command}` ended with {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed, both streams.
        output: String,
    },
    /// A command could not be started.
    #[error("cannot start `{command}`; is it installed?")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or socket said no.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// A verb: "read", "write".
        action: &'static str,
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something did not come in time.
    #[error("{what} did not happen within {seconds} s")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// A manifest is not what a cluster is made of.
    #[error("manifest `{path}`: {reason}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The plugin answered with a CNI error.
    #[error("seine-cni {command}: code {code}: {message}")]
    Plugin {
        /// CNI_COMMAND.
        command: &'static str,
        /// The code of the CNI specification, or 0 when the answer was none.
        code: u64,
        /// The message, or the answer itself.
        message: String,
    },
    /// A daemon's gRPC said no.
    #[error("{what}: {source}")]
    Call {
        /// What was asked of whom.
        what: String,
        /// The answer.
        source: Box<tonic::Status>,
    },
    /// No connection to a daemon.
    #[error(transparent)]
    Connect(#[from] seine_datapath_api::ConnectError),
    /// The network does not behave as it must.
    #[error("{0}")]
    Unmet(String),
}

/// What a step of the cluster returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// For `map_err` on a file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
        let path = path.to_owned();
        move |source| Failure::Io { action, path, source }
    }
}

/// Fails with `message` unless `met`.
pub fn expect(met: bool, message: impl FnOnce() -> String) -> Outcome {
    if met { Ok(()) } else { Err(Failure::Unmet(message())) }
}
