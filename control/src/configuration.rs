//! The agent's configuration: one TOML, read once into valid values. Unknown keys are refused,
//! so a misspelt one never passes for a default. Antrea's names where the meaning is Antrea's.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use seine_datapath_api::v1;
use serde::{Deserialize, Serialize};

use crate::audit_log::AuditLog;
use crate::model::Permission;

/// What the file may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// This node's name among the Nodes; empty: the host name.
    pub node_name: String,
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// Where seine-datapath listens.
    pub datapath_socket: PathBuf,
    /// Where the CNI plugin finds the agent.
    pub cni_socket: PathBuf,
    /// Leases and attachments, kept over restarts.
    pub state_dir: PathBuf,
    /// How Pod traffic crosses between nodes.
    #[serde(rename = "trafficEncapMode")]
    pub traffic_encap_mode: String,
    /// By which tunnel.
    #[serde(rename = "tunnelType")]
    pub tunnel_type: String,
    /// What becomes of connections under way when policies change.
    #[serde(rename = "existingConnections")]
    pub existing_connections: String,
    /// Where the cluster addresses of Services are; a Service outside is routed by itself.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// The same for IPv6.
    #[serde(rename = "serviceCIDRv6")]
    pub service_cidr_v6: String,
    /// The MTU of Pods and of the gateway; 0: the uplink's less the tunnel.
    #[serde(rename = "defaultMTU")]
    pub default_mtu: u32,
    /// Where audit lines of policies go.
    #[serde(rename = "auditLogging")]
    pub audit_logging: AuditLogging,
    /// How Services are reached.
    #[serde(rename = "antreaProxy")]
    pub antrea_proxy: AntreaProxy,
    /// Where Pods meet their drivers in user space.
    #[serde(rename = "vhostUser")]
    pub vhost_user: VhostUserSettings,
    /// Which Pods may ask to send beyond their own addresses.
    #[serde(rename = "senderPermits")]
    pub sender_permits: Vec<Permission>,
}

/// Where Pods meet their vhost-user ports and take AF_XDP sockets, and who may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct VhostUserSettings {
    /// A folder of the agent's own.
    pub socket_dir: PathBuf,
    /// Who may use the sockets, by number; 0: root only.
    pub user: u32,
    /// The same for a group.
    pub group: u32,
}

impl Default for VhostUserSettings {
    fn default() -> Self {
        Self { socket_dir: "/run/seine/pods".into(), user: 0, group: 0 }
    }
}

/// Antrea's `antreaProxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AntreaProxy {
    /// At which of the node's addresses NodePorts are reached; empty: at all of them.
    pub node_port_addresses: Vec<IpNet>,
}

/// Antrea's `auditLogging`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AuditLogging {
    /// The file.
    pub file: PathBuf,
    /// Megabytes that it may grow to.
    pub max_size: u64,
    /// Older files that are kept.
    pub max_backups: usize,
}

impl Default for AuditLogging {
    fn default() -> Self {
        let file = "/var/log/seine/networkpolicy/np.log".into();
        Self { file, max_size: 500, max_backups: 3 }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            manifests: "/etc/seine/cluster".into(),
            datapath_socket: "/run/seine/datapath.sock".into(),
            cni_socket: "/run/seine/agent.sock".into(),
            state_dir: "/var/lib/seine".into(),
            traffic_encap_mode: "encap".into(),
            tunnel_type: "geneve".into(),
            existing_connections: "keep".into(),
            service_cidr: "10.96.0.0/12".into(),
            service_cidr_v6: String::new(),
            default_mtu: 0,
            audit_logging: AuditLogging::default(),
            antrea_proxy: AntreaProxy::default(),
            vhost_user: VhostUserSettings::default(),
            sender_permits: Vec::new(),
        }
    }
}

/// The defaults with their reasons, as `--print-default-config` prints them.
pub const DEFAULT_TOML: &str = r#"# seine-agent. Every key is optional; these are the defaults. Unknown keys are refused.

# This node's name among the Nodes of the cluster. Empty: the host name, as the kubelet does.
node_name = ""

# A folder of ordinary Kubernetes manifests (Node, Namespace, Pod; .yaml, .yml, .json), in place
# of an API server. Changes take effect live.
manifests = "/etc/seine/cluster"

# Where seine-datapath listens. In /run, because it is of no use after a restart of the machine.
datapath_socket = "/run/seine/datapath.sock"

