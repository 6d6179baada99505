//! Reports as text: the one place that decides how they look, for the command and for tests.

use std::fmt::Write as _;

use super::columns::Columns;
use super::decided::ConnectionReport;
use super::load::WorkerReport;
use super::quantity::{bits_per_second, bytes, duration, per_second};
use super::report::{
    DropList, PortList, PortReport, StatusReport, TableList, TableRows, TraceReport,
};

/// Something that can be shown.
pub trait Render {
    /// As lines of text, each ended.
    fn text(&self) -> String;
}

impl Render for StatusReport {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        let up = duration(self.uptime_seconds);
        lines.push(("datapath", format!("{}, words {}, up {up}", self.server, self.version)));
        lines.push(("client", self.client.clone()));
        lines.push((
            "session",
            match self.session {
                0 => "none: no agent has connected".into(),
                number => format!("{number}, {}", self.session_owner),
            },
        ));
        lines.push((
            "revision",
            match self.revision {
                0 => "none: nothing is installed, every packet is dropped".into(),
                number => format!("{number}, in force for {}", duration(self.revision_seconds)),
            },
        ));
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "missing".into());
        lines.push((
            "ports",
            format!(
                "{} of {} Pods, gateway {}, uplink {}",
                self.pod_ports,
                self.pod_ports_max,
                name(&self.gateway),
                name(&self.uplink)
            ),
        ));
        if self.pod_ports_without_endpoint > 0 {
            let count = self.pod_ports_without_endpoint;
            lines.push(("", format!("{count} without an Endpoint: their packets are dropped")));
        }
        if self.ports_with_fault > 0 {
            let count = self.ports_with_fault;
            lines
                .push(("", format!("{count} with a queue that stopped: see `seinectl port list`")));
        }
        lines.push((
            "packets",
            format!("{} received, {} dropped", self.receive_packets, self.drops),
        ));
        let (known, fit) = (self.connections, self.connections_max);
        lines.push((
            "tracked",
            format!("{known} of {fit} connections, {} gave way", self.connections_evicted),
        ));
        if self.name_addresses + self.name_addresses_displaced > 0 {
            let (known, fit) = (self.name_addresses, self.name_addresses_max);
            let gave_way = self.name_addresses_displaced;
            lines.push((
                "names",
                format!("{known} of {fit} addresses that Pods were told, {gave_way} gave way"),
            ));
        }
        let ended = self.connections_revoked;
        let existing = match self.existing_connections {
            "keep" if ended == 0 => String::new(),
            mode => format!("existingConnections: {mode}, {ended} ended by rules that changed"),
        };
        if !existing.is_empty() {
            lines.push(("", existing));
        }
        if self.audit_lost > 0 {
            let lost = self.audit_lost;
            lines.push(("audit", format!("{lost} decisions without a line: there was no room")));
        }
        for (index, worker) in self.workers.iter().enumerate() {
            let head = if index == 0 { "workers" } else { "" };
            lines.push((head, worker_line(worker, self.revision)));
        }
        lines.iter().fold(String::new(), |mut text, (head, line)| {
            let _ = writeln!(text, "{head:<10}{line}");
            text
        })
    }
}

fn worker_line(worker: &WorkerReport, revision: u64) -> String {
    let WorkerReport { index, core, poll, .. } = worker;
    let mut line = format!("{index} on core {core}, {poll}");
    if worker.revision != revision {
        let _ = write!(line, ", still at revision {}", worker.revision);
    }
    line
}

impl Render for PortList {
    fn text(&self) -> String {
        if self.ports.is_empty() {
            return "No port is open.\n".into();
        }
        let watched = self.ports.iter().any(|port| port.rates.is_some());
        let volume = if watched { "BITS" } else { "BYTES" };
        let mut columns = Columns::new([
            "ID",
            "PORT",
            "KIND",
            "ENDPOINT",
            "ADDRESSES",
            "MAC",
            "MTU",
            "MODE",
            "QUEUES",
            "RECEIVED",
            volume,
            "SENT",
            volume,
            "DROPS",
        ])
        .right(&["ID", "MTU", "QUEUES", "RECEIVED", "SENT", volume, "DROPS"]);
        for port in &self.ports {
            let [received, received_bytes, sent, sent_bytes, drops] = traffic(port);
            columns.row([
                port.id.to_string(),
                port.name.clone(),
                port.kind.into(),
                port.endpoint.clone(),
                port.addresses.join(" "),
                port.mac.clone(),
                port.mtu.to_string(),
                port.attach_mode.clone(),
                port.queues.to_string(),
                received,
                received_bytes,
                sent,
                sent_bytes,
                drops,
            ]);
        }
        let faults = self.ports.iter().filter(|port| !port.fault.is_empty());
        faults.fold(columns.to_string(), |mut text, PortReport { name, fault, .. }| {
            let _ = writeln!(text, "\nPort {name} has a queue that stopped: {fault}");
            text
        })
    }
}

