//! What the runtime says in `CNI_*` variables, checked by the specification's rules.
//!
//! Everything wrong is named in one error, because an operator fixes the variables together.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{CniError, Code};

/// The runtime keeps a file named by the identifier; no file name is longer.
const CONTAINER_ID_BYTES_MAX: usize = 255;
/// IFNAMSIZ without its terminating zero.
const INTERFACE_BYTES_MAX: usize = 15;
/// Kubernetes' bound for the name of an object (a DNS subdomain).
const POD_NAME_BYTES_MAX: usize = 253;

/// A verb of CNI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Compare what is there with what ADD made.
    Check,
    /// Whether ADD can succeed now.
    Status,
    /// Remove what no valid attachment needs.
    Gc,
    /// Which versions are served.
    Version,
}

impl Command {
    const ALL: [Command; 6] =
        [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// Whether it is about one attachment, so needs container and interface.
    const fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One attachment as the environment names it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_NETNS; empty when a DEL has none.
    pub netns: String,
    /// K8S_POD_NAMESPACE of CNI_ARGS; empty when there is none, as are the next two.
    pub pod_namespace: String,
    /// K8S_POD_NAME.
    pub pod_name: String,
    /// K8S_POD_UID.
    pub pod_uid: String,
}

/// The checked environment of one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// CNI_COMMAND.
    pub command: Command,
    /// Set for ADD, DEL and CHECK.
    pub attachment: Option<Attachment>,
}

impl Environment {
    /// Reads and checks the variables that `variable` gives.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Environment, CniError> {
        let mut reader = Reader { variable, problems: Vec::new() };
        let name = reader.required("CNI_COMMAND").unwrap_or_default();
        reader.finish()?;
        let Some(command) = Command::ALL.into_iter().find(|known| known.name() == name) else {
            return Err(CniError::new(
                Code::InvalidEnvironment,
                format!("unknown CNI_COMMAND: {name}"),
                "CNI_COMMAND is one of ADD, DEL, CHECK, STATUS, VERSION, GC",
            ));
        };
        if command == Command::Gc {
            reader.required("CNI_PATH");
        }
        let attachment = command.has_attachment().then(|| reader.attachment(command));
        reader.finish()?;
        Ok(Environment { command, attachment })
    }
}

struct Reader<V> {
    variable: V,
    problems: Vec<String>,
}

impl<V: Fn(&str) -> Option<OsString>> Reader<V> {
    /// The variable's text; empty counts as not set, as the specification has it.
    fn optional(&mut self, name: &str) -> Option<String> {
        let value = (self.variable)(name).filter(|value| !value.is_empty())?;
        value.into_string().map_err(|_| self.problem(name, "is not UTF-8")).ok()
    }

    fn required(&mut self, name: &str) -> Option<String> {
        if (self.variable)(name).is_none_or(|value| value.is_empty()) {
            self.problem(name, "is missing");
        }
        self.optional(name)
    }

    fn problem(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name} {what}"));
    }

    fn attachment(&mut self, command: Command) -> Attachment {
        let container_id = self.required("CNI_CONTAINERID").unwrap_or_default();
        if !container_id.is_empty() && !is_identifier(&container_id, CONTAINER_ID_BYTES_MAX) {
            let rule = "must start with a letter or digit, go on with those, `_`, `.` or `-`, \
                        and have at most 255 bytes";
            self.problem("CNI_CONTAINERID", &format!("`{container_id}` {rule}"));
        }
        let interface = self.required("CNI_IFNAME").unwrap_or_default();
        if !interface.is_empty() && !is_interface_name(&interface) {
            let rule = "must have at most 15 bytes, not be `.` or `..`, and hold no `/`, `:` \
                        or white space";
            self.problem("CNI_IFNAME", &format!("`{interface}` {rule}"));
        }
        let netns = match command {
            Command::Del => self.optional("CNI_NETNS"),
            _ => self.required("CNI_NETNS"),
        }
        .unwrap_or_default();
        if !netns.is_empty() && !netns.starts_with('/') {
            self.problem("CNI_NETNS", &format!("`{netns}` must be an absolute path"));
        }
        let mut attachment = Attachment { container_id, interface, netns, ..Default::default() };
        let arguments = self.optional("CNI_ARGS").unwrap_or_default();
        if let Err(what) = attachment.take_arguments(&arguments) {
            self.problem("CNI_ARGS", &what);
        }
        attachment
    }

    fn finish(&mut self) -> Result<(), CniError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(CniError::new(
            Code::InvalidEnvironment,
            format!("invalid environment: {}", self.problems.join("; ")),
            "the container runtime sets these variables; run seine-cni --help for what they mean",
        ))
    }
}