# Where the CNI plugin finds this agent: the plugin's own default.
cni_socket = "/run/seine/agent.sock"

# Leases and attachments, and what is in force of the manifests, for those that are wrong when the
# agent starts. Must outlive a restart of the agent; /var/lib, because /run may be too small or
# memory.
state_dir = "/var/lib/seine"

# How Pod traffic crosses between nodes: "encap" puts all of it into a tunnel, which needs nothing
# of the underlay. "noEncap" leaves it to the node's kernel, which routes each peer's Pod range by
# that peer's address: for nodes of one segment. hybrid and networkPolicyOnly are not there yet.
trafficEncapMode = "encap"

# By which tunnel: "geneve", Antrea's default, or "vxlan". gre and stt are not there yet.
tunnelType = "geneve"

# What becomes of connections under way when policies change: "keep" lets them go on, as Antrea
# does. With "reevaluate" each whose policies have changed is judged again by its next packet, in
# either direction, and ends if it is denied.
existingConnections = "keep"

# Where the cluster addresses of Services are: kubeadm's and Antrea's default. The node reaches the
# whole range by one route; a Service with an address elsewhere gets a route of its own. Empty: all
# of them do.
serviceCIDR = "10.96.0.0/12"
serviceCIDRv6 = ""

# The MTU of Pods and of seine-gw0, in bytes. 0 derives it: the uplink's MTU less 50 bytes for
# a tunnel over IPv4, 70 over IPv6.
defaultMTU = 0

# Which Pods may ask, by annotation, to send beyond their own addresses. By default none may. One
# entry permits to the Pods of a namespace addresses within ranges (port.seine.io/
# allowed-addresses), MAC addresses beside their own, to be routers, which send from any address
# outside of the cluster (port.seine.io/trusted-router), and frames with VLAN tags
# (port.seine.io/vlans):
#   [[senderPermits]]
#   namespace = "nfv"
#   allowedAddresses = ["10.99.0.0/16"]
#   macs = ["00:00:5e:00:01:0a"]
#   trustedRouter = true
#   vlans = [100, "200-299"]
senderPermits = []

# What rules that log have decided, in Antrea's format, one line a decision. The file is renamed
# before it grows beyond maxSize megabytes, and maxBackups older ones are kept: Antrea's defaults.
[auditLogging]
file = "/var/log/seine/networkpolicy/np.log"
maxSize = 500
maxBackups = 3

# At which of the Node's addresses of type InternalIP NodePorts are reached: those within one of
# these ranges, such as "192.0.2.0/24". Empty, Antrea's default: at all of them.
[antreaProxy]
nodePortAddresses = []

# Pods with the annotation `port.seine.io/kind: vhost-user` have a socket in place of an interface:
# <socketDir>/<UID of the Pod>/<interface>/vhost.sock. With `af-xdp` they have an interface, and an
# unprivileged program takes AF_XDP sockets on it at xdp.sock in the same place. The folder is the
# agent's own, in /run, for sockets do not outlive the machine; a socket's path has at most 100
# bytes. Who may use the sockets, beside root: a user and a group by number, such as those of QEMU
# or of the Pod.
[vhostUser]
socketDir = "/run/seine/pods"
user = 0
group = 0
"#;

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key or a value that is none.
    #[error("configuration `{}`: {reason}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value that Antrea has and Seine has not.
    #[error("{key} = \"{value}\" is not there yet; this version has \"{supported}\" only")]
    NotYet {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What works.
        supported: String,
    },
    /// A value that is none.
    #[error("{key} = \"{value}\": {reason}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// No name for this node.
    #[error("the host has no name; set node_name")]
    NoHostName,
}

