//! From the words of an operator to a packet that the datapath can trace, and back.

use std::net::IpAddr;

use seine_datapath_api::v1;

use super::arguments::{Ingress, Target, TraceArguments, What};
use super::decided::ConnectionReport;
use super::failure::Failure;
use super::packet;
use super::report::{PortReport, TraceReport, TraceStep};

/// The question that `arguments` describe, on a node with these ports.
pub fn request(
    arguments: &TraceArguments,
    ports: &[PortReport],
) -> Result<v1::TraceRequest, Failure> {
    let sender = sender(&arguments.from, ports)?;
    let ipv6 = match (&arguments.to, &arguments.source_address) {
        (Target::Address(address), _) | (_, Some(address)) => address.is_ipv6(),
        _ => arguments.ipv6,
    };
    let destination = match &arguments.to {
        Target::Address(address) => *address,
        Target::Endpoint(name) => {
            let port = local(name, ports)?;
            address_of(name, Some(port), ipv6, "an address in its place")?
        }
        Target::Gateway => {
            let port = ports.iter().find(|port| port.kind == "gateway");
            address_of("gateway", port, ipv6, "an address in its place")?
        }
    };
    let source = match arguments.source_address {
        Some(address) if address.is_ipv6() != destination.is_ipv6() => {
            return Err(Failure::Families { source_address: address, destination });
        }
        Some(address) => address.to_string(),
        // The datapath knows the gateway's own, and why there can be none for the uplink.
        None if sender.port.is_some_and(|port| port.kind != "pod") => String::new(),
        None => address_of(&sender.name, sender.port, ipv6, "--source-address")?.to_string(),
    };
    let (protocol, destination_port) = arguments.what.protocol();
    let has_ports = matches!(arguments.what, What::Tcp(_) | What::Udp(_) | What::Sctp(_));
    if arguments.tcp_flags.is_some() && !matches!(arguments.what, What::Tcp(_)) {
        return Err(Failure::FlagsWithoutTcp { what: arguments.what });
    }
    let bytes = |mac: Option<super::arguments::Mac>| mac.map(|mac| mac.0.to_vec());
    Ok(v1::TraceRequest {
        ingress: sender.name,
        source,
        destination: destination.to_string(),
        protocol: protocol.into(),
        source_port: if has_ports { arguments.source_port.into() } else { 0 },
        destination_port: destination_port.into(),
        payload_bytes: arguments.payload,
        ttl: arguments.ttl.into(),
        source_mac: bytes(arguments.source_mac).unwrap_or_default(),
        destination_mac: bytes(arguments.destination_mac).unwrap_or_default(),
        tcp_flags: arguments.tcp_flags.map(|flags| flags.0.into()),
    })
}

/// What came of it.
pub fn report(
    request: &v1::TraceRequest,
    what: What,
    reply: v1::TraceReply,
    ports: &[PortReport],
) -> TraceReport {
    let endpoint = |name: &str| {
        let port = ports.iter().find(|port| port.name == name);
        port.map(|port| port.endpoint.clone()).unwrap_or_default()
    };
    let steps = reply.steps.into_iter().map(|step| TraceStep {
        stage: step.stage,
        table: step.table,
        matched: step.matched,
        verdict: step.verdict,
    });
    let packet = &reply.packet;
    let source = if request.source.is_empty() { &request.ingress } else { &request.source };
    TraceReport {
        ingress: request.ingress.clone(),
        ingress_endpoint: endpoint(&request.ingress),
        flow: format!("{source} > {} {what}", request.destination),
        revision: reply.revision,
        steps: steps.collect(),
        verdict: reply.verdict,
        egress_endpoint: endpoint(&reply.egress),
        egress: reply.egress,
        reason: reply.reason,
        meaning: reply.meaning,
        packet: if packet.is_empty() { String::new() } else { packet::summary(packet) },
        packet_bytes: packet::hexadecimal(packet),
        connection: reply.connection.map(ConnectionReport::from),
        answers: reply.answers,
    }
}

/// The addresses of a Pod of this node: "namespace/pod" with or without an interface; or the
/// address that is given.
pub(super) fn addresses_of(pod: &str, ports: &[PortReport]) -> Result<Vec<String>, Failure> {
    if pod.parse::<IpAddr>().is_ok() {
        return Ok(vec![pod.to_owned()]);
    }
    let whole = pod.matches('/').count() > 1;
    let endpoint = if whole { pod.to_owned() } else { format!("{pod}/eth0") };
    local(&endpoint, ports).map(|port| port.addresses.clone())
}

/// The port that a packet comes in by, as the datapath calls it.
struct Sender<'a> {
    name: String,
    port: Option<&'a PortReport>,
}

fn sender<'a>(from: &Ingress, ports: &'a [PortReport]) -> Result<Sender<'a>, Failure> {
    let of_port = |port: &'a PortReport| Sender { name: port.name.clone(), port: Some(port) };
    let find = |name: &str, matches: &dyn Fn(&PortReport) -> bool| {
        ports.iter().find(|port| matches(port)).map(of_port).ok_or_else(|| Failure::UnknownPort {
            name: name.into(),
            known: ports.iter().map(|port| port.name.clone()).collect(),
        })
    };
    match from {
        Ingress::Tunnel => Ok(Sender { name: "tunnel".into(), port: None }),
        Ingress::Endpoint(name) => local(name, ports).map(of_port),
        Ingress::Gateway => find("gateway", &|port| port.kind == "gateway"),
        Ingress::Port(name) => find(name, &|port| port.name == *name),
    }
}

fn local<'a>(endpoint: &str, ports: &'a [PortReport]) -> Result<&'a PortReport, Failure> {
    ports.iter().find(|port| port.endpoint == endpoint).ok_or_else(|| Failure::NotLocal {
        endpoint: endpoint.into(),
        known: ports
            .iter()
            .filter(|port| !port.endpoint.is_empty())
            .map(|port| port.endpoint.clone())
            .collect(),
    })
}

fn address_of(
    name: &str,
    port: Option<&PortReport>,
    ipv6: bool,
    option: &'static str,
) -> Result<IpAddr, Failure> {
    let addresses = port.into_iter().flat_map(|port| &port.addresses);
    addresses
        .filter_map(|text| text.parse().ok())
        .find(|address: &IpAddr| address.is_ipv6() == ipv6)
        .ok_or_else(|| Failure::NoAddress {
            of: name.into(),
            family: if ipv6 { "IPv6" } else { "IPv4" },
            option,
        })
}
