//! Calls as a runtime makes them, in the shape that the tests vary.

use std::path::Path;

use crate::runtime::Invocation;
use serde_json::{Value, json};

use crate::fake_agent::FakeAgent;

/// Another socket than any agent's.
pub const NO_SOCKET: &str = "/nonexistent/agent.sock";

/// A namespace file that is not the plugin's own: to the plugin all kinds look the same, and one
/// of the network's kind would need a privilege to make.
pub fn netns() -> String {
    format!("/proc/{}/ns/mnt", std::process::id())
}

/// A configuration that a runtime would pass.
pub fn config(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "seine",
        "type": "seine-cni",
        "agentSocket": socket,
        "timeoutSeconds": 5,
    })
}

/// A complete call of `command`. Variables that a verb does not need are not set.
pub fn call(command: &str, config: &Value) -> Invocation {
    let call = Invocation::new(Path::new(env!("CARGO_BIN_EXE_seine-cni")), command, config);
    match command {
        "ADD" | "CHECK" => call.attachment("c1", "eth0", &netns()),
        "DEL" => call.attachment("c1", "eth0", &netns()).without("CNI_NETNS"),
        "GC" => call.variable("CNI_PATH", "/opt/cni/bin"),
        _ => call,
    }
}

/// A complete call of `command` in the newest version.
pub fn call_agent(command: &str, agent: &FakeAgent) -> Invocation {
    let mut config = config("1.1.0", &agent.socket());
    if command == "CHECK" {
        config["prevResult"] = json!({"cniVersion": "1.1.0"});
    }
    if command == "GC" {
        config["cni.dev/valid-attachments"] = json!([]);
    }
    call(command, &config)
}

/// `config` with one more key.
pub fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}
