//! Session affinity: which endpoint a client of a Service had.
//!
//! What is remembered dies at a fixed time after it was learnt, however often the client comes back
//! (Antrea: a learned flow's hard timeout). Where there is no room, what would die first gives way:
//! its client is sent to an endpoint anew.

use std::fmt;
use std::net::IpAddr;

use crate::connection::ServiceId;
use crate::state::EndpointAddress;
use crate::table::Expiring;

/// Whose affinity it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// For which Service.
    pub service: ServiceId,
    /// Of whom.
    pub client: IpAddr,
    /// Whether the policy Local chose.
    pub local: bool,
}

impl Affinity {
    fn key(&self) -> [u64; 3] {
        let [high, low] = words(self.client);
        [
            u64::from(self.service.0) << 2 | u64::from(self.local) << 1 | family(self.client),
            high,
            low,
        ]
    }
}

/// The endpoints of the clients of all Services with affinity.
pub struct AffinityTable(Expiring<3, 3>);

impl AffinityTable {
    /// A table with room for so many at least, that remembers nobody.
    pub fn new(capacity: usize, seed: u64) -> AffinityTable {
        AffinityTable(Expiring::new(capacity, seed))
    }

    /// The endpoint that is remembered.
    pub fn get(&self, affinity: &Affinity, now_ms: u64) -> Option<EndpointAddress> {
        let [high, low, last] = self.0.get(&affinity.key(), now_ms)?;
        let v6 = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        let [_, _, _, _, _, _, _, _, _, _, _, _, v4 @ ..] = v6;
        let address = if last & 1 == 0 { IpAddr::from(v4) } else { IpAddr::from(v6) };
        // As `learn` put it there.
        Some(EndpointAddress { address, port: (last >> 1) as u16 })
    }

    /// Remembers an endpoint until then.
    pub fn learn(
        &self,
        affinity: &Affinity,
        endpoint: EndpointAddress,
        expires_ms: u64,
        now_ms: u64,
    ) {
        let [high, low] = words(endpoint.address);
        let last = u64::from(endpoint.port) << 1 | family(endpoint.address);
        self.0.put(&affinity.key(), &[high, low, last], expires_ms, now_ms);
    }

    /// Clients remembered at this moment.
    pub fn len(&self, now_ms: u64) -> usize {
        self.0.iter(now_ms).count()
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How many had to give way before their time.
    pub fn displaced(&self) -> u64 {
        self.0.displaced()
    }
}

impl fmt::Debug for AffinityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const fn family(address: IpAddr) -> u64 {
    if address.is_ipv4() { 0 } else { 1 }
}

/// An address as two words.
const fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits() as u64],
        // The two halves.
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_client_has_its_endpoint_until_the_time_is_up_and_nobody_elses() {
        let table = AffinityTable::new(64, 1);
        let ends = ["10.10.1.3", "fd00:10:1::3"];
        for client in ["10.10.1.2", "::a0a:102", "fd00:10:1::2"] {
            for (local, port) in [(false, 80), (true, 65535)] {
                let affinity = Affinity {
                    service: ServiceId(u32::MAX),
                    client: client.parse().unwrap(),
                    local,
                };
                let other = Affinity { service: ServiceId(7), ..affinity };
                for address in ends {
                    let endpoint = EndpointAddress { address: address.parse().unwrap(), port };
                    table.learn(&affinity, endpoint, 5000, 1000);
                    assert_eq!(table.get(&affinity, 4999), Some(endpoint));
                    assert_eq!(table.get(&affinity, 5000), None);
                    assert_eq!(table.get(&other, 1000), None);
                }
            }
        }
        assert_eq!((table.len(1000), table.displaced()), (6, 0));
        assert!(table.capacity() >= 64);
    }
}
