//! Rates between two rounds of a list: the difference of counters over the time between.

use std::time::Duration;

use super::report::{DropList, PortList, PortRates};

/// A list whose counters give rates.
pub trait Rates {
    /// Fills in rates against an earlier round. What is new in this round has none.
    fn rates_since(&mut self, earlier: &Self, interval: Duration);
}

impl Rates for PortList {
    fn rates_since(&mut self, earlier: &Self, interval: Duration) {
        let rate = per(interval);
        for port in &mut self.ports {
            let before = earlier.ports.iter().find(|before| {
                (&before.name, before.id, before.generation)
                    == (&port.name, port.id, port.generation)
            });
            port.rates = before.map(|before| PortRates {
                receive_packets: rate(port.receive_packets, before.receive_packets),
                receive_bytes: rate(port.receive_bytes, before.receive_bytes),
                transmit_packets: rate(port.transmit_packets, before.transmit_packets),
                transmit_bytes: rate(port.transmit_bytes, before.transmit_bytes),
                drops: rate(port.drops, before.drops),
            });
        }
    }
}

impl Rates for DropList {
    fn rates_since(&mut self, earlier: &Self, interval: Duration) {
        let rate = per(interval);
        for drop in &mut self.drops {
            let before = earlier
                .drops
                .iter()
                .find(|before| (&before.port, &before.reason) == (&drop.port, &drop.reason));
            // Reasons that never counted are not listed, so a new one started from zero.
            drop.rate = Some(rate(drop.packets, before.map_or(0, |before| before.packets)));
        }
    }
}

/// A datapath that restarted counts from zero again: no negative rates.
pub(super) fn per(interval: Duration) -> impl Fn(u64, u64) -> f64 {
    move |now, before| now.saturating_sub(before) as f64 / interval.as_secs_f64().max(0.001)
}
