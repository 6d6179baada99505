//! What `-o json` prints: stable shapes, in which fields are added but not renamed or removed.
//!
//! Counters are whole numbers since the datapath started; `rates` are per second over the last
//! interval of `--watch` and absent without it. MACs and addresses are text, as are names.

use seine_datapath_api::v1;
use serde::Serialize;

use super::decided::ConnectionReport;
use super::load::WorkerReport;
use super::packet;

/// `seinectl status`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StatusReport {
    /// This program: "seinectl 0.1.0".
    pub client: String,
    /// "seine-datapath 0.1.0".
    pub server: String,
    /// The version of the gRPC words that the datapath speaks.
    pub version: u32,
    /// Seconds since the datapath started.
    pub uptime_seconds: u64,
    /// The session in force; 0 before an agent connected.
    pub session: u64,
    /// Who opened the session; empty before an agent connected.
    pub session_owner: String,
    /// The revision in force; 0 before the first transaction.
    pub revision: u64,
    /// Seconds since that revision came into force.
    pub revision_seconds: u64,
    /// Pod ports that are open.
    pub pod_ports: usize,
    /// The most Pod ports that can be open.
    pub pod_ports_max: u32,
    /// Pod ports whose Endpoint the agent has not announced: their packets are dropped.
    pub pod_ports_without_endpoint: usize,
    /// Ports of any kind with a queue that stopped for good.
    pub ports_with_fault: usize,
    /// Name of the gateway's port, if it is there.
    pub gateway: Option<String>,
    /// Name of the uplink's port, if it is there.
    pub uplink: Option<String>,
    /// Packets received and dropped on all ports.
    pub receive_packets: u64,
    /// All drops together.
    pub drops: u64,
    /// Connections that are known.
    pub connections: u64,
    /// Connections that fit.
    pub connections_max: u64,
    /// Connections that had to give way for want of room.
    pub connections_evicted: u64,
    /// Addresses that DNS answers told Pods for rules about names.
    pub name_addresses: u64,
    /// How many of them fit.
    pub name_addresses_max: u64,
    /// How many of them had to give way before their time.
    pub name_addresses_displaced: u64,
    /// What becomes of connections under way when rules change: "keep" or "reevaluate".
    pub existing_connections: &'static str,
    /// Connections under way that ended because rules that changed forbid them.
    pub connections_revoked: u64,
    /// Decisions of policies that no audit line tells of.
    pub audit_lost: u64,
    /// As in `worker list`.
    pub workers: Vec<WorkerReport>,
}

impl StatusReport {
    /// Sums up what three calls said.
    pub fn new(status: v1::StatusReply, ports: &[PortReport], workers: Vec<WorkerReport>) -> Self {
        let pods = || ports.iter().filter(|port| port.kind == "pod");
        let named = |kind| ports.iter().find(|port| port.kind == kind).map(|it| it.name.clone());
        let existing_connections = match status.existing_connections() {
            v1::node::ExistingConnections::Keep => "keep",
            v1::node::ExistingConnections::Reevaluate => "reevaluate",
        };
        StatusReport {
            client: concat!("seinectl ", env!("CARGO_PKG_VERSION")).into(),
            server: status.server,
            version: status.version,
            uptime_seconds: status.uptime_seconds,
            session: status.session,
            session_owner: status.client,
            revision: status.revision,
            revision_seconds: status.revision_seconds,
            pod_ports: pods().count(),
            pod_ports_max: status.ports_max,
            pod_ports_without_endpoint: pods().filter(|port| port.endpoint.is_empty()).count(),
            ports_with_fault: ports.iter().filter(|port| !port.fault.is_empty()).count(),
            gateway: named("gateway"),
            uplink: named("uplink"),
            receive_packets: ports.iter().map(|port| port.receive_packets).sum(),
            drops: ports.iter().map(|port| port.drops).sum(),
            connections: status.connections,
            connections_max: status.connections_max,
            connections_evicted: status.connections_evicted,
            name_addresses: status.name_addresses,
            name_addresses_max: status.name_addresses_max,
            name_addresses_displaced: status.name_addresses_displaced,
            existing_connections,
            connections_revoked: status.connections_revoked,
            audit_lost: status.audit_lost,
            workers,
        }
    }
}

/// `seinectl port list`: `{"ports": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PortList {
    /// In the order of their indexes.
    pub ports: Vec<PortReport>,
}

/// One port.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Index on the packet path.
    pub id: u32,
    /// Rises when the index is used again.
    pub generation: u32,
    /// "pod", "gateway", "host" or "uplink".
    pub kind: &'static str,
    /// "default/web-0/eth0", or empty.
    pub endpoint: String,
    /// Those of the Endpoint or of the gateway.
    pub addresses: Vec<String>,
    /// The network of the Endpoint.
    pub network_id: u32,
    /// Which of its Pod's interfaces the Endpoint is.
    pub interface_index: u32,
    /// The device, "veth1a2b"; empty when there is none.
    pub interface: String,
    /// "02:42:0a:0a:01:02"; empty when there is none.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// "native" for AF_XDP in the driver, or empty.
    pub attach_mode: String,
    /// Receive queues.
    pub queues: u32,
    /// Received, with the three next.
    pub receive_packets: u64,
    /// Bytes received.
    pub receive_bytes: u64,
    /// Packets sent.
    pub transmit_packets: u64,
    /// Bytes sent.
    pub transmit_bytes: u64,
    /// Packets received here and dropped, for any reason.
    pub drops: u64,
    /// System calls made for this port.
    pub system_calls: u64,
    /// TSC cycles that workers spent on the packets received.
    pub cycles: u64,
    /// Why one of its queues stopped for good; empty while all work.
    pub fault: String,
    /// With `--watch`, from the second round on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<PortRates>,
}

