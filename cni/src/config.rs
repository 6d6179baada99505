//! The network configuration that the runtime writes to stdin.
//!
//! Keys that are not ours belong to the runtime or to other plugins and are left alone; those that
//! ask for something not served (delegated IPAM, chaining) are refused where they would matter.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::environment::is_identifier;
use crate::{CniError, Code, Command, SpecVersion, result, v1};

/// Where seine-agent listens unless the configuration says otherwise.
pub const AGENT_SOCKET_DEFAULT: &str = "/run/seine/agent.sock";
/// An attachment takes milliseconds; after this long somebody has to look.
pub const TIMEOUT_SECONDS_DEFAULT: u64 = 30;
/// The kubelet gives up on a Pod's sandbox after four minutes.
const TIMEOUT_SECONDS_MAX: u64 = 240;
/// Size of `sun_path`, with its terminating zero.
const SOCKET_PATH_BYTES: usize = 108;
/// Conventional: the runtime uses the name in file names.
const NAME_BYTES_MAX: usize = 255;
/// How much of a refused value an error repeats.
const SHOWN_CHARACTERS: usize = 120;

/// Stdin as JSON, before anything is believed about it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Input(Map<String, Value>);

impl Input {
    /// The object that `stdin` holds.
    pub fn parse(stdin: &[u8]) -> Result<Input, CniError> {
        serde_json::from_slice(stdin).map(Input).map_err(|error| {
            CniError::new(
                Code::Decode,
                format!("the network configuration on stdin is not a JSON object: {error}"),
                "the runtime writes one object with cniVersion, name and type",
            )
        })
    }

    /// What every answer echoes: the version of the input as written there.
    pub fn cni_version(&self) -> Option<&str> {
        self.0.get("cniVersion")?.as_str().filter(|version| !version.is_empty())
    }

    /// A value that is there and not `null`.
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }
}

/// The checked configuration of one network.
#[derive(Clone, PartialEq, Debug)]
pub struct NetworkConfig {
    /// The version that the runtime speaks.
    pub version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// Where the agent listens.
    pub agent_socket: PathBuf,
    /// How long the agent may take.
    pub timeout: Duration,
    /// Passed through into the result of ADD.
    pub dns: Option<Value>,
    /// What ADD answered; set for CHECK only.
    pub previous: Option<v1::Attachment>,
}

impl NetworkConfig {
    /// Checks what `command` needs of `input`.
    pub fn read(input: &Input, command: Command) -> Result<NetworkConfig, CniError> {
        // The specification's oldest version had no such key.
        let version = SpecVersion::parse(input.cni_version().unwrap_or("0.1.0"))?;
        version.allow(command)?;
        let name = match input.value("name") {
            Some(Value::String(name)) if is_identifier(name, NAME_BYTES_MAX) => name.clone(),
            other => {
                let rule = "a letter or digit, then those, `_`, `.` or `-`";
                return Err(invalid("name", other, rule));
            }
        };
        refuse_unserved(input, command)?;
        let previous = match command {
            Command::Check => Some(previous(input)?),
            _ => None,
        };
        if command == Command::Gc && !input.has("cni.dev/valid-attachments") {
            let rule = "a list; an absent one is not taken for an empty one";
            return Err(invalid("cni.dev/valid-attachments", None, rule));
        }
        Ok(NetworkConfig {
            version,
            name,
            agent_socket: agent_socket(input)?,
            timeout: timeout(input)?,
            dns: dns(input)?,
            previous,
        })
    }
}

/// A configuration that seems to ask for more than is done must not look served.
fn refuse_unserved(input: &Input, command: Command) -> Result<(), CniError> {
    // Nothing delegated was ever added under such a configuration, so a DEL has nothing to
    // delegate either, and refusing it would keep the Pod's clean-up from ever ending.
    let delegates = !matches!(command, Command::Del | Command::Gc);
    let ipam = input.value("ipam").filter(|ipam| ipam.get("type").is_some());
    if let Some(ipam) = ipam.filter(|_| delegates) {
        return Err(CniError::new(
            Code::UnsupportedField,
            format!("unsupported field in network configuration: ipam = {}", shown(ipam)),
            "delegated IPAM is not served yet; remove \"ipam\": seine-agent gives addresses from \
             the node's Pod ranges",
        ));
    }
    let chained = input.value("prevResult").filter(|_| command == Command::Add);
    if let Some(result) = chained {
        return Err(CniError::new(
            Code::UnsupportedField,
            format!("unsupported field in network configuration: prevResult = {}", shown(result)),
            "running after another plugin is not served yet; put seine-cni first in the list",
        ));
    }
    Ok(())
}