impl Configuration {
    /// Reads and checks a file; without a path, the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigurationError> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?,
            None => String::new(),
        };
        let shown = path.unwrap_or(Path::new("(none)"));
        let configuration: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let reason = format!("line {line}: {}", error.message().replace('\n', " "));
            ConfigurationError::Parse { path: shown.to_owned(), reason }
        })?;
        configuration.checked()
    }

    /// Where audit lines go, and how much of them is kept.
    pub fn audit_log(&self) -> AuditLog {
        let AuditLogging { file, max_size, max_backups } = &self.audit_logging;
        AuditLog {
            path: file.clone(),
            bytes_max: max_size.saturating_mul(1_000_000).max(1),
            backups_max: *max_backups,
        }
    }

    /// How Pods of different nodes reach each other.
    pub fn encap_mode(&self) -> v1::node::EncapMode {
        match self.traffic_encap_mode.as_str() {
            "noEncap" => v1::node::EncapMode::NoEncap,
            _ => v1::node::EncapMode::Encap,
        }
    }

    /// By which tunnel, if by one.
    pub fn tunnel_type(&self) -> v1::node::TunnelType {
        match self.tunnel_type.as_str() {
            "vxlan" => v1::node::TunnelType::Vxlan,
            _ => v1::node::TunnelType::Geneve,
        }
    }

    /// What becomes of connections under way when policies change.
    pub fn existing_connections(&self) -> v1::node::ExistingConnections {
        match self.existing_connections.as_str() {
            "reevaluate" => v1::node::ExistingConnections::Reevaluate,
            _ => v1::node::ExistingConnections::Keep,
        }
    }

    /// Where the cluster addresses of Services are.
    pub fn service_ranges(&self) -> Vec<IpNet> {
        let texts = [&self.service_cidr, &self.service_cidr_v6];
        texts.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(|it| it.trunc()).collect()
    }

    fn checked(mut self) -> Result<Self, ConfigurationError> {
        one_of(
            "trafficEncapMode",
            &self.traffic_encap_mode,
            &["encap", "noEncap"],
            &["hybrid", "networkPolicyOnly"],
        )?;
        one_of("tunnelType", &self.tunnel_type, &["geneve", "vxlan"], &["gre", "stt"])?;
        if !matches!(self.existing_connections.as_str(), "keep" | "reevaluate") {
            return Err(ConfigurationError::Value {
                key: "existingConnections",
                value: self.existing_connections,
                reason: "it is \"keep\" or \"reevaluate\"",
            });
        }
        service_range("serviceCIDR", &self.service_cidr, false)?;
        service_range("serviceCIDRv6", &self.service_cidr_v6, true)?;
        let paths = [
            ("manifests", &self.manifests),
            ("datapath_socket", &self.datapath_socket),
            ("cni_socket", &self.cni_socket),
            ("state_dir", &self.state_dir),
            ("auditLogging.file", &self.audit_logging.file),
            ("vhostUser.socketDir", &self.vhost_user.socket_dir),
        ];
        for (key, path) in paths {
            if path.as_os_str().is_empty() {
                let reason = "a path is needed";
                return Err(ConfigurationError::Value { key, value: String::new(), reason });
            }
        }
        if !self.vhost_user.socket_dir.is_absolute() {
            return Err(ConfigurationError::Value {
                key: "vhostUser.socketDir",
                value: self.vhost_user.socket_dir.display().to_string(),
                reason: "an absolute path is needed: the datapath has a folder of its own",
            });
        }
        if self.default_mtu > u32::from(u16::MAX) {
            return Err(ConfigurationError::Value {
                key: "defaultMTU",
                value: self.default_mtu.to_string(),
                reason: "an IP packet has at most 65535 bytes",
            });
        }
        if self.node_name.is_empty() {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            self.node_name = name.trim().to_lowercase();
            if self.node_name.is_empty() {
                return Err(ConfigurationError::NoHostName);
            }
        }
        Ok(self)
    }
}

/// A range of that family, or none.
fn service_range(
    key: &'static str,
    text: &str,
    v6: bool,
) -> Result<Option<IpNet>, ConfigurationError> {
    match text.parse::<IpNet>() {
        _ if text.is_empty() => Ok(None),
        Ok(range) if range.addr().is_ipv6() == v6 => Ok(Some(range.trunc())),
        _ => {
            let reason =
                if v6 { "no range of IPv6 addresses" } else { "no range of IPv4 addresses" };
            Err(ConfigurationError::Value { key, value: text.to_owned(), reason })
        }
    }
}

fn one_of(
    key: &'static str,
    value: &str,
    supported: &[&str],
    later: &[&str],
) -> Result<(), ConfigurationError> {
    if supported.contains(&value) {
        return Ok(());
    }
    let supported = supported.join("\" and \"");
    let value = value.to_owned();
    if later.iter().any(|known| *known == value) {
        return Err(ConfigurationError::NotYet { key, value, supported });
    }
    Err(ConfigurationError::Value { key, value, reason: "not a value that Antrea knows" })
}

#[cfg(test)]
mod tests;