/// Totals, or rates where they are known.
fn traffic(port: &PortReport) -> [String; 5] {
    match &port.rates {
        Some(rates) => [
            per_second(rates.receive_packets),
            bits_per_second(rates.receive_bytes),
            per_second(rates.transmit_packets),
            bits_per_second(rates.transmit_bytes),
            per_second(rates.drops),
        ],
        None => [
            port.receive_packets.to_string(),
            bytes(port.receive_bytes),
            port.transmit_packets.to_string(),
            bytes(port.transmit_bytes),
            port.drops.to_string(),
        ],
    }
}

impl Render for DropList {
    fn text(&self) -> String {
        if self.drops.is_empty() {
            return "No packet was dropped.\n".into();
        }
        let watched = self.drops.iter().any(|drop| drop.rate.is_some());
        let mut heads = vec!["PACKETS", "PORT", "REASON", "MEANING"];
        if watched {
            heads.insert(1, "RATE");
        }
        let mut columns = Columns::new(heads).right(&["PACKETS", "RATE"]);
        for drop in &self.drops {
            let mut cells = vec![
                drop.packets.to_string(),
                drop.port.clone(),
                drop.reason.clone(),
                drop.meaning.clone(),
            ];
            if watched {
                cells.insert(1, drop.rate.map(per_second).unwrap_or_default());
            }
            columns.row(cells);
        }
        columns.to_string()
    }
}

impl Render for TableList {
    fn text(&self) -> String {
        let mut columns = Columns::new(["STAGE", "TABLE", "ENTRIES"]).right(&["ENTRIES"]);
        for table in &self.tables {
            columns.row([&table.stage, &table.name, &table.entries.to_string()]);
        }
        columns.to_string()
    }
}

impl Render for TableRows {
    fn text(&self) -> String {
        let count = self.rows.len();
        let noun = if count == 1 { "entry" } else { "entries" };
        let mut text = format!("{} in stage {}: {count} {noun}\n", self.name, self.stage);
        if count > 0 {
            let heads = self.columns.iter().map(|name| name.to_uppercase());
            let mut columns = Columns::new(heads);
            self.rows.iter().for_each(|row| columns.row(row));
            let _ = write!(text, "\n{}", columns.numbers_right());
        }
        text
    }
}

impl Render for TraceReport {
    fn text(&self) -> String {
        let TraceReport { flow, revision, verdict, reason, meaning, .. } = self;
        let ingress = port(&self.ingress, &self.ingress_endpoint);
        let mut text = format!("{flow}, in by {ingress}, revision {revision}\n\n");
        let mut columns = Columns::new(["STAGE", "TABLE", "VERDICT", "MATCHED"]);
        for step in &self.steps {
            columns.row([&step.stage, &step.table, &step.verdict, &step.matched]);
        }
        let _ = writeln!(text, "{columns}");
        let _ = match reason.is_empty() {
            true => writeln!(text, "{verdict} by {}", port(&self.egress, &self.egress_endpoint)),
            false => writeln!(text, "{verdict} {reason}: {meaning}"),
        };
        if !self.packet.is_empty() {
            let _ = writeln!(text, "{}", self.packet);
        }
        if let Some(connection) = &self.connection {
            let _ = writeln!(text, "{}", met(connection, self.answers));
        }
        text
    }
}

/// `Belongs to connection tcp 10.10.1.2:40000 > 10.10.1.3:80, as an answer: Established, 9 s old`.
fn met(connection: &ConnectionReport, answers: bool) -> String {
    let ConnectionReport { protocol, original, progress, age_ms, idle_ms, .. } = connection;
    let (age, idle) = (duration(age_ms / 1000), duration(idle_ms / 1000));
    let way = if answers { "as an answer" } else { "from who began it" };
    let mut line = format!(
        "Belongs to connection {protocol} {original}, {way}: {progress}, {age} old, idle {idle}"
    );
    for (name, value) in [
        ("Service", &connection.service),
        ("egress rule", &connection.egress_rule),
        ("ingress rule", &connection.ingress_rule),
    ] {
        if !value.is_empty() {
            let _ = write!(line, ", {name} {value}");
        }
    }
    line
}

/// `pod-a (default/a/eth0)`.
fn port(name: &str, endpoint: &str) -> String {
    match endpoint {
        "" => name.into(),
        _ => format!("{name} ({endpoint})"),
    }
}