fn previous(input: &Input) -> Result<v1::Attachment, CniError> {
    let Some(value) = input.value("prevResult") else {
        return Err(invalid("prevResult", None, "the result of ADD: CHECK compares with it"));
    };
    result::parse(value).map_err(|error| {
        CniError::new(
            Code::Decode,
            format!("cannot decode prevResult = {}: {error}", shown(value)),
            "prevResult is what ADD printed, kept by the runtime",
        )
    })
}

fn agent_socket(input: &Input) -> Result<PathBuf, CniError> {
    match input.value("agentSocket") {
        None => Ok(AGENT_SOCKET_DEFAULT.into()),
        Some(Value::String(path)) if path.starts_with('/') && path.len() < SOCKET_PATH_BYTES => {
            Ok(path.into())
        }
        other => Err(invalid("agentSocket", other, "an absolute path of at most 107 bytes")),
    }
}

fn timeout(input: &Input) -> Result<Duration, CniError> {
    let seconds = match input.value("timeoutSeconds") {
        None => Some(TIMEOUT_SECONDS_DEFAULT),
        Some(value) => value.as_u64().filter(|seconds| (1..=TIMEOUT_SECONDS_MAX).contains(seconds)),
    };
    match seconds {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(invalid(
            "timeoutSeconds",
            input.value("timeoutSeconds"),
            "a whole number of seconds from 1 to 240",
        )),
    }
}

fn dns(input: &Input) -> Result<Option<Value>, CniError> {
    match input.value("dns") {
        None => Ok(None),
        Some(Value::Object(dns)) if dns.is_empty() => Ok(None),
        Some(dns @ Value::Object(_)) => Ok(Some(dns.clone())),
        other => Err(invalid("dns", other, "an object")),
    }
}

fn invalid(key: &str, value: Option<&Value>, rule: &str) -> CniError {
    let message = match value {
        Some(value) => format!("invalid network configuration: {key} = {}", shown(value)),
        None => format!("invalid network configuration: {key} is missing"),
    };
    CniError::new(Code::InvalidConfig, message, format!("{key} is {rule}"))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value, command: Command) -> Result<NetworkConfig, CniError> {
        Input::parse(value.to_string().as_bytes()).and_then(|it| NetworkConfig::read(&it, command))
    }

    #[test]
    fn a_configuration_without_our_keys_gets_the_defaults() {
        let config = read(json!({"cniVersion": "1.0.0", "name": "pods"}), Command::Add)
            .expect("name and version are enough");
        assert_eq!(config.agent_socket, PathBuf::from(AGENT_SOCKET_DEFAULT));
        assert_eq!(config.timeout, Duration::from_secs(TIMEOUT_SECONDS_DEFAULT));
        assert_eq!((config.dns, config.previous), (None, None));
    }

    #[test]
    fn values_that_cannot_be_are_named_with_what_would_do() {
        let bad = [
            ("timeoutSeconds", json!(0)),
            ("timeoutSeconds", json!("10")),
            ("timeoutSeconds", json!(241)),
            ("agentSocket", json!("relative.sock")),
            ("agentSocket", json!(format!("/{}", "x".repeat(107)))),
            ("dns", json!([])),
        ];
        for (key, value) in bad {
            let mut config = json!({"cniVersion": "1.1.0", "name": "pods"});
            config[key] = value;
            let error = read(config, Command::Add).expect_err(key);
            assert_eq!(error.code, 7, "{error}");
            assert!(error.message.contains(key) && error.details.contains(key), "{error}");
        }
    }

    #[test]
    fn a_long_value_is_cut_in_the_message() {
        let routes = vec![json!({"dst": "10.0.0.0/8"}); 50];
        let config =
            json!({"cniVersion": "1.1.0", "name": "pods", "prevResult": {"routes": routes}});
        let error = read(config, Command::Add).expect_err("chaining is not served");
        assert!(error.code == 2 && error.message.len() < 250, "{error}");
    }
}
