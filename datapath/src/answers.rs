//! What the service answers: ports, and the trace of a described packet.

use std::net::IpAddr;
use std::str::FromStr;

use seine_datapath_api::v1;
use seine_pipeline::address::{Mac, PortKind};
use seine_pipeline::connection::Direction;
use seine_pipeline::describe::{Description, Protocol, describe};
use seine_pipeline::learned::WorkerMemory;
use seine_pipeline::run::{Context, run};
use seine_pipeline::trace::Trace;
use seine_pipeline::verdict::{Outcome, Verdict};
use tonic::Status;

use crate::datapath::Datapath;
use crate::devices::{DeviceError, PodDevice};
use crate::listing;
use crate::machine::boot_time_ms;
use crate::port::OpenError;
use crate::port::vhost_user::{Mode, QUEUE_PAIRS_MAX, SocketOwner};
use crate::ports::OpenPort;

/// The MTU of a vhost-user port whose opener names none.
const VHOST_USER_MTU: usize = 1500;

/// The largest payload that a trace builds.
const PAYLOAD_BYTES_MAX: u32 = 9000;

/// A port with its counters, as the API shows it.
pub fn port(datapath: &Datapath, port: &OpenPort) -> v1::Port {
    let totals = port.totals();
    let attached = datapath.writer.current().state.endpoint_of(port.id);
    let (endpoint, endpoint_addresses) = match port.kind {
        PortKind::Pod => datapath.writer.endpoint_of(port.id).unwrap_or_default(),
        PortKind::Gateway => (String::new(), datapath.writer.gateway_addresses()),
        PortKind::Host | PortKind::Uplink => (String::new(), Vec::new()),
    };
    let lends_at = datapath.devices().lends_at(&port.interface);
    let lends_at = lends_at.map(|socket| socket.display().to_string());
    v1::Port {
        name: port.name.clone(),
        id: port.id.index() as u32,
        generation: port.generation,
        kind: kind(port.kind).into(),
        device: Some(v1::Device {
            interface: port.interface.clone(),
            mac: port.mac.0.to_vec(),
            mtu: port.mtu.into(),
        }),
        attach_mode: datapath.devices().attach_mode(&port.interface, port.kind),
        queues: port.counters.len() as u32,
        counters: Some(v1::PortCounters {
            receive_packets: totals.receive_packets,
            receive_bytes: totals.receive_bytes,
            transmit_packets: totals.transmit_packets,
            transmit_bytes: totals.transmit_bytes,
            drops: totals.drops_total(),
            system_calls: totals.system_calls,
            cycles: totals.cycles,
        }),
        endpoint,
        endpoint_addresses,
        network_id: attached.as_ref().map_or(0, |it| it.network_id.into()),
        interface_index: attached.as_ref().map_or(0, |it| it.interface_index),
        fault: port.fault().unwrap_or_default(),
        lends_at: lends_at.unwrap_or_default(),
    }
}

/// Queues in a worker's hands, with what was spent on their packets.
pub fn worker_queues(datapath: &Datapath, worker: usize) -> Vec<v1::WorkerQueue> {
    let queue = |port: &OpenPort| {
        let counters = port.counters.get(worker)?;
        let attached = match port.kind {
            PortKind::Pod => datapath.writer.endpoint_of(port.id),
            PortKind::Gateway | PortKind::Host | PortKind::Uplink => None,
        };
        Some(v1::WorkerQueue {
            port: port.name.clone(),
            port_id: port.id.index() as u32,
            generation: port.generation,
            kind: kind(port.kind).into(),
            endpoint: attached.unwrap_or_default().0,
            queue: worker as u32,
            packets: counters.receive_packets.read(),
            cycles: counters.cycles.read(),
        })
    };
    datapath.ports.iter().filter_map(queue).collect()
}

