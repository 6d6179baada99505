//! What a Pod asks of its port, by annotations of Seine's own.
//!
//! They are kept as text with the Pod and read when its port is made: a wish that cannot be is an
//! error of that ADD, and no reason to forget the Pod, whom policies may mean.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SenderPermit;

/// What the names of these annotations begin with.
pub const PORT_ANNOTATIONS: &str = "port.seine.io/";

/// The most pairs of rings that a vhost-user port has.
pub const QUEUES_MAX: u32 = 16;
/// The largest MTU of lent sockets: a frame has 2048 bytes, and the kernel keeps 256 before the
/// Ethernet header.
pub const LENT_MTU_MAX_BYTES: u32 = 2048 - 256 - 14;
/// RFC 791 and RFC 8200: the least MTU of a link that carries the family.
const MTU_MIN_IPV4_BYTES: u32 = 68;
const MTU_MIN_IPV6_BYTES: u32 = 1280;

/// Who listens at the socket of a vhost-user port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketMode {
    /// The datapath: the socket is there before the Pod is.
    #[default]
    Server,
    /// The Pod's front end: the datapath connects to it, again and again.
    Client,
}

/// What a Pod's port is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortKind {
    /// An interface of the kernel.
    #[default]
    Veth,
    /// An interface of the kernel, and AF_XDP sockets on it for a program of the Pod.
    AfXdp,
    /// A driver in user space, behind a unix socket.
    VhostUser {
        /// Who listens at the socket.
        mode: SocketMode,
        /// Pairs of rings that the driver may have.
        queues: u32,
    },
}

/// What a Pod asks of its port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRequest {
    /// What it is.
    pub kind: PortKind,
    /// In place of the node's, bytes.
    pub mtu: Option<u32>,
    /// What it may send beyond its own addresses, if an operator permits it.
    pub permit: SenderPermit,
}

/// An annotation that asks for what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Pod's annotation `{PORT_ANNOTATIONS}{name}` is `{value}`: {reason}")]
pub struct PortRequestError {
    /// Its name, without the prefix.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub reason: String,
}

/// A port's limits on this node.
#[derive(Debug, Clone, Copy)]
pub struct PortLimits {
    /// Bytes of the largest packet that a frame holds.
    pub mtu_max: u32,
    /// Whether Pods have IPv6 addresses.
    pub has_ipv6: bool,
    /// Queues of every link: one for each worker.
    pub link_queues: u32,
}

impl PortRequest {
    /// Reads annotations, given without the prefix of their names.
    pub fn read(
        annotations: &BTreeMap<String, String>,
        limits: PortLimits,
    ) -> Result<Self, PortRequestError> {
        let mut request = Self { permit: SenderPermit::read(annotations)?, ..Self::default() };
        let (mut mode, mut queues) = (None, None);
        for (name, value) in annotations {
            let wrong = |reason: String| PortRequestError {
                name: name.clone(),
                value: value.clone(),
                reason,
            };
            let value = value.trim();
            match name.as_str() {
                "kind" => {
                    request.kind = match value {
                        "veth" => PortKind::Veth,
                        "af-xdp" => PortKind::AfXdp,
                        "vhost-user" => {
                            PortKind::VhostUser { mode: SocketMode::default(), queues: QUEUES_MAX }
                        }
                        _ => return Err(wrong("it is veth, af-xdp or vhost-user".into())),
                    };
                }
                "mode" => mode = Some(value.parse().map_err(wrong)?),
                "queues" => queues = Some(number(value, 1, QUEUES_MAX).map_err(wrong)?),
                "mtu" => {
                    let min = if limits.has_ipv6 { MTU_MIN_IPV6_BYTES } else { MTU_MIN_IPV4_BYTES };
                    request.mtu = Some(number(value, min, limits.mtu_max).map_err(wrong)?);
                }
                name if SenderPermit::is_about(name) => {}
                _ => return Err(wrong("no such annotation is known to this version".into())),
            }
        }
        let refuse = |name: &str, reason: String| match annotations.get(name) {
            Some(value) => {
                Err(PortRequestError { name: name.into(), value: value.clone(), reason })
            }
            None => Ok(()),
        };
        match &mut request.kind {
            PortKind::VhostUser { mode: own_mode, queues: own_queues } => {
                *own_mode = mode.unwrap_or(*own_mode);
                *own_queues = queues.unwrap_or(*own_queues);
            }
            PortKind::AfXdp => {
                refuse("mode", "only a port of kind vhost-user has it".into())?;
                let link_queues = limits.link_queues;
                if queues.is_some_and(|queues| queues != link_queues) {
                    let reason =
                        "here it is the number of the datapath's workers, each of which has";
                    refuse("queues", format!("{reason} a queue of its own: {link_queues}"))?;
                }
                if request.mtu.is_some_and(|mtu| mtu > LENT_MTU_MAX_BYTES) {
                    let reason = format!("a frame of lent sockets holds {LENT_MTU_MAX_BYTES}");
                    refuse("mtu", reason)?;
                }
            }
            PortKind::Veth => {
                refuse("mode", "only a port of kind vhost-user has it".into())?;
                refuse("queues", "only a port of kind vhost-user or af-xdp has it".into())?;
            }
        }
        Ok(request)
    }

