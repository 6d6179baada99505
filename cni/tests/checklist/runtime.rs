//! The side of the runtime: runs the plugin as a container runtime does, with no variable beside
//! those of the call.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// One call of a plugin, described.
#[derive(Clone, Debug)]
pub struct Invocation {
    plugin: PathBuf,
    variables: BTreeMap<String, String>,
    stdin: Vec<u8>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Completed {
    /// Whether the plugin ended with status 0.
    pub success: bool,
    /// Stdout as JSON; `Null` when it was empty.
    pub json: Value,
    /// Stdout as it came.
    pub stdout: String,
    /// The plugin's log.
    pub stderr: String,
}

impl Invocation {
    /// Runs `plugin` with `command` ("ADD") and `config`. No other variable is set.
    pub fn new(plugin: &Path, command: &str, config: &Value) -> Invocation {
        let mut call = Invocation {
            plugin: plugin.into(),
            variables: BTreeMap::new(),
            stdin: config.to_string().into_bytes(),
        };
        call.set("CNI_COMMAND", command);
        call
    }

    /// Names the attachment: container, interface and path of the namespace.
    #[must_use]
    pub fn attachment(mut self, container_id: &str, interface: &str, netns: &str) -> Invocation {
        self.set("CNI_CONTAINERID", container_id);
        self.set("CNI_IFNAME", interface);
        self.set("CNI_NETNS", netns);
        self
    }

    /// Names the Pod in CNI_ARGS, as the kubelet does.
    #[must_use]
    pub fn pod(mut self, namespace: &str, name: &str) -> Invocation {
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        self.set("CNI_ARGS", &arguments);
        self
    }

    /// Sets any variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Invocation {
        self.set(name, value);
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Invocation {
        self.variables.remove(name);
        self
    }

    /// Gives other bytes on stdin than the configuration.
    #[must_use]
    pub fn stdin(mut self, bytes: &[u8]) -> Invocation {
        self.stdin = bytes.to_vec();
        self
    }

    /// Runs the plugin and waits for it. Output that is not JSON is an error.
    pub fn run(&self) -> io::Result<Completed> {
        let mut child = Command::new(&self.plugin)
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may answer without having read all.
            match stdin.write_all(&self.stdin) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        let output = child.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = match stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)?,
        };
        Ok(Completed {
            success: output.status.success(),
            json,
            stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.into(), value.into());
    }
}

impl Completed {
    /// The code of an error; 0 when there is none.
    pub fn code(&self) -> u64 {
        self.json["code"].as_u64().unwrap_or(0)
    }

    /// The message of an error; empty when there is none.
    pub fn message(&self) -> &str {
        self.json["msg"].as_str().unwrap_or_default()
    }
}
