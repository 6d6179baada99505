//! The result of ADD in the words of each CNI version, and back again for CHECK.
//!
//! Older words can say less: an MTU and the path of a socket need 1.1.0; before 1.0.0 each address
//! names its family.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CniError, Code, SpecVersion, v1};

/// A result as CNI writes it.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct CniResult {
    #[serde(default)]
    cni_version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<CniInterface>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ips: Vec<CniIp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<CniRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<Value>,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct CniInterface {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sandbox: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    socket_path: String,
}

#[derive(Serialize, Deserialize, Debug)]
struct CniIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<u32>,
    address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize, Deserialize, Debug)]
struct CniRoute {
    dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

/// The JSON that goes to stdout after an ADD.
///
/// An answer of the agent that no result can hold is an error: the runtime would keep it.
pub fn render(
    attachment: &v1::Attachment,
    version: SpecVersion,
    dns: Option<Value>,
) -> Result<String, CniError> {
    let interfaces = attachment.interfaces.iter().map(|interface| CniInterface {
        name: interface.name.clone(),
        mac: interface.mac.clone(),
        mtu: Some(interface.mtu).filter(|mtu| version.interfaces_have_mtu() && *mtu > 0),
        sandbox: interface.sandbox.clone(),
        socket_path: match version.interfaces_have_mtu() {
            true => interface.socket_path.clone(),
            false => String::new(),
        },
    });
    let count = attachment.interfaces.len();
    let result = CniResult {
        cni_version: version.name().into(),
        interfaces: interfaces.collect(),
        ips: attachment
            .ips
            .iter()
            .map(|ip| render_ip(ip, version, count))
            .collect::<Result<_, _>>()?,
        routes: attachment.routes.iter().map(render_route).collect::<Result<_, _>>()?,
        dns,
    };
    Ok(serde_json::to_string(&result).expect("strings and numbers are JSON"))
}

fn render_ip(ip: &v1::Ip, version: SpecVersion, interfaces: usize) -> Result<CniIp, CniError> {
    let address: IpNet =
        ip.address.parse().map_err(|_| unusable("an address", &ip.address, "10.10.1.2/24"))?;
    if ip.interface as usize >= interfaces {
        let index = ip.interface.to_string();
        return Err(unusable("an address's interface", &index, "an index into its interfaces"));
    }
    let family = if address.addr().is_ipv4() { "4" } else { "6" };
    Ok(CniIp {
        version: version.addresses_name_their_family().then(|| family.into()),
        interface: Some(ip.interface),
        address,
        gateway: gateway(&ip.gateway)?,
    })
}

fn render_route(route: &v1::Route) -> Result<CniRoute, CniError> {
    let dst = route.destination.parse();
    Ok(CniRoute {
        dst: dst.map_err(|_| unusable("a route", &route.destination, "0.0.0.0/0"))?,
        gw: gateway(&route.gateway)?,
    })
}

fn gateway(text: &str) -> Result<Option<IpAddr>, CniError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| unusable("a gateway", text, "10.10.1.1"))
}

fn unusable(what: &str, value: &str, example: &str) -> CniError {
    CniError::new(
        Code::Protocol,
        format!("seine-agent answered with {what} `{value}`, which no CNI result can hold"),
        format!("expected is {example}; do plugin and agent have the same version?"),
    )
}

/// A result of any served version, as CHECK gets it back. What later plugins of a chain added is
/// kept where there is a field for it and ignored where there is none.
pub(crate) fn parse(value: &Value) -> Result<v1::Attachment, serde_json::Error> {
    let result = CniResult::deserialize(value)?;
    let interfaces = result.interfaces.into_iter().map(|interface| v1::Interface {
        name: interface.name,
        mac: interface.mac,
        mtu: interface.mtu.unwrap_or(0),
        sandbox: interface.sandbox,
        socket_path: interface.socket_path,
    });
    let ips = result.ips.into_iter().map(|ip| v1::Ip {
        address: ip.address.to_string(),
        gateway: text(ip.gateway),
        interface: ip.interface.unwrap_or(u32::MAX),
    });
    let routes = result
        .routes
        .into_iter()
        .map(|route| v1::Route { destination: route.dst.to_string(), gateway: text(route.gw) });
    Ok(v1::Attachment {
        interfaces: interfaces.collect(),
        ips: ips.collect(),
        routes: routes.collect(),
    })
}

fn text(gateway: Option<IpAddr>) -> String {
    gateway.map(|gateway| gateway.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> v1::Attachment {
        let interface = |name: &str, sandbox: &str| v1::Interface {
            name: name.into(),
            mac: "02:42:0a:0a:01:02".into(),
            mtu: 1450,
            sandbox: sandbox.into(),
            socket_path: String::new(),
        };
        let ip = |address: &str, gateway: &str| v1::Ip {
            address: address.into(),
            gateway: gateway.into(),
            interface: 1,
        };
        v1::Attachment {
            interfaces: vec![interface("web-0-1a2b", ""), interface("eth0", "/run/netns/x")],
            ips: vec![ip("10.10.1.2/24", "10.10.1.1"), ip("fd00:10:1::2/64", "fd00:10:1::1")],
            routes: vec![v1::Route {
                destination: "0.0.0.0/0".into(),
                gateway: "10.10.1.1".into(),
            }],
        }
    }

    #[test]
    fn every_version_reads_back_what_it_can_say() {
        for version in SpecVersion::ALL {
            let text = render(&attachment(), version, None).expect("the attachment is sound");
            let value: Value = serde_json::from_str(&text).expect("a result is JSON");
            let mut expected = attachment();
            if !version.interfaces_have_mtu() {
                expected.interfaces.iter_mut().for_each(|interface| interface.mtu = 0);
            }
            assert_eq!(parse(&value).expect("our own result"), expected, "{version}");
        }
    }

    #[test]
    fn a_socket_is_told_where_the_version_has_a_word_for_it() {
        let mut attachment = attachment();
        attachment.interfaces[1].socket_path = "/run/seine/pods/x/eth0/vhost.sock".into();
        for version in SpecVersion::ALL {
            let text = render(&attachment, version, None).expect("the attachment is sound");
            let value: Value = serde_json::from_str(&text).expect("a result is JSON");
            let told = value["interfaces"][1]["socketPath"].as_str();
            let has_word = version == SpecVersion::NEWEST;
            assert_eq!(told, has_word.then_some("/run/seine/pods/x/eth0/vhost.sock"), "{version}");
            assert_eq!(value["interfaces"][0].get("socketPath"), None);
        }
    }

    #[test]
    fn an_answer_that_no_result_can_hold_is_a_protocol_error() {
        let spoil: [fn(&mut v1::Attachment); 4] = [
            |it| it.ips[0].address = "10.10.1.2".into(),
            |it| it.ips[0].interface = 2,
            |it| it.ips[1].gateway = "gateway".into(),
            |it| it.routes[0].destination = String::new(),
        ];
        for spoil in spoil {
            let mut bad = attachment();
            spoil(&mut bad);
            let error = render(&bad, SpecVersion::NEWEST, None).expect_err("spoilt");
            assert_eq!(error.code, Code::Protocol.number(), "{error}");
        }
    }
}
