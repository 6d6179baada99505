//! Runs the real plugin the way a container runtime does: environment, stdin, result on stdout.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::namespace::Namespace;

/// The version a runtime of today asks for.
pub const VERSION: &str = "1.1.0";

/// The plugin on one node.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Path of the binary.
    pub binary: PathBuf,
    /// The agent's socket, for the network configuration.
    pub socket: PathBuf,
    /// The node: a runtime lives in its network namespace.
    pub node: Namespace,
}

/// One call; what is `None` is left out of the environment.
#[derive(Clone, Debug)]
pub struct Call {
    /// CNI_COMMAND
    pub command: &'static str,
    /// CNI_CONTAINERID
    pub container_id: Option<String>,
    /// CNI_NETNS
    pub netns: Option<String>,
    /// CNI_IFNAME
    pub interface: Option<String>,
    /// CNI_ARGS
    pub args: Option<String>,
    /// cniVersion of the configuration.
    pub version: String,
    /// prevResult of the configuration.
    pub previous: Option<Value>,
}

/// What the plugin answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code 0.
    pub success: bool,
    /// What was printed.
    pub stdout: String,
    /// What was printed, as JSON; null when it is none.
    pub value: Value,
}

/// What an ADD made, as its result tells.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The result itself, for CHECK and DEL.
    pub result: Value,
    /// The host's end of the link; empty where there is none.
    pub host_interface: String,
    /// MAC of the container's interface.
    pub mac: String,
    /// Addresses with their prefix length.
    pub addresses: Vec<IpNet>,
}

impl Call {
    /// A call for one container's `eth0`.
    pub fn of(command: &'static str, container_id: &str, netns: &Path) -> Call {
        Call {
            command,
            container_id: Some(container_id.to_owned()),
            netns: Some(netns.display().to_string()),
            interface: Some("eth0".to_owned()),
            args: None,
            version: VERSION.to_owned(),
            previous: None,
        }
    }

    /// Names the Pod as the kubelet's runtime does.
    pub fn for_pod(mut self, namespace: &str, name: &str) -> Call {
        self.args = Some(format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=",
            self.container_id.as_deref().unwrap_or_default(),
        ));
        self
    }

    /// Asks in another version of the specification.
    pub fn in_version(mut self, version: &str) -> Call {
        version.clone_into(&mut self.version);
        self
    }
}

impl Plugin {
    /// Runs the plugin once.
    pub fn run(&self, call: &Call) -> Outcome<Answer> {
        self.node.enter(|| self.run_here(call))?
    }

    fn run_here(&self, call: &Call) -> Outcome<Answer> {
        let mut configuration = json!({
            "cniVersion": call.version,
            "name": "seine",
            "type": "seine-cni",
            "agentSocket": self.socket,
        });
        if let Some(previous) = &call.previous {
            configuration["prevResult"] = previous.clone();
        }
        let mut command = Command::new(&self.binary);
        command.env_clear().env("CNI_COMMAND", call.command).env("CNI_PATH", "/opt/cni/bin");
        let optional = [
            ("CNI_CONTAINERID", &call.container_id),
            ("CNI_NETNS", &call.netns),
            ("CNI_IFNAME", &call.interface),
            ("CNI_ARGS", &call.args),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let start = |source| Failure::Start { command: self.binary.display().to_string(), source };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that refuses by its environment need not read; then the pipe is broken.
            let _ = stdin.write_all(configuration.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(start)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        Ok(Answer { success: output.status.success(), stdout, value })
    }

    /// Runs it, and turns a CNI error into a failure.
    pub fn call(&self, call: &Call) -> Outcome<Answer> {
        let answer = self.run(call)?;
        if answer.success { Ok(answer) } else { Err(answer.failure(call.command)) }
    }

    /// ADD, and what it made.
    pub fn add(&self, call: &Call) -> Outcome<Attachment> {
        let answer = self.call(call)?;
        attachment(&answer.value).ok_or_else(|| answer.failure("ADD"))
    }
}

impl Answer {
    /// The error it holds.
    pub fn failure(&self, command: &'static str) -> Failure {
        let text = |key: &str| self.value[key].as_str().unwrap_or_default().to_owned();
        let (message, details) = (text("msg"), text("details"));
        let message = match (message.is_empty(), details.is_empty()) {
            (true, _) => self.stdout.clone(),
            (false, true) => message,
            (false, false) => format!("{message} ({details})"),
        };
        Failure::Plugin { command, code: self.code(), message }
    }

    /// The code of the error it holds, or 0.
    pub fn code(&self) -> u64 {
        self.value["code"].as_u64().unwrap_or_default()
    }
}

fn attachment(result: &Value) -> Option<Attachment> {
    let interfaces = result["interfaces"].as_array()?;
    let sandboxed = |it: &&Value| it["sandbox"].as_str().is_some_and(|path| !path.is_empty());
    let container = interfaces.iter().find(sandboxed)?;
    let host = interfaces.iter().find(|it| !sandboxed(it)).map(|it| it["name"].as_str());
    let ips = result["ips"].as_array()?;
    let addresses: Option<Vec<IpNet>> =
        ips.iter().map(|ip| ip["address"].as_str()?.parse().ok()).collect();
    Some(Attachment {
        host_interface: host.flatten().unwrap_or_default().to_owned(),
        mac: container["mac"].as_str()?.to_owned(),
        addresses: addresses?,
        result: result.clone(),
    })
}
