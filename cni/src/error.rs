//! What the runtime is told when a call fails: a code, one sentence, and what to do.
//!
//! Codes below 100 belong to the CNI specification and its reference library; those from 100 on
//! are ours. The agent answers with the same codes, so that the plugin passes them on unchanged.

use serde::Serialize;

use crate::v1;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $number:literal,)+) => {
        /// Why a call failed, as the number that the runtime reads.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Code { $($(#[doc = $meaning])+ $name = $number,)+ }

        impl Code {
            /// All of them, lowest number first.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// When it is used, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$name => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// The network configuration has a cniVersion that is not served, or not for this verb.
    IncompatibleVersion = 1,
    /// A key of the network configuration asks for something that is not served.
    UnsupportedField = 2,
    /// The container is not known and needs no clean-up.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading the configuration failed.
    Io = 5,
    /// The configuration is not JSON, or not an object.
    Decode = 6,
    /// A key of the network configuration has a value that cannot be.
    InvalidConfig = 7,
    /// The container's network namespace is missing, is none, or is the node's own.
    InvalidNamespace = 8,
    /// The agent cannot be reached or is not ready; the same call can succeed later.
    TryAgainLater = 11,
    /// STATUS: an ADD would fail now.
    NotAvailable = 50,
    /// STATUS: an ADD would fail now, and running Pods have no or limited connectivity.
    NotAvailableLimited = 51,
    /// No address is left in the node's Pod ranges.
    NoAddressLeft = 100,
    /// The container is attached already, or its namespace has an interface of that name.
    InterfaceTaken = 101,
    /// The name that the node's end would get belongs to another attachment.
    PortNameTaken = 102,
    /// The agent's record of attachments on disk could not be read or written.
    RecordFailed = 103,
    /// The kernel refused the interface, its addresses, routes or settings.
    KernelRefused = 104,
    /// The datapath refused the port or the Endpoint.
    DatapathRefused = 105,
    /// CHECK: what is there is not what ADD made.
    CheckFailed = 106,
    /// The Pod's annotations ask for a port that cannot be, or that nobody has permitted.
    PortRefused = 107,
    /// The verb is part of CNI but not served by this version.
    NotServed = 110,
    /// Plugin and agent do not understand each other: their versions differ.
    Protocol = 111,
}

impl Code {
    /// The number that goes on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Whether plugins may use this number: those the specification or its library give a
    /// meaning, and the plugins' own from 100 on.
    pub const fn is_allowed(number: u32) -> bool {
        matches!(number, 1..=8 | 11 | 50 | 51 | 100..)
    }
}

/// A failed call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct CniError {
    /// A [`Code`], or a newer one of the agent's.
    pub code: u32,
    /// One sentence: what failed, with what.
    #[serde(rename = "msg")]
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with one of the known codes.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> CniError {
        CniError { code: code.number(), message: message.into(), details: details.into() }
    }

    /// The JSON object that goes to stdout.
    pub fn to_json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Output<'a> {
            cni_version: &'a str,
            #[serde(flatten)]
            error: &'a CniError,
        }
        serde_json::to_string(&Output { cni_version, error: self })
            .expect("an object of strings and numbers is JSON")
    }
}

impl From<v1::Error> for CniError {
    fn from(error: v1::Error) -> CniError {
        let v1::Error { code, message, details } = error;
        if Code::is_allowed(code) {
            return CniError { code, message, details };
        }
        CniError::new(
            Code::Protocol,
            format!("seine-agent answered with code {code}, which is reserved: {message}"),
            details,
        )
    }
}

impl From<CniError> for v1::Error {
    fn from(error: CniError) -> v1::Error {
        v1::Error { code: error.code, message: error.message, details: error.details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_codes_are_all_allowed_and_in_order() {
        assert!(Code::ALL.iter().all(|code| Code::is_allowed(code.number())));
        assert!(Code::ALL.is_sorted_by_key(|code| code.number()));
        assert!(![0, 9, 10, 12, 49, 52, 99].into_iter().any(Code::is_allowed));
    }

    #[test]
    fn a_reserved_code_from_the_agent_becomes_a_protocol_error() {
        let error = v1::Error { code: 42, message: "no".into(), details: String::new() };
        let error = CniError::from(error);
        assert_eq!(error.code, Code::Protocol.number());
        assert!(error.message.contains("42") && error.message.contains("no"), "{error}");
    }

    #[test]
    fn an_error_is_one_json_object_with_the_input_version() {
        let error = CniError::new(Code::Decode, "not JSON", "");
        assert_eq!(error.to_json("1.0.0"), r#"{"cniVersion":"1.0.0","code":6,"msg":"not JSON"}"#);
    }
}
