//! One call of the plugin, from what the runtime gave to what it gets.

use std::ffi::OsString;

use crate::agent::Agent;
use crate::config::Input;
use crate::environment::{Attachment, Command, Environment};
use crate::{CniError, Code, NetworkConfig, SpecVersion, result, v1};

/// A configuration is a few hundred bytes; with a long list of valid attachments some hundred
/// kilobytes.
pub const STDIN_BYTES_MAX: u64 = 4 << 20;

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What belongs on stdout; may be empty.
    pub stdout: String,
    /// Whether the process ends with status 0.
    pub success: bool,
}

/// Runs the call that `variable` (the environment) and `stdin` describe.
pub fn run(
    variable: impl Fn(&str) -> Option<OsString>,
    stdin: Result<Vec<u8>, CniError>,
) -> Outcome {
    let input = stdin.and_then(|stdin| match stdin.trim_ascii() {
        // Only VERSION can do without; the others miss the name.
        b"" => Ok(Input::default()),
        text => Input::parse(text),
    });
    let version = input.as_ref().ok().and_then(Input::cni_version);
    let version = version.unwrap_or(SpecVersion::NEWEST.name()).to_owned();
    // The environment is judged first: it says whether the configuration matters at all.
    let answer = Environment::read(variable).and_then(|environment| call(&environment, &input?));
    match answer {
        Ok(stdout) => Outcome { stdout, success: true },
        Err(error) => Outcome { stdout: error.to_json(&version), success: false },
    }
}

fn call(environment: &Environment, input: &Input) -> Result<String, CniError> {
    let command = environment.command;
    if command == Command::Version {
        return Ok(versions(input));
    }
    let config = NetworkConfig::read(input, command)?;
    if command == Command::Gc {
        return Err(CniError::new(
            Code::NotServed,
            "GC is not served yet: nothing was removed",
            "DEL frees each attachment; seine-agent frees those of Pods that are gone at its start",
        ));
    }
    let attachment = environment.attachment.clone().unwrap_or_default();
    if matches!(command, Command::Add | Command::Check) {
        attachment.check_netns()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let message = format!("cannot start an event loop: {error}");
        CniError::new(Code::Io, message, "is the limit of open files reached?")
    })?;
    let answer = runtime.block_on(ask(command, config, attachment));
    match answer {
        Err(error) if command == Command::Status => Err(as_status(error)),
        answer => answer,
    }
}

async fn ask(
    command: Command,
    config: NetworkConfig,
    attachment: Attachment,
) -> Result<String, CniError> {
    let mut agent = Agent::connect(&config.agent_socket, config.timeout).await?;
    match command {
        Command::Add => add(&mut agent, config, attachment).await,
        Command::Del => {
            let mut attachment = attachment;
            // The agent runs elsewhere: a path that is not a Pod's namespace must not reach it.
            if attachment.check_netns().is_err() {
                attachment.netns.clear();
            }
            agent.del(request(attachment, &config)).await.map(|()| String::new())
        }
        Command::Check => {
            let expected = config.previous.clone();
            let attachment = Some(request(attachment, &config));
            let request = v1::CheckRequest { attachment, expected };
            agent.check(request).await.map(|()| String::new())
        }
        Command::Status => agent.status().await.map(|()| String::new()),
        Command::Gc | Command::Version => unreachable!("answered without the agent"),
    }
}

async fn add(
    agent: &mut Agent,
    config: NetworkConfig,
    attachment: Attachment,
) -> Result<String, CniError> {
    let request = request(attachment, &config);
    let made = agent.add(request.clone()).await?;
    let rendered = result::render(&made, config.version, config.dns);
    if rendered.is_err() {
        // A failed ADD leaves nothing behind. The runtime's own DEL follows all the same.
        let _ = agent.del(request).await;
    }
    rendered
}

fn request(attachment: Attachment, config: &NetworkConfig) -> v1::AttachRequest {
    v1::AttachRequest {
        container_id: attachment.container_id,
        interface: attachment.interface,
        netns: attachment.netns,
        pod_namespace: attachment.pod_namespace,
        pod_name: attachment.pod_name,
        pod_uid: attachment.pod_uid,
        network: config.name.clone(),
    }
}

/// STATUS has a code of its own for "an ADD would be told to try again".
fn as_status(error: CniError) -> CniError {
    match error.code {
        code if code == Code::TryAgainLater.number() => {
            CniError { code: Code::NotAvailable.number(), ..error }
        }
        _ => error,
    }
}

fn versions(input: &Input) -> String {
    serde_json::json!({
        "cniVersion": input.cni_version().unwrap_or(SpecVersion::NEWEST.name()),
        "supportedVersions": SpecVersion::names(),
    })
    .to_string()
}
