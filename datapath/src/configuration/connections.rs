//! `[connections]`: how many there may be, and who may open how many.

use seine_pipeline::limits::{CONNECTIONS_MAX, ConnectionLimits};
use serde::Deserialize;

use super::ConfigurationError;

/// The connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// Connections at once.
    pub max: u32,
    /// Connections at once that began at one Pod's port.
    pub per_port_max: u32,
    /// First packets a second that one worker takes from a Pod's port.
    pub first_packets_per_second: u32,
    /// First packets that may come at once.
    pub first_packets_burst: u32,
    /// One packet in so many that needs no stage takes the stages, too; 0 for none.
    pub sample_every: u32,
}

/// By default. A sample costs about as much as a first packet, so this is a fraction of a percent.
const SAMPLE_EVERY: u32 = 1024;

impl Default for Connections {
    fn default() -> Self {
        let limits = ConnectionLimits::default();
        Connections {
            max: limits.connections,
            per_port_max: limits.per_port,
            first_packets_per_second: limits.first_packets_per_s,
            first_packets_burst: limits.first_packets_burst,
            sample_every: SAMPLE_EVERY,
        }
    }
}

impl Connections {
    pub(super) fn check(&self) -> Result<(), ConfigurationError> {
        let value = |key, reason| Err(ConfigurationError::Value { key, reason });
        if !(1024..=CONNECTIONS_MAX).contains(&self.max) {
            let reason = format!("{}: from 1024 to {CONNECTIONS_MAX} work", self.max);
            return value("connections.max", reason);
        }
        let others = [
            ("connections.per_port_max", self.per_port_max),
            ("connections.first_packets_per_second", self.first_packets_per_second),
            ("connections.first_packets_burst", self.first_packets_burst),
        ];
        match others.into_iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => value(key, "0 would let nobody open a connection".into()),
            None => Ok(()),
        }
    }

    /// Capacity and fairness of the connection table.
    pub fn limits(self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.max,
            per_port: self.per_port_max,
            first_packets_per_s: self.first_packets_per_second,
            first_packets_burst: self.first_packets_burst,
        }
    }
}