impl Attachment {
    /// Takes what is ours from `key=value;...`. Unknown keys belong to other plugins.
    fn take_arguments(&mut self, arguments: &str) -> Result<(), String> {
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!("has `{pair}`, which is not of the form KEY=VALUE"));
            };
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut self.pod_namespace,
                "K8S_POD_NAME" => &mut self.pod_name,
                "K8S_POD_UID" => &mut self.pod_uid,
                _ => continue,
            };
            if !value.is_empty() && !is_identifier(value, POD_NAME_BYTES_MAX) {
                return Err(format!("has {key} `{value}`, which no Kubernetes object can have"));
            }
            value.clone_into(field);
        }
        Ok(())
    }

    /// Refuses a namespace that is missing, is none, or is the one this process runs in.
    ///
    /// The last would hand the node's own interfaces to the agent as if they were a Pod's.
    pub fn check_netns(&self) -> Result<(), CniError> {
        let refuse = |what: &str, details: &str| {
            let message = format!("invalid network namespace CNI_NETNS={}: {what}", self.netns);
            Err(CniError::new(Code::InvalidNamespace, message, details))
        };
        let wanted = match Path::new(&self.netns).metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                return refuse(&error.to_string(), "the runtime makes it before it calls ADD");
            }
        };
        let Ok(own) = Path::new("/proc/self/ns/net").metadata() else {
            return refuse("cannot compare it with the node's own", "mount /proc");
        };
        if wanted.dev() != own.dev() {
            return refuse("it is not a namespace", "give a path such as /run/netns/NAME");
        }
        if wanted.ino() == own.ino() {
            return refuse(
                "it is the namespace the plugin runs in",
                "Pods with hostNetwork need no plugin; give others a namespace of their own",
            );
        }
        Ok(())
    }
}

/// A letter or digit, then any of those, `_`, `.` and `-`.
pub(crate) fn is_identifier(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_interface_name(name: &str) -> bool {
    name.len() <= INTERFACE_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn one_error_names_every_variable_that_is_wrong() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "-x")])
            .expect_err("three variables are wrong");
        assert_eq!(error.code, 4);
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn pod_names_come_from_the_arguments_and_foreign_keys_are_left_alone() {
        let environment = read(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;X=a b"),
        ]);
        let attachment = environment.map(|read| read.attachment).ok().flatten();
        let attachment = attachment.expect("DEL has an attachment");
        assert_eq!(attachment.pod_namespace, "default");
        assert_eq!(attachment.pod_name, "web-0");
        assert_eq!(attachment.pod_uid, "");
        assert_eq!(attachment.netns, "");
    }

    #[test]
    fn arguments_that_are_no_pairs_or_no_names_are_refused() {
        for arguments in ["K8S_POD_NAME", "K8S_POD_NAME=../x", "K8S_POD_NAMESPACE=a/b"] {
            let error = read(&[
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", arguments),
            ])
            .expect_err(arguments);
            assert!(error.code == 4 && error.message.contains("CNI_ARGS"), "{error}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for name in ["eth0", "a", "net1.100", "fifteen-letters"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in [".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters!"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }
}