    /// Bytes of its interface, on a node where Pods have `node_mtu`.
    pub fn mtu(&self, node_mtu: u32) -> u32 {
        match self.kind {
            PortKind::AfXdp => self.mtu.unwrap_or(node_mtu.min(LENT_MTU_MAX_BYTES)),
            PortKind::Veth | PortKind::VhostUser { .. } => self.mtu.unwrap_or(node_mtu),
        }
    }
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("it is a number from {min} to {max}"))
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "server" => Ok(Self::Server),
            "client" => Ok(Self::Client),
            _ => Err("it is server (the datapath listens) or client (the Pod does)".into()),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const LIMITS: PortLimits = PortLimits { mtu_max: 1700, has_ipv6: true, link_queues: 2 };

    fn read(annotations: &[(&str, &str)]) -> Result<PortRequest, PortRequestError> {
        let annotations =
            annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        PortRequest::read(&annotations, LIMITS)
    }

    #[test]
    fn a_pod_that_says_nothing_has_an_interface_and_one_that_asks_a_socket() {
        assert_eq!(read(&[]).unwrap(), PortRequest::default());
        let plain = read(&[("kind", "vhost-user")]).unwrap();
        let (mode, queues) = (SocketMode::Server, QUEUES_MAX);
        assert_eq!(plain.kind, PortKind::VhostUser { mode, queues });
        let all = [("kind", "vhost-user"), ("mode", "client"), ("queues", "2"), ("mtu", " 1400 ")];
        let wish = read(&all).unwrap();
        assert_eq!(wish.kind, PortKind::VhostUser { mode: SocketMode::Client, queues: 2 });
        assert_eq!(wish.mtu, Some(1400));
        assert_eq!(read(&[("kind", "veth"), ("mtu", "1280")]).unwrap().mtu, Some(1280));
    }

    #[test]
    fn lent_sockets_are_as_many_as_workers_and_their_frames_bound_the_mtu() {
        let wish = read(&[("kind", "af-xdp"), ("queues", "2"), ("mtu", "1280")]).unwrap();
        assert_eq!((wish.kind, wish.mtu(1450)), (PortKind::AfXdp, 1280));
        assert_eq!(read(&[("kind", "af-xdp")]).unwrap().mtu(8950), LENT_MTU_MAX_BYTES);
        assert_eq!(read(&[("kind", "veth")]).unwrap().mtu(8950), 8950);
        let jumbo = PortLimits { mtu_max: 9000, ..LIMITS };
        let annotations = [("kind", "af-xdp"), ("mtu", "1779")];
        let annotations = annotations.map(|(name, value)| (name.into(), value.into())).into();
        let error = PortRequest::read(&annotations, jumbo).unwrap_err().to_string();
        assert!(error.contains("`1779`") && error.contains("holds 1778"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_named_with_what_can() {
        for (annotations, says) in [
            (&[("kind", "sr-iov")][..], "`port.seine.io/kind` is `sr-iov`: it is veth, af-xdp or"),
            (&[("kind", "vhost-user"), ("queues", "17")], "a number from 1 to 16"),
            (&[("kind", "vhost-user"), ("queues", "0")], "a number from 1 to 16"),
            (&[("kind", "vhost-user"), ("mode", "both")], "it is server"),
            (&[("mtu", "1279")], "a number from 1280 to 1700"),
            (&[("mtu", "9000")], "a number from 1280 to 1700"),
            (&[("queues", "2")], "only a port of kind vhost-user or af-xdp has it"),
            (&[("kind", "af-xdp"), ("queues", "3")], "a queue of its own: 2"),
            (&[("kind", "af-xdp"), ("queues", "x")], "a number from 1 to 16"),
            (&[("kind", "af-xdp"), ("mode", "server")], "only a port of kind vhost-user has it"),
            (&[("mode", "server")], "only a port of kind vhost-user has it"),
            (&[("king", "veth")], "no such annotation"),
            (&[("vlans", "0")], "is no VLAN"),
            (&[("trusted-router", "yes")], "true or false"),
        ] {
            let error = read(annotations).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
