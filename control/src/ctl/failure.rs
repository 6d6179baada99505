//! Why a command failed: one line, and an exit status that says whose fault it was.

use std::io;
use std::net::IpAddr;

use seine_datapath_api::ConnectError;

use super::arguments::What;

/// A command that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No datapath.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer in time.
    #[error("no answer from seine-datapath within {seconds} s to `{command}`")]
    Timeout {
        /// What was asked.
        command: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The datapath said no.
    #[error("seine-datapath refused `{command}`: {} ({:?})", .status.message(), .status.code())]
    Refused {
        /// What was asked.
        command: &'static str,
        /// What it said.
        status: Box<tonic::Status>,
    },
    /// No port of that name.
    #[error("no port is called `{name}`; there are: {}; or give namespace/pod", .known.join(", "))]
    UnknownPort {
        /// What was given.
        name: String,
        /// What would do.
        known: Vec<String>,
    },
    /// No Endpoint of that name.
    #[error(
        "Pod interface `{endpoint}` is not on this node ({}); a Pod elsewhere is given by address",
        if .known.is_empty() { "no Pod is".into() } else { format!("here: {}", .known.join(", ")) }
    )]
    NotLocal {
        /// What was given, with its interface.
        endpoint: String,
        /// What is here.
        known: Vec<String>,
    },
    /// An address is missing and cannot be found out.
    #[error("`{of}` has no {family} address known here; give {option}")]
    NoAddress {
        /// The end of the flow.
        of: String,
        /// "IPv4" or "IPv6".
        family: &'static str,
        /// How to give one.
        option: &'static str,
    },
    /// The two ends do not go together.
    #[error("{source_address} and {destination} are not of one family")]
    Families {
        /// Where from.
        source_address: IpAddr,
        /// Where to.
        destination: IpAddr,
    },
    /// Flags without a header that has them.
    #[error("--tcp-flags are of TCP: give tcp/PORT, not {what}")]
    FlagsWithoutTcp {
        /// What was to be sent.
        what: What,
    },
    /// Stdout is gone.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

impl Failure {
    /// 2 when the command line can never work, else 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Families { .. } | Failure::FlagsWithoutTcp { .. } => 2,
            _ => 1,
        }
    }
}