fn kind(kind: PortKind) -> v1::port::Kind {
    match kind {
        PortKind::Pod => v1::port::Kind::Pod,
        PortKind::Gateway => v1::port::Kind::Gateway,
        PortKind::Uplink => v1::port::Kind::Uplink,
        PortKind::Host => v1::port::Kind::Host,
    }
}

/// What a port is to be opened on.
pub fn pod_device(
    interface: String,
    vhost_user: Option<v1::VhostUser>,
) -> Result<PodDevice, Status> {
    let Some(wanted) = vhost_user else { return Ok(PodDevice::Link(interface)) };
    if !interface.is_empty() {
        return Err(Status::invalid_argument("a port has an interface or vhost_user, not both"));
    }
    let mode = match wanted.mode() {
        v1::vhost_user::Mode::Server => Mode::Server,
        v1::vhost_user::Mode::Client => Mode::Client,
        v1::vhost_user::Mode::Unspecified => {
            return Err(Status::invalid_argument("vhost_user.mode: MODE_SERVER or MODE_CLIENT"));
        }
    };
    let mtu = if wanted.mtu == 0 { VHOST_USER_MTU } else { wanted.mtu as usize };
    let pairs = match wanted.queues as usize {
        0 => QUEUE_PAIRS_MAX,
        pairs @ 1..=QUEUE_PAIRS_MAX => pairs,
        pairs => {
            let reason = format!("vhost_user.queues: {pairs}, where 1 to {QUEUE_PAIRS_MAX} can be");
            return Err(Status::invalid_argument(reason));
        }
    };
    let owner = SocketOwner { user: wanted.socket_user, group: wanted.socket_group };
    Ok(PodDevice::VhostUser { socket: wanted.socket, mode, owner, pairs, mtu })
}

/// How a device's error is answered.
pub fn device_status(error: &DeviceError, message: String) -> Status {
    match error {
        DeviceError::Open(OpenError::NoSuchInterface(_)) => Status::not_found(message),
        DeviceError::Open(OpenError::NoFrames { .. } | OpenError::FrameMemory { .. }) => {
            Status::resource_exhausted(message)
        }
        _ => Status::failed_precondition(message),
    }
}

/// Runs a described packet through the tables in force.
pub fn trace(datapath: &Datapath, request: v1::TraceRequest) -> Result<v1::TraceReply, Status> {
    let description = description(request)?;
    let current = datapath.writer.current();
    let mut described = describe(&description, &current.state)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut packet = described
        .packet()
        .ok_or_else(|| Status::invalid_argument("the described packet does not fit a frame"))?;
    let mut trace = Trace::default();
    let now_ms = boot_time_ms();
    let mut context = Context {
        state: &current.state,
        adjacencies: &datapath.adjacencies,
        now_ms,
        learned: &datapath.learned,
        worker: &mut WorkerMemory::new(),
        dry: true,
        trace: Some(&mut trace),
    };
    let outcome = run(&mut packet, &mut context);
    let met = datapath.learned.connections.met_by(&packet, now_ms);
    packet.complete_checksum();
    let port_name = |id| current.state.port(id).map(|port| port.name.clone()).unwrap_or_default();
    let steps = trace.steps.iter().map(|step| v1::trace_reply::Step {
        stage: stage_of(step.table.name()).to_owned(),
        table: step.table.name().to_owned(),
        matched: step.matched.clone(),
        verdict: match step.verdict {
            Verdict::Next => "Next".to_owned(),
            Verdict::Goto(table) => format!("Goto {table}"),
            Verdict::Output(port) => format!("Output {}", port_name(port)),
            Verdict::Answer => "Answer".to_owned(),
            Verdict::Replicate(vlan) => format!("Replicate in VLAN {vlan}"),
            Verdict::Drop(reason) => format!("Drop {}", reason.name()),
        },
    });
    let mut reply = v1::TraceReply {
        revision: current.revision,
        steps: steps.collect(),
        answers: met.is_some_and(|(_, direction)| direction == Direction::Reply),
        connection: met.map(|(listed, _)| listing::entry(&listed, &current.state)),
        ..v1::TraceReply::default()
    };
    match outcome {
        Outcome::Output(port) => {
            reply.verdict = "Output".to_owned();
            reply.egress = port_name(port);
            reply.packet = packet.bytes().to_vec();
        }
        Outcome::Replicate(vlan) => {
            let members = current.state.vlan_members(vlan).filter(|port| *port != packet.ingress);
            let members: Vec<String> = members.map(port_name).collect();
            reply.verdict = "Replicate".to_owned();
            reply.egress = members.join(", ");
            reply.packet = packet.bytes().to_vec();
        }
        Outcome::Drop(reason) => {
            reply.verdict = "Drop".to_owned();
            reply.reason = reason.name().to_owned();
            reply.meaning = reason.meaning().to_owned();
        }
    }
    Ok(reply)
}