/// Per second, over the last interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct PortRates {
    /// Packets received.
    pub receive_packets: f64,
    /// Bytes received.
    pub receive_bytes: f64,
    /// Packets sent.
    pub transmit_packets: f64,
    /// Bytes sent.
    pub transmit_bytes: f64,
    /// Packets dropped.
    pub drops: f64,
}

pub(super) fn port_kind(kind: v1::port::Kind) -> &'static str {
    match kind {
        v1::port::Kind::Pod => "pod",
        v1::port::Kind::Gateway => "gateway",
        v1::port::Kind::Host => "host",
        v1::port::Kind::Uplink => "uplink",
        v1::port::Kind::Unspecified => "unknown",
    }
}

impl From<v1::Port> for PortReport {
    fn from(port: v1::Port) -> PortReport {
        let kind = port_kind(port.kind());
        let device = port.device.unwrap_or_default();
        let counters = port.counters.unwrap_or_default();
        PortReport {
            name: port.name,
            id: port.id,
            generation: port.generation,
            kind,
            endpoint: port.endpoint,
            addresses: port.endpoint_addresses,
            network_id: port.network_id,
            interface_index: port.interface_index,
            interface: device.interface,
            mac: packet::mac(&device.mac),
            mtu: device.mtu,
            attach_mode: port.attach_mode,
            queues: port.queues,
            receive_packets: counters.receive_packets,
            receive_bytes: counters.receive_bytes,
            transmit_packets: counters.transmit_packets,
            transmit_bytes: counters.transmit_bytes,
            drops: counters.drops,
            system_calls: counters.system_calls,
            cycles: counters.cycles,
            fault: port.fault,
            rates: None,
        }
    }
}

/// `seinectl drop list`: `{"drops": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DropList {
    /// Most packets first.
    pub drops: Vec<DropReport>,
}

/// Packets of one port dropped for one reason.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DropReport {
    /// The reason's name.
    pub reason: String,
    /// The port they came in by.
    pub port: String,
    /// How many.
    pub packets: u64,
    /// When the reason counts, in one sentence.
    pub meaning: String,
    /// Packets per second, with `--watch`, from the second round on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

impl From<v1::Drop> for DropReport {
    fn from(drop: v1::Drop) -> DropReport {
        let v1::Drop { port, reason, meaning, packets } = drop;
        DropReport { reason, port, packets, meaning, rate: None }
    }
}

/// `seinectl table list`: `{"tables": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableList {
    /// In the order in which a packet meets them.
    pub tables: Vec<TableReport>,
}

/// One table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableReport {
    /// The stage that runs it.
    pub stage: String,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub entries: u64,
}

/// `seinectl table show`: `{"stage", "name", "columns": [...], "rows": [[...], ...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableRows {
    /// The stage that runs it.
    pub stage: String,
    /// Its name.
    pub name: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Cells in the order of the columns.
    pub rows: Vec<Vec<String>>,
}

impl From<v1::ShowTableReply> for TableRows {
    fn from(reply: v1::ShowTableReply) -> TableRows {
        let v1::ShowTableReply { stage, name, columns, rows } = reply;
        TableRows { stage, name, columns, rows: rows.into_iter().map(|row| row.cells).collect() }
    }
}

/// `seinectl trace`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceReport {
    /// The port that it came in by, or "tunnel".
    pub ingress: String,
    /// The Endpoint of that port, if it has one.
    pub ingress_endpoint: String,
    /// "10.10.1.2 > 10.10.1.3 tcp/80".
    pub flow: String,
    /// The revision it was traced against.
    pub revision: u64,
    /// Table by table.
    pub steps: Vec<TraceStep>,
    /// "Output" or "Drop".
    pub verdict: String,
    /// The port it leaves by; empty for a drop.
    pub egress: String,
    /// The Endpoint of that port, if it has one.
    pub egress_endpoint: String,
    /// The reason of a drop and when it counts; empty otherwise.
    pub reason: String,
    /// One sentence.
    pub meaning: String,
    /// The packet as it would leave: one line, and all its bytes. Both empty for a drop.
    pub packet: String,
    /// Hexadecimal.
    pub packet_bytes: String,
    /// The connection that it met, if one is known.
    pub connection: Option<ConnectionReport>,
    /// Whether it has the direction of answers there.
    pub answers: bool,
}

/// What one table did.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceStep {
    /// The stage.
    pub stage: String,
    /// The table.
    pub table: String,
    /// What matched; empty when nothing did.
    pub matched: String,
    /// What followed.
    pub verdict: String,
}
