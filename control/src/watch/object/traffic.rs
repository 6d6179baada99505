//! Addresses, ports and protocols, as all six kinds of policy write them.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Wrong, each};
use crate::model::{IpBlock, Port, Protocol};

/// A range of addresses with holes. Host bits do not count, as in Kubernetes.
pub(super) fn ip_block(cidr: &str, except: &[String]) -> Result<IpBlock, Wrong> {
    let cidr = range(cidr).map_err(|reason| Wrong::new("cidr", reason))?;
    let except = each("except", except, |text| {
        let except = range(text).map_err(|reason| Wrong::new(".", reason))?;
        // The comparison of ranges of different families is false, as it should be.
        match cidr.contains(&except) && cidr.prefix_len() < except.prefix_len() {
            true => Ok(except),
            false => {
                let reason = format!("except CIDR {text} is not a strict subset of CIDR {cidr}");
                Err(Wrong::new(".", reason))
            }
        }
    })?;
    Ok(IpBlock { cidr, except })
}

/// A range like 10.10.1.0/24 or fd00::/64.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    let range: IpNet =
        text.parse().map_err(|_| format!("`{text}` is not a range like 10.10.1.0/24"))?;
    Ok(range.trunc())
}

/// An IP address.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| Wrong::new(".", format!("`{text}` is not an IP address")))
}

/// A protocol that has ports; TCP if none is named.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, Wrong> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Wrong::new("protocol", format!("`{other}` is none of TCP, UDP, SCTP"))),
    }
}

/// The number of a port.
pub(super) fn number(field: &str, number: i64) -> Result<u16, Wrong> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Wrong::new(field, format!("{number} is not a port; ports are 1 to 65535"))),
    }
}

/// Ports from one to another, both included.
pub(super) fn interval(
    (first_field, first): (&str, i64),
    (last_field, last): (&str, i64),
) -> Result<(u16, u16), Wrong> {
    let (first, last) = (number(first_field, first)?, number(last_field, last)?);
    match last < first {
        true => {
            let reason =
                format!("`{last_field}` should be greater than or equal to `{first_field}`");
            Err(Wrong::new(last_field, reason))
        }
        false => Ok((first, last)),
    }
}

/// What `port` and `endPort` say of the destination.
pub(super) fn destination(
    port: Option<&IntOrString>,
    end: Option<i32>,
) -> Result<Option<Port>, Wrong> {
    match (port, end) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(Wrong::new("endPort", "if `endPort` is specified `port` must be specified"))
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            Err(Wrong::new("endPort", "if `port` is a string `endPort` cannot be specified"))
        }
        (Some(IntOrString::String(name)), None) => Ok(Some(named("port", name)?)),
        (Some(IntOrString::Int(first)), last) => {
            let last = last.unwrap_or(*first);
            let (first, last) =
                interval(("port", i64::from(*first)), ("endPort", i64::from(last)))?;
            Ok(Some(Port::Range(first, last)))
        }
    }
}

/// A port by the name that a container gives it: IANA's rules for service names.
pub(super) fn named(field: &str, name: &str) -> Result<Port, Wrong> {
    let is_valid = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    match is_valid {
        true => Ok(Port::Named(name.to_owned())),
        false => Err(Wrong::new(
            field,
            format!("`{name}` is not the name of a port: at most 15 of a-z, 0-9 and single `-`"),
        )),
    }
}

/// A domain name in small letters; asterisks stand for anything. A full stop at the end says
/// nothing that is not known.
pub(super) fn domain_name(text: &str) -> Result<String, Wrong> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_valid = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.*".contains(&byte));
    match is_valid {
        true => Ok(name.to_ascii_lowercase()),
        false => {
            let reason = format!("`{text}` is not a domain name; it may have letters, digits, -.*");
            Err(Wrong::new(".", reason))
        }
    }
}
