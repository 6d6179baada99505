//! Announcements: which of several Endpoints last told its neighbours that it has an address.
//!
//! Asked only for addresses that more than one is permitted. What is forgotten does no harm to who
//! is allowed what: the address is the first's by name again, until one announces it.

use std::fmt;
use std::net::IpAddr;

use crate::address::PortId;
use crate::connection::address_words;
use crate::table::Expiring;

/// Bits of a port's generation, below its index.
const GENERATION_BITS: u32 = u32::BITS;

/// Who announced which address.
pub struct AnnouncementTable(Expiring<2, 1>);

impl AnnouncementTable {
    /// A table with room for so many addresses at least; nothing is announced.
    pub fn new(capacity: usize, seed: u64) -> AnnouncementTable {
        AnnouncementTable(Expiring::new(capacity, seed))
    }

    /// The port, and its generation, that announced the address last.
    pub(crate) fn get(&self, address: IpAddr) -> Option<(PortId, u32)> {
        let [value] = self.0.get(&address_words(address), 0)?;
        // As `put` put them there.
        let (index, generation) = ((value >> GENERATION_BITS) as usize, value as u32);
        Some((PortId::new(index)?, generation))
    }

    /// Remembers an announcement. Where there is no room, the oldest of a set gives way.
    pub(crate) fn put(&self, address: IpAddr, (port, generation): (PortId, u32), now_ms: u64) {
        let value = (port.index() as u64) << GENERATION_BITS | u64::from(generation);
        // What dies last is the newest, and none of them dies.
        let expires_ms = now_ms.saturating_add(FOREVER_MS);
        self.0.put(&address_words(address), &[value], expires_ms, now_ms);
    }
}

/// A thousand years: who holds an address says so once.
const FOREVER_MS: u64 = 1000 * 365 * 24 * 3600 * 1000;

impl fmt::Debug for AnnouncementTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_last_who_announced_an_address_is_remembered() {
        let table = AnnouncementTable::new(8, 1);
        let [v4, v6]: [IpAddr; 2] = ["10.99.0.5", "::a63:5"].map(|it| it.parse().unwrap());
        let ports = [(PortId::new(3).unwrap(), u32::MAX), (PortId::new(4).unwrap(), 1)];
        table.put(v4, ports[0], 5);
        assert_eq!((table.get(v4), table.get(v6)), (Some(ports[0]), None));
        table.put(v6, ports[0], 6);
        table.put(v4, ports[1], 7);
        assert_eq!((table.get(v4), table.get(v6)), (Some(ports[1]), Some(ports[0])));
    }
}