fn stage_of(table: &str) -> &'static str {
    let holds = |stage: &&seine_pipeline::stage::Stage| {
        stage.tables.iter().any(|candidate| candidate.id().name() == table)
    };
    seine_pipeline::STAGES.iter().find(holds).map_or("", |stage| stage.name)
}

fn description(request: v1::TraceRequest) -> Result<Description, Status> {
    let protocol = match request.protocol() {
        v1::trace_request::Protocol::Unspecified => {
            return Err(Status::invalid_argument("protocol: must be ICMP, TCP, UDP, SCTP or ARP"));
        }
        v1::trace_request::Protocol::Icmp => Protocol::Icmp,
        v1::trace_request::Protocol::Tcp => Protocol::Tcp,
        v1::trace_request::Protocol::Udp => Protocol::Udp,
        v1::trace_request::Protocol::Sctp => Protocol::Sctp,
        v1::trace_request::Protocol::Arp => Protocol::Arp,
    };
    if request.tcp_flags.is_some() && protocol != Protocol::Tcp {
        return Err(Status::invalid_argument("tcp_flags: of TCP only"));
    }
    let flags = |flags| {
        u8::try_from(flags)
            .map_err(|_| Status::invalid_argument(format!("tcp_flags: {flags} is above 255")))
    };
    if request.payload_bytes > PAYLOAD_BYTES_MAX {
        let reason = format!("payload_bytes: at most {PAYLOAD_BYTES_MAX}");
        return Err(Status::invalid_argument(reason));
    }
    let source = match request.source.as_str() {
        "" => None,
        text => Some(parse::<IpAddr>("source", text)?),
    };
    Ok(Description {
        source,
        destination: parse("destination", &request.destination)?,
        protocol,
        source_port: port_number("source_port", request.source_port)?,
        destination_port: port_number("destination_port", request.destination_port)?,
        payload_bytes: request.payload_bytes as usize,
        ttl: match request.ttl {
            0 => 64,
            ttl => u8::try_from(ttl)
                .map_err(|_| Status::invalid_argument(format!("ttl: {ttl} is above 255")))?,
        },
        tcp_flags: request.tcp_flags.map(flags).transpose()?,
        source_mac: mac("source_mac", &request.source_mac)?,
        destination_mac: mac("destination_mac", &request.destination_mac)?,
        ingress: request.ingress,
    })
}

fn parse<T: FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: `{text}`: {error}")))
}

fn port_number(field: &str, number: u32) -> Result<u16, Status> {
    u16::try_from(number)
        .map_err(|_| Status::invalid_argument(format!("{field}: {number} is above 65535")))
}

fn mac(field: &str, bytes: &[u8]) -> Result<Option<Mac>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    <[u8; 6]>::try_from(bytes).map(|bytes| Some(Mac(bytes))).map_err(|_| {
        Status::invalid_argument(format!("{field}: a MAC address has 6 bytes, not {}", bytes.len()))
    })
}
