//! The connections of a node in memory: what there is, what changed, and what time does to them.

use std::collections::BTreeMap;

use super::Node;
use crate::connection::{Connection, ConnectionId, ConnectionTable, Listed};
use crate::learned::WorkerMemory;
use crate::limits::{CONNECTIONS_MAX, ConnectionLimits};
use crate::wire::{icmp, sctp, tcp, udp};

/// What was last said about each connection.
pub(super) type Known = BTreeMap<ConnectionId, (String, String)>;

impl Node {
    /// Lets the clock go on, and looks after the connections as a worker would.
    pub fn wait_ms(&mut self, ms: u64) {
        self.now_ms += ms;
        let connections = &mut self.worker.connections;
        let limit = CONNECTIONS_MAX as usize;
        while self.learned.connections.expire(connections, self.now_ms, limit, |_| ()) == limit {}
        if let Some(twin) = &mut self.twin {
            twin.expire(self.now_ms);
        }
    }

    /// Forgets all connections, and has room for so many from now on.
    pub fn limit(&mut self, connections: u32, per_port: u32) {
        self.limit_to(ConnectionLimits { connections, per_port, ..ConnectionLimits::default() });
    }

    /// As [`limit`](Self::limit), with all limits of connections.
    pub fn limit_to(&mut self, limits: ConnectionLimits) {
        self.learned.connections = ConnectionTable::new(limits, 1);
        self.worker = WorkerMemory::new();
        if let Some(twin) = &mut self.twin {
            twin.limit(limits);
        }
    }

    /// Every connection in a line: who, how it is answered, what was decided, how far it has come,
    /// and how much has gone either way.
    pub fn connections(&self) -> Vec<String> {
        let lines = self.learned.connections.iter(self.now_ms).map(|listed| {
            let Listed { connection, counts: [original, reply], .. } = &listed;
            let (who, at) = self.shown(connection);
            let packets = (original.packets, reply.packets);
            let bytes = (original.bytes, reply.bytes);
            format!(
                "{who}: {at}, {}+{} packets, {}+{} bytes",
                packets.0, packets.1, bytes.0, bytes.1
            )
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    /// What became of connections since this was last asked.
    pub fn connection_changes(&mut self) -> Vec<String> {
        let listed = self.learned.connections.iter(self.now_ms);
        let now: Known = listed.map(|listed| (listed.id, self.shown(&listed.connection))).collect();
        let before = std::mem::replace(&mut self.known, now);
        let gone = before.iter().filter(|(id, _)| !self.known.contains_key(id));
        let mut changes: Vec<_> =
            gone.map(|(_, (who, _))| format!("connection {who} is over")).collect();
        for (id, (who, at)) in &self.known {
            match before.get(id) {
                None => changes.push(format!("connection {who} begins: {at}")),
                Some((_, earlier)) if earlier != at => {
                    changes.push(format!("connection {who} is now {at}"));
                }
                Some(_) => {}
            }
        }
        changes.sort();
        changes
    }

    /// Who talks to whom and why it may; how far it has come.
    fn shown(&self, connection: &Connection) -> (String, String) {
        let original = connection.original.tuple;
        let mut who = format!("{} {original}", protocol(original.protocol));
        let reply = connection.reply.tuple;
        if reply != original.reversed() {
            who += &format!(", answers {reply}");
        }
        let decision = &connection.decision;
        let marks = [(decision.hairpin, "hairpin"), (decision.snat, "source translated")];
        for (_, mark) in marks.into_iter().filter(|(set, _)| *set) {
            who += &format!(", {mark}");
        }
        for (side, rule) in [("egress", decision.egress_rule), ("ingress", decision.ingress_rule)] {
            if let Some(rule) = rule {
                let name = self.state.rule(rule).map_or("a rule that is gone", |it| &it.name);
                who += &format!(", {side} by {name}");
            }
        }
        (who, format!("{:?}", connection.progress))
    }
}

fn protocol(number: u8) -> String {
    match number {
        tcp::PROTOCOL => "tcp".to_owned(),
        udp::PROTOCOL => "udp".to_owned(),
        sctp::PROTOCOL => "sctp".to_owned(),
        icmp::PROTOCOL_V4 => "icmp".to_owned(),
        icmp::PROTOCOL_V6 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
}
